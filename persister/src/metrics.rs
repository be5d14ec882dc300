//! Every metric of the persister: its name, unit and meaning, in this one place. No label is unbounded.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::batch::Rows;

const BUILD: &str = "partyline_persister_build_info";
const NATS_CONNECTED: &str = "partyline_persister_nats_connected";
const POSTGRES_UP: &str = "partyline_persister_postgres_up";
const LAG_MESSAGES: &str = "partyline_persister_lag_messages";
const LAG_SECONDS: &str = "partyline_persister_lag_age_seconds";
const SEEN_LAG: &str = "partyline_persister_seen_lag_messages";
const BATCH_SIZE: &str = "partyline_persister_batch_size";
const WRITE_SECONDS: &str = "partyline_persister_batch_write_seconds";
const ROWS: &str = "partyline_persister_rows_total";
const DUPLICATES: &str = "partyline_persister_duplicates_total";
const REDELIVERED: &str = "partyline_persister_redelivered_total";
const WAITING: &str = "partyline_persister_waiting_for_target_total";
const RETRIES: &str = "partyline_persister_retries_total";
const DEAD: &str = "partyline_persister_dead_letters_total";
const REOPENED: &str = "partyline_persister_pulls_reopened_total";

/// Tells the recorder what each metric means; call once, after the recorder is installed.
pub fn describe() {
    describe_gauge!(BUILD, "Always 1; the version is a label");
    describe_gauge!(NATS_CONNECTED, "1 while connected to NATS");
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
    describe_counter!(RETRIES, "Transactions repeated, by reason (conflict, postgres_away)");
    describe_counter!(
        DEAD,
        "Events put aside as dead letters, by reason (unreadable, refused, target_missing, place_taken)"
    );
    describe_counter!(REOPENED, "Pulls begun anew after an error");
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    for reason in ["unreadable", "refused", "target_missing", "place_taken"] {
        counter!(DEAD, "reason" => reason).absolute(0);
    }
    for reason in ["conflict", "postgres_away"] {
        counter!(RETRIES, "reason" => reason).absolute(0);
    }
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

/// What Postgres lacks of a partition.
pub fn lag(partition: u16, messages: u64, age: Duration) {
    let partition = partition.to_string();
    gauge!(LAG_MESSAGES, "partition" => partition.clone()).set(messages as f64);
    gauge!(LAG_SECONDS, "partition" => partition).set(age.as_secs_f64());
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

/// A transaction is repeated.
pub fn retried(reason: &'static str) {
    counter!(RETRIES, "reason" => reason).increment(1);
}

/// An event was put aside.
pub fn dead_letter(reason: &'static str) {
    counter!(DEAD, "reason" => reason).increment(1);
}

/// A pull broke and was begun anew.
pub fn reopened() {
    counter!(REOPENED).increment(1);
}
