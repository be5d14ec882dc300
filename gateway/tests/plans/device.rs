//! A client that knows the documented protocol and nothing else: it applies events in order, fills gaps by joining again,
//! and comes back with what it holds.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use partyline_gateway::{
    app::Chat,
    command,
    encode::Frame,
    session::conn::{Conn, Link, Remote},
};
use partyline_shared::{
    claims::Identity,
    wire::{CloseCode, Request},
};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

/// Before a join that found something unavailable is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The transport: frames wait here until the plan lets the client read them.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    frames: Mutex<VecDeque<Vec<u8>>>,
    closing: AtomicBool,
    gone: AtomicBool,
    ended: Notify,
}

impl Remote for Wire {
    fn send_all(&self, frames: &[Frame]) {
        if !self.gone.load(Ordering::Relaxed) {
            self.frames.lock().extend(frames.iter().map(|frame| frame.text().to_vec()));
        }
    }

    fn ask_to_close(&self, _: CloseCode, _: Option<u64>) {
        self.closing.store(true, Ordering::Relaxed);
    }

    fn is_leaving(&self) -> bool {
        self.closing.load(Ordering::Relaxed) || self.is_gone()
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    fn waiting(&self) -> Option<(usize, u64)> {
        None
    }

    fn has_room(&self) -> bool {
        true
    }
}

/// A message as a client shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) client_id: String,
    pub(crate) content: String,
    pub(crate) deleted: bool,
}

/// What a client holds of a conversation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    /// The person wants it open.
    pub(crate) wanted: bool,
    /// Live events come.
    pub(crate) joined: bool,
    /// The `ref` of the join under way.
    pub(crate) joining: Option<String>,
    pub(crate) retry_at: Option<Instant>,
    /// Everything up to here is applied; nothing yet if `None`.
    pub(crate) seq: Option<u64>,
    pub(crate) messages: BTreeMap<u64, Shown>,
    pub(crate) markers: HashMap<String, u64>,
    /// The answer to the join said that there are older messages.
    pub(crate) has_older: bool,
    /// From the list, or the last news; `None` if it isn't known.
    pub(crate) unread: Option<u64>,
    pub(crate) refusals: u32,
    /// The last join was refused for good.
    pub(crate) is_refused: bool,
    /// At rest: a join that was asked for must succeed.
    pub(crate) must_join: bool,
}

/// What was asked, to be found again by `ref`.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    /// With `after`.
    Join(usize, Option<u64>),
    Leave,
    /// The place in the plan's list of messages.
    Send(usize),
    Mark(usize),
    Change,
}

/// An answer that concerns the whole plan.
#[derive(Debug)]
pub(crate) enum Outcome {
    Sent(usize, Value),
    NotSent,
}

/// A breach of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Breach {
    pub(crate) kind: &'static str,
    pub(crate) detail: String,
}

pub(crate) fn breach(kind: &'static str, detail: impl Into<String>) -> Breach {
    Breach { kind, detail: detail.into() }
}

/// A connection.
pub(crate) struct Connected {
    pub(crate) gateway: usize,
    pub(crate) wire: Arc<Wire>,
    pub(crate) conn: Arc<Conn>,
    commands: mpsc::UnboundedSender<String>,
    task: tokio::task::JoinHandle<()>,
}

/// A device of a person.
pub(crate) struct Device {
    pub(crate) user: String,
    pub(crate) link: Option<Connected>,
    pub(crate) held: Vec<Held>,
    pub(crate) asked: HashMap<String, Asked>,
    /// Places up to which anything was heard since the plan last looked.
    pub(crate) heard: Vec<(usize, u64)>,
    /// Messages whose text was replaced, and the place of that edit.
    pub(crate) edits: Vec<(u64, u64)>,
    next: u64,
}

