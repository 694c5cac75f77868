//! Pushing a commit to its branch, at most once per lineage: search, follow, push, read back.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdev_domain::chain;
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::{CommitId, OwnRef, Tip};
use rdev_domain::ports::CommitState;
use rdev_domain::spec::BuildSpec;
use rdev_domain::task::WipRef;
use tracing::warn;

use super::commit_status;
use super::refs::push_own;
use super::target::BuildTarget;
use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::workspace::Workspace;
use crate::git::{self, Expect, GitError, Push, Rebased, Scan, blocking};
use crate::{now, verify};

/// How many times one claim rebases onto a branch that keeps moving.
pub(super) const MAX_ROUNDS: u32 = 5;

/// The outcome of a push.
pub(super) enum PushOutcome {
    /// This commit is on the branch. `rewritten`: it was there, and somebody has
    /// removed it since.
    Landed { commit: CommitId, rewritten: bool },
    /// The branch already has the same change, from somebody else.
    AlreadyThere,
}

/// A commit that is to be pushed: its base, its wip ref, and the build it belongs to.
pub(super) struct PushContext<'a> {
    pub(super) attempt: &'a Attempt,
    pub(super) spec: &'a BuildSpec,
    pub(super) target: &'a BuildTarget,
    pub(super) workspace: &'a Workspace,
    pub(super) wip: WipRef,
    pub(super) commit: CommitId,
    pub(super) base: Tip,
}

