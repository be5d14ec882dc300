//! Identifiers. All of them are opaque to clients.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = Uuid)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new time-ordered (version 7) id.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

uuid_id!(
    /// A conversation: participants and one ordered log of events.
    ConversationId
);
uuid_id!(
    /// A message, named by the gateway that took it.
    MessageId
);
uuid_id!(
    /// The client's own name for a message; a second send with it is the same message.
    ClientId
);

/// The version of a UUID whose contents are its maker's own (RFC 9562).
const CUSTOM_VERSION: u8 = 8;

impl ConversationId {
    /// A new time-ordered id that names the partition of its log, so that every process finds the log without a table
    /// (docs/decisions/0023-partitions.md): a UUID of version 8 with the milliseconds as in version 7, then 12 bits
    /// with the partition, random bits, and 16 bits of a checksum.
    #[must_use]
    pub fn generate_in(partition: u16) -> Self {
        let mut bytes = *Uuid::now_v7().as_bytes();
        let [high, low] = partition.to_be_bytes();
        bytes[6] = CUSTOM_VERSION << 4 | high & 0x0f;
        bytes[7] = low;
        // The random bits of version 7 may be a counter: these are not.
        bytes[9..14].copy_from_slice(&Uuid::new_v4().as_bytes()[..5]);
        let sum = checksum(&bytes[..14]);
        bytes[14..].copy_from_slice(&sum);
        Self(Uuid::from_bytes(bytes))
    }

    /// The partition that an id of [`Self::generate_in`] names; `None` for any other id.
    #[must_use]
    pub fn named_partition(self) -> Option<u16> {
        let bytes = self.0.as_bytes();
        // The checksum tells ids that were imported from elsewhere from our own.
        let is_ours = bytes[6] >> 4 == CUSTOM_VERSION && bytes[14..] == checksum(&bytes[..14]);
        is_ours.then(|| u16::from_be_bytes([bytes[6] & 0x0f, bytes[7]]))
    }
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let [.., high, _, low, _] = fnv(bytes).to_be_bytes();
    [high, low]
}

/// FNV-1a.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// A position in a conversation's log. It grows within a conversation and is not dense:
/// it is the sequence of the JetStream stream that holds the conversation's partition.
pub type Seq = u64;

/// A user's id as the token names it: 1 to 128 bytes, no control characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, utoipa::ToSchema)]
#[schema(value_type = String, pattern = "^([ -~]{1,128}|[^\\x00-\\x1f\\x7f-\\x9f]{1,32})$")]
pub struct UserId(Arc<str>);

/// Why a text is no user id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a user id has 1 to 128 bytes and no control characters")]
pub struct BadUserId;

impl UserId {
    /// The longest user id, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// # Errors
    /// [`BadUserId`] if the text is empty, too long, or has control characters.
    pub fn new(text: &str) -> Result<Self, BadUserId> {
        if text.is_empty() || text.len() > Self::MAX_BYTES || text.chars().any(char::is_control) {
            return Err(BadUserId);
        }
        Ok(Self(text.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for UserId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for UserId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for UserId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids_are_bounded_and_printable() {
        assert!(UserId::new("vendor-1").is_ok());
        assert!(UserId::new(&"x".repeat(128)).is_ok());
        for bad in ["", "a\0b", "a\nb", &"x".repeat(129)] {
            assert_eq!(UserId::new(bad), Err(BadUserId));
        }
    }
}
