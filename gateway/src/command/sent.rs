//! Whether a message was sent before. JetStream itself recognises repeats within its window; this finds the older ones:
//! in Postgres, many look-ups in one query, and in the part of the log that Postgres lacks, if that is older than the
//! window.

use std::{sync::Arc, time::Duration};

use partyline_shared::{
    event::{Event, Message},
    ids::{ClientId, ConversationId, MessageId, Seq, UserId},
    timestamp::Timestamp,
    wire::{Refusal, SendMessage, TemporaryName},
};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::{
    history,
    log::{Log, Watermark},
    store::{self, Store},
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

/// Which earlier copies of a message a search must find.
#[derive(Clone, Copy, Debug)]
enum Copies {
    /// Those that JetStream's window may no longer cover, if Postgres does not have them.
    PastWindow,
    /// Those that the window covers.
    WithinWindow,
}

/// A message that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The name that it is stored under.
    pub client_id: ClientId,
    pub seq: Seq,
    pub message_id: MessageId,
    pub created_at: Timestamp,
}

impl Sent {
    fn of(message: &Message, seq: Seq) -> Self {
        Self { client_id: message.client_id, seq, message_id: message.message_id, created_at: message.created_at }
    }
}

/// The names that copies of a message may be stored under.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// The name that it is stored under from now on.
    pub client_id: ClientId,
    temporary: Option<TemporaryName>,
}

impl Names {
    #[must_use]
    pub fn of(message: &SendMessage) -> Self {
        Self { client_id: message.client_id, temporary: message.temporary }
    }

    #[must_use]
    pub fn include(&self, client_id: ClientId) -> bool {
        client_id == self.client_id || self.temporary.is_some_and(|name| name.previous == client_id)
    }

    /// Returns the name by which JetStream recognises copies that come within its window.
    #[must_use]
    pub fn for_window(&self) -> ClientId {
        self.temporary.map_or(self.client_id, |name| name.root)
    }

    /// Whether a message that is stored under one of the names is a copy of this one.
    fn is_copy(&self, sent: &Sent) -> bool {
        sent.client_id == self.client_id
            || self
                .temporary
                .is_some_and(|name| name.previous == sent.client_id && sent.created_at.age() < name.lifetime)
    }

    /// How old a copy may be if the name does not tell when it was made.
    fn oldest_copy(&self) -> Duration {
        self.temporary.map_or(UNDATED_REPEATS, |name| name.lifetime)
    }
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

    /// The first message of these names, if JetStream's window may have passed it by.
    ///
    /// # Errors
    /// `unavailable` if it can't be judged while Postgres is away.
    pub async fn find(
        &self,
        conversation: ConversationId,
        sender: &UserId,
        names: &Names,
    ) -> Result<Option<Sent>, Refusal> {
        // Before Postgres is asked, so that nothing slips from the tail into Postgres unseen.
        let watermark = self.log.recent_watermark(conversation).await?;
        let is_away = match self.ask(conversation, sender, names).await {
            Ok(Some(sent)) => return Ok(Some(sent)),
            Ok(None) => false,
            Err(PostgresAway) => true,
        };
        match self.search_start(conversation, names, &watermark, is_away, Copies::PastWindow)? {
            Some(start) => self.search(conversation, start, sender, names).await,
            None => Ok(None),
        }
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
        names: &Names,
    ) -> Result<Option<Sent>, Refusal> {
        let watermark = self.log.recent_watermark(conversation).await?;
        match self.search_start(conversation, names, &watermark, self.store.is_away(), Copies::WithinWindow)? {
            Some(start) => self.search(conversation, start, sender, names).await,
            None => Ok(None),
        }
    }

