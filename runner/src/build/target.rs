//! Where a build's work comes from and goes to: repository, branch, and the branch to begin from.

use rdev_domain::git::{Branch, Tip};
use rdev_domain::spec::BuildSpec;

use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::cleanup;
use crate::git::{self, Fetched, GitError, Remote, blocking};

/// Where a build's work comes from and goes to.
pub(crate) struct Site {
    pub(crate) remote: Remote,
    /// The branch that is delivered to.
    pub(crate) target: Branch,
    /// The branch to begin from while `target` does not exist.
    pub(crate) fallback: Branch,
}

impl Site {
    pub(crate) fn of(attempt: &Attempt, spec: &BuildSpec) -> Result<Self, Interrupt> {
        let branch = attempt.branch(spec.branch.as_ref());
        let (target, fallback) = if spec.pull_request {
            // Named after the lineage, so that a retry finds what an earlier task pushed.
            let own = format!("rdev/{}", attempt.task.lineage);
            let own =
                own.parse().map_err(|error| anyhow::anyhow!("{own} is no branch: {error}"))?;
            (own, branch)
        } else {
            (branch, attempt.project.default_branch.clone())
        };
        Ok(Self { remote: attempt.remote(spec.git_url.as_ref())?, target, fallback })
    }

    /// Brings the mirror up to date and tells where the branch is.
    pub(crate) async fn fetch(&self, attempt: &Attempt) -> Result<Fetched, Interrupt> {
        let shared = &attempt.shared;
        let (cache, cap) = (shared.folders.cache.clone(), shared.config.runner.max_cache_bytes);
        let stop = attempt.held.stop.token().clone();
        let (remote, target, fallback) =
            (self.remote.clone(), self.target.clone(), self.fallback.clone());
        let fetched =
            blocking(move || git::fetch(&cache, cap, &remote, &target, &fallback, &stop)).await;
        let fetched = match (fetched, &attempt.task.scan_base) {
            (Err(GitError::BranchNotFound(_)), Some(Tip::Commit(_))) => {
                return Err(Interrupt::rewritten("the branch was deleted"));
            }
            (fetched, _) => fetched?,
        };
        cleanup::later(attempt, &self.remote, &fetched.own);
        Ok(fetched)
    }
}
