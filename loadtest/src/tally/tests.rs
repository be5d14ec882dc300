use super::*;

#[test]
fn missing_are_receipts_of_stored_messages_only() {
    let tally = Tally::new(4, 2, vec![5, 6]);
    (0..3).for_each(|number| tally.sending(number, 1_000_000, 1_000_010));
    assert_eq!(tally.outcome(), Outcome { missing: 0, unanswered: 3 });
    tally.ack(0, 3_000_000, false);
    assert!((tally.times.lock().whole(Latency::Ack).max_ms - 2.0).abs() < 0.01);
    tally.receive(0, 50, Some(200));
    tally.ack(1, 3_000_000, false);
    tally.receive(1, 50, Some(200));
    tally.receive(1, 50, None);
    tally.refuse(2, "rate_limited");
    assert_eq!(tally.outcome(), Outcome { missing: 1, unanswered: 0 });
    assert_eq!((tally.acked.load(Relaxed), tally.refused.load(Relaxed), tally.frame_size()), (2, 1, 50));
    assert_eq!(tally.errors()["rate_limited"], 1);
    assert_eq!((tally.sender(0), tally.sender(3)), (Some(5), Some(6)));
}

#[test]
fn a_duplicate_is_expected_of_what_was_sent_again() {
    let tally = Tally::new(2, 2, vec![0]);
    tally.sending(0, 1_000, 1_000);
    tally.resending(0);
    tally.ack(0, 5_000, true);
    assert_eq!(tally.duplicate_acks.load(Relaxed), 0);
    tally.sending(1, 2_000, 2_000);
    tally.ack(1, 5_000, true);
    assert_eq!((tally.duplicate_acks.load(Relaxed), tally.resent.load(Relaxed)), (1, 1));
    tally.receive(1, 9, None);
    tally.receive(1, 9, Some(7_000));
    let sent: Vec<_> = tally.each_sent().collect();
    assert_eq!(sent[0], Sent { due: 1_000, acked: Some(4_000), delivered: None });
    assert_eq!(sent[1], Sent { due: 2_000, acked: Some(3_000), delivered: Some(7_000) });
}

#[test]
fn only_the_ends_that_others_made_are_told() {
    let tally = Tally::new(0, 0, Vec::new());
    tally.ended(&Ended::ByUs);
    tally.ended(&Ended::ByServer(4008));
    tally.ended(&Ended::ByServer(4008));
    assert_eq!(tally.closes(), BTreeMap::from([("4008".to_owned(), 2)]));
    assert_eq!(tally.sender(0), None);
}
