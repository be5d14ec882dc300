//! Every metric of the gateway, in this one place: the names and handles in [`handles`], the meanings in [`describe`].
//! Handles are made once, so that the hot path looks nothing up. No label is unbounded. `docs/metrics.md` has them all.

mod describe;
mod handles;

use std::{sync::atomic::Ordering, time::Duration};

use metrics::{counter, gauge, histogram};
use partyline_shared::{
    tasks::TaskEvent,
    trace::Outcome,
    wire::{CloseCode, Command, ErrorCode, Refusal},
};

use crate::log::Traffic;

pub use self::describe::describe;
use self::handles::{
    CONNECTIONS_CLOSED, HANDLES, HANDSHAKES_REFUSED, HTTP_SECONDS, LOG_BEHIND, LOG_LAG, LOG_LAG_AGE, LOG_LOST,
    NATS_EVENTS, RATE_LIMITED, REFUSALS, SPANS, TASKS, VERBS,
};
use crate::store::OutboxState;

/// Where a resuming client's events came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeSource {
    Ring,
    Log,
    Postgres,
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Native,
    SocketIo,
}

/// Which way a committed change was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relayer {
    /// By the command that made it, right after its commit.
    Command,
    /// By a sweep of the outbox.
    Sweep,
}

/// Counts a socket as open until it is dropped.
#[derive(Debug)]
pub struct ConnectionGuard(Protocol);

impl ConnectionGuard {
    #[must_use]
    pub fn open(protocol: Protocol) -> Self {
        HANDLES.connections[protocol as usize].increment(1.0);
        HANDLES.opened[protocol as usize].increment(1);
        Self(protocol)
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        HANDLES.connections[self.0 as usize].decrement(1.0);
    }
}

/// Counts a conversation as live on this node until it is dropped.
#[derive(Debug)]
pub struct RoomGuard(());

impl RoomGuard {
    #[must_use]
    pub fn open() -> Self {
        HANDLES.rooms.increment(1.0);
        Self(())
    }
}

impl Drop for RoomGuard {
    fn drop(&mut self) {
        HANDLES.rooms.decrement(1.0);
    }
}

/// The kind of a command: its place in [`handles::VERBS`].
#[derive(Clone, Copy, Debug)]
pub struct Verb(usize);

impl Verb {
    #[must_use]
    pub fn of(command: &Result<Command, Refusal>) -> Self {
        Self(match command {
            Ok(Command::JoinConversation(_)) => 0,
            Ok(Command::LeaveConversation(_)) => 1,
            Ok(Command::SendMessage(_)) => 2,
            Ok(Command::Typing(_)) => 3,
            Ok(Command::MarkRead(_)) => 4,
            Ok(Command::EditMessage(_)) => 5,
            Ok(Command::DeleteMessage(_)) => 6,
            Ok(Command::RefreshToken(_)) => 7,
            Ok(Command::JoinConversations(_)) => 8,
            Err(_) => 9,
        })
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        VERBS[self.0]
    }
}

/// A socket's command ended.
pub fn command(verb: Verb, refused: Option<ErrorCode>) {
    let outcome = match refused {
        None => 0,
        Some(ErrorCode::Unavailable | ErrorCode::Internal) => 2,
        Some(_) => 1,
    };
    HANDLES.commands[verb.0][outcome].increment(1);
}

/// A user sent more messages than the budget allows.
pub fn over_budget() {
    HANDLES.limited_messages.increment(1);
}

/// The JWKS was read, or could not be.
pub fn jwks_read(read: bool) {
    HANDLES.jwks_reads[usize::from(!read)].increment(1);
}

/// The node that counts a user's messages did not answer in time: this one decided by what it knew.
pub fn budget_decided_alone() {
    HANDLES.budget_decided_alone.increment(1);
}

/// A user made more requests than one may.
pub fn too_many_requests() {
    HANDLES.limited_requests.increment(1);
}

/// A client sent frames faster than it may, and is read later.
pub fn frames_delayed() {
    HANDLES.limited_frames.increment(1);
}

/// The server closed a socket.
pub fn closed(code: CloseCode) {
    if code == CloseCode::Replaced {
        counter!(RATE_LIMITED, "kind" => "connections").increment(1);
    }
    counter!(CONNECTIONS_CLOSED, "reason" => code.as_str()).increment(1);
}

/// The client closed a socket, or it broke.
pub fn closed_by_peer() {
    counter!(CONNECTIONS_CLOSED, "reason" => "peer").increment(1);
}

/// A handshake was refused.
pub fn handshake_refused(reason: &'static str) {
    counter!(HANDSHAKES_REFUSED, "reason" => reason).increment(1);
}

/// A request was refused.
pub fn refused(code: ErrorCode) {
    counter!(REFUSALS, "code" => code.as_str()).increment(1);
}

/// A message was taken.
pub fn message_taken(duplicate: bool) {
    if duplicate { &HANDLES.duplicates } else { &HANDLES.messages }.increment(1);
}

/// JetStream confirmed an event.
pub fn append_seconds(took: Duration) {
    HANDLES.append.record(took);
}

