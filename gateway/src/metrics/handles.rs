//! The names of all metrics, and the handles of those that the hot path records.

use partyline_shared::task_metrics::TaskMetrics;
use std::sync::LazyLock;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

pub(super) const BUILD: &str = "partyline_gateway_build_info";
pub(super) const CONNECTIONS: &str = "partyline_gateway_connections";
pub(super) const CONNECTIONS_OPENED: &str = "partyline_gateway_connections_opened_total";
pub(super) const CONNECTIONS_CLOSED: &str = "partyline_gateway_connections_closed_total";
pub(super) const HANDSHAKES_REFUSED: &str = "partyline_gateway_handshakes_refused_total";
pub(super) const DRAIN_DEADLINE: &str = "partyline_gateway_drain_deadline_timestamp_seconds";
pub(super) const ROOMS: &str = "partyline_gateway_rooms";
pub(super) const ROOM_MEMBERS: &str = "partyline_gateway_room_members";
pub(super) const COMMANDS: &str = "partyline_gateway_commands_total";
pub(super) const MESSAGES: &str = "partyline_gateway_messages_total";
pub(super) const REFUSALS: &str = "partyline_gateway_refusals_total";
pub(super) const RATE_LIMITED: &str = "partyline_gateway_rate_limited_total";
pub(super) const BUDGET_DECIDED_ALONE: &str = "partyline_gateway_budget_decided_alone_total";
pub(super) const QUEUE_BYTES: &str = "partyline_gateway_outbound_queue_bytes";
pub(super) const QUEUE_SOCKETS: &str = "partyline_gateway_outbound_queue_sockets";
pub(super) const QUEUE_AGE: &str = "partyline_gateway_outbound_queue_age_seconds";
pub(super) const APPEND: &str = "partyline_gateway_append_seconds";
pub(super) const APPEND_FAILURES: &str = "partyline_gateway_append_failures_total";
pub(super) const DELIVERY: &str = "partyline_gateway_delivery_seconds";
pub(super) const LIVE_LAG: &str = "partyline_gateway_live_lag_seconds";
pub(super) const DELIVERIES: &str = "partyline_gateway_deliveries_total";
pub(super) const FAN_OUT: &str = "partyline_gateway_fan_out_size";
pub(super) const EPHEMERAL_DROPPED: &str = "partyline_gateway_ephemeral_dropped_total";
pub(super) const RESUMES: &str = "partyline_gateway_resumes_total";
pub(super) const RESUME_SIZE: &str = "partyline_gateway_resume_size";
pub(super) const GAPS: &str = "partyline_gateway_gaps_healed_total";
pub(super) const VERIFICATIONS: &str = "partyline_gateway_verifications_total";
pub(super) const NATS_EVENTS: &str = "partyline_gateway_nats_events_total";
pub(super) const NATS_CONNECTED: &str = "partyline_gateway_nats_connected";
pub(super) const NATS_MESSAGES: &str = "partyline_gateway_nats_messages_total";
pub(super) const NATS_BYTES: &str = "partyline_gateway_nats_bytes_total";
pub(super) const LOG_LAG: &str = "partyline_gateway_log_lag_messages";
pub(super) const LOG_LAG_AGE: &str = "partyline_gateway_log_lag_age_seconds";
pub(super) const LOG_LOST: &str = "partyline_gateway_log_lost_events_total";
pub(super) const LOG_BEHIND: &str = "partyline_gateway_log_behind_total";
pub(super) const POSTGRES_UP: &str = "partyline_gateway_postgres_up";
pub(super) const POSTGRES_CONNECTIONS: &str = "partyline_gateway_postgres_connections";
pub(super) const OUTBOX_RELAYED: &str = "partyline_gateway_outbox_relayed_total";
pub(super) const OUTBOX_ROWS: &str = "partyline_gateway_outbox_rows";
pub(super) const OUTBOX_OLDEST: &str = "partyline_gateway_outbox_oldest_seconds";
pub(super) const JWKS_READS: &str = "partyline_gateway_jwks_reads_total";
pub(super) const HTTP_SECONDS: &str = "partyline_gateway_http_request_seconds";
pub(super) const TASKS: TaskMetrics = TaskMetrics {
    live: "partyline_gateway_tasks",
    panics: "partyline_gateway_task_panics_total",
    restarts: "partyline_gateway_task_restarts_total",
};
pub(super) const SPANS: &str = "partyline_gateway_spans_total";

/// What connections speak.
pub(super) const PROTOCOLS: [&str; 2] = ["native", "socketio"];
/// What a user or a connection can have too much of.
pub(super) const LIMITS: [&str; 4] = ["messages", "frames", "connections", "requests"];
/// How a command ended.
pub(super) const OUTCOMES: [&str; 3] = ["ok", "refused", "failed"];
/// What a socket may ask for; the last one is what nobody could read.
pub(super) const VERBS: [&str; 10] = [
    "join_conversation",
    "leave_conversation",
    "send_message",
    "typing",
    "mark_read",
    "edit_message",
    "delete_message",
    "refresh_token",
    "join_conversations",
    "unreadable",
];

