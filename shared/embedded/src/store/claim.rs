//! Step 3: a runner claims the first due task that it can do, of the project whose turn it is.

use rdev_domain::ids::{Owner, ProjectId, TaskId};
use rdev_domain::ports::{Capabilities, Claim, Claimed};
use rdev_domain::project::ProjectState;
use rdev_domain::spec::AgentName;
use rdev_domain::step::{Event, Slots, step};
use rdev_domain::wake_up::OutboxEntry;
use rusqlite::{OptionalExtension, params};
use ulid::Ulid;

use super::rows::{self, Found};
use super::transaction::Tx;
use super::{projects, queue_entry, recover, transition, turns};
use crate::error::Error;

/// The most projects that one claim looks at. In each of the ones before, all that is due was
/// written by a newer program, or becomes due in the future, since the clock went back.
const MAX_PROJECTS: usize = 100;

/// Claims for the project whose turn it is; `hint` is the project that the wake-up names.
pub(super) fn claim_next(
    tx: &Tx<'_>,
    hint: &ProjectId,
    owner: &Owner,
    can: &Capabilities,
) -> Result<Claim, Error> {
    let mut outbox = Vec::new();
    // Each round but the last has ended a task.
    loop {
        match claim_in_turn(tx, hint, owner, can, &mut outbox)? {
            Taken::Claimed(mut claimed) => {
                claimed.outbox = outbox;
                return Ok(Claim::Claimed(claimed));
            }
            // Nothing may be due there any more: then its expired leases are recovered.
            Taken::Ended => {}
            Taken::Nothing => break,
        }
    }
    // Why not in the wake-up's own project.
    let limit = match projects::find(tx.conn, hint)? {
        Some(project) if project.state != ProjectState::Deleting => project.build_limit,
        // The wake-up is older than the end of its project.
        _ => return Ok(Claim::Nothing),
    };
    Ok(if !something_due(tx, hint)? {
        Claim::Nothing
    } else if leased_tasks(tx, hint)? >= limit {
        Claim::SlotsTaken
    } else {
        let all = AgentName::ALL.map(|agent| agent.as_str());
        let first = first_of(tx, hint, std::iter::once("").chain(all), None)?;
        Claim::Unsuited { agent: first.and_then(|(_, queue)| queue_entry::agent(queue)) }
    })
}

/// Claims for the first project in turn in which this runner can do something. [`Taken::Ended`]
/// when tasks of the hint have ended instead.
fn claim_in_turn(
    tx: &Tx<'_>,
    hint: &ProjectId,
    owner: &Owner,
    can: &Capabilities,
    outbox: &mut Vec<OutboxEntry>,
) -> Result<Taken, Error> {
    if bring_up_to_date(tx, hint, outbox)? {
        let taken = claim_of(tx, hint, owner, can, outbox)?;
        if !matches!(taken, Taken::Nothing) {
            return Ok(taken);
        }
    }
    let mut last = None;
    for _ in 0..MAX_PROJECTS {
        let Some(turn) = turns::next(tx, can, last.as_ref())? else { break };
        // Another project's bad record does not keep this wake-up from its work.
        let taken = tx.alone(&turn.project, || {
            let mut outbox = Vec::new();
            queue_entry::promote_project(tx, &turn.project)?;
            let taken = claim_of(tx, &turn.project, owner, can, &mut outbox)?;
            Ok((taken, outbox))
        })?;
        let (taken, ended) = taken.unwrap_or((Taken::Nothing, Vec::new()));
        outbox.extend(ended);
        match taken {
            Taken::Claimed(_) => return Ok(taken),
            Taken::Ended if turn.project == *hint => return Ok(taken),
            Taken::Ended | Taken::Nothing => last = Some(turn),
        }
    }
    Ok(Taken::Nothing)
}

