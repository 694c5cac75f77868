//! Verifying work, and pushing its ticket meanwhile: a build with verify commands waits for one
//! push and not for two. Until the commands have passed the store's record of the ticket says that
//! it is unverified, so that whoever finds it verifies it first.

use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::git::{CommitId, OwnRef, RecordedRef};
use rdev_domain::result::CommandRun;
use rdev_domain::spec::BuildSpec;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::push::{PushContext, Verification};
use super::refs::{OwnPush, push_own};
use super::target::BuildTarget;
use super::ticket::Held;
use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::git::{self, Expect, GitError};
use crate::machine::ServerLack;
use crate::verify;

/// The time limit for putting work aside that did not pass.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// For how long the push of the branch goes by the list of refs that the push of the ticket was
/// given. Asking costs less than a push that is refused because the branch has moved.
const RECENT: Duration = Duration::from_secs(10);

/// Whether the ticket of a build's work is written beside verify.
pub(super) fn is_beside_verify(attempt: &Attempt, spec: &BuildSpec, target: &BuildTarget) -> bool {
    let lands = spec.auto_commit && spec.auto_push && !spec.verify.is_empty();
    // Where tickets are branches CI would run what nobody has verified.
    lands && !attempt.machine().knows(ServerLack::OtherRefs, &target.remote.url)
}

impl PushContext<'_> {
    /// Runs the verify commands in the checkout, which has the commit's files, and writes the
    /// ticket of the commit meanwhile.
    pub(super) async fn verify(&mut self) -> Result<Vec<CommandRun>, Interrupt> {
        self.verification = Verification::Unknown;
        let (attempt, workspace, commands) = (self.attempt, self.workspace, &self.spec.verify);
        let verifying = verify::run(attempt, workspace, commands, attempt.deadline);
        let verifying = attempt.phase("verify", verifying);
        let begun = Instant::now();
        let (runs, tip) = tokio::join!(verifying, self.write_first_ticket());
        let runs = runs?;
        self.tip = Some(tip?);
        if begun.elapsed() > RECENT {
            self.known = None;
        }
        if verify::passed(&runs) {
            self.verification = Verification::Passed;
            let own = self.own_ticket();
            let is_it =
                |recorded: &RecordedRef| recorded.own == own && recorded.commit == self.commit;
            if let Held::Mine(ticket) = &mut self.held {
                ticket.unverified = false;
            }
            // The store learns it when the push is prepared.
            let mut refs = attempt.lease.own_refs.lock().await;
            refs.iter_mut().filter(|one| is_it(one)).for_each(|one| one.unverified = false);
        } else {
            self.verification = Verification::Failed;
            // Nobody continues from it, however this attempt ends.
            attempt.lease.own_refs.lock().await.retain(|one| one.commit != self.commit);
        }
        Ok(runs)
    }

    /// Verifies work of an earlier attempt. Work that does not pass is put aside, and the checkout
    /// is as it was: at `start`.
    pub(super) async fn verify_earlier(
        &mut self,
        start: Option<&CommitId>,
    ) -> Result<bool, Interrupt> {
        let (attempt, dirs) = (self.attempt, self.workspace.workdir());
        attempt.note("nothing tells that it passed verification; verifying it");
        attempt.machine().reset(&dirs, Some(&self.commit)).await?;
        let runs = self.verify().await?;
        if verify::passed(&runs) {
            return Ok(true);
        }
        attempt.note("it does not pass; the agent begins anew");
        self.put_aside().await?;
        attempt.machine().reset(&dirs, start).await?;
        Ok(false)
    }

    /// Another commit instead of one that did not pass. The ticket moves with it.
    pub(super) fn replace(self, commit: CommitId) -> Self {
        Self { commit, tip: None, ..self }
    }

    /// Tells the store that work which did not pass is none to continue from, and moves its ticket
    /// to its part ref, where people find it. What cannot be moved stays, as nobody's.
    pub(super) async fn put_aside(&mut self) -> Result<(), Interrupt> {
        let attempt = self.attempt;
        let Held::Mine(ticket) = std::mem::replace(&mut self.held, Held::Nothing) else {
            return Ok(());
        };
        let OwnRef::Wip(task, fence) = ticket.own else { return Ok(()) };
        let refs = attempt.lease.own_refs.lock().await.clone();
        attempt.record_refs(refs).await?;
        let part = OwnRef::Part(task, fence);
        // The attempt's own token may be cancelled already.
        let stop = CancellationToken::new();
        let moving = self.move_to(part, &ticket, &stop);
        match tokio::time::timeout(TIME_LIMIT, moving).await {
            Ok(Ok(())) => {
                attempt.note(format!("what did not pass is at refs/{}", part.path()));
            }
            Ok(Err(error)) => {
                warn!(task = %attempt.task.id, error = chain(&error), "work that did not pass was not put aside");
            }
            Err(_) => {
                stop.cancel();
                warn!(task = %attempt.task.id, "work that did not pass was not put aside in time");
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
            commit: &ticket.commit,
            expect: Expect::Any,
            delete: at_once.then_some((ticket.own, &ticket.commit)),
        };
        push_own(attempt, self.target, self.workspace, &push, stop).await?;
        if !at_once {
            attempt.machine().delete_refs(remote, &git::own_names(ticket.own), stop).await?;
        }
        info!(task = %attempt.task.id, to = part.path(), "put work aside that did not pass");
        Ok(())
    }
}