impl PushContext<'_> {
    /// Sets the status of this commit on the forge.
    pub(super) async fn set_status(&self, state: CommitState, description: &str) {
        let repository = &self.target.remote.url;
        commit_status::set(self.attempt, repository, &self.commit, state, description).await;
    }

    /// Sets the status of the commit on the forge when the push has failed. The forge knows
    /// the commit from its wip ref.
    pub(super) async fn report_failure(
        &self,
        outcome: Result<PushOutcome, Interrupt>,
    ) -> Result<PushOutcome, Interrupt> {
        if let Err(Interrupt::Failed(failure)) = &outcome {
            let prepared = self.attempt.prepared.load(Ordering::Relaxed);
            if prepared {
                self.set_status(CommitState::Failure, failure.class.as_str()).await;
            }
        }
        outcome
    }

    /// Searches, rebases and pushes until the commit is on the branch. `tip` is the last known
    /// tip of the branch; its objects are in the attempt's repository.
    pub(super) async fn push_from(
        &mut self,
        scan_base: &Tip,
        mut tip: Tip,
    ) -> Result<PushOutcome, Interrupt> {
        let attempt = self.attempt;
        let mut last: Option<Failure> = None;
        let mut doubt = false;
        for _ in 0..MAX_ROUNDS {
            attempt.lease.right_to_push().await;
            if attempt.lease.stop.reason().is_some() {
                return Err(Interrupt::Stopped);
            }
            if let Some(commit) = search(attempt, self.workspace, scan_base, &tip).await? {
                return Ok(PushOutcome::Landed { commit, rewritten: false });
            }
            if tip != self.base {
                if !self.rebase_onto(&tip).await? {
                    return Ok(PushOutcome::AlreadyThere);
                }
                self.push_wip().await?;
            }
            // The search and a verification may have taken long.
            attempt.lease.right_to_push().await;
            if attempt.lease.stop.reason().is_some() {
                return Err(Interrupt::Stopped);
            }
            match self.push_branch().await {
                Ok(()) => return self.read_back().await,
                Err(GitError::Cancelled) => return Err(Interrupt::Stopped),
                Err(GitError::Moved { .. }) => {
                    let fetched = self.fetch_tip().await;
                    tip = fetched.map_err(|interrupt| in_doubt(interrupt, doubt))?;
                }
                Err(
                    error @ (GitError::Rejected { .. }
                    | GitError::Auth { .. }
                    | GitError::RefNamespaceRefused),
                ) => {
                    // The server may refuse a second push because it has applied the first.
                    if let Ok(fetched) = self.fetch_tip().await
                        && let Some(commit) =
                            search(attempt, self.workspace, scan_base, &fetched).await?
                    {
                        return Ok(PushOutcome::Landed { commit, rewritten: false });
                    }
                    return Err(in_doubt(error.into(), doubt));
                }
                Err(error) => {
                    warn!(task = %attempt.task.id, error = chain(&error), "the answer to the push was lost or unclear; looking at the branch again");
                    doubt |= error.is_in_doubt();
                    match self.fetch_tip().await {
                        Ok(fetched) => tip = fetched,
                        Err(interrupt) => return Err(in_doubt(interrupt, doubt)),
                    }
                    last = Some(Failure::new(FailureClass::Infra, chain(&error)));
                }
            }
        }
        // The push of the last round may have been applied.
        let found = search(attempt, self.workspace, scan_base, &tip).await;
        if let Some(commit) = found.map_err(|interrupt| in_doubt(interrupt, doubt))? {
            return Ok(PushOutcome::Landed { commit, rewritten: false });
        }
        let moving = || format!("the branch moved {MAX_ROUNDS} times during the push");
        let failure = last.unwrap_or_else(|| Failure::new(FailureClass::Infra, moving()));
        Err(in_doubt(Interrupt::Failed(failure), doubt))
    }

    /// Rebases onto `tip` and verifies again. Returns false when the branch already has the
    /// same change.
    pub(super) async fn rebase_onto(&mut self, tip: &Tip) -> Result<bool, Interrupt> {
        let Tip::Commit(onto) = tip else {
            if matches!(self.base, Tip::Commit(_)) {
                return Err(Interrupt::rewritten("the branch was deleted"));
            }
            self.base = Tip::Absent;
            return Ok(true);
        };
        let attempt = self.attempt;
        let (dirs, commit, onto) = (self.workspace.workdir(), self.commit.clone(), onto.clone());
        let (author, at) = (attempt.author(), now());
        let rebased = blocking(move || git::rebase(&dirs, &commit, &onto, &author, at)).await?;
        match rebased {
            Rebased::Clean(commit) => self.commit = commit,
            Rebased::Empty => return Ok(false),
            Rebased::Conflict(paths) => {
                let message = format!(
                    "the work does not apply to the branch's new tip: {}",
                    paths.join(", ")
                );
                return Err(Interrupt::failed(FailureClass::Conflict, message));
            }
        }
        self.base = tip.clone();
        if self.spec.verify.is_empty() {
            return Ok(true);
        }
        let (dirs, commit) = (self.workspace.workdir(), self.commit.clone());
        blocking(move || git::reset(&dirs, &commit)).await?;
        // The attempt's deadline is for the agent. The work is done, so a new deadline starts here.
        let deadline = Instant::now() + attempt.task.work.timeout();
        let runs = verify::run(attempt, self.workspace, &self.spec.verify, deadline).await?;
        if verify::passed(&runs) {
            return Ok(true);
        }
        let message = format!("after a rebase, {}", verify::complaint(&runs));
        Err(Interrupt::failed(FailureClass::Conflict, message))
    }

    /// Pushes the commit to its wip ref. Returns the tip of the branch.
    pub(super) async fn push_wip(&self) -> Result<Tip, Interrupt> {
        let own = OwnRef::Wip(self.wip.task, self.wip.fence);
        let stop = self.attempt.lease.stop.token();
        push_own(self.attempt, self.target, self.workspace, own, &self.commit, stop).await
    }

    async fn push_branch(&self) -> Result<(), GitError> {
        let (dirs, remote, commit) =
            (self.workspace.workdir(), self.target.remote.clone(), self.commit.clone());
        let (branch, expect) = (self.target.branch.clone(), Expect::Exactly(self.base.clone()));
        let stop = self.attempt.lease.stop.token().clone();
        blocking(move || {
            let push = Push {
                dirs: &dirs,
                remote: &remote,
                commit: &commit,
                target: &branch.full_name(),
                expect: &expect,
                watch: &branch,
            };
            git::push(&push, &stop)
        })
        .await
        .map(|_| ())
    }

    pub(super) async fn fetch_tip(&self) -> Result<Tip, Interrupt> {
        let (dirs, remote) = (self.workspace.workdir(), self.target.remote.clone());
        let (branch, stop) = (self.target.branch.clone(), self.attempt.lease.stop.token().clone());
        Ok(blocking(move || git::fetch_tip(&dirs, &remote, &branch, &stop)).await?)
    }

    /// After an acknowledged push: reads the branch from the remote and checks that it has
    /// the commit.
    async fn read_back(&self) -> Result<PushOutcome, Interrupt> {
        let (remote, branch) = (self.target.remote.clone(), self.target.branch.clone());
        let stop = self.attempt.lease.stop.token().clone();
        let mut tries = 0;
        let found = loop {
            let (remote, stop) = (remote.clone(), stop.clone());
            match blocking(move || git::remote_refs(&remote, &stop)).await {
                Ok(refs) => break refs.into_iter().find(|(name, _)| *name == branch.full_name()),
                Err(error) if error.is_transient() && tries < 3 => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(GitError::Cancelled) => return Err(Interrupt::Stopped),
                Err(error) => {
                    let failure = Failure::new(
                        FailureClass::Infra,
                        format!("the push could not be read back: {}", chain(&error)),
                    );
                    return Err(Interrupt::Failed(Failure { push_in_doubt: true, ..failure }));
                }
            }
        };
        let commit = self.commit.clone();
        let is_there = match found {
            None => false,
            Some((_, tip)) if tip == commit => true,
            Some(_) => {
                match self.fetch_tip().await.map_err(|interrupt| in_doubt(interrupt, true))? {
                    Tip::Absent => false,
                    Tip::Commit(tip) => {
                        let (dirs, ours) = (self.workspace.workdir(), commit.clone());
                        blocking(move || git::contains(&dirs, &ours, &tip)).await?
                    }
                }
            }
        };
        Ok(PushOutcome::Landed { commit, rewritten: !is_there })
    }
}

/// Searches for a commit of this lineage between the scan base and the tip.
pub(super) async fn search(
    attempt: &Attempt,
    workspace: &Workspace,
    scan_base: &Tip,
    tip: &Tip,
) -> Result<Option<CommitId>, Interrupt> {
    let Tip::Commit(tip) = tip else {
        return match scan_base {
            Tip::Absent => Ok(None),
            Tip::Commit(_) => Err(Interrupt::rewritten("the branch was deleted")),
        };
    };
    let (dirs, lineage) = (workspace.workdir(), attempt.task.lineage);
    let (base, tip) = (scan_base.clone(), tip.clone());
    match blocking(move || git::find_lineage(&dirs, lineage, &base, &tip)).await? {
        Scan::Found(commit) => Ok(Some(commit)),
        Scan::NotFound => Ok(None),
        Scan::NotAncestor => Err(Interrupt::rewritten(
            "the branch no longer contains the commit that the work was based on",
        )),
    }
}

/// Records in a failure that an earlier push may still be applied.
fn in_doubt(interrupt: Interrupt, doubt: bool) -> Interrupt {
    match interrupt {
        Interrupt::Failed(failure) => {
            let push_in_doubt = failure.push_in_doubt || doubt;
            Interrupt::Failed(Failure { push_in_doubt, ..failure })
        }
        Interrupt::Stopped => Interrupt::Stopped,
    }
}
