//! Steps 3 and 7: a runner claims the first due task that it can do, of the project whose turn it
//! is, and a task whose lease has expired returns to the queue.

use rdev_domain::ids::{Owner, ProjectId, TaskId};
use rdev_domain::ports::{Capabilities, Claim, Claimed, PortResult};
use rdev_domain::project::ProjectState;
use rdev_domain::step::{Event, Refusal, Slots};
use rdev_domain::task::{QueuePlace, TaskState};
use rdev_domain::time::Timestamp;
use rdev_domain::turn::Turn;
use rdev_domain::wake_up::{DueAgents, OutboxEntry};

use super::rows::{Reading, Row};
use super::transaction::{State, Tx};

/// Claims for the project whose turn it is; `hint` is the project that the wake-up names.
pub(super) fn claim_next(
    tx: &mut Tx<'_>,
    hint: &ProjectId,
    owner: &Owner,
    can: &Capabilities,
) -> PortResult<Claim> {
    let mut outbox = Vec::new();
    'again: loop {
        let comes_first = bring_up_to_date(tx, hint, &mut outbox)?;
        let mut turns = tx.state.turns(tx.now);
        turns.sort();
        if comes_first {
            turns.sort_by_key(|turn| turn.project != *hint);
        }
        for turn in turns {
            match claim_of(tx, &turn.project, owner, can, &mut outbox)? {
                Taken::Claimed(mut claimed) => {
                    claimed.outbox = outbox;
                    return Ok(Claim::Claimed(claimed));
                }
                // Nothing may be due there any more: then its expired leases are recovered.
                Taken::Ended if turn.project == *hint => continue 'again,
                Taken::Ended | Taken::Nothing => {}
            }
        }
        break;
    }
    // Why not in the wake-up's own project.
    let limit = match tx.state.projects.get(hint) {
        Some(project) if project.state != ProjectState::Deleting => project.build_limit,
        // The wake-up is older than the end of its project.
        _ => return Ok(Claim::Nothing),
    };
    Ok(match tx.state.due(hint, tx.now).first() {
        None => Claim::Nothing,
        Some(_) if tx.state.taken(hint) >= limit => Claim::SlotsTaken,
        Some(first) => Claim::Unsuited { agent: tx.state.tasks[first].needs() },
    })
}

/// Recovers the expired leases of the project if nothing can be claimed otherwise. Returns whether
/// the project comes first.
fn bring_up_to_date(
    tx: &mut Tx<'_>,
    id: &ProjectId,
    outbox: &mut Vec<OutboxEntry>,
) -> PortResult<bool> {
    let limit = match tx.state.projects.get(id) {
        Some(project) if project.state != ProjectState::Deleting => project.build_limit,
        _ => return Ok(false),
    };
    let sweeps_wake_too = tx.state.sweeps_wake_too;
    for task in tx.state.due(id, tx.now) {
        // The claimer looks at what has become due: no sweep needs to wake anybody for it.
        let row = tx.state.row(task)?;
        row.parked = false;
        row.unswept &= sweeps_wake_too;
    }
    let taken = tx.state.taken(id);
    if taken > 0 && (taken >= limit || tx.state.due(id, tx.now).is_empty()) {
        outbox.extend(recover_expired(tx, Some(id))?.1);
    }
    Ok(tx.state.turn(id).comes_first(tx.now))
}

/// What came of a try to claim in one project.
enum Taken {
    Claimed(Box<Claimed>),
    /// Nothing was claimed, and tasks have ended: those that nobody can do.
    Ended,
    Nothing,
}

/// Claims the first due task of the project that the runner can do.
fn claim_of(
    tx: &mut Tx<'_>,
    id: &ProjectId,
    owner: &Owner,
    can: &Capabilities,
    outbox: &mut Vec<OutboxEntry>,
) -> PortResult<Taken> {
    let project = tx.state.project(id)?.clone();
    let (mut otherwise, format) = (Taken::Nothing, tx.state.format);
    let slots = Slots { taken: tx.state.taken(id), limit: project.build_limit };
    for task in tx.state.due(id, tx.now) {
        let row = tx.state.row(task)?;
        let push = row.task.state == TaskState::Pushing;
        if row.needs().is_some_and(|agent| !can.agents.contains(&agent)) {
            continue;
        }
        match row.reading(format) {
            Reading::Readable if !project.owns_task(&row.task) => {
                if !push {
                    outbox.extend(tx.apply(task, Event::Cancel)?);
                    otherwise = Taken::Ended;
                }
                continue;
            }
            Reading::Readable => {}
            Reading::Corrupt => {
                outbox.extend(tx.poison(task)?);
                otherwise = Taken::Ended;
                continue;
            }
            // It keeps its place, for a newer runner.
            Reading::Newer => continue,
        }
        let (owner, worker_id) = (owner.clone(), can.worker_id.clone());
        tx.apply(task, Event::Claim { owner, worker_id, slots })?;
        tx.state.served.insert(id.clone(), tx.now);
        let Row { task, lease: Some(lease), .. } = tx.state.row(task)? else { continue };
        let (task, lease) = (task.clone(), lease.clone());
        let claimed = Claimed { task, lease, project, outbox: Vec::new() };
        return Ok(Taken::Claimed(Box::new(claimed)));
    }
    Ok(otherwise)
}

