//! What a connection's requests come to first. Socket.IO's go past the router: one that waits for packets takes memory
//! for as long as it waits, and what the router puts around it is a good part of that.

use std::{
    future::{Future, ready},
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use hyper::body::Incoming;
use tower::{Layer, ServiceExt, service_fn};
use tower_http::cors::CorsLayer;

use super::{
    NOSNIFF, host, known,
    lent::{Desk, SetAside},
    problem::Problem,
};
use crate::{metrics, origin::FORWARDED_HOST, server::Gateway, socketio};

type Answer = Pin<Box<dyn Future<Output = Result<Response, SetAside>> + Send>>;

/// Everything that the public port answers.
#[derive(Clone)]
pub struct Front {
    gateway: Arc<Gateway>,
    cors: CorsLayer,
    router: Router,
}

impl Front {
    #[must_use]
    pub fn new(gateway: Arc<Gateway>) -> Self {
        // No cookie says who one is; but a balancer's may say which node a polling client belongs to.
        let cors = super::cors(&gateway.chat.config.allowed_origins).allow_credentials(true);
        Self { router: super::app(gateway.clone()), gateway, cors }
    }

    /// For one connection, from this address.
    #[must_use]
    pub fn at(&self, desk: Arc<Desk>, peer: IpAddr) -> Visit {
        let peer = peer.to_canonical();
        let is_trusted = self.gateway.chat.config.trusted_proxies.iter().any(|it| it.contains(&peer));
        Visit { front: self.clone(), desk, is_trusted }
    }
}

/// What one connection's requests come to.
pub struct Visit {
    front: Front,
    desk: Arc<Desk>,
    /// Whether it is a proxy's that says what its clients asked for.
    is_trusted: bool,
}

impl hyper::service::Service<hyper::Request<Incoming>> for Visit {
    type Response = Response;
    type Error = SetAside;
    type Future = Answer;

    fn call(&self, mut request: hyper::Request<Incoming>) -> Self::Future {
        self.desk.request_started();
        if !self.is_trusted {
            request.headers_mut().remove(FORWARDED_HOST);
        }
        let desk = self.desk.clone();
        let answer = self.answer(request);
        Box::pin(async move {
            let answer = answer.await;
            desk.response_ready();
            answer
        })
    }
}

impl Visit {
    fn answer(&self, request: hyper::Request<Incoming>) -> Answer {
        if let Err(refusal) = host::check(request.version(), request.headers()) {
            let mut response = Problem::from(refusal).into_response();
            response.headers_mut().extend([NOSNIFF]);
            metrics::http_request("other", known(request.method()), response.status().as_u16(), Duration::ZERO);
            return Box::pin(ready(Ok(response)));
        }
        let request = request.map(Body::new);
        let front = &self.front;
        if !socketio::serves(request.uri().path()) {
            let answer = front.router.clone().oneshot(request);
            return Box::pin(async { Ok(answer.await.unwrap_or_else(|never| match never {})) });
        }
        let (gateway, desk) = (front.gateway.clone(), self.desk.clone());
        let serve = move |request: Request| socketio::serve(gateway.clone(), desk.clone(), request);
        Box::pin(front.cors.layer(service_fn(serve)).oneshot(request))
    }
}
