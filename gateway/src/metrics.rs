//! Every metric of the gateway: its name, unit and meaning, in this one place. Handles are made once, so that the hot
//! path looks nothing up. No label is unbounded.

use std::{sync::LazyLock, time::Duration};

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use partyline_shared::wire::{CloseCode, ErrorCode};

const BUILD: &str = "partyline_gateway_build_info";
const CONNECTIONS: &str = "partyline_gateway_connections";
const CONNECTIONS_OPENED: &str = "partyline_gateway_connections_opened_total";
const CONNECTIONS_CLOSED: &str = "partyline_gateway_connections_closed_total";
const HANDSHAKES_REFUSED: &str = "partyline_gateway_handshakes_refused_total";
const ROOMS: &str = "partyline_gateway_rooms";
const MESSAGES: &str = "partyline_gateway_messages_total";
const REFUSALS: &str = "partyline_gateway_refusals_total";
const APPEND: &str = "partyline_gateway_append_seconds";
const APPEND_FAILURES: &str = "partyline_gateway_append_failures_total";
const DELIVERY: &str = "partyline_gateway_delivery_seconds";
const DELIVERIES: &str = "partyline_gateway_deliveries_total";
const FAN_OUT: &str = "partyline_gateway_fan_out_size";
const EPHEMERAL_DROPPED: &str = "partyline_gateway_ephemeral_dropped_total";
const RESUMES: &str = "partyline_gateway_resumes_total";
const RESUME_SIZE: &str = "partyline_gateway_resume_size";
const GAPS: &str = "partyline_gateway_gaps_healed_total";
const NATS_EVENTS: &str = "partyline_gateway_nats_events_total";
const NATS_CONNECTED: &str = "partyline_gateway_nats_connected";
const HTTP_SECONDS: &str = "partyline_gateway_http_request_seconds";

/// Where a resuming client's events came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeSource {
    Ring,
    Log,
    Postgres,
}

struct Handles {
    connections: Gauge,
    opened: Counter,
    rooms: Gauge,
    messages: Counter,
    duplicates: Counter,
    append: Histogram,
    append_failures: Counter,
    delivery: Histogram,
    deliveries: Counter,
    fan_out: Histogram,
    ephemeral_dropped: Counter,
    resume_ring: Counter,
    resume_log: Counter,
    resume_postgres: Counter,
    resume_size: Histogram,
    gaps: Counter,
    nats_connected: Gauge,
}

static HANDLES: LazyLock<Handles> = LazyLock::new(|| Handles {
    connections: gauge!(CONNECTIONS, "protocol" => "native"),
    opened: counter!(CONNECTIONS_OPENED, "protocol" => "native"),
    rooms: gauge!(ROOMS),
    messages: counter!(MESSAGES, "outcome" => "stored"),
    duplicates: counter!(MESSAGES, "outcome" => "duplicate"),
    append: histogram!(APPEND),
    append_failures: counter!(APPEND_FAILURES),
    delivery: histogram!(DELIVERY),
    deliveries: counter!(DELIVERIES),
    fan_out: histogram!(FAN_OUT),
    ephemeral_dropped: counter!(EPHEMERAL_DROPPED),
    resume_ring: counter!(RESUMES, "source" => "ring"),
    resume_log: counter!(RESUMES, "source" => "log"),
    resume_postgres: counter!(RESUMES, "source" => "postgres"),
    resume_size: histogram!(RESUME_SIZE),
    gaps: counter!(GAPS),
    nats_connected: gauge!(NATS_CONNECTED),
});

/// Tells the recorder what each metric means; call once, after the recorder is installed.
pub fn describe() {
    describe_gauge!(BUILD, "Always 1; the version is a label");
    describe_gauge!(CONNECTIONS, "Open sockets, by protocol");
    describe_counter!(CONNECTIONS_OPENED, "Sockets opened, by protocol");
    describe_counter!(CONNECTIONS_CLOSED, "Sockets closed, by reason");
    describe_counter!(HANDSHAKES_REFUSED, "Sockets refused before the upgrade, by reason");
    describe_gauge!(ROOMS, "Conversations with a live subscription on this node");
    describe_counter!(MESSAGES, "Messages taken from clients, by outcome (stored, duplicate)");
    describe_counter!(REFUSALS, "Requests refused, by error code");
    describe_histogram!(APPEND, Unit::Seconds, "From publishing an event to JetStream's word that it is stored");
    describe_counter!(APPEND_FAILURES, "Events that JetStream did not confirm");
    describe_histogram!(
        DELIVERY,
        Unit::Seconds,
        "From a message's creation on any gateway to its write on sockets here"
    );
    describe_counter!(DELIVERIES, "Events handed to sockets");
    describe_histogram!(FAN_OUT, Unit::Count, "Sockets that one event went to on this node");
    describe_counter!(EPHEMERAL_DROPPED, "Typing and presence frames dropped because a reader was slow");
    describe_counter!(RESUMES, "Joins with `after`, by the source of their events (ring, log, postgres)");
    describe_histogram!(RESUME_SIZE, Unit::Count, "Events sent to a joining client");
    describe_counter!(GAPS, "Gaps in live delivery filled from the log");
    describe_counter!(NATS_EVENTS, "What happened to the NATS connection (connected, disconnected, slow_consumer)");
    describe_gauge!(NATS_CONNECTED, "1 while connected to NATS");
    describe_histogram!(HTTP_SECONDS, Unit::Seconds, "HTTP requests, by route, method and status");
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    LazyLock::force(&HANDLES);
}

/// Counts a socket as open until it is dropped.
#[derive(Debug)]
pub struct ConnectionGuard(());

impl ConnectionGuard {
    #[must_use]
    pub fn open() -> Self {
        HANDLES.connections.increment(1.0);
        HANDLES.opened.increment(1);
        Self(())
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        HANDLES.connections.decrement(1.0);
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

/// The server closed a socket.
pub fn closed(code: CloseCode) {
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

/// Something happened to the NATS connection.
pub fn nats_event(what: &'static str) {
    counter!(NATS_EVENTS, "event" => what).increment(1);
}

/// Whether NATS is there.
pub fn nats_connected(up: bool) {
    HANDLES.nats_connected.set(if up { 1.0 } else { 0.0 });
}

/// An HTTP request was answered. `route` is the route's pattern, never the path.
pub fn http_request(route: &str, method: &'static str, status: u16, took: Duration) {
    histogram!(HTTP_SECONDS, "route" => route.to_owned(), "method" => method, "status" => status.to_string())
        .record(took);
}
