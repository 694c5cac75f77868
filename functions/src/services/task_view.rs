//! A task as the API shows it.

use rdev_domain::failure::FailureClass;
use rdev_domain::git::{CommitId, OwnRef, RecordedRef, RefKind};
use rdev_domain::ports::TaskRecord;
use rdev_domain::result::{BuildResult, Outcome, TaskResult};
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
    /// Of a task that has ended: its refs that stay in the repository until its record expires, for
    /// `git fetch`. The commit of a build without push; what a failed build has left.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refs: Vec<RefView>,
}

/// A ref of rdev's own in the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RefView {
    /// Its full name.
    #[schema(example = "refs/rdev/kept/01JDGZ2V9QK8M3T5X7Y9ABCDEF")]
    pub name: String,
    /// The commit that it is at.
    pub commit: CommitId,
    /// What it is for.
    pub kind: RefKind,
}

impl TaskView {
    fn of(mut task: Task, cancel_requested: bool) -> Self {
        let refs = refs_that_stay(&task);
        // They are in `refs`, as far as they stay.
        task.left_refs.clear();
        // The store keeps there what is being pushed; what is not true yet is no result.
        let intended_result =
            if task.state == TaskState::Pushing { task.result.take() } else { None };
        Self {
            task,
            intended_result,
            cancel_requested,
            pipeline: None,
            pipelines: Vec::new(),
            refs,
        }
    }
}

/// The refs of a task that has ended that runners leave where they are until its record expires.
fn refs_that_stay(task: &Task) -> Vec<RefView> {
    let view = |name: String, own: OwnRef, commit: &CommitId| RefView {
        name,
        commit: commit.clone(),
        kind: own.kind(),
    };
    // Nobody but a server that accepts branches only has other names; who writes a ref there says so.
    let recorded = |recorded: &RecordedRef| {
        view(recorded.own.full_name(false), recorded.own, &recorded.commit)
    };
    let own = task.own_refs.iter().filter(|recorded| recorded.own.task() == task.id);
    match task.state {
        TaskState::Succeeded => {
            let result = task.result.as_ref().and_then(TaskResult::as_build);
            let kept = result.filter(|result| result.outcome == Outcome::CommittedNotPushed);
            let of = |result: &BuildResult| {
                let own = OwnRef::Kept(task.id);
                // Results of earlier versions do not name it.
                let name = result.kept_ref.clone().unwrap_or_else(|| own.full_name(false));
                result.commit_sha.as_ref().map(|commit| view(name, own, commit))
            };
            kept.and_then(of).into_iter().collect()
        }
        // A ticket that may still be pushed is left for the retry.
        TaskState::Cancelled => own.filter(|one| one.may_land).map(recorded).collect(),
        TaskState::Failed => {
            let left = task.left_refs.iter();
            let mut refs: Vec<RefView> =
                left.map(|left| view(left.name(), left.own, &left.commit)).collect();
            // Of an attempt whose worker was lost only what it was about to write is known.
            let last = task.attempts.last().and_then(|attempt| attempt.failure.as_ref());
            let lost = last.is_some_and(|failure| failure.class == FailureClass::WorkerLost);
            for recorded in own.filter(|_| lost).map(recorded) {
                let listed =
                    |one: &RefView| OwnRef::parse(&one.name) == OwnRef::parse(&recorded.name);
                if !refs.iter().any(listed) {
                    refs.push(recorded);
                }
            }
            refs
        }
        TaskState::Queued | TaskState::Running | TaskState::Pushing => Vec::new(),
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
