//! A plan: who is there, and what is done in which order. It is JSON, so that one that fails can be kept.

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

/// Gateways that a plan has.
pub(crate) const GATEWAYS: u8 = 2;

/// What happens, and what it may overtake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Decides what is released first where a step says nothing about it.
    pub(crate) seed: u64,
    pub(crate) people: u8,
    pub(crate) conversations: u8,
    pub(crate) steps: Vec<Step>,
}

/// One step. Numbers beyond what there is mean what is left after division, so that every list of steps is a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Step {
    /// A person's device connects, and loads the list of conversations. Device `n` is of person `n % people`.
    Connect {
        device: u8,
        gateway: u8,
    },
    /// It is gone, without a word.
    Disconnect {
        device: u8,
    },
    /// It joins with what it holds; `fresh`: as if it held nothing.
    Join {
        device: u8,
        conversation: u8,
        fresh: bool,
    },
    Leave {
        device: u8,
        conversation: u8,
    },
    /// It sends `count` messages; heavy ones are as large as messages may be.
    Send {
        device: u8,
        conversation: u8,
        count: u8,
        heavy: bool,
    },
    /// It sends a message of its person again, under the same `client_id`.
    Repeat {
        device: u8,
        nth: u8,
    },
    /// It edits a message of its person.
    Edit {
        device: u8,
        conversation: u8,
        nth: u8,
    },
    /// It deletes a message of its person.
    Delete {
        device: u8,
        conversation: u8,
        nth: u8,
    },
    /// It marks all but the last `short` events that it holds as read.
    MarkRead {
        device: u8,
        conversation: u8,
        short: u8,
    },
    Add {
        gateway: u8,
        conversation: u8,
        person: u8,
    },
    Remove {
        gateway: u8,
        conversation: u8,
        person: u8,
    },
    /// The persister writes the next events; `acknowledge`: and says so.
    Persist {
        count: u8,
        acknowledge: bool,
    },
    /// Retention takes what the persister acknowledged more than a second ago.
    Retain,
    /// The next live events to a gateway are lost.
    DropLive {
        gateway: u8,
        count: u8,
    },
    /// The next messages from other gateways to a gateway are lost.
    DropControl {
        gateway: u8,
        count: u8,
    },
    /// The next batches that a gateway reads from the log each lose an answer.
    DropAnswers {
        gateway: u8,
        count: u8,
    },
    /// The gateway loses its connection to NATS and comes back.
    CutLink {
        gateway: u8,
    },
    /// The gateway is killed, and another takes its place; its people reconnect to the other one.
    Restart {
        gateway: u8,
    },
    /// Time passes.
    Wait {
        millis: u32,
    },
    /// So many answers and messages arrive, in an order that `seed` decides.
    Release {
        count: u8,
        seed: u32,
    },
    /// All that is under way arrives, and every command is answered.
    Settle,
}

/// Makes a plan of about `length` steps.
pub(crate) fn generate(seed: u64, length: usize) -> Plan {
    let mut random = StdRng::seed_from_u64(seed);
    let people = random.random_range(2..=4);
    let conversations = random.random_range(1..=3);
    let mut steps = Vec::new();
    for device in 0..people {
        steps.push(Step::Connect { device, gateway: random.random_range(0..GATEWAYS) });
    }
    steps.push(Step::Settle);
    // Some plans are calm, in others everything overtakes everything.
    let haste = random.random_range(0..=3_u8);
    // Each plan does without some kinds of steps, so that the others meet more often.
    let kinds: Vec<bool> = (0..KINDS).map(|_| random.random_ratio(2, 3)).collect();
    let length = random.random_range(length / 4..=length);
    for _ in 0..10 * length {
        if steps.len() >= length {
            break;
        }
        let step = step(&mut random, people, conversations);
        if kind(&step).is_some_and(|kind| !kinds[kind]) {
            continue;
        }
        steps.push(step);
        match random.random_range(0..10) {
            0..=5 if haste > 0 => {
                steps.push(Step::Release { count: random.random_range(0..=4 * haste), seed: random.random() });
            }
            0..=6 => steps.push(Step::Settle),
            _ => {}
        }
    }
    Plan { seed, people, conversations, steps }
}

/// Kinds of steps that a plan may do without.
const KINDS: usize = 14;

fn kind(step: &Step) -> Option<usize> {
    Some(match step {
        Step::Disconnect { .. } => 0,
        Step::Leave { .. } => 1,
        Step::Repeat { .. } => 2,
        Step::Edit { .. } => 3,
        Step::Delete { .. } => 4,
        Step::MarkRead { .. } => 5,
        Step::Add { .. } | Step::Remove { .. } => 6,
        Step::Persist { .. } | Step::Retain => 7,
        Step::DropLive { .. } => 8,
        Step::DropControl { .. } => 9,
        Step::CutLink { .. } => 10,
        Step::Restart { .. } => 11,
        Step::Send { heavy: true, .. } => 12,
        Step::DropAnswers { .. } => 13,
        _ => return None,
    })
}

fn step(random: &mut impl Rng, people: u8, conversations: u8) -> Step {
    let device = random.random_range(0..people * 2);
    let conversation = random.random_range(0..conversations);
    let person = random.random_range(0..people);
    let gateway = random.random_range(0..GATEWAYS);
    let nth = random.random_range(0..4);
    match random.random_range(0..100) {
        0..=7 => Step::Connect { device, gateway },
        8..=10 => Step::Disconnect { device },
        11..=26 => Step::Join { device, conversation, fresh: random.random_ratio(1, 4) },
        27..=29 => Step::Leave { device, conversation },
        30..=43 => Step::Send { device, conversation, count: random.random_range(1..=3), heavy: false },
        44 => {
            Step::Send { device, conversation, count: random.random_range(35..=60), heavy: random.random_ratio(1, 2) }
        }
        45..=49 => Step::Repeat { device, nth },
        50..=54 => Step::Edit { device, conversation, nth },
        55..=59 => Step::Delete { device, conversation, nth },
        60..=67 => Step::MarkRead { device, conversation, short: random.random_range(0..=2) },
        68..=70 => Step::Add { gateway, conversation, person },
        71..=74 => Step::Remove { gateway, conversation, person },
        75..=82 => Step::Persist { count: random.random_range(1..=60), acknowledge: random.random_ratio(3, 4) },
        83..=84 => Step::Retain,
        85..=86 => Step::DropLive { gateway, count: random.random_range(1..=3) },
        87 => Step::DropAnswers { gateway, count: random.random_range(1..=3) },
        88 => Step::DropControl { gateway, count: random.random_range(1..=2) },
        89 => Step::CutLink { gateway },
        90 => Step::Restart { gateway },
        91..=95 => Step::Wait { millis: [1, 70, 600, 3_000][random.random_range(0..4)] },
        _ => Step::Settle,
    }
}
