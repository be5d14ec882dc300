//! When sweeps come, and what that says of silence. Pure.

/// A sweep that comes so many seconds after the one before says that the process stood still: it was stopped, its
/// machine was paused, or its threads got no turn.
const STALL: u32 = 3;

/// One sweep's time, in node seconds: one for all, since a second may end while they are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// When the sweep before came.
    since: u32,
    now: u32,
    /// Since when the process has listened without a stall.
    listening: u32,
}

impl Look {
    /// Before the first sweep, at `now` in node seconds.
    #[must_use]
    pub fn begin(now: u32) -> Self {
        Self { since: now, now, listening: now }
    }

    /// The next sweep, at `now` in node seconds.
    #[must_use]
    pub fn next(self, now: u32) -> Self {
        let stalled = now.saturating_sub(self.now) >= STALL;
        Self { since: self.now, now, listening: if stalled { now } else { self.listening } }
    }

    /// When it comes, in node seconds.
    #[must_use]
    pub fn now(self) -> u32 {
        self.now
    }

    /// Seconds for which nothing came from a client that was heard at `heard`, in node seconds. What passed before the
    /// last stall's end doesn't count: nobody listened, and the ping that would be answered was not sent.
    #[must_use]
    pub fn silence(self, heard: u32) -> u32 {
        self.now.saturating_sub(heard.max(self.listening))
    }

    /// Whether the second `turn` of every `every` seconds came after the sweep before, until this one: a sweep may come
    /// late, and a turn that is left out twice would be the end of a socket that is well.
    #[must_use]
    pub fn has_come(self, turn: u32, every: u32) -> bool {
        let rounds = |second: u32| (u64::from(second) + u64::from(every) - u64::from(turn)) / u64::from(every);
        rounds(self.now) > rounds(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_turn_is_left_out_and_none_comes_twice() {
        // Seconds as sweeps may see them: one twice, some skipped.
        let seen = [1, 1, 2, 4, 5, 9, 10, 12, 20, 24, 25, 49, 50, 51, 76, 100];
        for turn in 0..25 {
            let mut look = Look::begin(0);
            let mut came = 0;
            for now in seen {
                look = look.next(now);
                came += u32::from(look.has_come(turn, 25));
            }
            // After the first look: four rounds in 100 s. 51 to 76 is one look.
            assert_eq!(came, 4, "turn {turn}");
        }
        assert!(Look::begin(7).next(8).has_come(0, 1));
    }

    #[test]
    fn silence_counts_only_while_somebody_listens() {
        let mut look = Look::begin(0);
        for now in [1, 2, 4, 5] {
            look = look.next(now);
        }
        // A sweep that is a second late is no stall.
        assert_eq!((look.silence(0), look.silence(3), look.silence(5)), (5, 2, 0));
        look = look.next(125);
        assert_eq!((look.silence(0), look.silence(124)), (0, 0));
        // All are asked at once for the sign that they could not give.
        assert!((0..25).all(|turn| look.has_come(turn, 25)));
        for now in 126..186 {
            look = look.next(now);
        }
        assert_eq!((look.silence(0), look.silence(150), look.silence(190)), (60, 35, 0));
    }
}
