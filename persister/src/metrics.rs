//! Every metric of the persister: its name, unit and meaning, in this one place. No label is unbounded.

use std::time::Duration;

use async_nats::jetstream::{account::Account, stream::State};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use partyline_shared::{task_metrics::TaskMetrics, tasks::TaskEvent, trace::Outcome};

use crate::{batch::Rows, store::Stats};

const BUILD: &str = "partyline_persister_build_info";
const NATS_CONNECTED: &str = "partyline_persister_nats_connected";
const POSTGRES_UP: &str = "partyline_persister_postgres_up";
const LAG_MESSAGES: &str = "partyline_persister_lag_messages";
const LAG_SECONDS: &str = "partyline_persister_lag_age_seconds";
const IN_FLIGHT: &str = "partyline_persister_in_flight_messages";
const SEEN_LAG: &str = "partyline_persister_seen_lag_messages";
const BATCH_SIZE: &str = "partyline_persister_batch_size";
const WRITE_SECONDS: &str = "partyline_persister_batch_write_seconds";
const ROWS: &str = "partyline_persister_rows_total";
const DUPLICATES: &str = "partyline_persister_duplicates_total";
const REDELIVERED: &str = "partyline_persister_redelivered_total";
const WAITING: &str = "partyline_persister_waiting_for_target_total";
const WAITING_UPGRADE: &str = "partyline_persister_waiting_for_upgrade_total";
const RETRIES: &str = "partyline_persister_retries_total";
const DEAD: &str = "partyline_persister_dead_letters_total";
const BRAKE: &str = "partyline_persister_brake_applied";
const REWOUND: &str = "partyline_persister_rewound_events_total";
const REOPENED: &str = "partyline_persister_pulls_reopened_total";
const SPANS: &str = "partyline_persister_spans_total";
const TASKS: TaskMetrics = TaskMetrics {
    live: "partyline_persister_tasks",
    panics: "partyline_persister_task_panics_total",
    restarts: "partyline_persister_task_restarts_total",
};
const PARTITIONS: &str = "partyline_persister_partitions";
const LOST: &str = "partyline_persister_lost_events_total";
const LOG_BEHIND: &str = "partyline_persister_log_behind_total";
const STREAM_LIMIT: &str = "partyline_persister_stream_limit_bytes";
const STREAM_MESSAGES: &str = "partyline_persister_stream_messages";
const STREAM_BYTES: &str = "partyline_persister_stream_bytes";
const STREAM_REPLICAS: &str = "partyline_persister_stream_replicas";
const STREAM_REPLICAS_CURRENT: &str = "partyline_persister_stream_replicas_current";
const JETSTREAM_BYTES: &str = "partyline_persister_jetstream_bytes";
const JETSTREAM_LIMIT: &str = "partyline_persister_jetstream_limit_bytes";
const JETSTREAM_ERRORS: &str = "partyline_persister_jetstream_api_errors_total";
const POSTGRES_BYTES: &str = "partyline_persister_postgres_bytes";
const POSTGRES_CONNECTIONS: &str = "partyline_persister_postgres_connections";
const POSTGRES_TRANSACTIONS: &str = "partyline_persister_postgres_transactions_total";
const POSTGRES_BLOCKS: &str = "partyline_persister_postgres_blocks_total";
const POSTGRES_DEADLOCKS: &str = "partyline_persister_postgres_deadlocks_total";

/// Tells the recorder what each metric means; call once, after the recorder is installed.
pub fn describe() {
    describe_gauge!(BUILD, "Always 1; the version is a label");
    describe_gauge!(NATS_CONNECTED, "1 while connected to NATS");
    TASKS.describe();
    describe_gauge!(POSTGRES_UP, "1 if Postgres took the last batch");
    describe_gauge!(
        LAG_MESSAGES,
        "Events in the log that Postgres does not hold yet, by partition; all persisters tell the same"
    );
    describe_gauge!(
        LAG_SECONDS,
        Unit::Seconds,
        "Age of the oldest event that Postgres does not hold yet, by partition; 0 without any"
    );
    describe_gauge!(IN_FLIGHT, "Events that some persister has in hand, by partition");
    describe_gauge!(SEEN_LAG, "Last-seen notes that Postgres does not hold yet");
    describe_histogram!(BATCH_SIZE, Unit::Count, "Events in a batch");
    describe_histogram!(WRITE_SECONDS, Unit::Seconds, "One transaction that was committed, by queue (log, seen)");
    describe_counter!(
        ROWS,
        "Rows written, by kind (message, edit, delete, read, seen); participant: taken, the gateway writes them"
    );
    describe_counter!(DUPLICATES, "Messages not written because their sender had stored one with the same client_id");
    describe_counter!(REDELIVERED, "Events that JetStream delivered again");
    describe_counter!(WAITING, "Edits and deletions put back because their message was still under way to Postgres");
    describe_counter!(
        WAITING_UPGRADE,
        "Deliveries of events of types that this version does not know: each stays in the log until a newer version takes it"
    );
    describe_counter!(RETRIES, "Transactions repeated, by reason (conflict, postgres_away)");
    describe_counter!(
        DEAD,
        "Events put aside as dead letters, by reason (unreadable, refused, target_missing, place_taken)"
    );
    describe_gauge!(
        BRAKE,
        "1 while nothing is written because Postgres refuses too many events, by partition; the log keeps them"
    );
    describe_counter!(REWOUND, "Events that were read from the log again because Postgres lacked acknowledged ones");
    describe_counter!(REOPENED, "Pulls begun anew after an error");
    describe_counter!(SPANS, "Finished spans, by outcome (exported, failed, dropped)");
    describe_servers();
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    for reason in ["unreadable", "refused", "target_missing", "place_taken"] {
        counter!(DEAD, "reason" => reason).absolute(0);
    }
    for reason in ["conflict", "postgres_away"] {
        counter!(RETRIES, "reason" => reason).absolute(0);
    }
    for kind in ["message", "edit", "delete", "read", "participant", "seen"] {
        counter!(ROWS, "kind" => kind).absolute(0);
    }
    for outcome in Outcome::ALL {
        counter!(SPANS, "outcome" => outcome.as_str()).absolute(0);
    }
    for name in [DUPLICATES, REDELIVERED, WAITING, WAITING_UPGRADE, REOPENED, REWOUND, LOST, LOG_BEHIND] {
        counter!(name).absolute(0);
    }
}

