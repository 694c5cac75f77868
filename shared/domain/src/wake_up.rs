//! The wake-up: what the queue carries. A hint, never the work itself.

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::ids::ProjectId;
use crate::time::Timestamp;

/// "This project may have work."
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WakeUp {
    /// The project.
    pub project_id: ProjectId,
}

/// A message that is no wake-up of a version we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// Not `{"v": …, "project_id": …}`.
    #[error("the message is not a wake-up")]
    Garbage,
    /// A version that this program does not know.
    #[error("the wake-up has the unknown version {0}")]
    UnknownVersion(u64),
}

#[derive(Serialize, Deserialize)]
struct Wire {
    v: u64,
    #[serde(default)]
    project_id: Option<ProjectId>,
}

impl WakeUp {
    /// The message's text: `{"v":1,"project_id":"…"}`.
    pub fn encode(&self) -> String {
        format!(r#"{{"v":1,"project_id":"{}"}}"#, self.project_id)
    }

    /// Reads a message.
    ///
    /// # Errors
    /// Why it is not a wake-up that this program knows.
    pub fn decode(text: &str) -> Result<Self, Undecodable> {
        match serde_json::from_str::<Wire>(text) {
            Ok(Wire { v: 1, project_id: Some(project_id) }) => Ok(Self { project_id }),
            Ok(Wire { v, .. }) if v != 1 => Err(Undecodable::UnknownVersion(v)),
            _ => Err(Undecodable::Garbage),
        }
    }
}

/// An outbox entry: a wake-up that is still to be sent. Deleting it deletes only it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEntry {
    /// Its own id.
    pub id: Ulid,
    /// The project to wake.
    pub project_id: ProjectId,
    /// When to send it.
    pub send_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_up_reads_back_and_unknown_versions_differ_from_garbage() {
        let wake_up = WakeUp { project_id: "site".parse().expect("a slug") };
        assert_eq!(WakeUp::decode(&wake_up.encode()), Ok(wake_up));
        assert_eq!(WakeUp::decode(r#"{"v":2,"x":1}"#), Err(Undecodable::UnknownVersion(2)));
        for garbage in ["", "x", "{}", "[]", r#"{"v":1}"#, r#"{"v":1,"project_id":"../x"}"#] {
            assert_eq!(WakeUp::decode(garbage), Err(Undecodable::Garbage), "{garbage}");
        }
    }
}
