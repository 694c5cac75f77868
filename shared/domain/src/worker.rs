//! Workers: the processes that run builds.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use strum::{EnumCount, IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use crate::ids::{TaskId, WorkerId};
use crate::names::names;
use crate::spec::AgentName;
use crate::time::Timestamp;

/// How often a worker reports.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(30);

/// A worker that was silent for so long is `offline`.
pub const SILENT_AFTER: Duration = Duration::from_secs(90);

/// A worker as it last reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Worker {
    /// Its id: the host's (or pod's) name unless configured.
    pub id: WorkerId,
    /// Its host's name.
    pub hostname: String,
    /// The program's version.
    pub version: String,
    /// What it is doing.
    pub status: WorkerStatus,
    /// How many builds it runs at once.
    pub slots: u32,
    /// The tasks it runs now.
    pub running: Vec<TaskId>,
    /// The agents it offers.
    pub agents: Vec<AgentName>,
    /// When its process began.
    pub started_at: Timestamp,
    /// When it last reported.
    pub last_heartbeat_at: Timestamp,
}

/// What a worker is doing.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    EnumCount,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum WorkerStatus {
    /// It waits for work.
    Idle,
    /// It runs one build or more.
    Busy,
    /// It ends what it runs and takes nothing new.
    Draining,
    /// It was not heard of for 90 s, or said goodbye.
    Offline,
}

names!(WorkerStatus);