fn describe_servers() {
    describe_counter!(LOST, "Events that left the log before Postgres had them");
    describe_counter!(LOG_BEHIND, "Looks at which a partition's log ended below what Postgres holds");
    describe_gauge!(
        PARTITIONS,
        "Partitions of the log, by state: recorded (in the streams' metadata), found (streams that there are), served (by \
         this process)"
    );
    describe_gauge!(STREAM_LIMIT, Unit::Bytes, "Bytes that one copy of a stream may take; infinite without a limit");
    describe_gauge!(STREAM_MESSAGES, "Messages in a stream");
    describe_gauge!(STREAM_BYTES, Unit::Bytes, "Bytes of a stream, of one copy");
    describe_gauge!(STREAM_REPLICAS, "Copies that a stream should have");
    describe_gauge!(STREAM_REPLICAS_CURRENT, "Copies of a stream that are up to date");
    describe_gauge!(
        JETSTREAM_BYTES,
        Unit::Bytes,
        "What the account's streams take, all copies, by storage (file, memory)"
    );
    describe_gauge!(JETSTREAM_LIMIT, Unit::Bytes, "What they may take, by storage; infinite without a limit");
    describe_counter!(JETSTREAM_ERRORS, "Requests of this account that JetStream refused");
    describe_gauge!(POSTGRES_BYTES, Unit::Bytes, "Size of the database");
    describe_gauge!(POSTGRES_CONNECTIONS, "Connections to the database, everybody's");
    describe_counter!(POSTGRES_TRANSACTIONS, "Transactions in the database, by outcome (commit, rollback)");
    describe_counter!(POSTGRES_BLOCKS, "Blocks that Postgres needed, by source (cache, disk: not in its own cache)");
    describe_counter!(POSTGRES_DEADLOCKS, "Deadlocks that Postgres found");
}

fn flag(up: bool) -> f64 {
    if up { 1.0 } else { 0.0 }
}

/// Whether NATS is there.
pub fn nats_connected(up: bool) {
    gauge!(NATS_CONNECTED).set(flag(up));
}

/// Whether Postgres took what it was given last.
pub fn postgres_up(up: bool) {
    gauge!(POSTGRES_UP).set(flag(up));
}

/// What Postgres lacks of a partition; `in_flight` of the messages are in a persister's hands.
pub fn lag(partition: u16, messages: u64, in_flight: usize, age: Duration) {
    let partition = partition.to_string();
    gauge!(LAG_MESSAGES, "partition" => partition.clone()).set(messages as f64);
    gauge!(IN_FLIGHT, "partition" => partition.clone()).set(in_flight as f64);
    gauge!(LAG_SECONDS, "partition" => partition).set(age.as_secs_f64());
}

/// The partitions that the log's layout has, and streams that it does not have.
pub fn partitions(recorded: u16, strays: usize) {
    gauge!(PARTITIONS, "state" => "recorded").set(f64::from(recorded));
    partitions_found(usize::from(recorded) + strays);
}

/// Streams of the log that there are.
pub fn partitions_found(count: usize) {
    gauge!(PARTITIONS, "state" => "found").set(count as f64);
}

/// Streams of the log that this process persists.
pub fn partitions_served(count: usize) {
    gauge!(PARTITIONS, "state" => "served").set(count as f64);
}

/// Events left the log before Postgres had them.
pub fn lost(count: u64) {
    counter!(LOST).increment(count);
}