impl Device {
    pub(crate) fn new(user: &str, conversations: usize) -> Self {
        let held = vec![Held::default(); conversations];
        Self {
            user: user.to_owned(),
            link: None,
            held,
            asked: HashMap::new(),
            heard: Vec::new(),
            edits: Vec::new(),
            next: 0,
        }
    }

    /// Connects, as a transport does it.
    pub(crate) fn connect(&mut self, gateway: usize, chat: &Arc<Chat>, identity: Identity) {
        self.disconnect();
        let wire = Arc::new(Wire::default());
        let conn = Conn::new(chat.registry.next_id(), identity, Link::SocketIo(wire.clone()));
        chat.people.note(&conn.identity());
        if chat.registry.add(&conn, 0) {
            chat.presence.touch(&conn.user_id);
        }
        let (commands, asked) = mpsc::unbounded_channel();
        let task = tokio::spawn(serve(chat.clone(), conn.clone(), wire.clone(), asked));
        self.link = Some(Connected { gateway, wire, conn, commands, task });
    }

    /// The connection breaks.
    pub(crate) fn disconnect(&mut self) {
        if let Some(link) = self.link.take() {
            link.wire.gone.store(true, Ordering::Relaxed);
            link.wire.ended.notify_one();
        }
        self.forget_connection();
    }

    /// Its gateway is dead: nothing that was under way goes on.
    pub(crate) fn lose(&mut self) {
        if let Some(link) = self.link.take() {
            link.wire.gone.store(true, Ordering::Relaxed);
            link.task.abort();
        }
        self.forget_connection();
    }

    fn forget_connection(&mut self) {
        self.asked.clear();
        for held in &mut self.held {
            held.joined = false;
            held.joining = None;
            held.retry_at = None;
            held.unread = None;
        }
    }

    /// Sends a command.
    pub(crate) fn ask(&mut self, asked: Asked, mut command: Value) {
        let Some(link) = &self.link else { return };
        self.next += 1;
        let reference = format!("r{}", self.next);
        command["ref"] = json!(reference);
        if let Asked::Join(conversation, _) = asked {
            self.held[conversation].joining = Some(reference.clone());
        }
        self.asked.insert(reference, asked);
        let _ = link.commands.send(command.to_string());
    }

    /// Joins a conversation with what is held.
    pub(crate) fn join(&mut self, conversation: usize, ids: &[String]) {
        if self.link.is_none() {
            return;
        }
        let held = &mut self.held[conversation];
        held.wanted = true;
        held.retry_at = None;
        held.is_refused = false;
        let after = held.seq;
        let mut command = json!({ "type": "join_conversation", "conversation_id": ids[conversation] });
        if let Some(after) = after {
            command["after"] = json!(after);
        }
        self.ask(Asked::Join(conversation, after), command);
    }

    /// Tries again what was unavailable, once it is time.
    ///
    /// # Returns
    /// Whether anything was asked.
    pub(crate) fn retry(&mut self, ids: &[String]) -> bool {
        let due = |held: &Held| held.retry_at.is_some_and(|at| at <= Instant::now());
        let due: Vec<usize> = (0..self.held.len()).filter(|it| due(&self.held[*it])).collect();
        due.iter().for_each(|conversation| self.join(*conversation, ids));
        !due.is_empty()
    }

    /// Reads what has come.
    ///
    /// # Returns
    /// Whether anything had.
    ///
    /// # Errors
    /// A breach of the protocol.
    pub(crate) fn read(&mut self, ids: &[String], outcomes: &mut Vec<Outcome>) -> Result<bool, Breach> {
        let Some(link) = &self.link else { return Ok(false) };
        let frames: Vec<_> = link.wire.frames.lock().drain(..).collect();
        let any = !frames.is_empty();
        for frame in frames {
            let frame: Value =
                serde_json::from_slice(&frame).map_err(|error| breach("bad frame", error.to_string()))?;
            self.take(&frame, ids, outcomes)
                .map_err(|it| Breach { detail: format!("{} {}: {frame}", self.user, it.detail), ..it })?;
        }
        if self.link.as_ref().is_some_and(|link| link.wire.closing.load(Ordering::Relaxed)) {
            return Err(breach("closed", format!("{} was closed", self.user)));
        }
        Ok(any)
    }

