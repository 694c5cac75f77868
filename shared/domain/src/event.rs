//! Build events: the one form into which all agents' streams are translated.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use strum::{EnumCount, IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use crate::ids::Fence;
use crate::names::names;
use crate::time::Timestamp;

/// How many events one claim may write; the rest is dropped with a note.
pub const MAX_EVENTS_PER_CLAIM: u64 = 1_000_000;

/// One line of a build's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BuildEvent {
    /// Its place: `fence * 1,000,000 + n`, so that it grows within a task and
    /// no two claims need to agree on it.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// What kind of thing happened.
    pub kind: EventKind,
    /// Its content, by kind; see `docs/api.md`.
    #[schema(value_type = Object)]
    pub data: Value,
}

/// What kind of thing happened.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    ToSchema,
    EnumCount,
    IntoStaticStr,
    VariantArray,
)]
pub enum EventKind {
    /// The task's state changed: `{state, attempt}`.
    #[serde(rename = "state")]
    #[strum(serialize = "state")]
    State,
    /// A phase began or ended: `{phase, status: "started" | "finished" | "failed", duration_ms}`.
    #[serde(rename = "phase")]
    #[strum(serialize = "phase")]
    Phase,
    /// The agent spoke: `{text}`.
    #[serde(rename = "agent.text")]
    #[strum(serialize = "agent.text")]
    AgentText,
    /// The agent used a tool: `{tool, id, input}`.
    #[serde(rename = "agent.tool_use")]
    #[strum(serialize = "agent.tool_use")]
    AgentToolUse,
    /// A tool answered: `{id, is_error, output}`.
    #[serde(rename = "agent.tool_result")]
    #[strum(serialize = "agent.tool_result")]
    AgentToolResult,
    /// What the agent has used so far: the fields of `usage`.
    #[serde(rename = "agent.usage")]
    #[strum(serialize = "agent.usage")]
    AgentUsage,
    /// A line for people: `{stream, text}`.
    #[serde(rename = "log")]
    #[strum(serialize = "log")]
    Log,
}

names!(EventKind);

/// The `seq` of the `n`th event (0 is the first) written under `fence`.
pub fn seq(fence: Fence, n: u64) -> u64 {
    fence.0 * MAX_EVENTS_PER_CLAIM + n
}
