//! What each metric means, told to the recorder; and every known series at 0, since a rate needs a first value.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use partyline_shared::{
    trace::Outcome,
    wire::{CloseCode, ErrorCode},
};

use super::handles::*;

const CLOSES: [CloseCode; 9] = [
    CloseCode::IdleTimeout,
    CloseCode::Draining,
    CloseCode::TooSlow,
    CloseCode::Replaced,
    CloseCode::LogRestarted,
    CloseCode::TooManyFrames,
    CloseCode::OverlappingRequests,
    CloseCode::TokenExpired,
    CloseCode::ProtocolError,
];
const REFUSED: [ErrorCode; 16] = [
    ErrorCode::BadJson,
    ErrorCode::BadRequest,
    ErrorCode::UnknownType,
    ErrorCode::InvalidContent,
    ErrorCode::InvalidMetadata,
    ErrorCode::TokenInvalid,
    ErrorCode::TokenExpired,
    ErrorCode::Forbidden,
    ErrorCode::NotFound,
    ErrorCode::MethodNotAllowed,
    ErrorCode::Conflict,
    ErrorCode::TooLarge,
    ErrorCode::UnsupportedMediaType,
    ErrorCode::RateLimited,
    ErrorCode::Unavailable,
    ErrorCode::Internal,
];
const HANDSHAKES: [&str; 7] = ["draining", "full", "not_websocket", "origin", "subprotocol", "token", "version"];
const NATS: [&str; 3] = ["connected", "disconnected", "slow_consumer"];

/// Tells the recorder what each metric means; call once, after the recorder is installed.
pub fn describe() {
    clients();
    messages();
    parts();
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    for code in CLOSES {
        counter!(CONNECTIONS_CLOSED, "reason" => code.as_str()).absolute(0);
    }
    counter!(CONNECTIONS_CLOSED, "reason" => "peer").absolute(0);
    for code in REFUSED {
        counter!(REFUSALS, "code" => code.as_str()).absolute(0);
    }
    for reason in HANDSHAKES {
        counter!(HANDSHAKES_REFUSED, "reason" => reason).absolute(0);
    }
    for name in [LOG_LOST, LOG_BEHIND] {
        counter!(name).absolute(0);
    }
    for event in NATS {
        counter!(NATS_EVENTS, "event" => event).absolute(0);
    }
    for kind in LIMITS {
        counter!(RATE_LIMITED, "kind" => kind).absolute(0);
    }
    for outcome in Outcome::ALL {
        counter!(SPANS, "outcome" => outcome.as_str()).absolute(0);
    }
    std::sync::LazyLock::force(&HANDLES);
}

fn clients() {
    describe_gauge!(BUILD, "Always 1; the version is a label");
    describe_gauge!(CONNECTIONS, "Open sockets, by protocol");
    describe_counter!(CONNECTIONS_OPENED, "Sockets opened, by protocol");
    describe_counter!(CONNECTIONS_CLOSED, "Sockets closed, by reason");
    describe_counter!(HANDSHAKES_REFUSED, "Handshakes refused, by reason");
    describe_gauge!(
        DRAIN_DEADLINE,
        Unit::Seconds,
        "When the drain under way should be over (Unix time); 0 without one"
    );
    describe_gauge!(ROOMS, "Conversations with a live subscription on this node");
    describe_gauge!(ROOM_MEMBERS, "Sockets in these conversations, counted once for each");
    describe_counter!(COMMANDS, "Frames done, by command and outcome (ok, refused, failed: the server's fault)");
    describe_counter!(REFUSALS, "Requests refused, by error code");
    describe_counter!(
        RATE_LIMITED,
        "What was over a limit, by kind (messages, frames that were read later, connections, requests)"
    );
    describe_counter!(
        BUDGET_DECIDED_ALONE,
        "Messages for which the node that counts the user's budget did not answer in time"
    );
    describe_gauge!(QUEUE_BYTES, Unit::Bytes, "Bytes that wait for slow readers, all sockets together");
    describe_gauge!(QUEUE_SOCKETS, "Sockets for which something waits");
    describe_gauge!(QUEUE_AGE, Unit::Seconds, "How long the slowest of them has had something waiting");
    describe_counter!(EPHEMERAL_DROPPED, "Typing and presence frames dropped because a reader was slow");
    describe_histogram!(HTTP_SECONDS, Unit::Seconds, "HTTP requests, by route, method and status");
}

fn messages() {
    describe_counter!(MESSAGES, "Messages taken from clients, by outcome (stored, duplicate)");
    describe_histogram!(APPEND, Unit::Seconds, "From publishing an event to JetStream's word that it is stored");
    describe_gauge!(LOG_LAG, "Events in the log that Postgres does not hold yet, by partition, at most");
    describe_gauge!(LOG_LAG_AGE, Unit::Seconds, "Age of the oldest of them; 0 without any");
    describe_counter!(LOG_LOST, "Events that left the log before Postgres had them");
    describe_counter!(LOG_BEHIND, "Looks at which a partition's log ended below what is known of it");
    describe_counter!(APPEND_FAILURES, "Events that JetStream did not confirm");
    describe_histogram!(
        DELIVERY,
        Unit::Seconds,
        "From a message's creation on any gateway to its write on sockets here"
    );
    describe_histogram!(LIVE_LAG, Unit::Seconds, "From JetStream's storing an event to its coming in here");
    describe_counter!(DELIVERIES, "Events handed to sockets");
    describe_histogram!(FAN_OUT, Unit::Count, "Sockets that one event went to on this node");
    describe_counter!(RESUMES, "Joins with `after`, by the source of their events (ring, log, postgres)");
    describe_histogram!(RESUME_SIZE, Unit::Count, "Events sent to a joining client");
    describe_counter!(GAPS, "Gaps in live delivery filled from the log");
    describe_counter!(VERIFICATIONS, "Times that all rooms were compared with the log and with Postgres");
}

fn parts() {
    describe_counter!(NATS_EVENTS, "What happened to the NATS connection (connected, disconnected, slow_consumer)");
    describe_gauge!(NATS_CONNECTED, "1 while connected to NATS");
    describe_counter!(NATS_MESSAGES, "NATS messages, by direction (in, out)");
    describe_counter!(NATS_BYTES, Unit::Bytes, "Payload of NATS messages, by direction (in, out)");
    describe_gauge!(POSTGRES_UP, "1 unless Postgres did not answer lately");
    describe_gauge!(POSTGRES_CONNECTIONS, "Connections to Postgres, by state (busy, idle)");
    describe_counter!(OUTBOX_RELAYED, "Committed changes that were told, by whom (command, sweep)");
    describe_gauge!(OUTBOX_ROWS, "Committed changes that are still to be told, of all gateways together");
    describe_gauge!(OUTBOX_OLDEST, Unit::Seconds, "Age of the oldest of them; 0 without any");
    describe_counter!(JWKS_READS, "Readings of the JWKS, by outcome (ok, failed)");
    TASKS.describe();
    describe_counter!(SPANS, "Finished spans, by outcome (exported, failed, dropped)");
}
