//! How a `seq` is read from JSON: one rule for every transport.

use serde::{
    Deserialize, Deserializer,
    de::{Error, Unexpected, Visitor},
};

use crate::ids::Seq;

/// The largest `seq` that JavaScript reads exactly.
pub const MAX_SEQ: Seq = (1 << 53) - 1;

/// Reads a `seq` for serde's `deserialize_with`. JSON has one kind of number, and JSON Schema takes `5.0` for an integer:
/// some clients write it so.
///
/// # Errors
/// If it is not a whole number between 0 and [`MAX_SEQ`].
pub fn required<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Seq, D::Error> {
    let Whole(seq) = Whole::deserialize(deserializer)?;
    if seq > MAX_SEQ {
        return Err(Error::custom("a seq is at most 2^53 - 1"));
    }
    Ok(seq)
}

/// Reads a `seq` that may be null.
///
/// # Errors
/// As for [`required`].
pub fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Seq>, D::Error> {
    struct Required(Seq);
    impl<'de> Deserialize<'de> for Required {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            required(deserializer).map(Self)
        }
    }
    Ok(Option::<Required>::deserialize(deserializer)?.map(|Required(seq)| seq))
}

/// A whole number, however it is written.
struct Whole(u64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;
        impl Visitor<'_> for Numbers {
            type Value = Whole;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a whole number that is not negative")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Whole, E> {
                Ok(Whole(number))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Whole, E> {
                if number.fract() == 0.0 && (0.0..=MAX_SEQ as f64).contains(&number) {
                    return Ok(Whole(number as u64));
                }
                Err(E::invalid_value(Unexpected::Float(number), &self))
            }
        }
        deserializer.deserialize_u64(Numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<Option<Seq>> {
        let required = required(&mut serde_json::Deserializer::from_str(json)).ok();
        let optional = optional(&mut serde_json::Deserializer::from_str(json)).ok();
        assert_eq!(required, optional.flatten(), "{json}");
        optional
    }

    #[test]
    fn a_seq_is_a_whole_number_however_it_is_written() {
        assert_eq!(read("null"), Some(None));
        for (json, expected) in [("0", 0), ("5", 5), ("5.0", 5), ("1e3", 1_000), ("9007199254740991", MAX_SEQ)] {
            assert_eq!(read(json), Some(Some(expected)), "{json}");
        }
        for json in ["-1", "-1.0", "5.5", "1e300", "9007199254740992", "9007199254740993.0", "\"5\"", "true"] {
            assert_eq!(read(json), None, "{json}");
        }
    }
}
