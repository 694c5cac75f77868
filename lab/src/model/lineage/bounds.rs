//! How much happens at most.

use super::remote::Server;

/// How much happens at most. A bound is a blind spot: what needs more is not seen.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// What the repository's server can do.
    pub server: Server,
    /// Processes that claim tasks.
    pub runners: usize,
    /// The tasks of the lineage: the first one and its retries.
    pub tasks: usize,
    /// Leases that are recovered.
    pub recoveries: u8,
    /// Answers of the git server that get lost.
    pub lost: u8,
    /// What people do to the repository.
    pub people: u8,
    /// Whether people take commits off the branch.
    pub rewriting: bool,
    /// Pushes that the server refuses for good.
    pub refusals: u8,
    /// Runs of an agent.
    pub agents: u8,
    /// Processes that are killed while they move refs in a folder.
    pub kills: u8,
    /// Whether the work is verified, and its ticket written meanwhile.
    pub verifies: bool,
    /// Works that do not pass.
    pub failures: u8,
}

impl Bounds {
    /// Seconds: one retry.
    pub const TINY: Self = Self {
        server: Server::Atomic,
        runners: 2,
        tasks: 2,
        recoveries: 1,
        lost: 1,
        people: 1,
        rewriting: true,
        refusals: 1,
        agents: 2,
        kills: 0,
        verifies: false,
        failures: 0,
    };

    /// A chain of three tasks.
    pub const CHAIN: Self = Self { tasks: 3, ..Self::TINY };

    /// Work that is verified.
    pub const VERIFIED: Self = Self { verifies: true, failures: 1, agents: 3, ..Self::TINY };

    /// A repository in a folder.
    pub const FOLDER: Self =
        Self { server: Server::Folder, lost: 0, kills: 1, refusals: 0, ..Self::TINY };

    /// A server that moves one ref at a time, and people who take no commit off the branch: for
    /// those who do, nothing is promised there.
    pub const BRANCH_ALONE: Self =
        Self { server: Server::BranchAlone, rewriting: false, ..Self::TINY };

    /// The same, and people who do: a lineage may land twice, and nothing else is let go.
    pub const BRANCH_ALONE_REWRITTEN: Self = Self { rewriting: true, ..Self::BRANCH_ALONE };

    /// Minutes in all.
    pub const FULL: [Self; 12] = [
        Self::CHAIN,
        Self { people: 2, ..Self::TINY },
        Self { runners: 3, recoveries: 2, ..Self::TINY },
        Self { lost: 2, ..Self::TINY },
        Self { people: 2, ..Self::FOLDER },
        Self { kills: 2, recoveries: 2, ..Self::FOLDER },
        Self { people: 2, ..Self::BRANCH_ALONE },
        Self { lost: 2, recoveries: 2, ..Self::BRANCH_ALONE },
        Self { people: 2, ..Self::BRANCH_ALONE_REWRITTEN },
        Self::VERIFIED,
        Self { verifies: true, failures: 1, ..Self::FOLDER },
        Self { verifies: true, failures: 1, ..Self::BRANCH_ALONE },
    ];
}
