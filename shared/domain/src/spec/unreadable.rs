//! A spec that this program cannot read.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::{AgentName, FieldError, TaskType};

/// The spec of a stored task that this program cannot read: its type is unknown, or the spec has
/// fields that the type does not have. No runner runs it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UnreadableSpec {
    /// The type's name in the record.
    #[serde(rename = "type")]
    pub kind: String,
    /// The spec in the record.
    pub spec: Value,
}

impl TaskType for UnreadableSpec {
    fn kind(&self) -> &str {
        &self.kind
    }

    fn agent(&self) -> Option<AgentName> {
        None
    }

    fn timeout(&self) -> Duration {
        Duration::ZERO
    }

    fn check(&self) -> Vec<FieldError> {
        vec![FieldError::new("type", "is not known")]
    }
}
