//! Step 3: a runner claims the first due task of a project that it can do.

use rdev_domain::ids::{Owner, ProjectId, TaskId};
use rdev_domain::ports::{Capabilities, Claim, Claimed};
use rdev_domain::project::ProjectState;
use rdev_domain::step::{Event, Slots, step};
use rusqlite::{OptionalExtension, params};
use ulid::Ulid;

use super::rows::{self, Found};
use super::transaction::Tx;
use super::{projects, queue_entry, recover, transition};
use crate::error::Error;

pub(super) fn claim_next(
    tx: &Tx<'_>,
    project_id: &ProjectId,
    owner: &Owner,
    can: &Capabilities,
) -> Result<Claim, Error> {
    let project = match projects::find(tx.conn, project_id)? {
        Some(project) if project.state != ProjectState::Deleting => project,
        // The wake-up is older than the end of its project.
        _ => return Ok(Claim::Nothing),
    };
    queue_entry::promote_project(tx, project_id)?;
    let mut taken = leased_tasks(tx, project_id)?;
    let mut any_due = something_due(tx, project_id)?;
    let mut outbox = Vec::new();
    if taken > 0 && (taken >= project.build_limit || !any_due) {
        outbox = recover::expired_of(tx, project_id)?;
        taken = leased_tasks(tx, project_id)?;
        any_due = something_due(tx, project_id)?;
    }
    if !any_due {
        return Ok(Claim::Nothing);
    }
    let slots = Slots { taken, limit: project.build_limit };
    if slots.taken >= slots.limit {
        return Ok(Claim::SlotsTaken);
    }
    let mut after = None;
    while let Some(place) = first_suitable(tx, project_id, can, after)? {
        match rows::find_any(tx.conn, TaskId(place.2))? {
            Some(Found::Task(record)) => {
                let (owner, worker_id) = (owner.clone(), can.worker_id.clone());
                let event = Event::Claim { owner, worker_id, slots };
                let step = step(&record.task, record.lease.as_ref(), event, tx.now)?;
                transition::write(tx, &record, &step)?;
                // No other transaction runs meanwhile: a claim without a lease is a defect.
                let Some(lease) = step.lease else { return Ok(Claim::Contended) };
                let claimed = Claimed { task: step.task, lease, project, outbox };
                return Ok(Claim::Claimed(Box::new(claimed)));
            }
            Some(Found::Corrupt(corrupt)) => {
                outbox.extend(transition::poison(tx, &corrupt)?);
            }
            // It keeps its place, for a newer runner.
            Some(Found::Newer(_)) => after = Some(place),
            None => return Err(rusqlite::Error::QueryReturnedNoRows.into()),
        }
    }
    // A corrupt task, which has been ended, may have been the only one that was due.
    let any_due = something_due(tx, project_id)?;
    Ok(if any_due { Claim::Unsuited } else { Claim::Nothing })
}

/// How many tasks of the project have a lease.
pub(super) fn leased_tasks(tx: &Tx<'_>, project: &ProjectId) -> Result<u32, Error> {
    let mut count = tx.conn.prepare_cached("SELECT count(*) FROM leases WHERE project = ?1")?;
    Ok(count.query_row([project.as_str()], |row| row.get(0))?)
}

fn something_due(tx: &Tx<'_>, project: &ProjectId) -> Result<bool, Error> {
    queue_entry::due_since(tx, project, tx.now)
}

/// A place in the queue: rank, priority and task.
type Place = (u8, u8, Ulid);

/// The first due task behind `after` that the runner can do: the first of those that need no
/// agent, and of those that need each agent that the runner offers.
fn first_suitable(
    tx: &Tx<'_>,
    project: &ProjectId,
    can: &Capabilities,
    after: Option<Place>,
) -> Result<Option<Place>, Error> {
    let (rank, priority, task) = after
        .map_or((-1, 0, Ulid::nil()), |(rank, priority, task)| (i64::from(rank), priority, task));
    // The clock may have gone back since an entry became due: such an entry is skipped. The
    // plus stops SQLite from using the index of `since`, with which it would sort the queue.
    let mut head = tx.conn.prepare_cached(
        "SELECT rank, priority, task FROM due WHERE project = ?1 AND agent = ?2 AND +since <= ?3
             AND (rank, priority, task) > (?4, ?5, ?6)
         ORDER BY rank, priority, task LIMIT 1",
    )?;
    let mut first: Option<Place> = None;
    for agent in std::iter::once("").chain(can.agents.iter().map(|agent| agent.as_str())) {
        let of_agent = head
            .query_row(
                params![
                    project.as_str(),
                    agent,
                    tx.now.as_millis(),
                    rank,
                    priority,
                    rows::blob(task)
                ],
                |row| Ok((row.get(0)?, row.get(1)?, rows::ulid(row, 2)?)),
            )
            .optional()?;
        first = match (first, of_agent) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    Ok(first)
}
