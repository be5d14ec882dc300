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

use crate::{
    history,
    log::{Log, Watermark},
    store::Store,
    tasks,
};

/// Connections to Postgres for look-ups; while one is busy the other gathers.
const LANES: usize = 2;
/// Look-ups in one query.
const BATCH: usize = 500;
/// Events of the log's tail in one read.
const TAIL: usize = 500;

/// A message whose name carries no time may be a repeat of one this old: clients give up long before.
const UNDATED_REPEATS: Duration = Duration::from_secs(20 * 60);

/// How far the clock of a client may seem to be ahead.
const AHEAD: time::Duration = time::Duration::seconds(5);

/// Where a search of the log begins.
#[derive(Clone, Copy, Debug)]
enum From {
    After(Seq),
    Since(Timestamp),
}

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
        (0..LANES).for_each(|_| {
            tokio::spawn(tasks::essential("sent_messages", look_up(store.clone(), to_find.clone())));
        });
        Self { store, log, window, asked }
    }

    /// The first message of this name, if JetStream's window may have passed it by.
    ///
    /// # Errors
    /// `unavailable` if it can't be judged while Postgres is away.
    pub async fn find(
        &self,
        conversation: ConversationId,
        sender: &UserId,
        client_id: ClientId,
    ) -> Result<Option<Sent>, Refusal> {
        // Before Postgres is asked, so that nothing slips from the tail into Postgres unseen.
        let watermark = self.log.recent_watermark(conversation).await?;
        let made = Timestamp::of_uuid(client_id.0);
        match self.ask(conversation, sender, client_id).await {
            Ok(Some(sent)) => return Ok(Some(sent)),
            Ok(None) => {}
            Err(PostgresAway) => {
                // The log can judge the name if it holds all that was stored since the name can have been made.
                // A name from the future carries no time either.
                let (since, is_held) = match made.filter(|made| made.age() >= -AHEAD) {
                    Some(made) if self.is_fresh(made) => return Ok(None),
                    Some(made) => {
                        let since = self.before(made, self.margin());
                        (since, self.log.holds_since(conversation, since))
                    }
                    None => {
                        let since = self.before(Timestamp::now(), UNDATED_REPEATS);
                        // A log that begins with the first event of all lacks nothing, however young it is.
                        (since, watermark.first <= 1 || self.log.holds_since(conversation, since))
                    }
                };
                if !is_held {
                    return Err(Refusal::unavailable("the database"));
                }
                return self.search(conversation, From::Since(since), sender, client_id).await;
            }
        }
        if self.covers(&watermark) || made.is_some_and(|made| self.is_fresh(made)) {
            return Ok(None);
        }
        self.search(conversation, From::After(watermark.floor), sender, client_id).await
    }

    /// Finds a message that was stored so recently that [`Self::find`] leaves it to JetStream's window. For a message that
    /// is about to be refused: a repeat is answered as the first one was.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn find_recent(
        &self,
        conversation: ConversationId,
        sender: &UserId,
        client_id: ClientId,
    ) -> Result<Option<Sent>, Refusal> {
        let watermark = self.log.recent_watermark(conversation).await?;
        let from = if self.covers(&watermark) && !self.store.is_away() {
            From::After(watermark.floor)
        } else {
            From::Since(self.before(Timestamp::now(), self.window))
        };
        self.search(conversation, from, sender, client_id).await
    }

    /// Half of JetStream's window: the other half is left for the request itself, and for a client's clock that is wrong.
    fn margin(&self) -> Duration {
        self.window / 2
    }

    /// Whether JetStream's window covers all that Postgres may lack.
    fn covers(&self, watermark: &Watermark) -> bool {
        watermark.lag.is_some_and(|lag| lag < self.margin())
    }

    /// Whether a name was made so recently that JetStream's window covers every copy of its message. A clock may be ahead
    /// by half the window: a repeat still comes within it. A name from the future tells nothing.
    fn is_fresh(&self, made: Timestamp) -> bool {
        made.age() >= -AHEAD && made.age() < self.margin()
    }

    fn before(&self, at: Timestamp, by: Duration) -> Timestamp {
        at.to_datetime().checked_sub(by.try_into().unwrap_or_default()).map_or(at, Timestamp::from)
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

    async fn search(
        &self,
        conversation: ConversationId,
        from: From,
        sender: &UserId,
        client_id: ClientId,
    ) -> Result<Option<Sent>, Refusal> {
        let mut entries = match from {
            From::After(after) => self.log.read_after(conversation, after, TAIL).await?,
            From::Since(since) => self.log.read_since(conversation, since).await?,
        };
        while let Some(last) = entries.last() {
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
            entries = self.log.read_after(conversation, last.seq, TAIL).await?;
        }
        Ok(None)
    }

    /// The message of this name at a place that JetStream named.
    ///
    /// # Errors
    /// `unavailable`, also if another message has the place: this one was in a log that was restored from an older copy.
    pub async fn at(
        &self,
        conversation: ConversationId,
        seq: Seq,
        sender: &UserId,
        client_id: ClientId,
    ) -> Result<Sent, Refusal> {
        let found = history::original(&self.store, &self.log, conversation, seq).await?;
        let found = found.filter(|it| it.client_id == client_id && it.sender_id == *sender);
        let found = found.ok_or_else(|| Refusal::unavailable("the log"))?;
        Ok(Sent { seq, message_id: found.message_id, created_at: found.created_at })
    }
}

/// Answers look-ups, all that wait in one query.
async fn look_up(store: Arc<Store>, asked: Arc<Mutex<mpsc::UnboundedReceiver<Asked>>>) {
    let mut connection = None;
    let mut batch = Vec::new();
    while asked.lock().await.recv_many(&mut batch, BATCH).await > 0 {
        let (keys, replies): (Vec<Key>, Vec<_>) = batch.drain(..).unzip();
        let answers: Vec<Answer> = match store.find_sent(&mut connection, &keys).await {
            Ok(found) => found
                .into_iter()
                .map(|it| Ok(it.map(|it| Sent { seq: it.seq, message_id: it.message_id, created_at: it.created_at })))
                .collect(),
            Err(error) => {
                tracing::warn!(%error, "sent messages not looked up");
                store.failed(&error);
                vec![Err(PostgresAway); keys.len()]
            }
        };
        for (reply, answer) in replies.into_iter().zip(answers) {
            let _ = reply.send(answer);
        }
    }
}
