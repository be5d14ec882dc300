//! What a connection's requests come to first. Socket.IO's go past the router: one that waits for packets takes memory
//! for as long as it waits, and what the router puts around it would be most of that.

use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use hyper::body::Incoming;
use tower::{Layer, ServiceExt, service_fn};
use tower_http::cors::CorsLayer;

use crate::{server::Gateway, socketio};

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
}

impl hyper::service::Service<hyper::Request<Incoming>> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let request = request.map(Body::new);
        if !socketio::serves(request.uri().path()) {
            return Box::pin(self.router.clone().oneshot(request));
        }
        let gateway = self.gateway.clone();
        let serve = move |request: Request| {
            let answer = socketio::serve(gateway.clone(), request);
            async { Ok::<_, Infallible>(answer.await.into_response()) }
        };
        Box::pin(self.cors.layer(service_fn(serve)).oneshot(request))
    }
}
