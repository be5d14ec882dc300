//! What a measured message says: which one it is, and when it was due to be sent.

use serde_json::value::RawValue;

const PREFIX: &str = "load";

/// The content of a measured message. The time that counts is the one on the schedule, not the one at which a
/// sender that was held up got to it: a server that stalls must not slow down the clock it is measured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    /// Tells runs apart in one conversation.
    pub(crate) run: u32,
    /// The message's number in its run.
    pub(crate) number: u32,
    /// When it was due, in nanoseconds of the machine's monotonic clock.
    pub(crate) due: u64,
}

impl Marker {
    /// The content, padded to `size` bytes; longer if it doesn't fit.
    pub(crate) fn content(self, size: usize) -> String {
        let mut text = format!("{PREFIX} {:08x} {} {} ", self.run, self.number, self.due);
        let padding = size.saturating_sub(text.len()).max(1);
        text.extend(std::iter::repeat_n('x', padding));
        text
    }

    /// Reads a content as it stands in JSON; none if it is no marker.
    pub(crate) fn read(content: &RawValue) -> Option<Self> {
        let mut words = content.get().strip_prefix('"')?.split(' ');
        if words.next()? != PREFIX {
            return None;
        }
        Some(Self {
            run: u32::from_str_radix(words.next()?, 16).ok()?,
            number: words.next()?.parse().ok()?,
            due: words.next()?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_from_a_content_of_any_size() {
        let marker = Marker { run: 0xAB, number: 4_000_000_000, due: u64::MAX };
        for size in [0, 60, 200, 1_000] {
            let content = marker.content(size);
            assert!(content.len() == size || size < 60, "{size}");
            assert_eq!(content.trim(), content, "white space at the ends would be cut off");
            let json = serde_json::to_string(&content).unwrap();
            assert_eq!(Marker::read(serde_json::from_str(&json).unwrap()), Some(marker));
        }
    }

    #[test]
    fn other_messages_are_none() {
        for text in [r#""hello""#, r#""load""#, r#""load zz 1 1 x""#, "null", r#""""#] {
            assert_eq!(Marker::read(serde_json::from_str(text).unwrap()), None, "{text}");
        }
    }
}
