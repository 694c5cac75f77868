//! The protocol without one of its rules.

use super::Bounds;

/// The protocol, or one that lacks a rule of it: each of these must be caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Every rule.
    Protocol,
    /// The push that moves the branch leaves the ticket where it is.
    LandingLeavesTheTicket,
    /// A revocation deletes the ticket instead of moving it.
    RevocationDeletes,
    /// A claim that resumes a push makes a ticket of its own beside the one that is there.
    SecondTicket,
    /// A retry leaves the tickets of its chain alone and starts an agent.
    RetryTakesNothingOver,
    /// A retry inherits only what its predecessor itself has written.
    RetryInheritsOnePredecessor,
    /// Any failed task may be retried, any number of times.
    OldTasksRetried,
    /// The store does not compare fences.
    NoFence,
    /// A ref is adopted by its name; what the store has recorded does not matter.
    AdoptsWhatIsNotRecorded,
    /// A task that fails while it is pushing is not revoked first.
    FailsWithoutRevoking,
    /// A ticket that is gone counts as one that never was: the work is done again.
    GoneIsDoneAgain,
    /// Where tickets prove nothing, a task that is started over forgets that a push was not
    /// answered.
    StartingOverForgetsTheDoubt,
    /// What fails after the commit has landed counts as if nothing had been pushed.
    ForgetsThatItHasLanded,
    /// The ticket is written before the work was verified, and whoever adopts it does not verify
    /// it.
    DeliversUnverified,
    /// In a folder the ticket is deleted after the branch has moved. A lock tells, unless a person
    /// removes it.
    FolderDeletesTheTicketLast,
    /// The same without a lock.
    FolderHasNoLockThatTells,
}

impl Variant {
    /// The variants that must be caught.
    pub const BROKEN: [Self; 15] = [
        Self::LandingLeavesTheTicket,
        Self::RevocationDeletes,
        Self::SecondTicket,
        Self::RetryTakesNothingOver,
        Self::RetryInheritsOnePredecessor,
        Self::OldTasksRetried,
        Self::NoFence,
        Self::AdoptsWhatIsNotRecorded,
        Self::FailsWithoutRevoking,
        Self::GoneIsDoneAgain,
        Self::StartingOverForgetsTheDoubt,
        Self::ForgetsThatItHasLanded,
        Self::DeliversUnverified,
        Self::FolderDeletesTheTicketLast,
        Self::FolderHasNoLockThatTells,
    ];

    /// The bounds in which it must be caught.
    pub fn bounds(self) -> Bounds {
        match self {
            Self::FolderDeletesTheTicketLast => Bounds { people: 2, ..Bounds::FOLDER },
            Self::FolderHasNoLockThatTells => Bounds::FOLDER,
            Self::StartingOverForgetsTheDoubt => Bounds::BRANCH_ALONE,
            Self::DeliversUnverified => Bounds::VERIFIED,
            Self::ForgetsThatItHasLanded => Bounds::BRANCH_ALONE_REWRITTEN,
            _ => Bounds::CHAIN,
        }
    }
}