impl State {
    /// The tasks of a project that have not ended.
    pub(super) fn live_of(&self, project: &ProjectId) -> impl Iterator<Item = &Row> {
        let first = (project.clone(), TaskId(ulid::Ulid::nil()));
        let of_project = self.live.range(first..).take_while(move |(of, _)| of == project);
        of_project.filter_map(|(_, id)| self.tasks.get(id))
    }

    /// How many tasks of the project have a lease.
    pub(super) fn taken(&self, project: &ProjectId) -> u32 {
        let held = self.live_of(project).filter(|row| row.lease.is_some());
        u32::try_from(held.count()).unwrap_or(u32::MAX)
    }

    /// The tasks of the project that could be claimed, first to last.
    pub(super) fn due(&self, project: &ProjectId, now: Timestamp) -> Vec<TaskId> {
        let places = self.live_of(project).filter_map(|row| row.place(now));
        let mut due: Vec<(u8, Timestamp, TaskId)> = places
            .filter_map(|place| match place {
                QueuePlace::Due { class, rank, id } => Some((class, rank, id)),
                QueuePlace::Later { .. } => None,
            })
            .collect();
        due.sort_unstable();
        due.into_iter().map(|(.., id)| id).collect()
    }

    /// The agents that the due tasks of the project need.
    pub(super) fn due_agents(&self, project: &ProjectId, now: Timestamp) -> DueAgents {
        self.due(project, now).iter().map(|id| self.tasks[id].needs()).collect()
    }

    fn turn(&self, project: &ProjectId) -> Turn {
        let served = self.served.get(project).copied();
        Turn { held: self.taken(project), served, project: project.clone() }
    }

    /// The projects with a free slot and something due. What a queue has parked counts once a sweep
    /// or a wake-up of the project has seen it due.
    pub(super) fn turns(&self, now: Timestamp) -> Vec<Turn> {
        let open = self.projects.values().filter(|project| {
            project.state != ProjectState::Deleting
                && self.taken(&project.id) < project.build_limit
                && self.due(&project.id, now).iter().any(|id| !self.tasks[id].parked)
        });
        open.map(|project| self.turn(&project.id)).collect()
    }
}

/// Recovers the expired leases, of one project or of all. Returns how many.
pub(super) fn recover_expired(
    tx: &mut Tx<'_>,
    project: Option<&ProjectId>,
) -> PortResult<(u64, Vec<OutboxEntry>)> {
    let now = tx.now;
    let dead = |row: &Row| row.lease.as_ref().is_some_and(|lease| lease.expired(now));
    recover(tx, |row| project.is_none_or(|id| *id == row.task.project_id) && dead(row), false)
}

/// Recovers every lease. All holders must be known to be dead.
pub(super) fn recover_all(tx: &mut Tx<'_>) -> PortResult<Vec<OutboxEntry>> {
    Ok(recover(tx, |row| row.lease.is_some(), true)?.1)
}

/// Recovers the tasks that are `wanted`, but for those whose record a newer program wrote.
fn recover(
    tx: &mut Tx<'_>,
    wanted: impl Fn(&Row) -> bool,
    proved_dead: bool,
) -> PortResult<(u64, Vec<OutboxEntry>)> {
    let live = tx.state.live.iter().filter_map(|(_, id)| tx.state.tasks.get(id));
    let found = live.filter(|row| wanted(row) && row.reading(tx.state.format) != Reading::Newer);
    let found: Vec<TaskId> = found.map(|row| row.task.id).collect();
    let (mut recovered, mut outbox, format) = (0, Vec::new(), tx.state.format);
    for id in found {
        let row = tx.state.row(id)?;
        let lease = row.lease.as_ref().ok_or(Refusal::Stale)?;
        let (seen, heartbeat) = (row.task.fence, lease.heartbeat);
        outbox.extend(match row.reading(format) {
            Reading::Corrupt => tx.poison(id)?,
            _ => tx.apply(id, Event::Recover { seen, heartbeat, proved_dead })?,
        });
        recovered += 1;
    }
    Ok((recovered, outbox))
}
