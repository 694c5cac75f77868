//! Step 3: a runner claims the first due task of a project that it can do. Usually that takes
//! three calls: one query for everything that the queue depends on, the task, and the transaction.

use std::collections::HashSet;

use rdev_domain::ids::{Owner, ProjectId, TaskId};
use rdev_domain::ports::{Capabilities, Claim, Claimed, Conflict, PortError, PortResult};
use rdev_domain::project::{Project, ProjectState};
use rdev_domain::step::{Event, Slots, step};

use super::context::Change;
use super::events::EncodedRecord;
use super::item::{get_text, text};
use super::projects::{SlotsItem, StoredProject};
use super::queue_entry::Entry;
use super::recover;
use super::rows::{Found, Row};
use super::table::{Query, pause};
use super::transition::{self, LeaseCondition};
use crate::schema::{Key, META, SLOTS, partition, sortable};

/// How many times a claim is tried that races with another one.
const MAX_RACES: u32 = 5;

/// The most items of the first query of a claim. Nearly every queue is shorter.
const FIRST_PAGE: u32 = 100;

/// The most pages of a long queue that are searched for a task that the runner can do.
const MAX_PAGES: usize = 20;

/// What a claim depends on.
struct ProjectQueue {
    project: Project,
    leased: Vec<TaskId>,
    any_due: bool,
    /// The first due task that the runner can do.
    first: Option<Entry>,
}

pub(super) async fn claim_next(
    change: &Change<'_>,
    project: &ProjectId,
    owner: &Owner,
    can: &Capabilities,
) -> PortResult<Claim> {
    change.context.clock.check()?;
    let mut outbox = Vec::new();
    let mut races = 0;
    // Tasks whose records a newer program wrote: they keep their places, for a newer runner.
    let mut newer = HashSet::new();
    loop {
        let Some(queue) = read_queue(change, project, can, &newer).await? else {
            return Ok(Claim::Nothing);
        };
        let taken = u32::try_from(queue.leased.len()).unwrap_or(u32::MAX);
        let slots = Slots { taken, limit: queue.project.build_limit };
        let mut raced = false;
        if taken > 0 && (taken >= slots.limit || !queue.any_due) {
            let recovered = recover::expired(change, &queue.leased, queue.leased.len()).await?;
            outbox.extend(recovered.outbox);
            if recovered.count > 0 {
                // The recovered tasks are in the queue now: it is read again.
                continue;
            }
            raced = recovered.expired > 0;
        }
        if !raced {
            if !queue.any_due {
                return Ok(Claim::Nothing);
            }
            if taken >= slots.limit {
                return Ok(Claim::SlotsTaken);
            }
            let Some(entry) = &queue.first else { return Ok(Claim::Unsuited) };
            let (owner, worker_id) = (owner.clone(), can.worker_id.clone());
            let event = Event::Claim { owner, worker_id, slots };
            match take(change, entry, event).await {
                Ok(Taken::Claimed(row)) => {
                    let record = row.into_record();
                    let Some(lease) = record.lease else { return Ok(Claim::Contended) };
                    let project = queue.project;
                    let claimed = Claimed { task: record.task, lease, project, outbox };
                    return Ok(Claim::Claimed(Box::new(claimed)));
                }
                Ok(Taken::Poisoned) => continue,
                Ok(Taken::Newer) => {
                    newer.insert(entry.task);
                    continue;
                }
                Ok(Taken::Raced) => {}
                Err(PortError::Conflict(Conflict::Contended)) => {}
                Err(error) => return Err(error),
            }
        }
        races += 1;
        if races == MAX_RACES {
            return Ok(Claim::Contended);
        }
        pause(races).await;
    }
}

enum Taken {
    Claimed(Row),
    Poisoned,
    Newer,
    Raced,
}

async fn take(change: &Change<'_>, entry: &Entry, event: Event) -> PortResult<Taken> {
    let context = change.context;
    // A task in the queue has no lease.
    let Some(item) = context.table.get(Key::task(&entry.project, entry.task)).await? else {
        // The task was deleted by hand. Its entry would block the queue for ever.
        context.table.delete_all(vec![Key::queue_entry(&entry.project, &entry.place)]).await?;
        return Ok(Taken::Raced);
    };
    let row = Row::of(&item, None)?;
    if row.place.as_ref() != Some(&entry.place) {
        return Ok(Taken::Raced);
    }
    let record = match &row.found {
        Found::Task(record) => record,
        Found::Newer(_) => return Ok(Taken::Newer),
        Found::Corrupt(corrupt) => {
            let poisoned = transition::poison(change, &row, corrupt).await?;
            return Ok(if poisoned.is_some() { Taken::Poisoned } else { Taken::Raced });
        }
    };
    let step = step(&record.task, None, event, change.now)?;
    let written =
        transition::write(change, &row, step, &EncodedRecord::default(), LeaseCondition::Holder)
            .await?;
    let Some(written) = written else { return Ok(Taken::Raced) };
    context.leases.insert_project(entry.task, &entry.project);
    context.leases.insert(entry.task, written.row.clone());
    Ok(Taken::Claimed(written.row))
}

/// Reads the project, its slots and its queue, up to the first task that the runner can do.
/// `None` if the project does not exist or is being deleted.
async fn read_queue(
    change: &Change<'_>,
    id: &ProjectId,
    can: &Capabilities,
    newer: &HashSet<TaskId>,
) -> PortResult<Option<ProjectQueue>> {
    let (mut project, mut leased) = (None, Vec::new());
    let (mut any_due, mut first) = (false, None::<Entry>);
    let (mut from, mut after, mut limit) = (META, None, Some(FIRST_PAGE));
    let to = format!("R#{}~", sortable(change.now));
    for _ in 0..MAX_PAGES {
        let query = Query {
            keys: "#pk = :pk AND #sk BETWEEN :from AND :to",
            with: vec![
                (":pk", text(partition(id))),
                (":from", text(from)),
                (":to", text(to.as_str())),
            ],
            limit,
            after: after.take(),
            ..Query::default()
        };
        let found = change.context.table.query(query).await?;
        for item in &found.items {
            match get_text(item, "sk") {
                Some(META) => project = Some(StoredProject::of(item)?.project),
                Some(SLOTS) => leased = SlotsItem::of(item).leased,
                _ => {
                    let entry = Entry::of(item)?;
                    // The clock may have gone back since an entry became due.
                    if entry.at > change.now {
                        continue;
                    }
                    any_due = true;
                    let before = first.as_ref().is_none_or(|first| entry.order() < first.order());
                    if before && suits(&entry, can) && !newer.contains(&entry.task) {
                        first = Some(entry);
                    }
                }
            }
        }
        let Some(last) = found.last else { break };
        let Some(project) = &project else { break };
        if leased.len() >= project.build_limit as usize && any_due {
            // No slot is free: it does not matter which task is first.
            break;
        }
        limit = None;
        if first.is_some() && get_text(&last, "sk").is_some_and(|sk| sk.starts_with('Q')) {
            // The rest of the due part comes after it. Tasks that have just become due may not.
            from = "R#";
        } else {
            after = Some(last);
        }
    }
    let project = project.filter(|project| project.state != ProjectState::Deleting);
    Ok(project.map(|project| ProjectQueue { project, leased, any_due, first }))
}

fn suits(entry: &Entry, can: &Capabilities) -> bool {
    let Some(agent) = &entry.agent else { return true };
    can.agents.iter().any(|offered| offered.as_str() == agent)
}
