//! Instants as clients see them: RFC 3339 in UTC, with milliseconds.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};
use uuid::Uuid;

/// An instant in UTC, to the millisecond: `2026-01-31T09:30:00.250Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, utoipa::ToSchema)]
#[schema(value_type = String, format = DateTime)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    #[must_use]
    pub fn now() -> Self {
        Self::from(OffsetDateTime::now_utc())
    }

    #[must_use]
    pub fn to_datetime(self) -> OffsetDateTime {
        self.0
    }

    /// Returns when a UUID of version 7 was made, by the clock of the machine that made it.
    #[must_use]
    pub fn of_uuid(uuid: Uuid) -> Option<Self> {
        let made = uuid.get_timestamp().filter(|_| uuid.get_version_num() == 7)?;
        let (seconds, nanos) = made.to_unix();
        let nanos = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        OffsetDateTime::from_unix_timestamp_nanos(nanos).ok().map(Self::from)
    }

    /// Returns the time since this instant; negative if it lies ahead.
    #[must_use]
    pub fn age(self) -> time::Duration {
        OffsetDateTime::now_utc() - self.0
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn unix_millis(self) -> i64 {
        i64::try_from(self.0.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(at: OffsetDateTime) -> Self {
        let at = at.to_offset(UtcOffset::UTC);
        // Postgres keeps microseconds and clients milliseconds: one precision everywhere
        // keeps an answer equal before and after storage.
        let millis = at.millisecond();
        Self(at.replace_millisecond(millis).unwrap_or(at))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.0;
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second(),
            t.millisecond()
        )
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        OffsetDateTime::parse(&text, &Rfc3339).map(Self::from).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_uuid_of_version_7_tells_when_it_was_made() {
        let made = Timestamp::of_uuid(Uuid::now_v7()).unwrap();
        assert!(made.age().abs() < time::Duration::seconds(5), "{made}");
        assert_eq!(Timestamp::of_uuid(Uuid::new_v4()), None);
        // A version 7 id of the year 10889, beyond what RFC 3339 can say.
        assert_eq!(Timestamp::of_uuid("ffffffff-ffff-7000-8000-000000000000".parse().unwrap()), None);
    }

    #[test]
    fn survives_json_at_millisecond_precision() {
        let now = Timestamp::now();
        let json = serde_json::to_string(&now).unwrap();
        assert!(json.ends_with("Z\"") && json.len() == 26, "{json}");
        assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), now);
    }
}
