//! Step 3: the first due task of a project that a runner can do. Three calls where nothing is
//! in the way: one query for all that the choice needs, the task, and the transaction.

use rdev_domain::ids::{Owner, ProjectId, TaskId};
use rdev_domain::ports::{Capabilities, Claim, Claimed, Conflict, PortError, PortResult};
use rdev_domain::project::{Project, ProjectState};
use rdev_domain::step::{Event, Slots, step};

use super::calls::{Query, pause};
use super::events::Encoded;
use super::item::{get_text, text};
use super::projects::{Known, SlotsItem};
use super::rows::{Entry, Found, Row};
use super::{Change, recover, transition};
use crate::schema::{Key, META, SLOTS, partition, sortable};

/// How often a lost race is run again before the wake-up is put off.
const RACES: u32 = 5;

/// How many items the first query of a claim reads; nearly always that is all.
const FIRST: u32 = 100;

/// How many pages of a long queue are looked through for a task that the runner can do.
const PAGES: usize = 20;

/// What a claim has to choose from.
struct Choice {
    project: Project,
    held: Vec<TaskId>,
    any_due: bool,
    /// The first that is due and suits.
    first: Option<Entry>,
}

pub(super) async fn claim_next(
    change: &Change<'_>,
    project: &ProjectId,
    owner: &Owner,
    can: &Capabilities,
) -> PortResult<Claim> {
    change.store.clock.check()?;
    let mut outbox = Vec::new();
    let mut races = 0;
    loop {
        let Some(choice) = look(change, project, can).await? else { return Ok(Claim::Nothing) };
        let taken = u32::try_from(choice.held.len()).unwrap_or(u32::MAX);
        let slots = Slots { taken, limit: choice.project.build_limit };
        let mut lost = None;
        if taken > 0 && (taken >= slots.limit || !choice.any_due) {
            let recovered = recover::expired(change, &choice.held, choice.held.len()).await?;
            outbox.extend(recovered.outbox);
            if recovered.count > 0 {
                // What it freed is looked at anew.
                continue;
            }
            lost = (recovered.dead > 0).then_some(());
        }
        if lost.is_none() {
            if !choice.any_due {
                return Ok(Claim::Nothing);
            }
            if taken >= slots.limit {
                return Ok(Claim::SlotsTaken);
            }
            let Some(entry) = &choice.first else { return Ok(Claim::Unsuited) };
            match take(change, &choice.project, entry, owner, can, slots).await {
                Ok(Taken::Claimed(row)) => {
                    let record = row.into_record();
                    let Some(lease) = record.lease else { return Ok(Claim::Contended) };
                    let project = choice.project;
                    let claimed = Claimed { task: record.task, lease, project, outbox };
                    return Ok(Claim::Claimed(Box::new(claimed)));
                }
                Ok(Taken::Poisoned) => continue,
                Ok(Taken::Lost) => {}
                Err(PortError::Conflict(Conflict::Contended)) => {}
                Err(error) => return Err(error),
            }
        }
        races += 1;
        if races == RACES {
            return Ok(Claim::Contended);
        }
        pause(races).await;
    }
}

enum Taken {
    Claimed(Row),
    Poisoned,
    Lost,
}

async fn take(
    change: &Change<'_>,
    project: &Project,
    entry: &Entry,
    owner: &Owner,
    can: &Capabilities,
    slots: Slots,
) -> PortResult<Taken> {
    let store = change.store;
    // What is in the queue has no lease.
    let Some(item) = store.get(Key::task(&project.id, entry.task)).await? else {
        // Somebody has deleted the task by hand. It does not come back, and must not stand
        // before the others for ever.
        store.delete_all(vec![Key::entry(&project.id, &entry.place)]).await?;
        return Ok(Taken::Lost);
    };
    let row = Row::of(&item, None)?;
    if row.place.as_ref() != Some(&entry.place) {
        return Ok(Taken::Lost);
    }
    let record = match &row.found {
        Found::Task(record) => record,
        Found::Unreadable(unreadable) => {
            let poisoned = transition::poison(change, &row, unreadable).await?;
            return Ok(if poisoned.is_some() { Taken::Poisoned } else { Taken::Lost });
        }
    };
    let event = Event::Claim { owner: owner.clone(), worker_id: can.worker_id.clone(), slots };
    let step = step(&record.task, None, event, change.now)?;
    let written = transition::write(change, &row, step, &Encoded::default(), false).await?;
    let Some(written) = written else { return Ok(Taken::Lost) };
    store.held.note_project(entry.task, &project.id);
    store.held.keep(entry.task, written.row.clone());
    Ok(Taken::Claimed(written.row))
}

/// Reads the project, its slots and its queue, up to the first task that suits. `None` where
/// there is no project, or none any more.
async fn look(
    change: &Change<'_>,
    id: &ProjectId,
    can: &Capabilities,
) -> PortResult<Option<Choice>> {
    let (mut project, mut held) = (None, Vec::new());
    let (mut any_due, mut first) = (false, None::<Entry>);
    let (mut from, mut after, mut limit) = (META, None, Some(FIRST));
    let to = format!("R#{}~", sortable(change.now));
    for _ in 0..PAGES {
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
        let found = change.store.query(query).await?;
        for item in &found.items {
            match get_text(item, "sk") {
                Some(META) => project = Some(Known::of(item)?.project),
                Some(SLOTS) => held = SlotsItem::of(item).held,
                _ => {
                    let entry = Entry::of(item)?;
                    // The clock may have gone back since an entry became due.
                    if entry.at > change.now {
                        continue;
                    }
                    any_due = true;
                    let before = first.as_ref().is_none_or(|first| entry.order() < first.order());
                    if before && suits(&entry, can) {
                        first = Some(entry);
                    }
                }
            }
        }
        let Some(last) = found.last else { break };
        let Some(project) = &project else { break };
        if held.len() >= project.build_limit as usize && any_due {
            // There is no slot: what is first is of no interest.
            break;
        }
        limit = None;
        if first.is_some() && get_text(&last, "sk").is_some_and(|sk| sk.starts_with('Q')) {
            // What follows among the due comes later. What has just become due may not.
            from = "R#";
        } else {
            after = Some(last);
        }
    }
    let project = project.filter(|project| project.state != ProjectState::Deleting);
    Ok(project.map(|project| Choice { project, held, any_due, first }))
}

fn suits(entry: &Entry, can: &Capabilities) -> bool {
    let Some(agent) = &entry.agent else { return true };
    can.agents.iter().any(|offered| offered.as_str() == agent)
}
