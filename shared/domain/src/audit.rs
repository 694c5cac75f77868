//! The audit log: who did what, on what, when, by which request.

use serde::{Deserialize, Serialize};
use ulid::Ulid;
use utoipa::ToSchema;

use crate::ids::{KeyId, ProjectId, WorkerId};
use crate::time::Timestamp;

/// Who acts, and by which request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The key, worker or part of rdev.
    pub who: Who,
    /// The HTTP request's id.
    pub request_id: Option<String>,
}

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A request with this key.
    Key(KeyId),
    /// A runner.
    Worker(WorkerId),
    /// The sweep, or the start of the server.
    Maintenance,
    /// A webhook of this system.
    Hook(&'static str),
}

impl Actor {
    /// A runner.
    pub fn worker(id: WorkerId) -> Self {
        Self { who: Who::Worker(id), request_id: None }
    }

    /// The sweep, or the start of the server.
    pub fn maintenance() -> Self {
        Self { who: Who::Maintenance, request_id: None }
    }

    /// A webhook of `system`.
    pub fn hook(system: &'static str) -> Self {
        Self { who: Who::Hook(system), request_id: None }
    }

    /// As it is recorded: `key:<id>`, `worker:<id>`, `hook:<system>` or `maintenance`.
    pub fn name(&self) -> String {
        match &self.who {
            Who::Key(id) => format!("key:{id}"),
            Who::Worker(id) => format!("worker:{id}"),
            Who::Maintenance => "maintenance".to_owned(),
            Who::Hook(system) => format!("hook:{system}"),
        }
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEvent {
    /// Its own id.
    #[schema(value_type = String)]
    pub id: Ulid,
    /// When.
    pub at: Timestamp,
    /// Who: `key:<id>`, `worker:<id>`, `hook:<system>` or `maintenance`.
    pub actor: String,
    /// What, as `task.claimed`.
    pub action: String,
    /// On what, as `task/01J…`, `project/site`, `key/…`, `worker/…`.
    pub subject: String,
    /// The project it belongs to.
    pub project_id: Option<ProjectId>,
    /// What else is to be known of it, in words: what a deleted project leaves in other systems.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The HTTP request's id.
    pub request_id: Option<String>,
}
