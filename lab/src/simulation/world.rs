//! What everything in a simulation shares: the time, chance, what goes wrong, and the trace.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rdev_domain::git::CommitId;
use rdev_domain::time::Timestamp;
use tokio::time::Instant;

use super::faults::{Counts, Fault};
use super::plan::Plan;

/// When every simulation begins: 1 January 2026.
const EPOCH: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// The shared part of one simulation.
pub(super) struct World {
    pub(super) plan: Plan,
    traced: bool,
    began: Instant,
    state: Mutex<State>,
}

struct State {
    random: StdRng,
    /// Nothing goes wrong any more.
    calm: bool,
    store_away_until: Option<Instant>,
    server_away_until: Option<Instant>,
    /// How many late pushes and reports are still to arrive.
    under_way: u32,
    counts: Counts,
    lines: Vec<String>,
    /// The pull requests that were opened: their pages and commits.
    pulls: BTreeMap<String, CommitId>,
    /// What was found to be wrong while it ran.
    violations: Vec<String>,
}

impl World {
    /// A world at its beginning. `traced`: every event is kept as a line.
    pub(super) fn new(plan: Plan, traced: bool) -> Self {
        let state = State {
            random: StdRng::seed_from_u64(plan.seed),
            calm: false,
            store_away_until: None,
            server_away_until: None,
            under_way: 0,
            counts: Counts::default(),
            lines: Vec::new(),
            pulls: BTreeMap::new(),
            violations: Vec::new(),
        };
        Self { plan, traced, began: Instant::now(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time that has passed.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The right time.
    pub(super) fn now(&self) -> Timestamp {
        EPOCH.plus(self.elapsed())
    }

    /// A number below `end`.
    pub(super) fn below(&self, end: u32) -> u32 {
        self.state().random.random_range(0..end.max(1))
    }

    /// A span of between `from` and `to` milliseconds.
    pub(super) fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.state().random.random_range(from..=to))
    }

    /// Whether something that happens in `per_mille` of 1,000 cases happens now.
    pub(super) fn happens(&self, per_mille: u32) -> bool {
        self.below(1000) < per_mille
    }

    /// Whether this goes wrong now, in `per_mille` of 1,000 cases; counted if it does.
    pub(super) fn fails(&self, fault: Fault, per_mille: u32) -> bool {
        if per_mille == 0 || self.is_calm() || !self.happens(per_mille) {
            return false;
        }
        self.count(fault);
        true
    }

    /// Counts something that went wrong.
    pub(super) fn count(&self, fault: Fault) {
        self.state().counts.add(fault);
        self.trace(|| format!("fault {fault:?}"));
    }

    /// A pull request was opened.
    pub(super) fn open_pull_request(&self, page: &str, commit: &CommitId) {
        self.state().pulls.entry(page.to_owned()).or_insert_with(|| commit.clone());
    }

    /// The commit of a pull request that was opened.
    pub(super) fn pull_request(&self, page: &str) -> Option<CommitId> {
        self.state().pulls.get(page).cloned()
    }

    /// How often each thing went wrong.
    pub(super) fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    /// From now on nothing goes wrong.
    pub(super) fn calm_down(&self) {
        let mut state = self.state();
        state.calm = true;
        state.store_away_until = None;
        if self.plan.outage.is_none() {
            state.server_away_until = None;
        }
        drop(state);
        self.trace(|| "calm".to_owned());
    }

    pub(super) fn is_calm(&self) -> bool {
        self.state().calm
    }

    /// The store and the queue do not answer for a while.
    pub(super) fn take_store_away(&self, span: Duration) {
        self.state().store_away_until = Some(Instant::now() + span);
        self.count(Fault::StoreAway);
    }

    pub(super) fn is_store_away(&self) -> bool {
        self.state().store_away_until.is_some_and(|until| until > Instant::now())
    }

    /// The git server does not answer for a while.
    pub(super) fn take_server_away(&self, span: Duration) {
        self.state().server_away_until = Some(Instant::now() + span);
        self.count(Fault::ServerAway);
    }

    pub(super) fn is_server_away(&self) -> bool {
        self.state().server_away_until.is_some_and(|until| until > Instant::now())
    }

    /// Something will arrive that nobody waits for; or has arrived.
    pub(super) fn under_way(&self, arrived: bool) {
        let mut state = self.state();
        state.under_way = if arrived { state.under_way - 1 } else { state.under_way + 1 };
    }

    /// Whether nothing is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.state().under_way == 0
    }

    pub(super) fn is_traced(&self) -> bool {
        self.traced
    }

    /// Adds an event to the trace, where it is kept.
    pub(super) fn trace(&self, line: impl FnOnce() -> String) {
        if !self.traced {
            return;
        }
        let line = format!("{:>12.3} {}", self.elapsed().as_secs_f64(), line());
        self.state().lines.push(line);
    }

    /// Records that something is wrong that must never be.
    pub(super) fn violation(&self, what: String) {
        self.trace(|| format!("VIOLATION {what}"));
        self.state().violations.push(what);
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// Everything that has happened, where it is kept.
    pub(super) fn take_trace(&self) -> Vec<String> {
        std::mem::take(&mut self.state().lines)
    }
}
