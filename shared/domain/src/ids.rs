//! Identifiers: what a project, task, key, worker and lease owner is called.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use ulid::Ulid;
use utoipa::ToSchema;

use crate::Invalid;
use crate::time::Timestamp;

/// A project's id: a slug that is also a DNS label.
///
/// 1 to 40 characters, `^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$`, not a reserved name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$", example = "landing-page")]
pub struct ProjectId(String);

/// Names that some system between us and the user treats as its own.
const RESERVED: [&str; 6] = ["con", "prn", "aux", "nul", "localhost", "create-and-build"];

impl FromStr for ProjectId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |why: &str| Err(Invalid::new("project id", why));
        let bytes = text.as_bytes();
        if bytes.is_empty() || bytes.len() > 40 {
            return invalid("must have 1 to 40 characters");
        }
        if !bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-') {
            return invalid("may have only a-z, 0-9 and '-'");
        }
        if !bytes[0].is_ascii_lowercase() || bytes.ends_with(b"-") {
            return invalid("must begin with a letter and must not end with '-'");
        }
        let device = bytes.len() == 4
            && (text.starts_with("com") || text.starts_with("lpt"))
            && bytes[3].is_ascii_digit();
        if device || RESERVED.contains(&text) || text.starts_with("xn--") {
            return invalid("is a reserved name");
        }
        Ok(Self(text.to_owned()))
    }
}

/// A task's id: a ULID, so that ids sort by the time of creation.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "01JDGZ2V9QK8M3T5X7Y9ABCDEF")]
pub struct TaskId(pub Ulid);

impl TaskId {
    /// When it was made, as the id itself says.
    pub fn created_at(self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(self.0.timestamp_ms()).unwrap_or(i64::MAX))
    }
}

impl FromStr for TaskId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        // Ulid's parser also accepts lower case; a task has one spelling.
        match Ulid::from_string(text) {
            Ok(id) if id.to_string() == text => Ok(Self(id)),
            _ => Err(Invalid::new("task id", "must be a ULID of 26 upper-case characters")),
        }
    }
}

/// An API key's public part: 12 characters of `[a-z0-9]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[a-z0-9]{12}$")]
pub struct KeyId(String);

impl FromStr for KeyId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.len() == 12 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Invalid::new("key id", "must have 12 characters of a-z and 0-9"))
        }
    }
}

/// A worker's id: its host's (or pod's) name unless configured.
/// 1 to 253 characters of `[A-Za-z0-9._-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "runner-7f9c")]
pub struct WorkerId(String);

impl FromStr for WorkerId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if (1..=253).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Invalid::new(
                "worker id",
                "must have 1 to 253 characters of A-Z, a-z, 0-9, '.', '_' and '-'",
            ))
        }
    }
}

/// Who holds a lease: `<worker id>/<random per process>`.
///
/// The random part distinguishes a restarted worker from the dead one of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[schema(value_type = String, example = "runner-7f9c/4fzzzxjy")]
pub struct Owner(String);

impl Owner {
    /// The owner of one process of a worker; `process` is random per process.
    pub fn new(worker: &WorkerId, process: &str) -> Self {
        Self(format!("{worker}/{process}"))
    }
}

/// Grows at every claim and every recovery of a task; a write that names an
/// older fence changes nothing.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[schema(value_type = u64)]
pub struct Fence(pub u64);

impl Fence {
    /// The fence after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<TaskId> for String {
    fn from(id: TaskId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for TaskId {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

/// Gives a type that wraps a checked `String` the conversions it needs.
macro_rules! text {
    ($($name:ident),+) => { $(
        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::Invalid;

            fn try_from(text: String) -> Result<Self, $crate::Invalid> {
                text.parse()
            }
        }
    )+ };
}
pub(crate) use text;

text!(ProjectId, KeyId, WorkerId);

impl Owner {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_id_is_a_dns_label_and_no_reserved_name() {
        for good in ["a", "ab", "landing-page", "a1", &"a".repeat(40)] {
            assert!(good.parse::<ProjectId>().is_ok(), "{good}");
        }
        let long = "a".repeat(41);
        for bad in [
            "", "../x", ".git", "con", "a/b", "A", "1a", "-a", "a-", "a_b", "a.b", "com1", "lpt9",
            "nul", "a\0", "ä", "xn--a", " a", "a ", "a\n", &long,
        ] {
            assert!(bad.parse::<ProjectId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_task_id_has_one_spelling() {
        let id = "01JDGZ2V9QK8M3T5X7Y9ABCDEF";
        assert_eq!(id.parse::<TaskId>().map(|id| id.to_string()), Ok(id.to_owned()));
        for bad in
            ["", "01jdgz2v9qk8m3t5x7y9abcdef", "01JDGZ2V9QK8M3T5X7Y9ABCDE", "../../etc/passwd"]
        {
            assert!(bad.parse::<TaskId>().is_err(), "{bad:?}");
        }
    }
}
