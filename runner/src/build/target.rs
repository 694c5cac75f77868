//! The repository and the branch that a build works on.

use rdev_domain::git::{Branch, Tip};
use rdev_domain::ids::TaskId;
use rdev_domain::spec::BuildSpec;
use tokio::sync::Mutex;

use super::standing::Asked;
use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::cleanup;
use crate::git::{Fetched, GitError, Remote};

/// The repository and the branch that a build works on.
pub(crate) struct BuildTarget {
    pub(crate) remote: Remote,
    /// The branch that the build delivers to.
    pub(crate) branch: Branch,
    /// The branch to start from while `branch` does not exist.
    pub(crate) base_branch: Branch,
    /// What the forge was asked and has not answered yet.
    pub(super) asked: Mutex<Option<Asked>>,
}

/// The branch of a lineage's pull request, so that a retry finds what an earlier task pushed.
pub(crate) fn own_branch(lineage: TaskId) -> String {
    format!("rdev/{lineage}")
}

impl BuildTarget {
    pub(crate) fn of(attempt: &Attempt, spec: &BuildSpec) -> Result<Self, Interrupt> {
        let branch = attempt.branch(spec.branch.as_ref());
        let (branch, base_branch) = if spec.opens_pull_request() {
            let name = own_branch(attempt.task.lineage);
            let own = name.parse();
            let own =
                own.map_err(|error| anyhow::anyhow!("{name} is not a branch name: {error}"))?;
            (own, branch)
        } else {
            (branch, attempt.project.default_branch.clone())
        };
        let remote = attempt.remote(spec.git_url.as_ref())?;
        Ok(Self { remote, branch, base_branch, asked: Mutex::default() })
    }

    /// Updates the mirror and returns the tip of the branch. `ticketed`: the task's ticket tells
    /// what has become of its commit, so a branch that is gone is no failure yet.
    pub(crate) async fn fetch(
        &self,
        attempt: &Attempt,
        ticketed: bool,
    ) -> Result<Fetched, Interrupt> {
        let (machine, stop) = (attempt.machine(), attempt.lease.stop.token());
        let fetched = machine.fetch(&self.remote, &self.branch, &self.base_branch, stop).await;
        let fetched = fetched.and_then(|fetched| match ticketed {
            true => Ok(fetched),
            false => fetched.with_start(&self.base_branch),
        });
        let fetched = match (fetched, &attempt.task.scan_base) {
            (Err(GitError::BranchNotFound(_)), Some(Tip::Commit(_))) => {
                return Err(Interrupt::rewritten("the branch was deleted"));
            }
            (fetched, _) => fetched?,
        };
        cleanup::at_fetch(attempt, &self.remote, &fetched);
        Ok(fetched)
    }
}
