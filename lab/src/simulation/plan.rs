//! What a seed decides before a simulation begins: how much there is of everything.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rdev_domain::spec::AgentName;
use rdev_runner::OwnQueue;

use super::{COMMON, RARE};

/// A rule of the protocol that a simulation leaves out, to see whether the checks notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The git server moves a branch also when the ticket that is to go with it is not there.
    TicketIgnored,
    /// The store takes reports of former holders.
    FenceIgnored,
    /// Nobody sweeps.
    NoSweep,
    /// The store forgets of a ticket that its work is not verified yet.
    UnverifiedForgotten,
}

/// What the runners offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fleet {
    /// All offer the agent that every task needs.
    Alike,
    /// Of 1,000 tasks, so many need a rare agent, which has a queue of its own. Only the last
    /// runner offers it.
    Mixed { rare: u32 },
}

/// The bounds of one simulation.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Everything that is random follows from it.
    pub seed: u64,
    /// How long things go wrong. Then nothing does, until every task has ended.
    pub span: Duration,
    /// How many calls of 1,000 go wrong.
    pub per_mille: u32,
    pub runners: u32,
    pub fleet: Fleet,
    /// Tasks of one runner at once.
    pub slots: u32,
    pub projects: u32,
    /// The most tasks of one project at once.
    pub build_limit: u32,
    /// How many tasks are queued.
    pub tasks: u32,
    /// The mean time between two acts of people in the repositories.
    pub acts_every: Duration,
    /// How many of 1,000 changes by rdev make a person do something right afterwards.
    pub reactions: u32,
    /// The mean time between two acts of users: cancel, retry, drain.
    pub requests_every: Duration,
    /// Of 1,000 starts of a runner, how many end in a crash, and in a pause.
    pub crashes: u32,
    pub pauses: u32,
    /// Store or git server go away once in this time.
    pub away_every: Duration,
    pub skewed: bool,
    /// The git server goes away for so long right before the first push of a branch arrives, also
    /// when nothing else goes wrong any more.
    pub outage: Option<Duration>,
    /// Nothing goes wrong, nobody acts in the repositories, and nobody sweeps. Then no build may
    /// wait that could run.
    pub undisturbed: bool,
    /// Users reach a program of a version whose wake-ups name no agent.
    pub older_api: bool,
    /// What is left out.
    pub broken: Option<Broken>,
}

impl Plan {
    /// The schedule of a seed: a few tasks within less than an hour.
    pub fn of(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(!seed);
        let mut any = |from: u32, to: u32| random.random_range(from..=to);
        let minutes = |minutes: u32| Duration::from_secs(60 * u64::from(minutes));
        let mut plan = Self {
            seed,
            span: minutes(any(3, 15)),
            per_mille: [0, 5, 20, 50][any(0, 3) as usize],
            runners: any(1, 3),
            fleet: Fleet::Alike,
            slots: any(1, 2),
            projects: any(1, 2),
            build_limit: 2,
            tasks: any(1, 4),
            acts_every: minutes(any(1, 8)),
            reactions: [0, 100, 300][any(0, 2) as usize],
            requests_every: minutes(any(1, 8)),
            crashes: [0, 300, 700][any(0, 2) as usize],
            pauses: [0, 300, 700][any(0, 2) as usize],
            away_every: minutes([15, 60, 600][any(0, 2) as usize]),
            skewed: any(0, 2) == 0,
            undisturbed: false,
            older_api: false,
            outage: None,
            broken: None,
        };
        // Drawn last: the schedules of the others are as they were without it.
        if plan.runners > 1 && any(0, 2) == 0 {
            plan.fleet = Fleet::Mixed { rare: 500 };
        }
        plan
    }

    /// One task, and a git server that is away for so long right before its first push arrives.
    /// Nothing else goes wrong.
    pub fn outage(seed: u64, away: Duration) -> Self {
        let never = Duration::from_secs(1_000 * 60 * 60);
        Self {
            seed,
            span: Duration::from_secs(60 * 60),
            per_mille: 0,
            runners: 2,
            fleet: Fleet::Alike,
            slots: 1,
            projects: 1,
            build_limit: 2,
            tasks: 1,
            acts_every: never,
            reactions: 0,
            requests_every: never,
            crashes: 0,
            pauses: 0,
            away_every: never,
            skewed: false,
            undisturbed: false,
            older_api: false,
            outage: Some(away),
            broken: None,
        }
    }

    /// A fleet of which one runner in twenty offers the rare agent, and nothing goes wrong.
    pub fn mixed_fleet(seed: u64) -> Self {
        Self {
            runners: 20,
            fleet: Fleet::Mixed { rare: 150 },
            slots: 1,
            projects: 4,
            build_limit: 8,
            tasks: 80,
            span: Duration::from_secs(10 * 60),
            per_mille: 0,
            reactions: 0,
            crashes: 0,
            pauses: 0,
            skewed: false,
            undisturbed: true,
            ..Self::of(seed)
        }
    }

    /// A long one, in which so many calls of 1,000 go wrong.
    pub fn long(seed: u64, span: Duration, per_mille: u32) -> Self {
        let hours = u32::try_from(span.as_secs() / 3600).unwrap_or(u32::MAX).max(1);
        Self {
            seed,
            span,
            per_mille,
            runners: 3,
            fleet: Fleet::Alike,
            slots: 2,
            projects: 3,
            build_limit: 2,
            tasks: hours.saturating_mul(12),
            acts_every: Duration::from_secs(5 * 60),
            reactions: 50,
            requests_every: Duration::from_secs(5 * 60),
            crashes: 700,
            pauses: 500,
            away_every: Duration::from_secs(3 * 60 * 60),
            skewed: true,
            outage: None,
            undisturbed: false,
            older_api: false,
            broken: None,
        }
    }

    /// Whether the runner of this number is the one that offers the rare agent.
    fn is_rare(&self, runner: usize) -> bool {
        self.fleet != Fleet::Alike && runner + 1 == self.runners as usize
    }

    /// What a runner offers.
    pub(super) fn agents_of(&self, runner: usize) -> Vec<AgentName> {
        if self.is_rare(runner) { vec![COMMON, RARE] } else { vec![COMMON] }
    }

    /// The queue that a runner receives from.
    pub(super) fn queue_of(&self, runner: usize) -> OwnQueue {
        match self.fleet {
            Fleet::Alike => OwnQueue::default(),
            Fleet::Mixed { .. } if self.is_rare(runner) => OwnQueue::Of(vec![RARE]),
            Fleet::Mixed { .. } => OwnQueue::Default { elsewhere: vec![RARE] },
        }
    }
}
