//! The store's transactions on the project's tasks, as `shared/embedded/src/store` and
//! `shared/aws/src/store` execute them.

use rdev_domain::lease::{CLOCK_SLACK, Holder, Lease};
use rdev_domain::step::{Event, Refusal, Slots};
use rdev_domain::task::TaskState;
use rdev_domain::time::Timestamp;

use super::world::{Broken, World};
use super::{Project, Variant};
use crate::model::record::{NOW, Record};

/// What a claim has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Read {
    Nothing,
    SlotsTaken,
    /// The first due task, its fence, and how many slots were taken.
    Due {
        task: usize,
        fence: u64,
        taken: u32,
    },
}

/// The moment that it is on a clock that is wrong by so many seconds.
pub fn on_clock(seconds: i32) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + i64::from(seconds) * 1000)
}

/// Whether a lease has expired on a clock.
pub fn expired(project: &Project, lease: &Lease, now: Timestamp) -> bool {
    match project.variant {
        Variant::NoSlackForClocks => lease.until < now,
        _ => lease.expired(now),
    }
}

/// How many of the project's tasks are held.
pub fn taken(world: &World) -> u32 {
    let held = world.tasks.iter().filter(|record| record.lease.is_some()).count();
    u32::try_from(held).unwrap_or(u32::MAX)
}

/// The first task that is due on a clock: unowned pushes first.
fn first_due(world: &World, now: Timestamp) -> Option<usize> {
    let due = |record: &Record| record.is_claimable() && record.task.available_at <= now;
    let due = world.tasks.iter().enumerate().filter(|(_, record)| due(record));
    due.min_by_key(|(place, record)| (record.task.state != TaskState::Pushing, *place))
        .map(|(place, _)| place)
}

/// The reads of a claim. Leases that have expired are recovered first, where that could help.
/// Returns with them the wake-ups of the recoveries.
pub fn read(world: &mut World, project: &Project, now: Timestamp) -> (Read, Vec<Timestamp>) {
    let mut wake_ups = Vec::new();
    let mut first = first_due(world, now);
    if taken(world) > 0 && (taken(world) >= project.bounds.limit || first.is_none()) {
        for task in 0..world.tasks.len() {
            let Some(lease) = &world.tasks[task].lease else { continue };
            let (fence, heartbeat) = (lease.fence.0, lease.heartbeat);
            if expired(project, lease, now) {
                wake_ups.extend(recover(world, project, task, fence, heartbeat, now));
            }
        }
        first = first_due(world, now);
    }
    let taken = taken(world);
    let read = match first {
        None => Read::Nothing,
        Some(_) if taken >= project.bounds.limit => Read::SlotsTaken,
        Some(task) => Read::Due { task, fence: world.tasks[task].task.fence.0, taken },
    };
    (read, wake_ups)
}

/// Recovers a lease of which a fence and a heartbeat were seen.
pub fn recover(
    world: &mut World,
    project: &Project,
    task: usize,
    fence: u64,
    heartbeat: u64,
    now: Timestamp,
) -> Vec<Timestamp> {
    let Some(lease) = &world.tasks[task].lease else { return vec![] };
    if lease.fence.0 != fence {
        return vec![];
    }
    let seen = match project.variant {
        Variant::IgnoresHeartbeats => lease.heartbeat,
        _ => heartbeat,
    };
    let fence = lease.fence;
    let before = world.tasks[task].clone();
    // That it had expired was read.
    let recovered = world.tasks[task].change(|record| record.recover(fence, seen, now));
    let Ok(wake_ups) = recovered else { return vec![] };
    let holder = world.runners.iter().flatten().find(|work| Some(work.claim) == world.held[task]);
    if project.bounds.skew() <= i32::try_from(CLOCK_SLACK.as_secs()).unwrap_or(0)
        && holder.is_some_and(|work| work.may_push())
    {
        world.broken = Some(Broken::LiveLeaseRecovered);
    }
    after(world, task, &before);
    wake_ups
}

/// The write of a claim, on condition that the task is as it was read. Returns whether it is.
pub fn claim(
    world: &mut World,
    project: &Project,
    claim: u8,
    (task, fence, seen): (usize, u64, u32),
    now: Timestamp,
) -> bool {
    let taken = match project.variant {
        Variant::CountsSlotsBefore => seen,
        _ => taken(world),
    };
    if world.tasks[task].task.fence.0 != fence {
        return false;
    }
    let slots = Slots { taken, limit: project.bounds.limit };
    let process = claim.to_string();
    let claimed = world.tasks[task].change(|record| record.claim(&process, slots, now)).is_ok();
    if claimed {
        world.held[task] = Some(claim);
    }
    claimed
}

/// Whom a write names as the holder.
fn named(project: &Project, record: &Record, holder: &Holder) -> Holder {
    match &record.lease {
        Some(lease) if project.variant == Variant::IgnoresOwner && lease.fence == holder.fence => {
            Holder { fence: lease.fence, owner: lease.owner.clone() }
        }
        _ => holder.clone(),
    }
}

/// A write by who has a claim. Returns the wake-ups to send.
pub fn write(
    world: &mut World,
    project: &Project,
    (task, claim): (usize, u8),
    holder: &Holder,
    event: impl FnOnce(Holder) -> Event,
    now: Timestamp,
) -> Result<Vec<Timestamp>, Refusal> {
    let event = event(named(project, &world.tasks[task], holder));
    let before = world.tasks[task].clone();
    let wake_ups = world.tasks[task].change(|record| {
        if project.variant == Variant::ParksWithoutBound {
            (record.task.parks, record.task.parked_ms) = (0, 0);
        }
        if let (Variant::ForgetsTheCancellation, Some(lease)) = (project.variant, &mut record.lease)
        {
            lease.cancel_requested &= !matches!(event, Event::Release { .. });
        }
        record.apply(event, now)
    })?;
    if world.held[task] != Some(claim) {
        world.broken = Some(Broken::NotTheHolder);
    }
    after(world, task, &before);
    Ok(wake_ups)
}

/// A renewal by who has a claim. Returns whether the task is to be cancelled.
pub fn renew(
    world: &mut World,
    project: &Project,
    (task, claim): (usize, u8),
    holder: &Holder,
    now: Timestamp,
) -> Result<bool, Refusal> {
    let holder = named(project, &world.tasks[task], holder);
    world.tasks[task].change(|record| record.renew(&holder, None, now))?;
    if world.held[task] != Some(claim) {
        world.broken = Some(Broken::NotTheHolder);
    }
    Ok(world.tasks[task].lease.as_ref().is_some_and(|lease| lease.cancel_requested))
}

/// Cancels a task.
pub fn cancel(world: &mut World, task: usize) {
    let before = world.tasks[task].clone();
    let cancelled = world.tasks[task].change(|record| record.apply(Event::Cancel, NOW));
    if cancelled.is_ok() {
        world.promised[task] = true;
    }
    after(world, task, &before);
}

/// What holds after each change of a task.
fn after(world: &mut World, task: usize, before: &Record) {
    let record = &world.tasks[task];
    if before.task.state.is_terminal() && record.task.state != before.task.state {
        world.broken = Some(Broken::TerminalStateLeft);
    }
    if record.lease.is_none() {
        world.held[task] = None;
    }
}

/// Whether the sweep wakes the project: a task is due and a slot is free. (The sweep waits until it
/// has been due for long; any time may have passed.)
pub fn is_due(world: &World, project: &Project, now: Timestamp) -> bool {
    project.variant != Variant::SweepWakesNothing
        && taken(world) < project.bounds.limit
        && first_due(world, now).is_some()
}
