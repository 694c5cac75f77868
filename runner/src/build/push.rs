//! Pushing a commit to its branch, at most once per lineage: look, follow, push, read back.
//!
//! Where the server can, the push that moves the branch deletes the ticket ([`super::ticket`]) with
//! it. Elsewhere the branch alone is pushed, from a tip whose history was searched for the lineage.

use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::{CommitId, RecordedRef, Tip};
use rdev_domain::ids::Fence;
use rdev_domain::result::{BuildResult, VerifyRun};
use rdev_domain::spec::BuildSpec;
use rdev_domain::step::{self, Event};
use rdev_domain::task::{Prepared, WipRef};
use tokio::time::Instant;
use tracing::warn;

use super::landed::{self, Landing, after_ticket_is_gone, search};
use super::refs::{based_on, begins_at};
use super::target::BuildTarget;
use super::ticket::{Held, Whereabouts};
use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::settle;
use crate::attempt::workspace::Workspace;
use crate::git::{Expect, Fetched, GitError, Ignored, KnownRefs, Push, Rebased, Seen, Until};
use crate::verify;

/// How many times one claim rebases onto a branch that keeps moving.
pub(super) const MAX_ROUNDS: u32 = 5;

/// The outcome of a push.
pub(super) enum PushOutcome {
    /// A commit of the lineage is on the branch, or was.
    Landed(Landing),
    /// The branch already has the same change, from somebody else.
    AlreadyThere,
}

/// What is known of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verification {
    /// It passed the verify commands, or there are none.
    Passed,
    /// They have not ended yet.
    Unknown,
    /// One of them has failed.
    Failed,
}

/// A commit that is to be pushed: its base, its ticket, and the build it belongs to.
pub(super) struct PushContext<'a> {
    pub(super) attempt: &'a Attempt,
    pub(super) spec: &'a BuildSpec,
    pub(super) target: &'a BuildTarget,
    pub(super) workspace: &'a Workspace,
    /// The name of this attempt's ticket.
    pub(super) wip: WipRef,
    /// What it has of it.
    pub(super) held: Held,
    /// Whether the push that moves the branch deletes the ticket.
    pub(super) atomic: bool,
    /// What the store knows of the push.
    pub(super) prepared: Option<(Prepared, BuildResult)>,
    /// Whether one of its pushes of the branch was not answered.
    pub(super) doubt: bool,
    /// The server's refs since the push of the ticket, for the push of the branch that follows it.
    pub(super) known: Option<KnownRefs>,
    /// The attempt's fence, if an earlier one has finished the work.
    pub(super) adopted_by: Option<Fence>,
    pub(super) commit: CommitId,
    pub(super) base: Tip,
    /// What verifying it again returned, after its last rebase.
    pub(super) verified: Option<Vec<VerifyRun>>,
    /// Of a pull request: where its branch begins, if it was not there when this claim began.
    pub(super) start: Option<CommitId>,
    /// What is known of the commit.
    pub(super) verification: Verification,
    /// Of a ticket that was written beside verify: the tip of the branch that its push was told.
    pub(super) told: Option<Tip>,
}

impl<'a> PushContext<'a> {
    /// A commit of which nothing is known or written yet.
    pub(super) fn new(
        attempt: &'a Attempt,
        spec: &'a BuildSpec,
        target: &'a BuildTarget,
        workspace: &'a Workspace,
        commit: CommitId,
    ) -> Self {
        Self {
            attempt,
            spec,
            target,
            workspace,
            wip: WipRef { task: attempt.task.id, fence: attempt.task.fence },
            held: Held::Nothing,
            atomic: false,
            prepared: None,
            doubt: false,
            known: None,
            adopted_by: None,
            commit,
            base: Tip::Absent,
            start: None,
            verification: Verification::Passed,
            told: None,
            verified: None,
        }
    }

    /// A commit of finished work, which is not prepared.
    pub(super) async fn of_work(
        attempt: &'a Attempt,
        spec: &'a BuildSpec,
        target: &'a BuildTarget,
        workspace: &'a Workspace,
        fetched: &Fetched,
        commit: CommitId,
    ) -> Result<Self, Interrupt> {
        let base = based_on(attempt, workspace, &commit, fetched).await?;
        let start = begins_at(attempt, spec, fetched);
        Ok(Self { base, start, ..Self::new(attempt, spec, target, workspace, commit) })
    }
}

