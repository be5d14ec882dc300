//! How far something slow has come: a line each second, on standard error.

use std::time::{Duration, Instant};

pub(crate) struct Progress {
    what: &'static str,
    of: usize,
    said: Instant,
}

impl Progress {
    pub(crate) fn new(what: &'static str, of: usize) -> Self {
        Self { what, of, said: Instant::now() }
    }

    /// `done` are done by now.
    pub(crate) fn step(&mut self, done: usize) {
        if self.said.elapsed() >= Duration::from_secs(1) {
            self.said = Instant::now();
            eprintln!("  {} of {} {}", grouped(done as u64), grouped(self.of as u64), self.what);
        }
    }
}

/// A number with its thousands apart: `12,345`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345, "12,345"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
