//! Step 3: the first due task of a project that a runner can do.

use rdev_domain::ids::{Owner, ProjectId, TaskId};
use rdev_domain::ports::{Capabilities, Claim, Claimed, TaskRecord};
use rdev_domain::project::{Project, ProjectState};
use rdev_domain::step::{Event, Slots, step};
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::OutboxEntry;
use rusqlite::{OptionalExtension, params};
use ulid::Ulid;

use super::rows::{self, Found};
use super::{Tx, projects, recover, transition};
use crate::failed::Failed;

pub(super) fn claim_next(
    tx: &Tx<'_>,
    project_id: &ProjectId,
    owner: &Owner,
    can: &Capabilities,
) -> Result<Claim, Failed> {
    let project = match projects::find(tx.conn, project_id)? {
        Some(project) if project.state != ProjectState::Deleting => project,
        // A wake-up of a project that is no more.
        _ => return Ok(Claim::Nothing),
    };
    promote(tx, project_id)?;
    let mut taken = slots_taken(tx, project_id)?;
    let mut any_due = something_due(tx, project_id)?;
    let mut outbox = Vec::new();
    if taken > 0 && (taken >= project.build_limit || !any_due) {
        outbox = recover::expired_of(tx, project_id)?;
        taken = slots_taken(tx, project_id)?;
        any_due = something_due(tx, project_id)?;
    }
    if !any_due {
        return Ok(Claim::Nothing);
    }
    let slots = Slots { taken, limit: project.build_limit };
    if slots.taken >= slots.limit {
        return Ok(Claim::SlotsTaken);
    }
    while let Some(id) = first_suitable(tx, project_id, can)? {
        match rows::find(tx.conn, id, Timestamp::from_millis(i64::MIN))? {
            Some(Found::Task(record)) => {
                return take(tx, project, owner, can, slots, &record, outbox);
            }
            Some(Found::Unreadable(unreadable)) => {
                outbox.extend(transition::poison(tx, &unreadable)?);
            }
            None => return Err(rusqlite::Error::QueryReturnedNoRows.into()),
        }
    }
    // A poisoned one may have been all that was due.
    let left = something_due(tx, project_id)?;
    Ok(if left { Claim::Unsuited } else { Claim::Nothing })
}

fn take(
    tx: &Tx<'_>,
    project: Project,
    owner: &Owner,
    can: &Capabilities,
    slots: Slots,
    record: &TaskRecord,
    outbox: Vec<OutboxEntry>,
) -> Result<Claim, Failed> {
    let event = Event::Claim { owner: owner.clone(), worker_id: can.worker_id.clone(), slots };
    let step = step(&record.task, record.lease.as_ref(), event, tx.now)?;
    transition::write(tx, record, &step)?;
    // Inside the writer nobody else can have taken it: a claim without a lease is a defect.
    let Some(lease) = step.lease else { return Ok(Claim::Contended) };
    Ok(Claim::Claimed(Box::new(Claimed { task: step.task, lease, project, outbox })))
}

/// Moves what has become due to the due part of the queue.
fn promote(tx: &Tx<'_>, project: &ProjectId) -> Result<(), Failed> {
    let bounds = params![project.as_str(), tx.now.as_millis()];
    let moved = tx
        .conn
        .prepare_cached(
            "INSERT INTO due (project, agent, rank, priority, task, since)
             SELECT project, agent, rank, priority, task, at FROM later
             WHERE project = ?1 AND at <= ?2",
        )?
        .execute(bounds)?;
    if moved > 0 {
        tx.conn
            .prepare_cached("DELETE FROM later WHERE project = ?1 AND at <= ?2")?
            .execute(bounds)?;
    }
    Ok(())
}

/// How many tasks of the project have a lease.
pub(super) fn slots_taken(tx: &Tx<'_>, project: &ProjectId) -> Result<u32, Failed> {
    let mut count = tx.conn.prepare_cached("SELECT count(*) FROM leases WHERE project = ?1")?;
    Ok(count.query_row([project.as_str()], |row| row.get(0))?)
}

fn something_due(tx: &Tx<'_>, project: &ProjectId) -> Result<bool, Failed> {
    due_since(tx, project, tx.now)
}

/// Whether the project has something that has been due since `time` or longer.
pub(super) fn due_since(tx: &Tx<'_>, project: &ProjectId, time: Timestamp) -> Result<bool, Failed> {
    let mut any =
        tx.conn.prepare_cached("SELECT 1 FROM due WHERE project = ?1 AND since <= ?2 LIMIT 1")?;
    Ok(any.exists(params![project.as_str(), time.as_millis()])?)
}

/// The first of the heads of the queue's parts that the runner can do: one for
/// what needs no agent, one for each agent it offers.
fn first_suitable(
    tx: &Tx<'_>,
    project: &ProjectId,
    can: &Capabilities,
) -> Result<Option<TaskId>, Failed> {
    // The clock may have gone back since an entry became due: skip it then. The
    // plus keeps the index of `since` out of it, which would sort the whole queue.
    let mut head = tx.conn.prepare_cached(
        "SELECT rank, priority, task FROM due WHERE project = ?1 AND agent = ?2 AND +since <= ?3
         ORDER BY rank, priority, task LIMIT 1",
    )?;
    let mut first: Option<(u8, u8, Ulid)> = None;
    for agent in std::iter::once("").chain(can.agents.iter().map(|agent| agent.as_str())) {
        let of_agent = head
            .query_row(params![project.as_str(), agent, tx.now.as_millis()], |row| {
                Ok((row.get(0)?, row.get(1)?, rows::ulid(row, 2)?))
            })
            .optional()?;
        first = match (first, of_agent) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    Ok(first.map(|(_, _, id)| TaskId(id)))
}