impl PushContext<'_> {
    /// Ends a push: after a failure that takes the task out of `pushing` it revokes the ticket, so
    /// that nothing of it lands later.
    pub(super) async fn end(
        &mut self,
        scan_base: &Tip,
        outcome: Result<PushOutcome, Interrupt>,
    ) -> Result<PushOutcome, Interrupt> {
        match outcome {
            Err(Interrupt::Failed(failure)) => self.end_failed(scan_base, failure).await,
            other => other,
        }
    }

    async fn end_failed(
        &mut self,
        scan_base: &Tip,
        failure: Failure,
    ) -> Result<PushOutcome, Interrupt> {
        let attempt = self.attempt;
        let failure = Failure { push_in_doubt: failure.push_in_doubt || self.doubt, ..failure };
        let ends = step::ends_push(&attempt.task, failure.class, attempt.now());
        if !self.atomic || !attempt.is_prepared() || !ends {
            return Err(Interrupt::Failed(failure));
        }
        for _ in 0..MAX_ROUNDS {
            if !matches!(self.held, Held::Mine(_)) {
                break;
            }
            match self.revoke(failure.class).await? {
                Ok(()) => return Err(Interrupt::Revoked(failure)),
                Err(GitError::Gone { .. }) => {}
                Err(error) => {
                    warn!(task = %attempt.task.id, error = chain(&error), "the ticket could not be revoked");
                    break;
                }
            }
            // It has landed, or an unanswered push has moved it to another value.
            let Ok(seen) = self.look().await else {
                return Err(Interrupt::Failed(Failure { push_in_doubt: true, ..failure }));
            };
            match self.whereabouts(&seen.own).await {
                Whereabouts::There => {}
                Whereabouts::Revoked(_) => return Err(Interrupt::Revoked(failure)),
                Whereabouts::Gone => return self.gone(scan_base, &seen.tip).await,
            }
        }
        Err(Interrupt::Failed(failure))
    }

    /// Rebases and pushes until the commit is on the branch. `tip` is the last known tip of the
    /// branch; its objects are in the attempt's repository. The attempt has its ticket.
    pub(super) async fn push_from(
        &mut self,
        scan_base: &Tip,
        mut tip: Tip,
    ) -> Result<PushOutcome, Interrupt> {
        let attempt = self.attempt;
        let mut last: Option<Failure> = None;
        for _ in 0..MAX_ROUNDS {
            self.may_push().await?;
            if let Some(commit) = search(attempt, self.workspace, scan_base, &tip).await? {
                return self.brought_in_by_somebody(scan_base, commit).await;
            }
            let mut written = Ok(());
            if tip != self.base {
                if !self.rebase_onto(&tip).await? {
                    let landed = self.give_up_ticket(scan_base).await?;
                    return Ok(landed.unwrap_or(PushOutcome::AlreadyThere));
                }
                written = self.write_ticket().await?.map(|_| ());
            }
            // The search and a verification may have taken long.
            self.may_push().await?;
            if !self.atomic {
                self.tell_that_it_is_not_atomic().await?;
            }
            let pushed = match written {
                Ok(()) => self.push_branch().await,
                Err(error) => Err(error),
            };
            let error = match pushed {
                Ok(()) => return self.read_back().await,
                Err(GitError::Cancelled) => return Err(Interrupt::Stopped),
                Err(error @ (GitError::NotAtomic | GitError::Rejected { .. }))
                    if self.atomic && self.denies_deletions(&error).await? =>
                {
                    self.atomic = false;
                    continue;
                }
                Err(error) => error,
            };
            if !matches!(error, GitError::Moved { .. } | GitError::Gone { .. }) {
                warn!(task = %attempt.task.id, error = chain(&error), "the push did not succeed; looking at the branch again");
            }
            self.doubt |= error.is_in_doubt();
            let seen = self.look().await?;
            if self.atomic {
                match self.whereabouts(&seen.own).await {
                    Whereabouts::There => {}
                    Whereabouts::Revoked(class) => {
                        return self
                            .revoked(scan_base, &seen.tip, class)
                            .await
                            .map(PushOutcome::Landed);
                    }
                    Whereabouts::Gone => return self.gone(scan_base, &seen.tip).await,
                }
            }
            if is_definite(&error) {
                // The server may refuse a second push because it has applied the first.
                if !self.atomic
                    && let Some(commit) =
                        search(attempt, self.workspace, scan_base, &seen.tip).await?
                {
                    return Ok(PushOutcome::Landed(Landing { commit, rewritten: false }));
                }
                return Err(error.into());
            }
            if !matches!(error, GitError::Moved { .. }) {
                last = Some(Failure::new(FailureClass::Infra, chain(&error)));
            }
            tip = seen.tip;
        }
        // The push of the last round may have been applied.
        if let Some(commit) = search(attempt, self.workspace, scan_base, &tip).await? {
            return self.brought_in_by_somebody(scan_base, commit).await;
        }
        let moving = || format!("the branch moved {MAX_ROUNDS} times during the push");
        let failure = last.unwrap_or_else(|| Failure::new(FailureClass::Infra, moving()));
        Err(Interrupt::Failed(failure))
    }

    /// Tells the store that the ticket proves nothing, before the branch is pushed without it.
    async fn tell_that_it_is_not_atomic(&mut self) -> Result<(), Interrupt> {
        let attempt = self.attempt;
        let Some((prepared, result)) = self.prepared.take_if(|(prepared, _)| prepared.atomic)
        else {
            return Ok(());
        };
        let prepared = Prepared { atomic: false, ..prepared };
        let event = Event::Prepare {
            holder: attempt.lease.holder.clone(),
            prepared: prepared.clone(),
            result: result.clone(),
            usage: *attempt.lease.usage.borrow(),
        };
        let advanced = settle::advance(attempt, event, None).await?;
        attempt.lease.own_refs.lock().await.clone_from(&advanced.task.own_refs);
        self.prepared = Some((prepared, result));
        Ok(())
    }

    /// The ticket lies where an earlier claim has revoked it. When a person has brought the work in
    /// that is what has become of it; else the task ends as that claim has recorded.
    pub(super) async fn revoked(
        &self,
        scan_base: &Tip,
        tip: &Tip,
        class: FailureClass,
    ) -> Result<Landing, Interrupt> {
        let found = search(self.attempt, self.workspace, scan_base, tip).await;
        if let Ok(Some(commit)) = found {
            return Ok(Landing { commit, rewritten: false });
        }
        let message = "an earlier claim of the task revoked its push and could not report it";
        Err(Interrupt::Revoked(Failure::new(class, message)))
    }

    /// Waits until the attempt may push.
    async fn may_push(&self) -> Result<(), Interrupt> {
        let attempt = self.attempt;
        attempt.lease.right_to_push(|| attempt.now()).await;
        match attempt.lease.stop.reason() {
            Some(_) => Err(Interrupt::Stopped),
            None => Ok(()),
        }
    }

    /// The lineage's commit is on the branch while its ticket is there: a person has brought it in.
    /// The ticket is revoked first, so that no late push brings it a second time.
    pub(super) async fn brought_in_by_somebody(
        &mut self,
        scan_base: &Tip,
        commit: CommitId,
    ) -> Result<PushOutcome, Interrupt> {
        let landed = self.give_up_ticket(scan_base).await?;
        Ok(landed.unwrap_or(PushOutcome::Landed(Landing { commit, rewritten: false })))
    }

    /// Revokes the ticket because there is nothing left to push. When it is gone, what has become
    /// of it.
    async fn give_up_ticket(&mut self, scan_base: &Tip) -> Result<Option<PushOutcome>, Interrupt> {
        if !self.atomic {
            return Ok(None);
        }
        match self.revoke(FailureClass::Conflict).await? {
            Ok(()) => Ok(None),
            Err(GitError::Gone { .. }) => {
                let seen = self.look().await?;
                self.gone(scan_base, &seen.tip).await.map(Some)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The ticket is gone: the commit has landed, or a person deleted the ticket. It is never
    /// pushed again.
    pub(super) async fn gone(&self, scan_base: &Tip, tip: &Tip) -> Result<PushOutcome, Interrupt> {
        let (attempt, target, workspace) = (self.attempt, self.target, self.workspace);
        let landing = after_ticket_is_gone(attempt, target, workspace, scan_base, tip).await?;
        Ok(PushOutcome::Landed(landing))
    }

    /// Rebases onto `tip` and verifies again. Returns false when the branch already has the
    /// same change.
    ///
    /// A branch that was deleted is not made again, unless it is a pull request's: that one is
    /// rdev's own, and begins at its base. (Where the commit is based on something else, people
    /// have rewound the base, and what they took away must not come back with it.)
    pub(super) async fn rebase_onto(&mut self, tip: &Tip) -> Result<bool, Interrupt> {
        let start = self.start.clone();
        let onto = match (tip, &self.base, &start) {
            (Tip::Commit(onto), ..) => onto,
            (Tip::Absent, Tip::Absent, _) => return Ok(true),
            (Tip::Absent, Tip::Commit(_), Some(start)) => start,
            (Tip::Absent, Tip::Commit(_), None) => {
                return Err(Interrupt::rewritten("the branch was deleted"));
            }
        };
        let attempt = self.attempt;
        let (machine, dirs) = (attempt.machine(), self.workspace.workdir());
        match machine.rebase(&dirs, &self.commit, onto, &attempt.author()).await? {
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
        machine.reset(&dirs, Some(&self.commit), Ignored::Stay).await?;
        // The attempt's deadline is for the agent. The work is done, so a new deadline starts here.
        let deadline = Instant::now() + attempt.task.work.timeout();
        let runs = verify::run(attempt, self.workspace, &self.spec.verify, deadline).await?;
        if verify::passed(&runs) {
            self.verified = Some(verify::told(&runs));
            return Ok(true);
        }
        let message = format!("after a rebase, {}", verify::complaint(&runs));
        Err(Interrupt::failed(FailureClass::Conflict, message))
    }

    /// Pushes the branch, and deletes the ticket with it where the server can.
    async fn push_branch(&mut self) -> Result<(), GitError> {
        match &self.held {
            Held::Mine(ticket) if self.atomic => {
                let (ticket, known) = (ticket.clone(), self.known.take());
                self.push_refs(Some(&ticket), known.as_ref()).await?;
                self.attempt.own_refs.gone(ticket.own);
                Ok(())
            }
            _ => self.push_refs(None, None).await,
        }
    }

    async fn push_refs(
        &self,
        ticket: Option<&RecordedRef>,
        known: Option<&KnownRefs>,
    ) -> Result<(), GitError> {
        let push = Push {
            dirs: &self.workspace.workdir(),
            remote: &self.target.remote,
            commit: &self.commit,
            target: &self.target.branch.full_name(),
            expect: &Expect::Forward(self.base.clone()),
            delete: ticket.map(|ticket| (ticket.own, &ticket.commit)),
            watch: &self.target.branch,
            known,
            // The pull request is opened next.
            until: if self.spec.opens_pull_request() { Until::Ended } else { Until::Updated },
        };
        let (machine, stop) = (self.attempt.machine(), self.attempt.lease.stop.token());
        machine.push(&push, stop).await.map(|_| ())
    }

    /// Looks at the branch and at rdev's own refs.
    pub(super) async fn look(&self) -> Result<Seen, Interrupt> {
        let (target, workspace) = (self.target, self.workspace);
        Ok(landed::look(self.attempt, target, workspace, &target.branch).await?)
    }

    /// After an acknowledged push: reads the branch from the remote and checks that it has
    /// the commit.
    async fn read_back(&mut self) -> Result<PushOutcome, Interrupt> {
        let mut tries = 0;
        let tip = loop {
            let (target, workspace) = (self.target, self.workspace);
            match landed::look(self.attempt, target, workspace, &target.branch).await {
                Ok(seen) => break seen.tip,
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
        let is_there = match tip {
            Tip::Absent => false,
            Tip::Commit(tip) => {
                let dirs = self.workspace.workdir();
                let is_there = self.attempt.machine().contains(&dirs, &commit, &tip).await;
                is_there.inspect_err(|_| self.doubt = true)?
            }
        };
        Ok(PushOutcome::Landed(Landing { commit, rewritten: !is_there }))
    }
}

/// Whether the server will refuse the same push again.
fn is_definite(error: &GitError) -> bool {
    matches!(
        error,
        GitError::Rejected { .. } | GitError::Auth { .. } | GitError::RefNamespaceRefused
    )
}
