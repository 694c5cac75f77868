//! What an agent made, and the build's result as far as it is known.

use rdev_domain::git::{Branch, CommitId};
use rdev_domain::result::{AgentRun, BuildResult, Outcome, Usage, Warning};

use crate::attempt::Attempt;
use crate::git::Changes;

/// What an agent made, before it is committed.
pub(crate) struct Made {
    pub(crate) run: Option<AgentRun>,
    pub(crate) summary: String,
    pub(crate) changes: Changes,
    pub(crate) warnings: Vec<Warning>,
}

/// The result of a build, as far as it is known.
pub(crate) fn result(
    attempt: &Attempt,
    outcome: Outcome,
    commit: Option<CommitId>,
    branch: &Branch,
    made: &Made,
) -> BuildResult {
    BuildResult {
        outcome,
        commit_sha: commit,
        branch: branch.clone(),
        pull_request_url: None,
        files_changed: made.changes.files.clone(),
        files_changed_total: made.changes.total,
        agent: made.run.clone(),
        usage: Usage::default(),
        durations_ms: attempt.durations(),
        summary: made.summary.clone(),
        warnings: made.warnings.clone(),
    }
}
