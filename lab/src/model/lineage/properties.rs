//! What must hold in every state.

use rdev_domain::failure::FailureClass;
use rdev_domain::task::TaskState;
use stateright::Property;

use super::folder;
use super::people::STRANGER;
use super::remote::work_of;
use super::runner::{self, Choice};
use super::world::{Left, World};
use super::{Protocol, Variant};
use crate::model::ends::Step;
use crate::model::part::hash_of;
use crate::model::record::Record;

/// All properties, by name.
pub fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always("a lineage lands at most once", |protocol: &Protocol, world: &World| {
            // Where tickets prove nothing, that is not promised to people who rewrite the branch.
            let promised = protocol.is_atomic() || !protocol.bounds.rewriting;
            let mut lineages: Vec<u8> = landed(world).map(|work| lineage(world, work)).collect();
            lineages.sort_unstable();
            !promised || lineages.windows(2).all(|pair| pair[0] != pair[1])
        }),
        Property::always("what ended without doubt has not landed", |_, world: &World| {
            let mut landed = world.remote.landed.iter();
            landed.all(|landing| !world.tasks[landing.task].ended_without_doubt())
        }),
        Property::always(
            "nothing lands that no agent of the chain has made",
            |_, world: &World| landed(world).all(|work| work != STRANGER),
        ),
        Property::always("nothing lands that was not verified", |_, world: &World| {
            let mut landed = world.remote.landed.iter();
            landed.all(|landing| !world.unverified.contains(&work_of(&landing.commit)))
        }),
        Property::always("what has landed succeeds or is in doubt", |_, world: &World| {
            world.tasks.iter().all(|record| {
                record.task.state != TaskState::Succeeded || succeeded_by_right(world, record)
            })
        }),
        Property::always("only people make a person decide", |_, world: &World| {
            world.taken_away
                || !world.tasks.iter().any(|record| {
                    let failure = record.task.failure.as_ref();
                    record.task.state == TaskState::Failed
                        && failure.is_some_and(|f| f.class == FailureClass::HistoryRewritten)
                })
        }),
        Property::always("a task is retried at most once", |_, world: &World| {
            let mut old: Vec<_> = world.tasks.iter().filter_map(|r| r.task.retry_of).collect();
            old.sort_unstable();
            old.windows(2).all(|pair| pair[0] != pair[1])
        }),
        Property::always("one task is held at a time", |_, world: &World| {
            world.tasks.iter().filter(|record| record.lease.is_some()).count() <= 1
        }),
        Property::always("no agent runs for work that may still land", |_, world: &World| {
            world.broken.is_none()
        }),
        Property::always("every task can still end", can_end),
    ]
}

fn landed(world: &World) -> impl Iterator<Item = u8> {
    world.remote.landed.iter().map(|landing| work_of(&landing.commit))
}

fn lineage(world: &World, work: u8) -> u8 {
    world.works.get(usize::from(work)).copied().unwrap_or(u8::MAX)
}

/// A task succeeds only when work of its lineage was brought to the branch.
fn succeeded_by_right(world: &World, record: &Record) -> bool {
    let of = world.number_of(record.task.lineage);
    landed(world).any(|work| lineage(world, work) == of) || world.brought_in.contains(&of)
}

/// Whether every task ends when nothing more goes wrong and a runner lives.
fn can_end(protocol: &Protocol, world: &World) -> bool {
    const ENOUGH: usize = 300;
    let whole = Protocol { variant: Variant::Protocol, ..protocol.clone() };
    let mut world = world.clone();
    let none =
        Left { recoveries: 0, lost: 0, people: 0, refusals: 0, agents: 0, kills: 0, failures: 0 };
    world.left = Left { agents: 9, ..none };
    world.broken = None;
    world.in_flight.clear();
    // Whoever does not hold its task is a zombie, and dies.
    for runner in 0..world.runners.len() {
        if world.runners[runner].as_ref().is_some_and(|attempt| !attempt.holds(&world)) {
            world.kill(runner);
        }
    }
    let key = |world: &World| {
        let remote = &world.remote;
        let refs = (&remote.branch, &remote.own, &remote.locks, &remote.log);
        let works = (&world.works, &world.unverified, &world.failed);
        hash_of(&(&world.tasks, &world.runners, refs, works))
    };
    protocol.ends.reached(&mut world, ENOUGH, key, |world| goes_on(world, &whole))
}

/// The next step when nothing goes wrong.
fn goes_on(world: &mut World, whole: &Protocol) -> Step {
    if world.tasks.iter().all(|record| record.task.state.is_terminal()) {
        return Step::Ended;
    }
    // A push that a stale lock keeps away is given up after two hours. Here a person removes the
    // lock.
    for name in folder::stale_locks(&world.remote) {
        world.remote.change(|remote| remote.locks.remove(&name));
    }
    if let Some(runner) = world.runners.iter().position(Option::is_some) {
        runner::go(world, whole, runner, Choice::Well);
    } else if let Some(task) = world.tasks.iter().position(|record| record.lease.is_some()) {
        world.recover(task);
    } else if let Some(task) = world.tasks.iter().position(|record| record.is_claimable()) {
        world.claim(0, task);
    } else {
        return Step::Stuck;
    }
    world.forget_time();
    Step::On
}
