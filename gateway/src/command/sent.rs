//! Whether a message was sent before. JetStream itself recognises repeats within its window; this finds the older ones:
//! in Postgres, many look-ups in one query, and in the part of the log that Postgres lacks, if that is older than the
//! window.

use std::{sync::Arc, time::Duration};

use partyline_shared::{
    event::Event,
    ids::{ClientId, ConversationId, MessageId, Seq, UserId},
    timestamp::Timestamp,
    wire::Refusal,
};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::{clock, history, log::Log, store::Store};

/// Connections to Postgres for look-ups; while one is busy the other gathers.
const LANES: usize = 2;
/// Look-ups in one query.
const BATCH: usize = 500;
/// How long Postgres may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Events of the log's tail in one read.
const TAIL: usize = 500;

/// A message that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub seq: Seq,
    pub message_id: MessageId,
    pub created_at: Timestamp,
}

type Key = (ConversationId, UserId, ClientId);
type Answer = Result<Option<Sent>, PostgresAway>;
type Asked = (Key, oneshot::Sender<Answer>);

#[derive(Clone, Copy, Debug)]
struct PostgresAway;

/// Finds messages by their sender's own names.
pub struct SentMessages {
    store: Arc<Store>,
    log: Arc<Log>,
    /// JetStream's own window.
    window: Duration,
    asked: mpsc::UnboundedSender<Asked>,
}

impl SentMessages {
    #[must_use]
    pub fn start(store: Arc<Store>, log: Arc<Log>, window: Duration) -> Self {
        let (asked, to_find) = mpsc::unbounded_channel();
        let to_find = Arc::new(Mutex::new(to_find));
        (0..LANES).for_each(|_| drop(tokio::spawn(look_up(store.clone(), to_find.clone()))));
        Self { store, log, window, asked }
    }

    /// The first message of this name, if JetStream's window may have passed it by.
    ///
    /// # Errors
    /// `unavailable` if the name is too old to be judged while Postgres is away.
    pub async fn find(
        &self,
        conversation: ConversationId,
        sender: &UserId,
        client_id: ClientId,
    ) -> Result<Option<Sent>, Refusal> {
        // Before Postgres is asked, so that nothing slips from the tail into Postgres unseen.
        let watermark = self.log.recent_watermark(conversation).await?;
        match self.ask(conversation, sender, client_id).await {
            Ok(Some(sent)) => return Ok(Some(sent)),
            Ok(None) => {}
            Err(PostgresAway) if self.may_be_old(client_id) => return Err(Refusal::unavailable("the database")),
            Err(PostgresAway) => {}
        }
        // Half the window is left for this very request.
        if watermark.lag.is_some_and(|lag| lag < self.window / 2) {
            return Ok(None);
        }
        self.search(conversation, watermark.floor, sender, client_id).await
    }

    async fn ask(&self, conversation: ConversationId, sender: &UserId, client_id: ClientId) -> Answer {
        if self.store.is_away() {
            return Err(PostgresAway);
        }
        let (reply, answer) = oneshot::channel();
        match self.asked.send(((conversation, sender.clone(), client_id), reply)) {
            Ok(()) => answer.await.unwrap_or(Err(PostgresAway)),
            Err(_) => Err(PostgresAway),
        }
    }

    /// Whether a name tells that it was made before JetStream's window: version 7 carries its time. A name without a
    /// time is taken for fresh while Postgres is away, so that chat goes on.
    fn may_be_old(&self, client_id: ClientId) -> bool {
        client_id.0.get_timestamp().filter(|_| client_id.0.get_version_num() == 7).is_some_and(|made| {
            let age = clock::unix_seconds() - i64::try_from(made.to_unix().0).unwrap_or(i64::MAX);
            age > i64::try_from(self.window.as_secs() / 2).unwrap_or(i64::MAX)
        })
    }

    async fn search(
        &self,
        conversation: ConversationId,
        mut after: Seq,
        sender: &UserId,
        client_id: ClientId,
    ) -> Result<Option<Sent>, Refusal> {
        loop {
            let entries = self.log.read_after(conversation, after, TAIL).await?;
            for entry in &entries {
                if let Ok(Event::NewMessage(message)) = Event::from_json(&entry.payload)
                    && message.client_id == client_id
                    && message.sender_id == *sender
                {
                    return Ok(Some(Sent {
                        seq: entry.seq,
                        message_id: message.message_id,
                        created_at: message.created_at,
                    }));
                }
            }
            match entries.last() {
                Some(last) if entries.len() == TAIL => after = last.seq,
                _ => return Ok(None),
            }
        }
    }

    /// The message at a place that JetStream named.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn at(&self, conversation: ConversationId, seq: Seq) -> Result<Sent, Refusal> {
        let found = history::find(&self.store, &self.log, conversation, seq).await?;
        let found = found.ok_or_else(|| Refusal::unavailable("the log"))?;
        Ok(Sent { seq, message_id: found.message.message_id, created_at: found.message.created_at })
    }
}

/// Answers look-ups, all that wait in one query.
async fn look_up(store: Arc<Store>, asked: Arc<Mutex<mpsc::UnboundedReceiver<Asked>>>) {
    let mut connection = None;
    let mut batch = Vec::new();
    while asked.lock().await.recv_many(&mut batch, BATCH).await > 0 {
        let (keys, replies): (Vec<Key>, Vec<_>) = batch.drain(..).unzip();
        let found = tokio::time::timeout(PATIENCE, store.find_sent(&mut connection, &keys)).await;
        let answers: Vec<Answer> = match found {
            Ok(Ok(found)) => found
                .into_iter()
                .map(|it| Ok(it.map(|it| Sent { seq: it.seq, message_id: it.message_id, created_at: it.created_at })))
                .collect(),
            missed => {
                if let Ok(Err(error)) = missed {
                    tracing::warn!(%error, "sent messages not looked up");
                }
                store.missed();
                vec![Err(PostgresAway); keys.len()]
            }
        };
        for (reply, answer) in replies.into_iter().zip(answers) {
            let _ = reply.send(answer);
        }
    }
}
