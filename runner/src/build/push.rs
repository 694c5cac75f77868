//! Pushing a commit to its branch, at most once per lineage: search, follow, push, read back.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::{CommitId, OwnRef, Tip};
use rdev_domain::ports::CommitState;
use rdev_domain::spec::BuildSpec;
use rdev_domain::task::WipRef;
use tracing::warn;

use super::commit_status;
use super::refs::push_own;
use super::target::Site;
use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::workspace::Workspace;
use crate::git::{self, Expect, GitError, Rebased, Scan, blocking};
use crate::{chain, now, verify};

/// How often a moving branch is followed within one claim.
pub(super) const ROUNDS: u32 = 5;

/// How the push ended.
pub(super) enum Landing {
    /// This commit is in the branch's history; `rewritten` when it was, and
    /// somebody has removed it since.
    At { commit: CommitId, rewritten: bool },
    /// The branch has the same change already, from somebody else.
    Nothing,
}

/// A commit on its way: what it is based on, and where it is kept.
pub(super) struct Way<'a> {
    pub(super) attempt: &'a Attempt,
    pub(super) spec: &'a BuildSpec,
    pub(super) site: &'a Site,
    pub(super) workspace: &'a Workspace,
    pub(super) wip: WipRef,
    pub(super) commit: CommitId,
    pub(super) base: Tip,
}

