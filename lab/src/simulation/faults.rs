//! What goes wrong in a simulation, and how often it did.

use std::collections::BTreeMap;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A call of the store was not made.
    StoreError,
    /// A call of the store was made and not answered.
    StoreAnswerLost,
    /// A report to the store was given up and is made later all the same.
    StoreLate,
    /// Store and queue do not answer for up to ten minutes.
    StoreAway,
    /// A call of the queue was not made.
    QueueError,
    /// A call of the queue was made and not answered.
    QueueAnswerLost,
    WakeUpLost,
    WakeUpDoubled,
    WakeUpLate,
    /// A message was received and nobody saw it.
    WakeUpUnseen,
    /// A deletion was acknowledged and did not happen.
    WakeUpUndeleted,
    /// A message that cannot be read, or of an unknown version.
    Garbage,
    /// A request to the git server was not answered; nothing was changed.
    GitError,
    /// A push was applied and not answered.
    PushAnswerLost,
    /// A push was given up and is applied up to half an hour later.
    PushLate,
    /// A list of refs shows some as they were before a push and some as they were after it.
    TornList,
    /// The git server does not answer for up to an hour.
    ServerAway,
    /// The server refuses to move a branch.
    BranchProtected,
    /// A runner's process is killed between any two of its steps.
    Crash,
    /// A runner's process is stopped for a while between any two of its steps.
    Pause,
    /// … right before it pushes the branch.
    PauseBeforePush,
    /// A runner gets SIGTERM.
    Terminated,
    /// A runner is drained through the API, and takes work again later.
    Drained,
    /// A clock is wrong by up to five minutes.
    Skew,
    AgentFailed,
    AgentQuota,
    AgentHangs,
    VerifyFails,
    /// A person commits to the branch.
    Commit,
    /// … removes its last commit.
    Rewind,
    /// … deletes it.
    BranchDeleted,
    /// … deletes a ref of rdev's own.
    TicketDeleted,
    /// … makes a ref under a name of rdev's own.
    TicketForged,
    /// … brings a ticket's commit to the branch by hand.
    TicketMerged,
    /// … merges a ticket's work with a message of their own.
    TicketSquashed,
    /// … merges a pull request's branch and deletes it.
    PullRequestMerged,
    /// A user cancels a task.
    Cancel,
    /// A user retries a task that failed or was cancelled.
    Retry,
    /// Two users do it at once.
    RetryTwice,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 39] = [
        Self::StoreError,
        Self::StoreAnswerLost,
        Self::StoreLate,
        Self::StoreAway,
        Self::QueueError,
        Self::QueueAnswerLost,
        Self::WakeUpLost,
        Self::WakeUpDoubled,
        Self::WakeUpLate,
        Self::WakeUpUnseen,
        Self::WakeUpUndeleted,
        Self::Garbage,
        Self::GitError,
        Self::PushAnswerLost,
        Self::PushLate,
        Self::TornList,
        Self::ServerAway,
        Self::BranchProtected,
        Self::Crash,
        Self::Pause,
        Self::PauseBeforePush,
        Self::Terminated,
        Self::Drained,
        Self::Skew,
        Self::AgentFailed,
        Self::AgentQuota,
        Self::AgentHangs,
        Self::VerifyFails,
        Self::Commit,
        Self::Rewind,
        Self::BranchDeleted,
        Self::TicketDeleted,
        Self::TicketForged,
        Self::TicketMerged,
        Self::TicketSquashed,
        Self::PullRequestMerged,
        Self::Cancel,
        Self::Retry,
        Self::RetryTwice,
    ];
}

/// How often each thing went wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<Fault, u64>);

impl Counts {
    /// Counts one.
    pub(super) fn add(&mut self, fault: Fault) {
        *self.0.entry(fault).or_default() += 1;
    }

    /// Adds those of another simulation.
    pub fn merge(&mut self, other: &Self) {
        for (fault, count) in &other.0 {
            *self.0.entry(*fault).or_default() += count;
        }
    }

    /// How often this went wrong.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or_default()
    }
}
