//! The output of an agent, and the build result that follows from it.

use rdev_domain::git::{Branch, CommitId};
use rdev_domain::result::{AgentRun, BuildResult, Outcome, Usage, VerifyRun, Warning};

use crate::attempt::Attempt;
use crate::git::Changes;

/// The output of an agent before the commit.
pub(crate) struct AgentOutput {
    pub(crate) run: Option<AgentRun>,
    pub(crate) summary: String,
    pub(crate) changes: Changes,
    /// What the verify commands of the last round returned.
    pub(crate) verify: Vec<VerifyRun>,
    pub(crate) warnings: Vec<Warning>,
}

impl AgentOutput {
    /// The build result as far as it is known now.
    pub(crate) fn build_result(
        &self,
        attempt: &Attempt,
        outcome: Outcome,
        commit: Option<CommitId>,
        branch: &Branch,
    ) -> BuildResult {
        BuildResult {
            outcome,
            commit_sha: commit,
            branch: branch.clone(),
            kept_ref: None,
            pull_request_url: None,
            files_changed: self.changes.files.clone(),
            files_changed_total: self.changes.total,
            agent: self.run.clone(),
            usage: Usage::default(),
            durations_ms: attempt.durations(),
            summary: self.summary.clone(),
            verify: self.verify.clone(),
            warnings: self.warnings.clone(),
        }
    }
}