    fn take(&mut self, frame: &Value, ids: &[String], outcomes: &mut Vec<Outcome>) -> Result<(), Breach> {
        let kind = frame["type"].as_str().unwrap_or_default();
        let conversation = ids.iter().position(|id| frame["conversation_id"] == **id);
        let asked = frame["ref"].as_str().and_then(|reference| self.asked.remove(reference));
        match (kind, conversation) {
            ("joined", Some(conversation)) => {
                let Some(Asked::Join(_, after)) = asked else { return Ok(()) };
                self.joined(conversation, after, frame, ids)
            }
            ("ack", _) => {
                match asked {
                    Some(Asked::Send(sent)) => outcomes.push(Outcome::Sent(sent, frame.clone())),
                    Some(Asked::Mark(conversation)) => {
                        let marker = frame["last_read_seq"].as_u64().unwrap_or(0);
                        self.mark(conversation, &self.user.clone(), marker);
                    }
                    _ => {}
                }
                Ok(())
            }
            ("error", _) => {
                match asked {
                    Some(Asked::Send(_)) => outcomes.push(Outcome::NotSent),
                    Some(Asked::Join(conversation, _)) => self.refused(conversation, frame),
                    _ => {}
                }
                Ok(())
            }
            ("conversation_updated", Some(conversation)) => {
                let held = &mut self.held[conversation];
                if frame["reason"] == "removed" {
                    held.joined = false;
                    held.wanted = false;
                }
                held.unread = frame["unread_count"].as_u64();
                Ok(())
            }
            ("left", Some(conversation)) => {
                self.held[conversation].joined = false;
                Ok(())
            }
            ("typing" | "presence", _) => Ok(()),
            (_, Some(conversation)) if frame["seq"].is_u64() => self.live(conversation, frame, ids),
            _ => Err(breach("unknown frame", "")),
        }
    }

    fn refused(&mut self, conversation: usize, frame: &Value) {
        let held = &mut self.held[conversation];
        held.joining = None;
        held.refusals += 1;
        match frame["code"].as_str() {
            // Nothing was done: what was joined still is.
            Some("unavailable") => held.retry_at = Some(Instant::now() + RETRY),
            _ => (held.wanted, held.joined, held.is_refused) = (false, false, true),
        }
    }

    fn joined(&mut self, conversation: usize, after: Option<u64>, frame: &Value, ids: &[String]) -> Result<(), Breach> {
        let seq = frame["seq"].as_u64().unwrap_or(0);
        let more = frame["more"] == true;
        let held = &mut self.held[conversation];
        if held.joining.as_deref() != frame["ref"].as_str() {
            // A later join is under way: its answer counts.
            return Ok(());
        }
        held.joining = None;
        if after.is_none() {
            held.messages.clear();
            held.markers.clear();
            held.has_older = frame["has_older"] == true;
            // As a client that asks for the first page holds nothing.
            held.seq = None;
        }
        let wanted = held.wanted;
        let mut last = 0;
        for event in frame["events"].as_array().into_iter().flatten() {
            let place = event["seq"].as_u64().unwrap_or(0);
            if place <= last {
                return Err(breach("page out of order", ""));
            }
            last = place;
            // What came live since the join was asked is there already.
            if self.held[conversation].seq.is_none_or(|held| place > held) || after.is_none() {
                self.apply(conversation, event)?;
            }
        }
        if last > seq {
            return Err(breach("page beyond its end", ""));
        }
        let held = &mut self.held[conversation];
        held.seq = Some(held.seq.unwrap_or(0).max(seq));
        // The page may tell of having been removed and added again.
        (held.joined, held.wanted) = (!more, wanted);
        self.heard.push((conversation, seq));
        for (user, marker) in frame["read_markers"].as_object().into_iter().flatten() {
            self.mark(conversation, user, marker.as_u64().unwrap_or(0));
        }
        if more {
            self.join(conversation, ids);
        }
        Ok(())
    }

