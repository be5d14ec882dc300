//! Events that Postgres will never take, put aside with the reason for somebody to look at.

use std::time::Duration;

use async_nats::jetstream::{
    Context, Message,
    context::{ContextBuilder, PublishErrorKind},
    message::PublishMessage,
};
use partyline_shared::{ids::Seq, settings::NatsSettings, streams, subjects};

use crate::{metrics, retry::Refused};

/// Why an event can't be written.
#[derive(Debug)]
pub enum Reason {
    /// Not an event: malformed, or under a subject that isn't its own.
    Unreadable(String),
    /// Postgres refuses the row.
    Refused(Refused),
    /// An edit or deletion of a message that is not there and will not come.
    TargetMissing,
    /// Another message has this place: the log was lost and begun again below it.
    PlaceTaken,
}

impl Reason {
    /// One word, for metrics and as the beginning of the header.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::Refused(_) => "refused",
            Self::TargetMissing => "target_missing",
            Self::PlaceTaken => "place_taken",
        }
    }

    fn header(&self) -> String {
        let detail = match self {
            Self::Unreadable(detail) => detail.clone(),
            Self::Refused(refused) => refused.to_string(),
            Self::TargetMissing | Self::PlaceTaken => return self.as_str().to_owned(),
        };
        // A header is one line.
        let detail: String = detail.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect();
        format!("{}: {detail}", self.as_str())
    }
}

/// The stream of dead letters.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    js: Context,
    settings: NatsSettings,
}

impl DeadLetters {
    #[must_use]
    pub fn new(client: async_nats::Client, settings: &NatsSettings) -> Self {
        let js =
            ContextBuilder::new().timeout(Duration::from_secs(5)).ack_timeout(Duration::from_secs(5)).build(client);
        Self { js, settings: settings.clone() }
    }

    /// Puts an event aside; returns once JetStream has stored it. A repeat is stored once.
    ///
    /// # Errors
    /// If JetStream did not confirm it: the event must not be acknowledged.
    pub async fn bury(&self, message: &Message, seq: Seq, reason: &Reason) -> anyhow::Result<()> {
        let stored = match self.publish(message, seq, reason).await {
            Ok(stored) => stored,
            Err(error) => {
                tracing::warn!(%error, "dead letter not stored; looking whether its stream is there");
                streams::ensure_dead_letters(&self.js, &self.settings).await?;
                self.publish(message, seq, reason).await?
            }
        };
        if !stored {
            tracing::debug!(subject = %message.subject, seq, "has a dead letter already");
            return Ok(());
        }
        metrics::dead_letter(reason.as_str());
        // The rest of the reason may quote the event; it stands in the letter, beside it.
        tracing::error!(subject = %message.subject, seq, reason = reason.as_str(), "event put aside as a dead letter");
        Ok(())
    }

    /// Whether it was not there already.
    async fn publish(&self, message: &Message, seq: Seq, reason: &Reason) -> anyhow::Result<bool> {
        let subject = subjects::dead(&message.subject, seq);
        let letter = PublishMessage::build()
            .payload(message.payload.clone())
            .header(subjects::DEAD_REASON, reason.header().as_str())
            .header(subjects::DEAD_SEQ, seq.to_string().as_str());
        let first = letter.clone().expected_last_subject_sequence(0);
        match self.js.send_publish(subject.clone(), first).await?.await {
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {}
            Err(error) => return Err(error.into()),
        }
        let stream = self.js.get_stream_no_info(subjects::DEAD_STREAM).await?;
        if stream.get_last_raw_message_by_subject(&subject).await?.payload == message.payload {
            return Ok(false);
        }
        // Another event had the same place in a log that was lost.
        self.js.send_publish(subject, letter).await?.await?;
        Ok(true)
    }
}
