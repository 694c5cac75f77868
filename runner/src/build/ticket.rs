//! The ticket of a build: the ref that holds its finished commit, and the right to push it.
//!
//! Whatever moves the branch deletes the ticket in the same atomic push, from exactly its value. So
//! as long as the ticket is there nothing of it has landed, and once it is revoked nothing of it
//! can land any more, however late an old push arrives.

use rdev_domain::failure::FailureClass;
use rdev_domain::git::{CommitId, OwnRef, RecordedRef, Tip};
use tracing::{info, warn};

use super::push::{PushContext, Verification};
use super::refs::{AsBranch, OwnPush, push_own, record};
use super::target::BuildTarget;
use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::workspace::Workspace;
use crate::git::{self, Expect, GitError, OwnTip, Pushed};
use crate::machine::ServerLack;

/// What the attempt has of a ticket.
#[derive(Debug, Clone)]
pub(super) enum Held {
    /// None yet.
    Nothing,
    /// Its own, with the commit that it is at.
    Mine(RecordedRef),
    /// One of an earlier attempt, which is to be taken over.
    Earlier(RecordedRef),
}

/// Where the attempt's ticket is, as a list of the server's refs tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// It is there: nothing has landed.
    There,
    /// An earlier claim has revoked it for this reason.
    Revoked(FailureClass),
    /// It is gone: it has landed, or somebody deleted it.
    Gone,
}

impl PushContext<'_> {
    /// The name of the attempt's own ticket.
    pub(super) fn own_ticket(&self) -> OwnRef {
        OwnRef::Wip(self.wip.task, self.wip.fence)
    }

    /// Records the ticket, then pushes it: makes it, takes an earlier one over, or moves it to the
    /// rebased commit. Returns the tip of the branch. `Err(Moved)` or `Err(Gone)`: somebody else
    /// has moved or deleted the ticket. `Err(RefNamespaceRefused)`: it would have to be a branch, and
    /// must not be one yet.
    pub(super) async fn write_ticket(&mut self) -> Result<Result<Tip, GitError>, Interrupt> {
        self.known = None;
        let own = self.own_ticket();
        let before = match &self.held {
            Held::Nothing => None,
            Held::Mine(recorded) | Held::Earlier(recorded) => Some(recorded),
        };
        let entry = RecordedRef {
            // What an old push may take to the branch stays so under another name and value.
            may_land: self.atomic && self.attempt.is_prepared()
                || before.is_some_and(|before| before.may_land),
            unverified: self.verification != Verification::Passed,
            adopted_by: self.adopted_by,
            ..RecordedRef::of(own, self.commit.clone())
        };
        record(self.attempt, entry.clone()).await?;
        let expect = match &self.held {
            Held::Mine(at) => Tip::Commit(at.commit.clone()),
            Held::Nothing | Held::Earlier(_) => Tip::Absent,
        };
        let mut earlier = match &self.held {
            Held::Earlier(earlier) => Some(earlier.clone()),
            Held::Nothing | Held::Mine(_) => None,
        };
        if self.is_not_atomic() {
            earlier = None;
        }
        let pushed = match self.push_ticket(expect.clone(), earlier.as_ref()).await {
            Err(error @ (GitError::NotAtomic | GitError::Rejected { .. }))
                if earlier.is_some() && self.denies_deletions(&error).await? =>
            {
                earlier = None;
                self.push_ticket(expect, None).await
            }
            pushed => pushed,
        };
        let pushed = match pushed {
            Ok(pushed) => pushed,
            Err(
                error @ (GitError::Moved { .. }
                | GitError::Gone { .. }
                | GitError::RefNamespaceRefused),
            ) => return Ok(Err(error)),
            Err(error) => return Err(error.into()),
        };
        if !pushed.atomic {
            self.attempt.machine().learn(ServerLack::AtomicDeletion, &self.target.remote.url);
        }
        // A push of a prepared task without its ticket may be under way: it stays so.
        self.atomic = !self.is_not_atomic() && (self.atomic || !self.attempt.is_prepared());
        let mut refs = self.attempt.lease.own_refs.lock().await;
        refs.retain(|recorded| {
            *recorded == entry
                || recorded.own != own
                    && earlier.as_ref().is_none_or(|earlier| earlier.own != recorded.own)
                    && !(entry.may_land && self.atomic && recorded.may_land)
        });
        self.held = Held::Mine(entry);
        self.known = pushed.refs;
        Ok(Ok(pushed.tip))
    }

    /// Writes the ticket of work that is not prepared yet. Then the work is on the server, and no
    /// longer on this machine alone.
    pub(super) async fn write_first_ticket(&mut self) -> Result<Result<Tip, GitError>, Interrupt> {
        let written = self.write_ticket().await?;
        if written.is_ok() {
            self.workspace.clear_finished()?;
            self.attempt.machine().forget_unpushed(self.attempt.task.id);
        }
        Ok(written)
    }

    /// Pushes the commit to the attempt's ticket, and deletes an earlier one with it.
    async fn push_ticket(
        &self,
        mut expect: Tip,
        earlier: Option<&RecordedRef>,
    ) -> Result<Pushed, GitError> {
        let own = self.own_ticket();
        loop {
            let push = OwnPush {
                own,
                commit: &self.commit,
                expect: Expect::Exactly(expect.clone()),
                delete: earlier.map(|earlier| (earlier.own, &earlier.commit)),
                as_branch: match self.verification {
                    Verification::Passed => AsBranch::IfNeeded,
                    Verification::Unknown | Verification::Failed => AsBranch::Never,
                },
            };
            let stop = self.attempt.lease.stop.token();
            match push_own(self.attempt, self.target, self.workspace, &push, stop).await {
                // Nobody but this attempt may write this name. A value that no attempt has recorded
                // is a stranger's.
                Err(GitError::Moved { tip: Tip::Commit(at) })
                    if expect == Tip::Absent && !self.has_recorded(own, &at).await =>
                {
                    warn!(task = %self.attempt.task.id, %at, "somebody else has made a ref of this attempt's name; replacing it");
                    expect = Tip::Commit(at);
                }
                pushed => return pushed,
            }
        }
    }

    fn is_not_atomic(&self) -> bool {
        self.attempt.machine().knows(ServerLack::AtomicDeletion, &self.target.remote.url)
    }

    /// Whether the server lets no ref of rdev's own be deleted; then it is remembered. It has
    /// refused a push that deletes one: a hook gives the same reason for all refs of a push, so a
    /// ref that nobody needs is made and deleted to tell.
    pub(super) async fn denies_deletions(&self, error: &GitError) -> Result<bool, Interrupt> {
        if matches!(error, GitError::NotAtomic) {
            self.attempt.machine().learn(ServerLack::AtomicDeletion, &self.target.remote.url);
            return Ok(true);
        }
        let own = OwnRef::Part(self.wip.task, self.wip.fence);
        let as_branch = AsBranch::IfNeeded;
        let (commit, expect) = (&self.commit, Expect::Any);
        let probe = OwnPush { own, commit, expect, delete: None, as_branch };
        let stop = self.attempt.lease.stop.token();
        match push_own(self.attempt, self.target, self.workspace, &probe, stop).await {
            Ok(_) => {}
            Err(GitError::Cancelled) => return Err(Interrupt::Stopped),
            // Whatever it is that it refuses, it is not deletions alone.
            Err(_) => return Ok(false),
        }
        let (machine, names) = (self.attempt.machine(), git::own_names(own));
        match machine.delete_refs(&self.target.remote, &names, stop).await {
            Err(GitError::Rejected { reason }) => {
                info!(task = %self.attempt.task.id, reason, "the git server lets no ref be deleted");
                self.attempt.machine().learn(ServerLack::AtomicDeletion, &self.target.remote.url);
                Ok(true)
            }
            Err(GitError::Cancelled) => Err(Interrupt::Stopped),
            Ok(()) => {
                self.attempt.own_refs.gone(own);
                Ok(false)
            }
            Err(_) => Ok(false),
        }
    }

    async fn has_recorded(&self, own: OwnRef, commit: &CommitId) -> bool {
        let refs = self.attempt.lease.own_refs.lock().await;
        refs.iter().any(|recorded| recorded.own == own && recorded.commit == *commit)
    }

    /// Where the attempt's ticket is. A value that an unanswered push has given it is found too.
    pub(super) async fn whereabouts(&mut self, on_server: &[OwnTip]) -> Whereabouts {
        let refs = self.attempt.lease.own_refs.lock().await.clone();
        let present = |own: OwnRef| {
            let mut of_name = refs.iter().filter(move |recorded| recorded.own == own);
            of_name.find(|recorded| super::refs::is_present(recorded, on_server)).cloned()
        };
        if let Some(there) = present(self.own_ticket()) {
            self.held = Held::Mine(there);
            return Whereabouts::There;
        }
        let revoked = present(OwnRef::Revoked(self.wip.task, self.wip.fence));
        match revoked.and_then(|recorded| recorded.revoked_for) {
            Some(class) => Whereabouts::Revoked(class),
            None => Whereabouts::Gone,
        }
    }

    /// Revokes the attempt's own ticket. `Err(Gone)`: it is not there any more.
    pub(super) async fn revoke(
        &mut self,
        class: FailureClass,
    ) -> Result<Result<(), GitError>, Interrupt> {
        let Held::Mine(ticket) = self.held.clone() else { return Ok(Ok(())) };
        let revoked = revoke(self.attempt, self.target, self.workspace, &ticket, class).await?;
        if revoked.is_ok() {
            self.held = Held::Nothing;
        }
        Ok(revoked)
    }
}