    /// Where a search of the log begins, if there may be copies to find.
    ///
    /// # Errors
    /// `unavailable` if the log does not reach back as far as there may be copies, and Postgres is away.
    fn search_start(
        &self,
        conversation: ConversationId,
        names: &Names,
        watermark: &Watermark,
        is_away: bool,
        copies: Copies,
    ) -> Result<Option<From>, Refusal> {
        let is_covered = self.covers(watermark);
        // A name from the future carries no time either.
        let made = Timestamp::of_uuid(names.client_id.0).filter(|made| made.age() >= -AHEAD);
        match (copies, is_away) {
            (Copies::WithinWindow, false) if is_covered => Ok(Some(From::After(watermark.floor))),
            (Copies::WithinWindow, _) => Ok(Some(From::Since(self.before(Timestamp::now(), self.window)))),
            (Copies::PastWindow, _) if made.is_some_and(|made| self.is_fresh(made)) => Ok(None),
            (Copies::PastWindow, false) => Ok((!is_covered).then_some(From::After(watermark.floor))),
            // The log can judge the name if it holds all that was stored since the first copy can have been.
            (Copies::PastWindow, true) => {
                let since = match made {
                    Some(made) => self.before(made, self.margin()),
                    None => self.before(Timestamp::now(), names.oldest_copy()),
                };
                // A log that begins with the first event of all lacks nothing, however young it is.
                let is_whole = made.is_none() && watermark.first <= 1;
                if is_whole || self.log.holds_since(conversation, since) {
                    Ok(Some(From::Since(since)))
                } else {
                    Err(Refusal::unavailable("the database"))
                }
            }
        }
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
    /// by half the window: a repeat still comes within it.
    fn is_fresh(&self, made: Timestamp) -> bool {
        made.age() < self.margin()
    }

    fn before(&self, at: Timestamp, by: Duration) -> Timestamp {
        at.to_datetime().checked_sub(by.try_into().unwrap_or_default()).map_or(at, Timestamp::from)
    }

    /// Asks Postgres for all the names in one query.
    async fn ask(&self, conversation: ConversationId, sender: &UserId, names: &Names) -> Answer {
        let current = self.ask_for(conversation, sender, names.client_id);
        let Some(temporary) = names.temporary else { return current.await };
        let (current, previous) = tokio::join!(current, self.ask_for(conversation, sender, temporary.previous));
        Ok(current?.or(previous?.filter(|sent| names.is_copy(sent))))
    }

    async fn ask_for(&self, conversation: ConversationId, sender: &UserId, client_id: ClientId) -> Answer {
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
        names: &Names,
    ) -> Result<Option<Sent>, Refusal> {
        let mut entries = match from {
            From::After(after) => self.log.read_after(conversation, after, TAIL).await?,
            From::Since(since) => self.log.read_since(conversation, since).await?,
        };
        while let Some(last) = entries.last() {
            for entry in &entries {
                if let Ok(Event::NewMessage(message)) = Event::from_json(&entry.payload)
                    && message.sender_id == *sender
                    && let sent = Sent::of(&message, entry.seq)
                    && names.is_copy(&sent)
                {
                    return Ok(Some(sent));
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
        names: &Names,
    ) -> Result<Sent, Refusal> {
        let found = history::original(&self.store, &self.log, conversation, seq).await?;
        let found = found.filter(|it| names.include(it.client_id) && it.sender_id == *sender);
        let found = found.ok_or_else(|| Refusal::unavailable("the log"))?;
        Ok(Sent::of(&found, seq))
    }
}

/// Answers look-ups, all that wait in one query.
async fn look_up(store: Arc<Store>, asked: Arc<Mutex<mpsc::UnboundedReceiver<Asked>>>) {
    let mut connection = None;
    let mut batch = Vec::new();
    while asked.lock().await.recv_many(&mut batch, BATCH).await > 0 {
        let (keys, replies): (Vec<Key>, Vec<_>) = batch.drain(..).unzip();
        let answers: Vec<Answer> = match store.find_sent(&mut connection, &keys).await {
            Ok(found) => keys
                .iter()
                .zip(found)
                .map(|((_, _, client_id), found)| {
                    let sent = |it: store::Sent| Sent {
                        client_id: *client_id,
                        seq: it.seq,
                        message_id: it.message_id,
                        created_at: it.created_at,
                    };
                    Ok(found.map(sent))
                })
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