/// Moves to the due part of the queue what has become due and, if nothing can be claimed otherwise,
/// recovers the expired leases of the project. Returns whether the project comes first.
fn bring_up_to_date(
    tx: &Tx<'_>,
    id: &ProjectId,
    outbox: &mut Vec<OutboxEntry>,
) -> Result<bool, Error> {
    let Some(project) = projects::find(tx.conn, id)? else { return Ok(false) };
    if project.state == ProjectState::Deleting {
        return Ok(false);
    }
    queue_entry::promote_project(tx, id)?;
    let taken = leased_tasks(tx, id)?;
    if taken > 0 && (taken >= project.build_limit || !something_due(tx, id)?) {
        outbox.extend(recover::expired_of(tx, id)?);
    }
    Ok(turns::of(tx, &project)?.comes_first(tx.now))
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
    tx: &Tx<'_>,
    id: &ProjectId,
    owner: &Owner,
    can: &Capabilities,
    outbox: &mut Vec<OutboxEntry>,
) -> Result<Taken, Error> {
    let Some(project) = projects::find(tx.conn, id)? else { return Ok(Taken::Nothing) };
    let mut otherwise = Taken::Nothing;
    let slots = Slots { taken: leased_tasks(tx, id)?, limit: project.build_limit };
    let mut after = None;
    while let Some((place, _)) = first_of(tx, id, queues(can), after)? {
        match rows::find_any(tx, TaskId(place.2))? {
            Some(Found::Task(record)) if !project.owns_task(&record.task) => {
                match step(&record.task, record.lease.as_ref(), Event::Cancel, tx.now) {
                    Ok(step) => {
                        outbox.extend(transition::write(tx, &record, &step)?);
                        otherwise = Taken::Ended;
                    }
                    // A push: only its own project's runner may end it.
                    Err(_) => after = Some(place),
                }
            }
            Some(Found::Task(record)) => {
                let (owner, worker_id) = (owner.clone(), can.worker_id.clone());
                let event = Event::Claim { owner, worker_id, slots };
                let step = step(&record.task, record.lease.as_ref(), event, tx.now)?;
                turns::note_served(tx, id)?;
                transition::write(tx, &record, &step)?;
                // No other transaction runs meanwhile: a claim without a lease is a defect.
                let Some(lease) = step.lease else { return Ok(Taken::Nothing) };
                let claimed = Claimed { task: step.task, lease, project, outbox: Vec::new() };
                return Ok(Taken::Claimed(Box::new(claimed)));
            }
            Some(Found::Corrupt(corrupt)) => {
                outbox.extend(transition::poison(tx, &corrupt)?);
                otherwise = Taken::Ended;
            }
            // It keeps its place, for a newer runner.
            Some(Found::Newer(_)) => after = Some(place),
            None => return Err(rusqlite::Error::QueryReturnedNoRows.into()),
        }
    }
    Ok(otherwise)
}

/// How many tasks of the project have a lease.
pub(super) fn leased_tasks(tx: &Tx<'_>, project: &ProjectId) -> Result<u32, Error> {
    let mut count = tx.conn.prepare_cached("SELECT count(*) FROM leases WHERE project = ?1")?;
    Ok(count.query_row([project.as_str()], |row| row.get(0))?)
}

/// The queues that a runner takes from, as the column `agent` names them.
pub(super) fn queues(can: &Capabilities) -> impl Iterator<Item = &str> {
    std::iter::once("").chain(can.agents.iter().map(|agent| agent.as_str()))
}

fn something_due(tx: &Tx<'_>, project: &ProjectId) -> Result<bool, Error> {
    queue_entry::due_since(tx, project, tx.now)
}

/// A place in the queue: class, rank and task.
type Place = (u8, i64, Ulid);

/// The first due task behind `after` in any of the queues: the first of those that need no agent,
/// and of those that need each agent. With the queue that it is in.
fn first_of<'a>(
    tx: &Tx<'_>,
    project: &ProjectId,
    queues: impl Iterator<Item = &'a str>,
    after: Option<Place>,
) -> Result<Option<(Place, &'a str)>, Error> {
    let (class, rank, task) =
        after.map_or((-1, 0, Ulid::nil()), |(class, rank, task)| (i64::from(class), rank, task));
    // The clock may have gone back since an entry became due: such an entry is skipped. The
    // plus stops SQLite from using the index of `since`, with which it would sort the queue.
    let mut head = tx.conn.prepare_cached(
        "SELECT class, rank, task FROM due WHERE project = ?1 AND agent = ?2 AND +since <= ?3
             AND (class, rank, task) > (?4, ?5, ?6)
         ORDER BY class, rank, task LIMIT 1",
    )?;
    let mut first: Option<(Place, &str)> = None;
    for agent in queues {
        let of_agent = head
            .query_row(
                params![project.as_str(), agent, tx.now.as_millis(), class, rank, rows::blob(task)],
                |row| Ok(((row.get(0)?, row.get(1)?, rows::ulid(row, 2)?), agent)),
            )
            .optional()?;
        first = match (first, of_agent) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    Ok(first)
}