/// Moves a ticket to its revoked ref, from exactly its value; the reason is recorded before. When
/// that is done no push of the ticket can land any more. `Err(Gone)`: it is not there any more.
pub(super) async fn revoke(
    attempt: &Attempt,
    target: &BuildTarget,
    workspace: &Workspace,
    ticket: &RecordedRef,
    class: FailureClass,
) -> Result<Result<(), GitError>, Interrupt> {
    let OwnRef::Wip(task, fence) = ticket.own else { return Ok(Ok(())) };
    let own = OwnRef::Revoked(task, fence);
    let entry = RecordedRef {
        revoked_for: Some(class),
        unverified: ticket.unverified,
        ..RecordedRef::of(own, ticket.commit.clone())
    };
    record(attempt, entry).await?;
    let push = OwnPush {
        own,
        commit: &ticket.commit,
        // A stranger may have made a ref of that name: it proves nothing.
        expect: Expect::Any,
        delete: Some((ticket.own, &ticket.commit)),
        as_branch: AsBranch::IfNeeded,
    };
    let stop = attempt.lease.stop.token();
    match push_own(attempt, target, workspace, &push, stop).await {
        Ok(_) => {
            info!(task = %attempt.task.id, of = %task, %fence, class = class.as_str(), "revoked a ticket");
            // Each ticket that may land was made of the one before: with this one all are dealt
            // with.
            attempt.lease.own_refs.lock().await.retain(|recorded| {
                recorded.own != ticket.own && !(ticket.may_land && recorded.may_land)
            });
            Ok(Ok(()))
        }
        Err(error) => Ok(Err(error)),
    }
}
