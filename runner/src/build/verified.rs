//! Verifying work, and pushing its ticket meanwhile: a build with verify commands waits for one
//! push and not for two. Until the commands have passed the store's record of the ticket says that
//! it is unverified, so that whoever finds it verifies it first.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::failure::FailureClass;
use rdev_domain::git::{CommitId, OwnRef, RecordedRef, Tip};
use rdev_domain::result::CommandRun;
use rdev_domain::spec::BuildSpec;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::push::{PushContext, Verification};
use super::refs::{AsBranch, OwnPush, push_own, within};
use super::ticket::Held;
use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::stop::StopReason;
use crate::git::{self, Expect, GitError, Ignored};
use crate::machine::ServerLack;
use crate::verify;

/// The time limit for putting work aside that did not pass.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Whether the work of a build has to pass verify commands before it lands.
pub(super) fn lands_verified(spec: &BuildSpec) -> bool {
    spec.auto_commit && spec.auto_push && !spec.verify.is_empty()
}

impl PushContext<'_> {
    /// Runs the verify commands in the checkout, which has the commit's files, and writes the
    /// ticket of the commit meanwhile.
    pub(super) async fn verify(&mut self) -> Result<Vec<CommandRun>, Interrupt> {
        self.verification = Verification::Unknown;
        let attempt = self.attempt;
        let running = verify::run(attempt, self.workspace, &self.spec.verify, attempt.deadline);
        let running = attempt.phase("verify", running);
        let running = async {
            let runs = running.await;
            if runs.as_ref().is_ok_and(|runs| verify::passed(runs)) {
                // From here on the deadline stops nothing, whatever the push waits for.
                attempt.committed.store(true, Ordering::Relaxed);
            }
            runs
        };
        let (runs, written) = tokio::join!(running, self.write_unverified());
        let runs = runs?;
        if verify::passed(&runs) {
            self.passes().await;
            if written.is_err() {
                self.tell_that_it_passed().await?;
            }
            written?;
            return Ok(runs);
        }
        self.fails().await?;
        match written {
            Err(Interrupt::Stopped) => return Err(Interrupt::Stopped),
            // It may still arrive; nobody takes it for work of the task.
            Err(error) => {
                warn!(task = %attempt.task.id, ?error, "the ticket of work that did not pass was not written");
            }
            Ok(()) => {}
        }
        Ok(runs)
    }

    async fn write_unverified(&mut self) -> Result<(), Interrupt> {
        if self.attempt.machine().knows(ServerLack::OtherRefs, &self.target.remote.url) {
            return Ok(());
        }
        match self.write_first_ticket().await? {
            Ok(tip) => self.told = Some(tip),
            // It is written when it has passed.
            Err(GitError::RefNamespaceRefused) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn passes(&mut self) {
        self.verification = Verification::Passed;
        if let Held::Mine(ticket) = &mut self.held {
            ticket.unverified = false;
        }
        // The store learns it when the push is prepared.
        let mut refs = self.attempt.lease.own_refs.lock().await;
        let of_commit = refs.iter_mut().filter(|one| one.commit == self.commit);
        of_commit.for_each(|one| one.unverified = false);
    }

    /// Nobody continues from it, however this attempt ends.
    async fn fails(&mut self) -> Result<(), Interrupt> {
        self.verification = Verification::Failed;
        self.attempt.lease.own_refs.lock().await.retain(|one| one.commit != self.commit);
        Ok(self.workspace.clear_finished()?)
    }

    /// Tells the store that the work has passed, before an attempt ends that could not prepare its
    /// push: it is not verified again.
    pub(super) async fn tell_that_it_passed(&self) -> Result<(), Interrupt> {
        if !lands_verified(self.spec) {
            return Ok(());
        }
        let refs = self.attempt.lease.own_refs.lock().await.clone();
        self.attempt.record_refs(refs).await
    }

    /// The tip of the branch since the ticket was written. Where it cannot be read, the push finds
    /// out.
    pub(super) async fn tip_since(&mut self, told: Tip) -> Result<Tip, Interrupt> {
        let tip = match self.look().await {
            Ok(seen) => seen.tip,
            Err(Interrupt::Stopped) => return Err(Interrupt::Stopped),
            Err(_) => told.clone(),
        };
        if tip != told {
            self.known = None;
        }
        Ok(tip)
    }

    /// Verifies work of an earlier attempt. Work that does not pass, in time, is put aside, and the
    /// checkout is as it was: at `start`.
    pub(super) async fn verify_earlier(
        &mut self,
        start: Option<&CommitId>,
    ) -> Result<bool, Interrupt> {
        let (attempt, dirs) = (self.attempt, self.workspace.workdir());
        attempt.note("nothing tells that it passed verification; verifying it");
        attempt.machine().reset(&dirs, Some(&self.commit), Ignored::Stay).await?;
        match self.verify().await {
            Ok(runs) if verify::passed(&runs) => {
                self.verified = Some(verify::told(&runs));
                return Ok(true);
            }
            Ok(_) => {}
            Err(interrupt) => {
                // It had all of the time: a retry must not wait for it again.
                if is_timeout(attempt, &interrupt) {
                    self.fails().await?;
                    self.put_aside().await?;
                }
                return Err(interrupt);
            }
        }
        attempt.note("it does not pass; the agent begins anew");
        self.put_aside().await?;
        attempt.machine().reset(&dirs, start, Ignored::Go).await?;
        Ok(false)
    }

    /// Another commit instead of one that did not pass. The ticket moves with it.
    pub(super) fn replace(self, commit: CommitId) -> Self {
        Self { commit, told: None, ..self }
    }

    /// Tells the store that work which did not pass is none to continue from, and moves its ticket
    /// to its part ref, where people find it. What cannot be moved stays, as nobody's.
    pub(super) async fn put_aside(&mut self) -> Result<(), Interrupt> {
        let attempt = self.attempt;
        let refs = attempt.lease.own_refs.lock().await.clone();
        let recorded = attempt.record_refs(refs).await;
        let Held::Mine(ticket) = std::mem::replace(&mut self.held, Held::Nothing) else {
            return recorded;
        };
        let OwnRef::Wip(task, fence) = ticket.own else { return recorded };
        recorded?;
        let part = OwnRef::Part(task, fence);
        // The attempt's own token may be cancelled already.
        let stop = CancellationToken::new();
        match within(TIME_LIMIT, &stop, self.move_to(part, &ticket, &stop)).await {
            Ok(()) => attempt.note(format!("what did not pass is at refs/{}", part.path())),
            Err(error) => {
                warn!(task = %attempt.task.id, error = chain(&error), "work that did not pass was not put aside");
            }
        }
        Ok(())
    }

    async fn move_to(
        &self,
        part: OwnRef,
        ticket: &RecordedRef,
        stop: &CancellationToken,
    ) -> Result<(), GitError> {
        let (attempt, remote) = (self.attempt, &self.target.remote);
        let at_once = !attempt.machine().knows(ServerLack::AtomicDeletion, &remote.url);
        let push = OwnPush {
            own: part,
            commit: &self.commit,
            expect: Expect::Any,
            delete: at_once.then_some((ticket.own, &ticket.commit)),
            as_branch: AsBranch::Never,
        };
        push_own(attempt, self.target, self.workspace, &push, stop).await?;
        if !at_once {
            attempt.machine().delete_refs(remote, &git::own_names(ticket.own), stop).await?;
        }
        info!(task = %attempt.task.id, to = part.path(), "put work aside that did not pass");
        Ok(())
    }
}

/// Whether an attempt ends because its time is used up.
fn is_timeout(attempt: &Attempt, interrupt: &Interrupt) -> bool {
    match interrupt {
        Interrupt::Stopped => attempt.lease.stop.reason() == Some(StopReason::TimedOut),
        Interrupt::Failed(failure) | Interrupt::Revoked(failure) => {
            failure.class == FailureClass::Timeout
        }
    }
}
