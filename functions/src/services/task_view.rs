//! A task as the API shows it.

use rdev_domain::ports::TaskRecord;
use rdev_domain::result::TaskResult;
use rdev_domain::task::{Task, TaskState};
use serde::Serialize;
use utoipa::ToSchema;

use crate::services::build_pipeline::BuildPipeline;

/// A task, and whether its cancellation was requested.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TaskView {
    /// The task.
    #[serde(flatten)]
    pub task: Task,
    /// Of a task that is `pushing`: the result that it has once its commit is on the branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intended_result: Option<TaskResult>,
    /// Its cancellation was requested, and its worker has not stopped yet.
    pub cancel_requested: bool,
    /// The newest of `pipelines`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<BuildPipeline>,
    /// The pipelines of the commit that it has pushed, newest first; only in the record of one
    /// build.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pipelines: Vec<BuildPipeline>,
}

impl TaskView {
    fn of(mut task: Task, cancel_requested: bool) -> Self {
        // The store keeps there what is being pushed; what is not true yet is no result.
        let intended_result =
            if task.state == TaskState::Pushing { task.result.take() } else { None };
        Self { task, intended_result, cancel_requested, pipeline: None, pipelines: Vec::new() }
    }
}

/// A task that was just queued.
impl From<Task> for TaskView {
    fn from(task: Task) -> Self {
        Self::of(task, false)
    }
}

impl From<TaskRecord> for TaskView {
    fn from(record: TaskRecord) -> Self {
        let cancel_requested = record.lease.is_some_and(|lease| lease.cancel_requested);
        Self::of(record.task, cancel_requested)
    }
}