pub(super) struct Handles {
    /// By [`super::Protocol`], as `opened`.
    pub(super) connections: [Gauge; PROTOCOLS.len()],
    pub(super) opened: [Counter; PROTOCOLS.len()],
    pub(super) drain_deadline: Gauge,
    pub(super) rooms: Gauge,
    pub(super) room_members: Gauge,
    pub(super) commands: [[Counter; OUTCOMES.len()]; VERBS.len()],
    pub(super) limited_messages: Counter,
    pub(super) limited_requests: Counter,
    pub(super) limited_frames: Counter,
    pub(super) budget_decided_alone: Counter,
    pub(super) queue_bytes: Gauge,
    pub(super) queue_sockets: Gauge,
    pub(super) queue_age: Gauge,
    pub(super) messages: Counter,
    pub(super) duplicates: Counter,
    pub(super) append: Histogram,
    pub(super) append_failures: Counter,
    pub(super) delivery: Histogram,
    pub(super) live_lag: Histogram,
    pub(super) deliveries: Counter,
    pub(super) fan_out: Histogram,
    pub(super) ephemeral_dropped: Counter,
    pub(super) resume_ring: Counter,
    pub(super) resume_log: Counter,
    pub(super) resume_postgres: Counter,
    pub(super) resume_size: Histogram,
    pub(super) gaps: Counter,
    pub(super) verifications: Counter,
    pub(super) nats_connected: Gauge,
    pub(super) nats_messages: [Counter; 2],
    pub(super) nats_bytes: [Counter; 2],
    pub(super) postgres_up: Gauge,
    pub(super) postgres_busy: Gauge,
    pub(super) postgres_idle: Gauge,
    /// By [`super::Relayer`].
    pub(super) relayed: [Counter; 2],
    pub(super) outbox_rows: Gauge,
    pub(super) outbox_oldest: Gauge,
    pub(super) jwks_reads: [Counter; 2],
}

pub(super) static HANDLES: LazyLock<Handles> = LazyLock::new(|| Handles {
    connections: PROTOCOLS.map(|protocol| gauge!(CONNECTIONS, "protocol" => protocol)),
    opened: PROTOCOLS.map(|protocol| counter!(CONNECTIONS_OPENED, "protocol" => protocol)),
    drain_deadline: gauge!(DRAIN_DEADLINE),
    rooms: gauge!(ROOMS),
    room_members: gauge!(ROOM_MEMBERS),
    commands: VERBS.map(|verb| OUTCOMES.map(|outcome| counter!(COMMANDS, "command" => verb, "outcome" => outcome))),
    limited_messages: counter!(RATE_LIMITED, "kind" => "messages"),
    limited_requests: counter!(RATE_LIMITED, "kind" => "requests"),
    limited_frames: counter!(RATE_LIMITED, "kind" => "frames"),
    budget_decided_alone: counter!(BUDGET_DECIDED_ALONE),
    queue_bytes: gauge!(QUEUE_BYTES),
    queue_sockets: gauge!(QUEUE_SOCKETS),
    queue_age: gauge!(QUEUE_AGE),
    messages: counter!(MESSAGES, "outcome" => "stored"),
    duplicates: counter!(MESSAGES, "outcome" => "duplicate"),
    append: histogram!(APPEND),
    append_failures: counter!(APPEND_FAILURES),
    delivery: histogram!(DELIVERY),
    live_lag: histogram!(LIVE_LAG),
    deliveries: counter!(DELIVERIES),
    fan_out: histogram!(FAN_OUT),
    ephemeral_dropped: counter!(EPHEMERAL_DROPPED),
    resume_ring: counter!(RESUMES, "source" => "ring"),
    resume_log: counter!(RESUMES, "source" => "log"),
    resume_postgres: counter!(RESUMES, "source" => "postgres"),
    resume_size: histogram!(RESUME_SIZE),
    gaps: counter!(GAPS),
    verifications: counter!(VERIFICATIONS),
    nats_connected: gauge!(NATS_CONNECTED),
    nats_messages: ["in", "out"].map(|direction| counter!(NATS_MESSAGES, "direction" => direction)),
    nats_bytes: ["in", "out"].map(|direction| counter!(NATS_BYTES, "direction" => direction)),
    postgres_up: gauge!(POSTGRES_UP),
    postgres_busy: gauge!(POSTGRES_CONNECTIONS, "state" => "busy"),
    postgres_idle: gauge!(POSTGRES_CONNECTIONS, "state" => "idle"),
    relayed: ["command", "sweep"].map(|by| counter!(OUTBOX_RELAYED, "by" => by)),
    outbox_rows: gauge!(OUTBOX_ROWS),
    outbox_oldest: gauge!(OUTBOX_OLDEST),
    jwks_reads: ["ok", "failed"].map(|outcome| counter!(JWKS_READS, "outcome" => outcome)),
});
