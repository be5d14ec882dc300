//! Pulls events from JetStream into batches. While one batch is written the next is collected, and no more: what is
//! requested always has room here.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{
    Message,
    consumer::{PullConsumer, pull::Batch},
};
use futures_util::StreamExt;
use partyline_shared::nats::Link;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics,
    queue::{Queue, Queues},
    retry::Backoff,
};

/// How long the server keeps a request that nothing comes for.
const EXPIRES: Duration = Duration::from_secs(10);
/// At the end: what was requested and is on its way comes within this, or not at all.
const QUIET: Duration = Duration::from_millis(50);

/// A batch on its way to Postgres. The next one is handed over once this is dropped.
pub struct Pulled {
    pub messages: Vec<Message>,
    _turn: OwnedSemaphorePermit,
}

/// How batches are made.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Events at most.
    pub max: usize,
    /// How long the first event waits for others.
    pub wait: Duration,
}

/// Pulls from one queue until it is told to stop.
pub struct Puller {
    queue: Queue,
    queues: Queues,
    consumer: PullConsumer,
    limits: Limits,
    link: broadcast::Receiver<Link>,
    out: mpsc::Sender<Pulled>,
    turn: Arc<Semaphore>,
    /// The request under way.
    request: Option<Batch>,
    /// After an error: when to look at the queue again.
    reopen_at: Option<Instant>,
    backoff: Backoff,
    buffer: Vec<Message>,
    /// When the batch has waited long enough.
    due: Instant,
}

impl Puller {
    /// A puller and where its batches come out; that ends after the last one.
    #[must_use]
    pub fn new(
        queues: &Queues,
        (queue, consumer): (Queue, PullConsumer),
        limits: Limits,
        link: broadcast::Receiver<Link>,
    ) -> (Self, mpsc::Receiver<Pulled>) {
        let (out, batches) = mpsc::channel(1);
        let puller = Self {
            queue,
            queues: queues.clone(),
            consumer,
            limits,
            link,
            out,
            turn: Arc::new(Semaphore::new(1)),
            request: None,
            reopen_at: None,
            backoff: Backoff::default(),
            buffer: Vec::new(),
            due: Instant::now(),
        };
        (puller, batches)
    }

    /// Pulls until `shutdown`; then hands over what is here and on its way.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            self.ask().await;
            let full = self.buffer.len() >= self.limits.max;
            let waited = !self.buffer.is_empty() && (full || Instant::now() >= self.due);
            let reopen_at = self.reopen_at;
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                turn = self.turn.clone().acquire_owned(), if waited => {
                    if !self.hand_over(turn.ok()).await {
                        return;
                    }
                }
                next = next(&mut self.request), if self.request.is_some() => self.take(next),
                link = self.link.recv() => match link {
                    // The server may have forgotten the request.
                    Ok(Link::Connected) | Err(broadcast::error::RecvError::Lagged(_)) => self.request = None,
                    Ok(_) => {}
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                () = sleep_until(self.due), if !self.buffer.is_empty() && !waited => {}
                () = sleep_until(reopen_at.unwrap_or(self.due)), if reopen_at.is_some() => {
                    tokio::select! {
                        () = self.reopen() => {}
                        () = shutdown.cancelled() => break,
                    }
                }
            }
        }
        self.finish().await;
    }

    /// Requests as many events as there is room for, one request at a time.
    async fn ask(&mut self) {
        let room = self.limits.max - self.buffer.len().min(self.limits.max);
        if self.request.is_some() || self.reopen_at.is_some() || room == 0 {
            return;
        }
        match self.consumer.batch().max_messages(room).expires(EXPIRES).messages().await {
            Ok(request) => self.request = Some(request),
            Err(error) => self.broke(&error),
        }
    }

    fn take(&mut self, next: Option<Result<Message, async_nats::Error>>) {
        match next {
            Some(Ok(message)) => {
                self.backoff = Backoff::default();
                if self.buffer.is_empty() {
                    self.due = Instant::now() + self.limits.wait;
                }
                self.buffer.push(message);
            }
            Some(Err(error)) => self.broke(&*error),
            None => self.request = None,
        }
    }

    fn broke(&mut self, error: &dyn std::fmt::Display) {
        tracing::warn!(queue = ?self.queue, %error, "pull broke");
        self.request = None;
        self.reopen_at = Some(Instant::now() + self.backoff.pause());
    }

    async fn reopen(&mut self) {
        match self.queues.open(self.queue).await {
            Ok(consumer) => {
                metrics::reopened();
                self.consumer = consumer;
                self.reopen_at = None;
            }
            Err(error) => {
                tracing::warn!(queue = ?self.queue, %error, "queue not there");
                self.reopen_at = Some(Instant::now() + self.backoff.pause());
            }
        }
    }

    /// Whether somebody took it.
    async fn hand_over(&mut self, turn: Option<OwnedSemaphorePermit>) -> bool {
        let Some(turn) = turn else { return false };
        let messages = std::mem::take(&mut self.buffer);
        self.out.send(Pulled { messages, _turn: turn }).await.is_ok()
    }

    /// What JetStream has sent already would be redelivered only after `ack_wait`: better written now.
    async fn finish(mut self) {
        let mut request = self.request.take();
        while self.buffer.len() < self.limits.max {
            match timeout(QUIET, next(&mut request)).await {
                Ok(Some(Ok(message))) => self.buffer.push(message),
                _ => break,
            }
        }
        drop(request);
        if !self.buffer.is_empty() {
            let turn = self.turn.clone().acquire_owned().await.ok();
            self.hand_over(turn).await;
        }
    }
}

async fn next(request: &mut Option<Batch>) -> Option<Result<Message, async_nats::Error>> {
    match request {
        Some(request) => request.next().await,
        None => None,
    }
}
