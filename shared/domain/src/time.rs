//! A moment, in milliseconds, written as RFC 3339 in UTC.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Invalid;

/// Milliseconds since 1970-01-01T00:00:00Z. JSON: `"2026-01-31T12:00:00.000Z"`.
///
/// Every value can be written and read back: our own arithmetic stops at the first and the last
/// moment that can, and a number that somebody else sent is refused beyond them (`try_from`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(i64);

impl Timestamp {
    /// The first moment that can be written.
    pub const MIN: Self = Self(-377_705_023_201_000);

    /// The last moment that can be written.
    pub const MAX: Self = Self(253_402_207_200_000);

    /// From milliseconds since the epoch; the first or the last moment when they lie beyond it.
    pub const fn from_millis(millis: i64) -> Self {
        if millis < Self::MIN.0 {
            Self::MIN
        } else if millis > Self::MAX.0 {
            Self::MAX
        } else {
            Self(millis)
        }
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This moment and `span` after it.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.0.saturating_add(millis))
    }

    /// This moment, `span` earlier.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.0.saturating_sub(millis))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(time: std::time::SystemTime) -> Self {
        let millis = match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        };
        Self::from_millis(millis)
    }
}

/// Milliseconds since the epoch, as somebody else sent them.
impl TryFrom<i64> for Timestamp {
    type Error = Invalid;

    fn try_from(millis: i64) -> Result<Self, Invalid> {
        if (Self::MIN.0..=Self::MAX.0).contains(&millis) {
            Ok(Self(millis))
        } else {
            Err(Invalid::new("timestamp", "must lie between the years -9999 and 9999"))
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every value lies between MIN and MAX, which are jiff's own bounds.
        let at = jiff::Timestamp::from_millisecond(self.0).map_err(|_| fmt::Error)?;
        write!(f, "{at:.3}")
    }
}

impl From<Timestamp> for String {
    fn from(at: Timestamp) -> Self {
        at.to_string()
    }
}

impl TryFrom<String> for Timestamp {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        match text.parse::<jiff::Timestamp>() {
            Ok(at) => Ok(Self::from_millis(at.as_millisecond())),
            Err(_) => Err(Invalid::new("timestamp", "must be RFC 3339, as 2026-01-31T12:00:00Z")),
        }
    }
}

impl utoipa::PartialSchema for Timestamp {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .format(Some(utoipa::openapi::SchemaFormat::KnownFormat(
                utoipa::openapi::KnownFormat::DateTime,
            )))
            .into()
    }
}

impl utoipa::ToSchema for Timestamp {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_back_what_it_writes() {
        let at = Timestamp::from_millis(1_795_424_624_940);
        assert_eq!(at.to_string(), "2026-11-23T09:03:44.940Z");
        assert_eq!(Timestamp::try_from(at.to_string()), Ok(at));
        assert_eq!(at.plus(Duration::from_secs(1)).since(at), Duration::from_secs(1));
        assert_eq!(at.since(at.plus(Duration::from_secs(1))), Duration::ZERO);
    }

    #[test]
    fn the_first_and_the_last_moment_are_those_that_can_be_written() {
        let writes = |millis| jiff::Timestamp::from_millisecond(millis).is_ok();
        assert!(writes(Timestamp::MIN.0) && !writes(Timestamp::MIN.0 - 1));
        assert!(writes(Timestamp::MAX.0) && !writes(Timestamp::MAX.0 + 1));
        let whole = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX];
        let edges = [Timestamp::MIN.0, Timestamp::MAX.0];
        let millis = edges.into_iter().flat_map(|edge| [edge - 1, edge, edge + 1]).chain(whole);
        for millis in millis {
            let at = Timestamp::from_millis(millis);
            assert_eq!(Timestamp::try_from(at.to_string()), Ok(at), "{millis}");
            let inside = (edges[0]..=edges[1]).contains(&millis);
            assert_eq!(Timestamp::try_from(millis).ok(), inside.then_some(at), "{millis}");
        }
    }

    #[test]
    fn no_span_leads_out_of_what_can_be_written() {
        for span in [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(u64::MAX)] {
            for at in [Timestamp::MIN, Timestamp::from_millis(0), Timestamp::MAX] {
                for moved in [at.plus(span), at.minus(span)] {
                    assert_eq!(Timestamp::try_from(moved.to_string()), Ok(moved), "{at} {span:?}");
                }
                assert!(at.minus(span) <= at && at <= at.plus(span));
            }
        }
        assert_eq!(Timestamp::MAX.since(Timestamp::MIN).as_millis(), 631_107_230_401_000);
    }
}