/// The log ends below what Postgres holds.
pub fn log_behind() {
    counter!(LOG_BEHIND).increment(1);
}

/// A stream's state, its limit, and its copies: wanted, and up to date.
pub fn stream(name: &str, state: &State, limit: i64, (wanted, current): (usize, usize)) {
    gauge!(STREAM_LIMIT, "stream" => name.to_owned()).set(if limit > 0 { limit as f64 } else { f64::INFINITY });
    gauge!(STREAM_MESSAGES, "stream" => name.to_owned()).set(state.messages as f64);
    gauge!(STREAM_BYTES, "stream" => name.to_owned()).set(state.bytes as f64);
    gauge!(STREAM_REPLICAS, "stream" => name.to_owned()).set(wanted as f64);
    gauge!(STREAM_REPLICAS_CURRENT, "stream" => name.to_owned()).set(current as f64);
}

/// What the account takes of JetStream.
pub fn jetstream(account: &Account) {
    let limits = &account.limits;
    for (storage, bytes, limit) in
        [("file", account.storage, limits.max_storage), ("memory", account.memory, limits.max_memory)]
    {
        gauge!(JETSTREAM_BYTES, "storage" => storage).set(bytes as f64);
        let limit = limit.filter(|limit| *limit >= 0).map_or(f64::INFINITY, |limit| limit as f64);
        gauge!(JETSTREAM_LIMIT, "storage" => storage).set(limit);
    }
    counter!(JETSTREAM_ERRORS).absolute(account.requests.errors);
}

/// What Postgres tells of the database.
pub fn postgres(stats: &Stats) {
    let count = |value: i64| u64::try_from(value).unwrap_or(0);
    gauge!(POSTGRES_BYTES).set(stats.bytes as f64);
    gauge!(POSTGRES_CONNECTIONS).set(f64::from(stats.connections));
    counter!(POSTGRES_TRANSACTIONS, "outcome" => "commit").absolute(count(stats.commits));
    counter!(POSTGRES_TRANSACTIONS, "outcome" => "rollback").absolute(count(stats.rollbacks));
    counter!(POSTGRES_BLOCKS, "source" => "cache").absolute(count(stats.blocks_cached));
    counter!(POSTGRES_BLOCKS, "source" => "disk").absolute(count(stats.blocks_read));
    counter!(POSTGRES_DEADLOCKS).absolute(count(stats.deadlocks));
}

/// Last-seen notes that Postgres lacks.
pub fn seen_lag(messages: u64) {
    gauge!(SEEN_LAG).set(messages as f64);
}

/// A batch came in.
pub fn batch(events: usize, redelivered: u64) {
    histogram!(BATCH_SIZE).record(events as f64);
    counter!(REDELIVERED).increment(redelivered);
}

/// A transaction was committed.
pub fn wrote(queue: &'static str, took: Duration) {
    histogram!(WRITE_SECONDS, "queue" => queue).record(took);
}

/// Rows of a committed transaction; `duplicates` of the messages were not written.
pub fn rows(rows: &Rows<'_>, duplicates: usize) {
    let counts = [
        ("message", rows.messages.len().saturating_sub(duplicates)),
        ("edit", rows.edits.len()),
        ("delete", rows.deletions.len()),
        ("read", rows.reads.len()),
        ("participant", rows.participants),
    ];
    for (kind, count) in counts {
        if count > 0 {
            counter!(ROWS, "kind" => kind).increment(count as u64);
        }
    }
    counter!(DUPLICATES).increment(duplicates as u64);
}

/// Last-seen notes were written.
pub fn seen_rows(count: usize) {
    counter!(ROWS, "kind" => "seen").increment(count as u64);
}

/// A change waits for its message.
pub fn waits_for_target() {
    counter!(WAITING).increment(1);
}

/// An event of a newer version stays in the log.
pub fn waits_for_upgrade() {
    counter!(WAITING_UPGRADE).increment(1);
}

/// A transaction is repeated.
pub fn retried(reason: &'static str) {
    counter!(RETRIES, "reason" => reason).increment(1);
}

/// An event was put aside.
pub fn dead_letter(reason: &'static str) {
    counter!(DEAD, "reason" => reason).increment(1);
}

/// The brake of a partition goes on or off.
pub fn brake(partition: u16, on: bool) {
    gauge!(BRAKE, "partition" => partition.to_string()).set(flag(on));
}

/// Events are read from the log again.
pub fn rewound(events: u64) {
    counter!(REWOUND).increment(events);
}

/// A pull broke and was begun anew.
pub fn reopened() {
    counter!(REOPENED).increment(1);
}

/// What became of finished spans.
pub fn spans(outcome: Outcome, count: u64) {
    counter!(SPANS, "outcome" => outcome.as_str()).increment(count);
}

/// Something happened to a task.
pub fn task(name: &'static str, event: TaskEvent) {
    TASKS.count(name, event);
}
