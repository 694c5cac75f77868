//! Step 3: a runner claims the first due task that it can do, of the project whose turn it is.
//! Usually that takes three calls: one query for everything that the queue depends on, the task,
//! and the transaction. Two more when others may wait: for who they are, and for their slots.

use std::collections::HashSet;

use rdev_domain::ids::{Owner, ProjectId, TaskId};
use rdev_domain::ports::{Capabilities, Claim, Claimed, Conflict, PortError, PortResult};
use rdev_domain::project::{Project, ProjectState};
use rdev_domain::step::{Event, Slots, step};
use rdev_domain::turn::{Turn, in_order};

use super::context::Change;
use super::events::EncodedRecord;
use super::item::{Item, get_text};
use super::projects::{SlotsItem, StoredProject};
use super::queue_entry::{self, Entry, is_due};
use super::recover;
use super::rows::{Found, Row};
use super::table::{Query, pause};
use super::transition::{self, LastDue, LeaseCondition};
use super::turns;
use crate::error::alone;
use crate::schema::{Key, META, SLOTS, sortable};

/// How many times a claim is tried that races with another one.
const MAX_RACES: u32 = 5;

/// The most items of the first query of a claim. Nearly every queue is shorter.
const FIRST_PAGE: u32 = queue_entry::AT_A_GLANCE;

/// The most pages of a long queue that are searched for a task that the runner can do.
const MAX_PAGES: usize = 20;

/// How many projects a claim tries, when what is due in the first of them is not for this runner.
const MAX_PROJECTS: usize = 5;

/// What a claim depends on.
struct ProjectQueue {
    project: Project,
    slots: SlotsItem,
    any_due: bool,
    /// It has no due part, whatever the clock says.
    is_idle: bool,
    /// Nothing is in it beside one task that is due.
    only_one: bool,
    /// The due task that comes first, whoever can do it.
    foremost: Option<Entry>,
    /// The first due task that the runner can do.
    first: Option<Entry>,
}

impl ProjectQueue {
    fn is_full(&self) -> bool {
        self.slots.held() >= self.project.build_limit
    }

    fn turn(&self) -> Turn {
        self.slots.turn(self.project.id.clone())
    }

    /// The task that the runner would claim.
    fn claimable(&self) -> Option<&Entry> {
        self.first.as_ref().filter(|_| !self.is_full())
    }
}

/// A runner that claims.
struct Claimer<'a> {
    change: &'a Change<'a>,
    owner: &'a Owner,
    can: &'a Capabilities,
    /// Tasks whose records a newer program wrote: they keep their places, for a newer runner.
    newer: HashSet<TaskId>,
}

/// Claims for the project whose turn it is; `hint` is the project that the wake-up names.
pub(super) async fn claim_next(
    change: &Change<'_>,
    hint: &ProjectId,
    owner: &Owner,
    can: &Capabilities,
) -> PortResult<Claim> {
    change.context.clock.check()?;
    let mut claimer = Claimer { change, owner, can, newer: HashSet::new() };
    let mut outbox = Vec::new();
    let mut races = 0;
    loop {
        let mut own = read_queue(change, hint, can, &claimer.newer).await?;
        if let Some(queue) = own.as_mut().filter(|queue| queue.any_due && !queue.slots.waits) {
            // It has become due by the time that has passed. Claims by other wake-ups see it too
            // now.
            turns::mark_waiting(change.context, hint).await?;
            queue.slots.waits = true;
        }
        let mut raced = false;
        if let Some(queue) = &own
            && !queue.slots.leased.is_empty()
            && (queue.is_full() || !queue.any_due)
        {
            let leased = &queue.slots.leased;
            let recovered = recover::expired(change, leased, leased.len()).await?;
            outbox.extend(recovered.outbox);
            if recovered.count > 0 {
                // The recovered tasks are in the queue now: it is read again.
                continue;
            }
            raced = recovered.expired > 0;
        }
        if !raced {
            let why_not = match &own {
                Some(queue) if queue.any_due && queue.is_full() => Claim::SlotsTaken,
                Some(queue) if queue.any_due => {
                    let agent = queue.foremost.as_ref().and_then(Entry::agent);
                    Claim::Unsuited { agent }
                }
                _ => Claim::Nothing,
            };
            match claimer.claim_in_turn(hint, own, races).await? {
                Taken::Claimed(mut claimed) => {
                    claimed.outbox = outbox;
                    return Ok(Claim::Claimed(claimed));
                }
                Taken::Ended => continue,
                Taken::Nothing => return Ok(why_not),
                Taken::Raced => {}
            }
        }
        races += 1;
        if races == MAX_RACES {
            return Ok(Claim::Contended);
        }
        pause(races).await;
    }
}

