//! Which scenarios run, and how many users each has.

use std::{fmt, str::FromStr};

/// What a user of Goose does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A page: connect, list, read history, join, type, send, mark read, leave.
    Day,
    /// A conversation of many, a tenth of whom send.
    Room,
    /// Sockets that are all cut at once, again and again, and come back with `after`.
    Storm,
    /// Without a socket: list, history, send, mark read.
    Rest,
}

pub(super) const KINDS: [Kind; 4] = [Kind::Day, Kind::Room, Kind::Storm, Kind::Rest];

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Room => "room",
            Self::Storm => "storm",
            Self::Rest => "rest",
        }
    }

    /// As it stands in the report.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Day => "browser's day",
            Self::Room => "hot room",
            Self::Storm => "reconnect storm",
            Self::Rest => "REST only",
        }
    }
}

/// A scenario and its weight, as Goose takes it: `day`, or `day:6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weighted {
    pub(super) kind: Kind,
    pub(super) weight: usize,
}

impl fmt::Display for Weighted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.word(), self.weight)
    }
}

impl FromStr for Weighted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, weight) = text.split_once(':').unwrap_or((text, "1"));
        let kind = KINDS.into_iter().find(|kind| kind.word() == word);
        let kind = kind.ok_or_else(|| format!("{word:?} is none of {}", KINDS.map(Kind::word).join(", ")))?;
        let weight = weight.parse().ok().filter(|weight| (1..=1_000).contains(weight));
        Ok(Self { kind, weight: weight.ok_or_else(|| format!("{text:?}: a weight is 1 to 1,000"))? })
    }
}

/// Users of each scenario at most: Goose deals them out in rounds, each as long as the sum of the weights.
pub(super) fn shares(mix: &[Weighted], users: usize) -> Vec<usize> {
    let round: usize = mix.iter().map(|it| it.weight).sum();
    // Goose divides weights by what they have in common, so its rounds may be shorter: then the last one gives less.
    mix.iter().map(|it| users / round * it.weight + it.weight.min(users % round)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_with_and_without_a_weight() {
        assert_eq!("room".parse(), Ok(Weighted { kind: Kind::Room, weight: 1 }));
        assert_eq!("day:6".parse(), Ok(Weighted { kind: Kind::Day, weight: 6 }));
        for kind in KINDS {
            let weighted = Weighted { kind, weight: 3 };
            assert_eq!(weighted.to_string().parse(), Ok(weighted));
        }
        for bad in ["", "night", "day:0", "day:x", ":1"] {
            assert!(bad.parse::<Weighted>().is_err(), "{bad}");
        }
    }

    #[test]
    fn everybody_has_a_place() {
        let mix = ["day:6", "room:2", "storm:1", "rest:1"].map(|text| text.parse().unwrap());
        assert_eq!(shares(&mix, 100), [60, 20, 10, 10]);
        for users in 1..60 {
            assert!(shares(&mix, users).iter().sum::<usize>() >= users, "{users}");
        }
        assert_eq!(shares(&mix[..1], 7), [7]);
    }
}
