//! Many schedules, one after the other, on all cores.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Counts, Outcome, Plan, run};

/// What came of many schedules.
#[derive(Debug, Default)]
pub struct Campaign {
    pub schedules: u64,
    /// The seeds that broke something, with what they broke.
    pub broken: BTreeMap<u64, Vec<String>>,
    pub counts: Counts,
    pub tasks: BTreeMap<&'static str, u64>,
    pub landings: u64,
    /// The simulated time in all.
    pub elapsed: Duration,
}

impl Campaign {
    /// Adds what came of one schedule.
    pub fn add(&mut self, seed: u64, outcome: Outcome) {
        self.schedules += 1;
        self.counts.merge(&outcome.counts);
        self.landings += outcome.landings;
        self.elapsed += outcome.elapsed;
        for (state, count) in outcome.tasks {
            *self.tasks.entry(state).or_default() += count;
        }
        if !outcome.violations.is_empty() {
            self.broken.insert(seed, outcome.violations);
        }
    }
}

/// Runs the schedules of `count` seeds from `first` on. It stops early after 20 broken ones.
pub fn run_many(first: u64, count: u64, plan: impl Fn(u64) -> Plan + Sync) -> Campaign {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, campaign) = (AtomicU64::new(first), Mutex::new(Campaign::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed - first >= count {
                return;
            }
            let outcome = run(plan(seed), false);
            let mut campaign = campaign.lock().unwrap_or_else(PoisonError::into_inner);
            campaign.add(seed, outcome);
            if campaign.broken.len() >= 20 {
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        (0..cores).for_each(|_| drop(scope.spawn(work)));
    });
    campaign.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The command that runs one seed's schedule again.
pub fn replay_command(seed: u64) -> String {
    format!("cargo run -p rdev-lab --release --bin simulate -- --seed {seed}")
}
