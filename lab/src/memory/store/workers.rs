//! Workers.

use std::time::Duration;

use rdev_domain::ids::WorkerId;
use rdev_domain::ports::{PortError, PortResult};
use rdev_domain::worker::{SILENT_AFTER, Worker, WorkerStatus};

use super::transaction::{State, Tx};

/// A worker that has sent no heartbeat for this long is deleted.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// A worker, and whether it was asked to drain.
#[derive(Debug, Clone)]
pub(super) struct KnownWorker {
    pub(super) worker: Worker,
    drain: bool,
}

impl KnownWorker {
    fn shown(&self) -> Worker {
        let status = match self.worker.status {
            WorkerStatus::Offline => WorkerStatus::Offline,
            _ if self.drain => WorkerStatus::Draining,
            status => status,
        };
        Worker { status, ..self.worker.clone() }
    }
}

pub(super) fn heartbeat(tx: &mut Tx<'_>, worker: &Worker) -> bool {
    let worker = Worker { last_heartbeat_at: tx.now, ..worker.clone() };
    let drain = tx.state.workers.get(&worker.id).is_some_and(|known| known.drain);
    tx.state.workers.insert(worker.id.clone(), KnownWorker { worker, drain });
    drain
}

pub(super) fn get(state: &State, id: &WorkerId) -> PortResult<Worker> {
    let known = state.workers.get(id).map(KnownWorker::shown);
    known.ok_or_else(|| PortError::not_found(format!("worker \"{id}\"")))
}

pub(super) fn all(state: &State) -> Vec<Worker> {
    let since = state.latest.minus(FORGOTTEN_AFTER);
    let heard = state.workers.values().filter(|known| known.worker.last_heartbeat_at > since);
    heard.map(KnownWorker::shown).collect()
}

pub(super) fn set_drain(tx: &mut Tx<'_>, id: &WorkerId, drain: bool) -> PortResult<Worker> {
    let mut changed = false;
    if let Some(known) = tx.state.workers.get_mut(id) {
        changed = known.drain != drain;
        known.drain = drain;
    }
    let worker = get(tx.state, id)?;
    if changed {
        let action = if drain { "worker.drain" } else { "worker.resume" };
        tx.record(action, format!("worker/{id}"), None);
    }
    Ok(worker)
}

/// Marks the workers that have been silent for long as `offline`. Returns how many.
pub(super) fn mark_offline(tx: &mut Tx<'_>) -> u64 {
    let since = tx.now.minus(SILENT_AFTER);
    let mut marked = 0;
    for known in tx.state.workers.values_mut() {
        let worker = &mut known.worker;
        if worker.status != WorkerStatus::Offline && worker.last_heartbeat_at <= since {
            worker.status = WorkerStatus::Offline;
            marked += 1;
        }
    }
    marked
}
