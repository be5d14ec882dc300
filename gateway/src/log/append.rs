//! Appending to a conversation's log: with a [`Permit`], and never twice under one name.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use async_nats::{
    HeaderMap,
    jetstream::{
        self, ErrorCode,
        context::{PublishError, PublishErrorKind},
        message::PublishMessage,
    },
};
use bytes::Bytes;
use partyline_shared::{event::Event, ids::Seq, subjects, wire::Refusal};

use super::Log;
use crate::{authorise::Permit, metrics, trace};

/// How long a repeat waits for the cluster to agree on the first, and between two attempts.
const IN_PROCESS: Duration = Duration::from_secs(2);
const IN_PROCESS_RETRY: Duration = Duration::from_millis(10);

/// JetStream's word that an event is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub seq: Seq,
    /// An event with this deduplication id was there already, at `seq`.
    pub duplicate: bool,
}

impl Log {
    /// Appends an event; returns once JetStream has stored it. `dedup` makes a repeat harmless.
    ///
    /// # Errors
    /// `unavailable`: at once and surely not stored without a connection; otherwise perhaps stored, which a repeat with
    /// the same `dedup` finds out. Nothing is sent after this has returned.
    pub async fn append(&self, permit: Permit, event: &Event, dedup: Option<String>) -> Result<Appended, Refusal> {
        let appended = self.publish(permit, event, dedup, None).await?;
        appended.ok_or_else(|| Refusal::unavailable("the log"))
    }

    /// Appends an event if `last` is still the newest event of its conversation in the log (0: the log has none).
    /// Checking and appending are one step of the server. Returns `None`, with nothing appended, if the log has moved on.
    ///
    /// # Errors
    /// `unavailable`: perhaps stored, perhaps not.
    pub async fn append_after(&self, permit: Permit, event: &Event, last: Seq) -> Result<Option<Appended>, Refusal> {
        self.publish(permit, event, None, Some(last)).await
    }

    async fn publish(
        &self,
        permit: Permit,
        event: &Event,
        dedup: Option<String>,
        last: Option<Seq>,
    ) -> Result<Option<Appended>, Refusal> {
        debug_assert_eq!(permit.conversation_id(), event.conversation_id());
        let js =
            self.check_link().and_then(|()| self.publisher.context().ok_or_else(|| Refusal::unavailable("the log")));
        let js = js.inspect_err(|_| metrics::append_failed())?;
        let state = self.partition(permit.conversation_id())?.state.load_full();
        let highest = state.epoch.highest.load(Ordering::Acquire);
        let payload: Bytes = serde_json::to_vec(event)
            .map_err(|error| {
                tracing::error!(%error, "an event has no JSON");
                Refusal::unavailable("the log")
            })?
            .into();
        let span = trace::publish(self.number(permit.conversation_id()), event, payload.len());
        let message = || {
            let mut headers = HeaderMap::new();
            headers.insert(subjects::ORIGIN_HEADER, self.node.as_str());
            if let Some(span) = &span {
                headers.insert(subjects::TRACEPARENT, trace::traceparent(span));
            }
            let mut message = PublishMessage::build().payload(payload.clone()).headers(headers);
            if let Some(id) = &dedup {
                message = message.message_id(id);
            }
            if let Some(last) = last {
                message = message.expected_last_subject_sequence(last);
            }
            message
        };
        let subject = self.subject(permit.conversation_id());
        let started = Instant::now();
        let acked = loop {
            match async { js.send_publish(subject.clone(), message()).await?.await }.await {
                Err(error) if is_in_process(&error) && started.elapsed() < IN_PROCESS => {
                    tokio::time::sleep(IN_PROCESS_RETRY).await;
                }
                acked => break acked,
            }
        };
        match acked {
            // Whatever was known before the event was published stands below it, or the log is an older copy.
            Ok(ack) if !ack.duplicate && ack.sequence <= highest => {
                metrics::append_failed();
                if let Some(span) = span {
                    trace::not_stored(span);
                }
                self.fell_back(&state, ack.sequence);
                self.doubt();
                Err(Refusal::unavailable("the log"))
            }
            Ok(ack) => {
                state.epoch.highest.fetch_max(ack.sequence, Ordering::AcqRel);
                metrics::append_seconds(started.elapsed());
                if let Some(span) = span {
                    trace::stored(span, ack.sequence, ack.duplicate);
                }
                Ok(Some(Appended { seq: ack.sequence, duplicate: ack.duplicate }))
            }
            Err(error) if last.is_some() && has_moved_on(&error) => {
                if let Some(span) = span {
                    trace::not_stored(span);
                }
                Ok(None)
            }
            Err(error) => {
                metrics::append_failed();
                if let Some(span) = span {
                    trace::not_stored(span);
                }
                tracing::warn!(%error, "append failed");
                self.doubt();
                Err(Refusal::unavailable("the log"))
            }
        }
    }
}

/// Whether another event than the expected one is the newest of its subject.
fn has_moved_on(error: &PublishError) -> bool {
    // A cluster that has an event of the subject in hand says so with a code of its own.
    let constant = || source(error).is_some_and(|it| it.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT);
    matches!(error.kind(), PublishErrorKind::WrongLastSequence) || constant()
}

/// Whether the same message comes in by another way at this moment, and a cluster has not agreed on it yet.
fn is_in_process(error: &PublishError) -> bool {
    source(error).is_some_and(|error| error.error_code() == ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT)
}

fn source(error: &PublishError) -> Option<&jetstream::Error> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref::<jetstream::Error>())
}