impl Way<'_> {
    /// Shows on the forge how the build of this commit is.
    pub(super) async fn show(&self, state: CommitState, description: &str) {
        let repository = &self.site.remote.url;
        commit_status::show(self.attempt, repository, &self.commit, state, description).await;
    }

    /// A push that failed is shown at its commit, which is at its wip ref.
    pub(super) async fn told(
        &self,
        landed: Result<Landing, Interrupt>,
    ) -> Result<Landing, Interrupt> {
        if let Err(Interrupt::Failed(failure)) = &landed {
            let prepared = self.attempt.prepared.load(Ordering::Relaxed);
            if prepared {
                self.show(CommitState::Failure, failure.class.as_str()).await;
            }
        }
        landed
    }

    /// Search, follow, push, until the commit has landed. `tip` is where the
    /// branch was seen last; its objects are here.
    pub(super) async fn push_from(
        &mut self,
        scan_base: &Tip,
        mut tip: Tip,
    ) -> Result<Landing, Interrupt> {
        let attempt = self.attempt;
        let mut last: Option<Failure> = None;
        let mut doubt = false;
        for _ in 0..ROUNDS {
            attempt.held.right_to_push().await;
            if attempt.held.stop.why().is_some() {
                return Err(Interrupt::Stopped);
            }
            if let Some(commit) = search(attempt, self.workspace, scan_base, &tip).await? {
                return Ok(Landing::At { commit, rewritten: false });
            }
            if tip != self.base {
                if !self.follow(&tip).await? {
                    return Ok(Landing::Nothing);
                }
                self.keep_wip().await?;
            }
            // The search and a verification may have taken long.
            attempt.held.right_to_push().await;
            if attempt.held.stop.why().is_some() {
                return Err(Interrupt::Stopped);
            }
            match self.push_branch().await {
                Ok(()) => return self.read_back().await,
                Err(GitError::Cancelled) => return Err(Interrupt::Stopped),
                Err(GitError::Moved { .. }) => {
                    let seen = self.fetch_tip().await;
                    tip = seen.map_err(|interrupt| in_doubt(interrupt, doubt))?;
                }
                Err(
                    error @ (GitError::Rejected { .. }
                    | GitError::Auth { .. }
                    | GitError::RefNamespaceRefused),
                ) => {
                    // A refusal may answer a repeat of what had been applied.
                    if let Ok(seen) = self.fetch_tip().await
                        && let Some(commit) =
                            search(attempt, self.workspace, scan_base, &seen).await?
                    {
                        return Ok(Landing::At { commit, rewritten: false });
                    }
                    return Err(in_doubt(error.into(), doubt));
                }
                Err(error) => {
                    warn!(task = %attempt.task.id, error = chain(&error), "the push's answer is doubtful; looking again");
                    doubt |= error.is_in_doubt();
                    match self.fetch_tip().await {
                        Ok(seen) => tip = seen,
                        Err(interrupt) => return Err(in_doubt(interrupt, doubt)),
                    }
                    last = Some(Failure::new(FailureClass::Infra, chain(&error)));
                }
            }
        }
        // The last round may have brought it there.
        let found = search(attempt, self.workspace, scan_base, &tip).await;
        if let Some(commit) = found.map_err(|interrupt| in_doubt(interrupt, doubt))? {
            return Ok(Landing::At { commit, rewritten: false });
        }
        let moving = || format!("the branch moved {ROUNDS} times during the push");
        let failure = last.unwrap_or_else(|| Failure::new(FailureClass::Infra, moving()));
        Err(in_doubt(Interrupt::Failed(failure), doubt))
    }

    /// Rebases onto `tip` and verifies again. False: the same change is there already.
    pub(super) async fn follow(&mut self, tip: &Tip) -> Result<bool, Interrupt> {
        let Tip::Commit(onto) = tip else {
            if matches!(self.base, Tip::Commit(_)) {
                return Err(Interrupt::rewritten("the branch was deleted"));
            }
            self.base = Tip::Absent;
            return Ok(true);
        };
        let attempt = self.attempt;
        let (dirs, commit, target) = (self.workspace.workdir(), self.commit.clone(), onto.clone());
        let (author, at) = (attempt.author(), now());
        let rebased = blocking(move || git::rebase(&dirs, &commit, &target, &author, at)).await?;
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
        // The attempt's own time is for the agent: the work is done, and not thrown away by a clock.
        let deadline = Instant::now() + attempt.task.work.timeout();
        let runs = verify::run(attempt, self.workspace, &self.spec.verify, deadline).await?;
        if verify::passed(&runs) {
            return Ok(true);
        }
        let message = format!("after a rebase, {}", verify::complaint(&runs));
        Err(Interrupt::failed(FailureClass::Conflict, message))
    }

    /// Puts the commit at its wip ref; where the branch is.
    pub(super) async fn keep_wip(&self) -> Result<Tip, Interrupt> {
        let own = OwnRef::Wip(self.wip.task, self.wip.fence);
        let stop = self.attempt.held.stop.token();
        push_own(self.attempt, self.site, self.workspace, own, &self.commit, stop).await
    }

    async fn push_branch(&self) -> Result<(), GitError> {
        let (dirs, remote, commit) =
            (self.workspace.workdir(), self.site.remote.clone(), self.commit.clone());
        let (target, expect) = (self.site.target.clone(), Expect::Exactly(self.base.clone()));
        let stop = self.attempt.held.stop.token().clone();
        blocking(move || {
            git::push(&dirs, &remote, &commit, &target.full_name(), &expect, &target, &stop)
        })
        .await
        .map(|_| ())
    }

    pub(super) async fn fetch_tip(&self) -> Result<Tip, Interrupt> {
        let (dirs, remote) = (self.workspace.workdir(), self.site.remote.clone());
        let (target, stop) = (self.site.target.clone(), self.attempt.held.stop.token().clone());
        Ok(blocking(move || git::fetch_tip(&dirs, &remote, &target, &stop)).await?)
    }

    /// After an acknowledged push: proves from the remote that the commit is there.
    async fn read_back(&self) -> Result<Landing, Interrupt> {
        let (remote, target) = (self.site.remote.clone(), self.site.target.clone());
        let stop = self.attempt.held.stop.token().clone();
        let mut tries = 0;
        let seen = loop {
            let (remote, stop) = (remote.clone(), stop.clone());
            match blocking(move || git::remote_refs(&remote, &stop)).await {
                Ok(refs) => break refs.into_iter().find(|(name, _)| *name == target.full_name()),
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
        let there = match seen {
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
        Ok(Landing::At { commit, rewritten: !there })
    }
}

/// A commit of this lineage between the scan base and the tip.
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
            "the branch does not hold the commit that the work was based on any more",
        )),
    }
}

/// Notes that an earlier push may still land.
fn in_doubt(interrupt: Interrupt, doubt: bool) -> Interrupt {
    match interrupt {
        Interrupt::Failed(failure) => {
            let push_in_doubt = failure.push_in_doubt || doubt;
            Interrupt::Failed(Failure { push_in_doubt, ..failure })
        }
        Interrupt::Stopped => Interrupt::Stopped,
    }
}