/// JetStream did not confirm an event.
pub fn append_failed() {
    HANDLES.append_failures.increment(1);
}

/// An event went to `sockets` sockets; `age` is the time since its creation, if it tells one.
pub fn delivered(sockets: usize, age: Option<Duration>) {
    HANDLES.deliveries.increment(sockets as u64);
    HANDLES.fan_out.record(sockets as f64);
    if let Some(age) = age {
        HANDLES.delivery.record(age);
    }
}

/// An event came in that JetStream had stored `lag` ago.
pub fn live_lag(lag: Duration) {
    HANDLES.live_lag.record(lag);
}

/// What waits for slow readers, summed up over sockets.
#[derive(Debug, Default)]
pub struct Queues {
    bytes: usize,
    sockets: usize,
    age: Duration,
}

impl Queues {
    /// One socket's queue: its bytes, and how long it hasn't been empty.
    pub fn add(&mut self, bytes: usize, age: Duration) {
        self.bytes += bytes;
        self.sockets += usize::from(bytes > 0);
        self.age = self.age.max(age);
    }

    pub fn tell(&self) {
        HANDLES.queue_bytes.set(self.bytes as f64);
        HANDLES.queue_sockets.set(self.sockets as f64);
        HANDLES.queue_age.set(self.age.as_secs_f64());
    }
}

/// Sockets in rooms.
pub fn room_members(count: usize) {
    HANDLES.room_members.set(count as f64);
}

/// The drain began and should be over `within`.
pub fn draining(within: Duration) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    HANDLES.drain_deadline.set((now + within).as_secs_f64());
}

/// A typing or presence frame was dropped.
pub fn ephemeral_dropped() {
    HANDLES.ephemeral_dropped.increment(1);
}

/// A client joined with `after` and got `events`.
pub fn resumed(source: ResumeSource, events: usize) {
    match source {
        ResumeSource::Ring => &HANDLES.resume_ring,
        ResumeSource::Log => &HANDLES.resume_log,
        ResumeSource::Postgres => &HANDLES.resume_postgres,
    }
    .increment(1);
    HANDLES.resume_size.record(events as f64);
}

/// Live delivery had a gap that was filled.
pub fn gap_healed() {
    HANDLES.gaps.increment(1);
}

/// All rooms compare themselves with the log and with Postgres.
pub fn verified_all() {
    HANDLES.verifications.increment(1);
}

/// Something happened to the NATS connection, `count` times.
pub fn nats_event(what: &'static str, count: u64) {
    counter!(NATS_EVENTS, "event" => what).increment(count);
}

/// Whether both connections to NATS stand.
pub fn nats_connected(up: bool) {
    HANDLES.nats_connected.set(if up { 1.0 } else { 0.0 });
}

/// What went over the NATS connections so far.
pub fn nats_traffic(traffic: &Traffic) {
    let [incoming, outgoing] = &HANDLES.nats_messages;
    incoming.absolute(traffic.in_messages.load(Ordering::Relaxed));
    outgoing.absolute(traffic.out_messages.load(Ordering::Relaxed));
    let [incoming, outgoing] = &HANDLES.nats_bytes;
    incoming.absolute(traffic.in_bytes.load(Ordering::Relaxed));
    outgoing.absolute(traffic.out_bytes.load(Ordering::Relaxed));
}

/// Whether Postgres answered last, and the pool's connections to it.
pub fn postgres(up: bool, connections: u32, idle: usize) {
    HANDLES.postgres_up.set(if up { 1.0 } else { 0.0 });
    HANDLES.postgres_busy.set(f64::from(connections) - idle as f64);
    HANDLES.postgres_idle.set(idle as f64);
}

/// A committed change was told.
pub fn relayed(by: Relayer) {
    HANDLES.relayed[by as usize].increment(1);
}

/// What waits in the outbox.
pub fn outbox(state: OutboxState) {
    HANDLES.outbox_rows.set(state.rows as f64);
    HANDLES.outbox_oldest.set(state.oldest.as_secs_f64());
}

/// An HTTP request was answered. `route` is the route's pattern, never the path.
pub fn http_request(route: &str, method: &'static str, status: u16, took: Duration) {
    histogram!(HTTP_SECONDS, "route" => route.to_owned(), "method" => method, "status" => status.to_string())
        .record(took);
}

/// What Postgres lacks of a partition.
pub fn log_lag(partition: u16, messages: u64, age: Duration) {
    let partition = partition.to_string();
    gauge!(LOG_LAG, "partition" => partition.clone()).set(messages as f64);
    gauge!(LOG_LAG_AGE, "partition" => partition).set(age.as_secs_f64());
}

/// Events left the log before Postgres had them.
pub fn log_lost(count: u64) {
    counter!(LOG_LOST).increment(count);
}

/// A partition's log ended below what is known of it.
pub fn log_behind() {
    counter!(LOG_BEHIND).increment(1);
}

/// Something happened to a task.
pub fn task(name: &'static str, event: TaskEvent) {
    TASKS.count(name, event);
}

/// What became of finished spans.
pub fn spans(outcome: Outcome, count: u64) {
    counter!(SPANS, "outcome" => outcome.as_str()).increment(count);
}