    fn live(&mut self, conversation: usize, frame: &Value, ids: &[String]) -> Result<(), Breach> {
        let (seq, previous) = (frame["seq"].as_u64().unwrap_or(0), frame["prev_seq"].as_u64().unwrap_or(0));
        // Also what a client ignores: a participant who was removed must not be sent it.
        self.heard.push((conversation, seq));
        let held = &mut self.held[conversation];
        // While a join is under way its answer tells where to go on; what is live until then belongs to the one before.
        if held.joining.is_some() && !held.joined {
            return Ok(());
        }
        if !held.joined {
            return if held.wanted { Err(breach("live without a join", "")) } else { Ok(()) };
        }
        let last = held.seq.unwrap_or(0);
        if seq <= last {
            return Err(breach("repeated event", format!("holds {last}")));
        }
        if previous > last {
            if held.joining.is_none() {
                self.join(conversation, ids);
            }
            return Ok(());
        }
        self.apply(conversation, frame)?;
        self.held[conversation].seq = Some(seq);
        Ok(())
    }

    /// Applies an event.
    fn apply(&mut self, conversation: usize, event: &Value) -> Result<(), Breach> {
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let seq = event["seq"].as_u64().unwrap_or(0);
        let target = event["message_seq"].as_u64().unwrap_or(0);
        let held = &mut self.held[conversation];
        match event["type"].as_str().unwrap_or_default() {
            "new_message" => {
                let deleted = event["deleted_at"].is_string();
                let shown = Shown { client_id: text("client_id"), content: text("content"), deleted };
                held.messages.insert(seq, shown);
                self.mark(conversation, &text("sender_id"), seq);
            }
            "message_edited" => {
                if event["content"] != "" {
                    self.edits.push((target, seq));
                }
                // A page shows messages as they are, and the changes that made them so may follow.
                if let Some(message) = held.messages.get_mut(&target).filter(|message| !message.deleted) {
                    message.content = text("content");
                }
            }
            "message_deleted" => {
                if let Some(message) = held.messages.get_mut(&target) {
                    message.deleted = true;
                    message.content.clear();
                }
            }
            "read" => {
                let (user, marker) = (text("user_id"), event["last_read_seq"].as_u64().unwrap_or(0));
                self.mark(conversation, &user, marker);
            }
            "participant_removed" if event["user_id"] == *self.user => {
                held.joined = false;
                held.wanted = false;
            }
            "participant_added" => {
                let added = event["participant"]["user_id"].as_str().unwrap_or_default().to_owned();
                self.mark(conversation, &added, seq);
            }
            "participant_removed" => {}
            _ => return Err(breach("unknown event", "")),
        }
        Ok(())
    }

    fn mark(&mut self, conversation: usize, user: &str, marker: u64) {
        let held = self.held[conversation].markers.entry(user.to_owned()).or_default();
        *held = marker.max(*held);
    }
}

/// One command after the other; one in hand ends even if the client is gone, as in the native transport.
async fn serve(chat: Arc<Chat>, conn: Arc<Conn>, wire: Arc<Wire>, mut asked: mpsc::UnboundedReceiver<String>) {
    loop {
        let command = tokio::select! {
            biased;
            () = wire.ended.notified() => break,
            command = asked.recv() => command,
        };
        let Some(command) = command else { break };
        command::run(&chat, &conn, Request::parse(&command)).await;
        if wire.is_gone() {
            break;
        }
    }
    if chat.registry.remove(&conn) {
        chat.presence.touch(&conn.user_id);
    }
    command::join::leave_all(&chat, &conn).await;
}
