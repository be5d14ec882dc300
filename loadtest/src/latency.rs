//! `latency`: many people in pairs, talking now and then; how long a message takes, and whether any is lost.

use std::sync::Arc;

use clap::Args;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::{
    bench::Bench,
    crowd::{self, Arrival, Crowd, Seat},
    limits,
    openloop::{self, Counts, Latencies, Load},
    pacer, report, setup,
    slo::Slo,
    tally::Tally,
};

/// Two receive each message: the partner, and the sender's own socket.
const PAIR: u32 = 2;

/// Many people in pairs: latency, loss and order of messages on a fixed schedule.
///
/// Messages are due at fixed times, whatever became of those before, and every latency counts from that time: a server
/// that stalls is not spared the messages that it would have got meanwhile. Exits with 1 if the objective is missed:
/// the 99th percentile of delivery, and nothing missing, doubled, out of order or unanswered.
///
/// The gateway's default limits are enough for the defaults: each person sends every 100 s, and may every 6 s
/// (PARTYLINE_MESSAGES_PER_MINUTE).
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Connected people, an even number.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=2_000_000), value_name = "N")]
    people: u32,
    /// Messages a second, from all people together.
    #[arg(long, default_value = "100", value_parser = openloop::rate, value_name = "N")]
    rate: f64,
    /// The objective: the 99th percentile of delivery, in milliseconds.
    #[arg(long, default_value_t = 100.0, value_name = "MS")]
    slo_ms: f64,
    #[command(flatten)]
    load: Load,
}

/// What is written as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Summary {
    tool: String,
    gateways: Vec<String>,
    people: u32,
    rate: f64,
    seconds: u32,
    content_bytes: u16,
    arrival: Arrival,
    messages: Counts,
    latency: Latencies,
    slo: Slo,
}

/// Measures.
///
/// # Returns
/// Whether the objective was met.
///
/// # Errors
/// If the people can't be connected.
pub(crate) async fn run(bench: &Bench, options: Options) -> anyhow::Result<bool> {
    let Options { people, rate, slo_ms, load } = options;
    anyhow::ensure!(people.is_multiple_of(2), "people come in pairs: --people is odd");
    limits::make_room(people as usize, &bench.pids)?;
    let pairs = bench.pairs(people as usize);
    let conversations = setup::conversations(bench, &pairs).await?;
    let seats = seats(&pairs, &conversations, bench.gateways.len());

    let mut senders: Vec<u32> = (0..people).collect();
    senders.shuffle(&mut rand::rng());
    let tally = Arc::new(Tally::new(pacer::total(rate, load.seconds), PAIR, senders));
    let crowd = Crowd::gather(bench, &seats, &tally).await?;
    report::warn_of_limits(&tally, rate, load.seconds, people);
    crowd::quiet(&tally).await;
    openloop::send(&tally, &seats, &crowd.conns, rate, load).await?;

    let messages = Counts::of(&tally);
    let latency = Latencies::of(&tally);
    let summary = Summary {
        tool: report::tool("latency"),
        gateways: bench.urls(),
        people,
        rate,
        seconds: load.seconds,
        content_bytes: load.size,
        arrival: crowd.report.clone(),
        slo: Slo::of_messages(slo_ms, &messages, &latency),
        messages,
        latency,
    };
    crowd.leave().await;
    println!("{people} people in {} conversations, {rate} messages a second for {} s", people / 2, load.seconds);
    report::print_counts(&summary.messages);
    report::print_latencies(&summary.latency);
    bench.write_json("latency", &summary)?;
    summary.slo.print();
    Ok(summary.slo.met)
}

/// Partners on different gateways, where there are several.
pub(crate) fn seats(pairs: &[Vec<String>], conversations: &[String], gateways: usize) -> Vec<Seat> {
    let both = |(number, (pair, conversation)): (usize, (&Vec<String>, &String))| {
        let seat = |(place, user): (usize, &String)| Seat {
            user: user.clone(),
            gateway: (number + place) % gateways,
            conversation: Some(conversation.clone()),
        };
        pair.iter().enumerate().map(seat).collect::<Vec<_>>()
    };
    pairs.iter().zip(conversations).enumerate().flat_map(both).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partners_sit_side_by_side_on_different_gateways() {
        let pairs: Vec<Vec<String>> = vec![vec!["a".into(), "b".into()], vec!["c".into(), "d".into()]];
        let conversations = ["x".to_owned(), "y".to_owned()];
        let seated: Vec<_> = seats(&pairs, &conversations, 2)
            .into_iter()
            .map(|seat| (seat.user, seat.gateway, seat.conversation.unwrap()))
            .collect();
        let wanted = [("a", 0, "x"), ("b", 1, "x"), ("c", 1, "y"), ("d", 0, "y")];
        assert_eq!(seated, wanted.map(|(user, gateway, id)| (user.into(), gateway, id.into())));
        assert!(seats(&pairs, &conversations, 1).iter().all(|seat| seat.gateway == 0));
    }
}