impl Claimer<'_> {
    /// Claims for the first project in turn in which this runner can do something. `own` is the
    /// queue of the hint.
    async fn claim_in_turn(
        &mut self,
        hint: &ProjectId,
        own: Option<ProjectQueue>,
        races: u32,
    ) -> PortResult<Taken> {
        let change = self.change;
        let own = own.filter(|queue| queue.claimable().is_some());
        let own = match own {
            // After a lost race too: many runners would try the same first project again.
            Some(queue) if races > 0 || queue.turn().comes_first(change.now) => {
                return self.take(&queue).await;
            }
            own => own,
        };
        let mut turns = turns::waiting(change.context, Some(hint)).await?;
        turns.extend(own.as_ref().map(ProjectQueue::turn));
        let turns = in_order(turns, (change.context.chance)());
        for turn in turns.into_iter().take(MAX_PROJECTS) {
            if turn.project == *hint
                && let Some(queue) = &own
            {
                return self.take(queue).await;
            }
            // Another project's bad record does not keep this wake-up from its work.
            let key = Key::project(&turn.project);
            let queue = read_queue(change, &turn.project, self.can, &self.newer).await;
            match alone(&key, queue)?.flatten() {
                Some(queue) if queue.claimable().is_some() => {
                    if let Some(taken) = alone(&key, self.take(&queue).await)? {
                        return Ok(taken);
                    }
                }
                Some(queue) if queue.is_idle && queue.slots.waits => {
                    turns::mark_idle(change.context, &turn.project, &queue.slots).await?;
                }
                _ => {}
            }
        }
        // The wake-up's own project was behind those that have nothing for this runner.
        match &own {
            Some(queue) => self.take(queue).await,
            None => Ok(Taken::Nothing),
        }
    }

    async fn take(&mut self, queue: &ProjectQueue) -> PortResult<Taken> {
        let change = self.change;
        let context = change.context;
        let Some(entry) = queue.claimable() else { return Ok(Taken::Nothing) };
        // A task in the queue has no lease.
        let Some(item) = context.table.get(Key::task(&entry.project, entry.task)).await? else {
            // The task was deleted by hand. Its entry would block the queue for ever.
            context.table.delete_all(vec![Key::queue_entry(&entry.project, &entry.place)]).await?;
            return Ok(Taken::Raced);
        };
        let row = Row::of(&item, None, context.format)?;
        if row.place.as_ref() != Some(&entry.place) {
            return Ok(Taken::Raced);
        }
        let record = match &row.found {
            Found::Task(record) => record,
            Found::Newer(_) => {
                self.newer.insert(entry.task);
                return Ok(Taken::Ended);
            }
            Found::Corrupt(corrupt) => {
                let poisoned = transition::poison(change, &row, corrupt).await?;
                return Ok(if poisoned.is_some() { Taken::Ended } else { Taken::Raced });
            }
        };
        let is_own = queue.project.owns_task(&record.task);
        let event = if is_own {
            Event::Claim {
                owner: self.owner.clone(),
                worker_id: self.can.worker_id.clone(),
                slots: Slots { taken: queue.slots.held(), limit: queue.project.build_limit },
            }
        } else {
            Event::Cancel
        };
        let step = match step(&record.task, None, event, change.now) {
            Err(_) if !is_own => {
                // A push of an earlier project: only its own runner may end it.
                self.newer.insert(entry.task);
                return Ok(Taken::Ended);
            }
            step => step?,
        };
        let slots = &queue.slots;
        let last_due = (queue.only_one && slots.waits)
            .then_some(LastDue { rev: slots.rev, parked: slots.parked });
        let condition =
            if is_own { LeaseCondition::New { last_due } } else { LeaseCondition::Holder };
        let log = EncodedRecord::default();
        let written = match transition::write(change, &row, step, &log, condition).await {
            Ok(Some(written)) => written,
            Ok(None) | Err(PortError::Conflict(Conflict::Contended)) => return Ok(Taken::Raced),
            Err(error) => return Err(error),
        };
        if !is_own {
            return Ok(Taken::Ended);
        }
        context.leases.insert_project(entry.task, &entry.project);
        context.leases.insert(entry.task, written.row.clone());
        let record = written.row.into_record();
        // A claim without a lease is a defect.
        let Some(lease) = record.lease else { return Ok(Taken::Raced) };
        let project = queue.project.clone();
        let claimed = Claimed { task: record.task, lease, project, outbox: Vec::new() };
        Ok(Taken::Claimed(Box::new(claimed)))
    }
}

