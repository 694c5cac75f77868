//! Step 11: the sweep, all of it in one page; and how much there is to do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{PortResult, Swept, WorkStats};
use rdev_domain::project::{ABANDONED_AFTER, Project, ProjectState};
use rdev_domain::task::{QueuePlace, TaskState};
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::WakeUp;

use super::claim::recover_expired;
use super::deliveries;
use super::projects;
use super::rows::Row;
use super::transaction::{State, Tx, expired};
use super::workers::{FORGOTTEN_AFTER, mark_offline};

/// If a task has been due for this long, its wake-up may have been lost.
const DUE_FOR_LONG: Duration = Duration::from_secs(2 * 60);

pub(super) fn sweep(tx: &mut Tx<'_>) -> PortResult<Swept> {
    let mut swept = Swept { outbox: tx.overdue_outbox(), ..Swept::default() };
    let (recovered, outbox) = recover_expired(tx, None)?;
    swept.recovered = recovered;
    swept.outbox.extend(outbox);
    swept.offline = mark_offline(tx);
    fail_stuck_provisioning(tx);
    swept.deleting = take_abandoned(tx);
    swept.expired = purge(tx);
    swept.wake = to_wake(tx.state, tx.now);
    Ok(swept)
}

fn fail_stuck_provisioning(tx: &mut Tx<'_>) {
    let since = tx.now.minus(ABANDONED_AFTER);
    let stuck = |project: &&Project| {
        project.state == ProjectState::Provisioning && project.updated_at <= since
    };
    let stuck: Vec<Project> = tx.state.projects.values().filter(stuck).cloned().collect();
    for project in stuck {
        let state = ProjectState::ProvisioningFailed;
        let project = Project { state, updated_at: tx.now, ..project };
        projects::write(tx, project, "project.provisioning_failed");
    }
}

/// The projects whose deletion was cut short. Each is found again only after a while.
fn take_abandoned(tx: &mut Tx<'_>) -> Vec<Project> {
    let (now, since) = (tx.now, tx.now.minus(ABANDONED_AFTER));
    let mut taken = Vec::new();
    for project in tx.state.projects.values_mut() {
        if project.state == ProjectState::Deleting && project.updated_at <= since {
            project.updated_at = now;
            taken.push(project.clone());
        }
    }
    taken
}

/// One wake-up for each due agent of the projects with a free slot that have something due for
/// long, or something that was parked and is due now.
fn to_wake(state: &mut State, now: Timestamp) -> Vec<WakeUp> {
    let since = now.minus(DUE_FOR_LONG);
    let mut wake = BTreeSet::new();
    for (project, id) in &state.live {
        let Some(row) = state.tasks.get_mut(id) else { continue };
        let due = matches!(row.place(now), Some(QueuePlace::Due { .. }));
        if due && (row.unswept || row.task.available_at <= since) {
            (row.parked, row.unswept) = (false, false);
            wake.insert(project.clone());
        }
    }
    let free = |id: &ProjectId| {
        state.projects.get(id).is_some_and(|project| {
            project.state != ProjectState::Deleting && state.taken(id) < project.build_limit
        })
    };
    let wake = wake.into_iter().filter(free);
    wake.flat_map(|id| state.due_agents(&id, now).wake_ups(&id).collect::<Vec<_>>()).collect()
}

/// Deletes what has expired. Returns how many records.
fn purge(tx: &mut Tx<'_>) -> u64 {
    let (now, state) = (tx.now, &mut *tx.state);
    let mut deleted = 0;
    for row in state.tasks.values_mut().filter(|row| expired(row.events_expire_at, now)) {
        deleted += u64::from(!row.events.is_empty() || row.diff.is_some());
        row.events.clear();
        (row.diff, row.events_expire_at) = (None, None);
    }
    deleted += removed(&mut state.tasks, |row: &Row| expired(row.expires_at, now));
    deleted += removed(&mut state.audit, |(_, expires_at)| expired(*expires_at, now));
    deleted += removed(&mut state.deliveries, |one| expired(deliveries::expires_at(one), now));
    deleted += removed(&mut state.pipelines, |(_, expires_at)| expired(*expires_at, now));
    deleted += removed(&mut state.requests, |request| request.expires_at <= now);
    let forgotten = now.minus(FORGOTTEN_AFTER);
    deleted += removed(&mut state.workers, |known| known.worker.last_heartbeat_at <= forgotten);
    deleted
}

/// Removes the records that are `gone`. Returns how many.
fn removed<K: Ord, V>(records: &mut BTreeMap<K, V>, gone: impl Fn(&V) -> bool) -> u64 {
    let before = records.len();
    records.retain(|_, record| !gone(record));
    (before - records.len()) as u64
}

pub(super) fn work_stats(state: &State, now: Timestamp) -> WorkStats {
    let mut stats =
        WorkStats { dead_letters: state.dead_letters.len() as u64, ..WorkStats::default() };
    for row in state.live.iter().filter_map(|(_, id)| state.tasks.get(id)) {
        match (row.place(now), row.task.state) {
            (Some(QueuePlace::Due { .. }), _) => {
                let age = now.since(row.task.available_at).as_millis();
                let age = u64::try_from(age).unwrap_or(u64::MAX);
                stats.oldest_due_ms = stats.oldest_due_ms.max(Some(age));
                stats.due += 1;
            }
            (Some(QueuePlace::Later { .. }), _) => stats.later += 1,
            (None, TaskState::Running) => stats.running += 1,
            (None, _) => stats.pushing += 1,
        }
    }
    stats
}