/// What came of a try to claim.
enum Taken {
    Claimed(Box<Claimed>),
    /// The task has ended instead, or is left to a newer program: there may be another one.
    Ended,
    Nothing,
    Raced,
}

/// Reads the project, its slots and its queue, up to the first task that the runner can do.
/// `None` if the project does not exist or is being deleted.
async fn read_queue(
    change: &Change<'_>,
    id: &ProjectId,
    can: &Capabilities,
    newer: &HashSet<TaskId>,
) -> PortResult<Option<ProjectQueue>> {
    let (mut project, mut slots) = (None, SlotsItem::of(&Item::new()));
    let (mut due, mut early, mut in_due_part) = (0_usize, 0_usize, 0_usize);
    let (mut first, mut foremost) = (None::<Entry>, None::<Entry>);
    let mut read_all = false;
    let (mut from, mut after, mut limit) = (META, None, Some(FIRST_PAGE));
    let to = format!("R#{}~", sortable(change.now));
    for _ in 0..MAX_PAGES {
        let query = Query { limit, after: after.take(), ..Query::between(id, from, &to) };
        let found = change.context.table.query(query).await?;
        for item in &found.items {
            match get_text(item, "sk") {
                Some(META) => project = Some(StoredProject::of(item)?.project),
                Some(SLOTS) => slots = SlotsItem::of(item),
                _ => {
                    let entry = Entry::of(item)?;
                    in_due_part += usize::from(is_due(&entry.place));
                    // The clock may have gone back since an entry became due.
                    if entry.at > change.now {
                        early += 1;
                        continue;
                    }
                    due += 1;
                    let before = |other: &Entry| entry.order() < other.order();
                    if foremost.as_ref().is_none_or(before) {
                        foremost = Some(entry.clone());
                    }
                    let before = first.as_ref().is_none_or(before);
                    if before && suits(&entry, can) && !newer.contains(&entry.task) {
                        first = Some(entry);
                    }
                }
            }
        }
        let Some(last) = found.last else {
            read_all = true;
            break;
        };
        let Some(project) = &project else { break };
        if slots.leased.len() >= project.build_limit as usize && due > 0 {
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
    let any_due = due > 0;
    let is_idle = read_all && due == 0 && in_due_part == 0;
    let only_one = read_all && due == 1 && early == 0;
    Ok(project.map(|project| ProjectQueue {
        project,
        slots,
        any_due,
        is_idle,
        only_one,
        foremost,
        first,
    }))
}

fn suits(entry: &Entry, can: &Capabilities) -> bool {
    let Some(agent) = &entry.agent else { return true };
    can.agents.iter().any(|offered| offered.as_str() == agent)
}
