//! What must hold in every state.

use rdev_domain::failure::FailureClass;
use rdev_domain::task::TaskState;
use stateright::Property;

use super::people::STRANGER;
use super::runner::{self, Choice};
use super::world::{Left, World};
use super::{Protocol, Variant};

/// All properties, by name.
pub fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always("a lineage lands at most once", |_, world: &World| {
            let mut lineages: Vec<u8> =
                world.remote.landed.iter().map(|(work, _)| lineage(world, *work)).collect();
            lineages.sort_unstable();
            lineages.windows(2).all(|pair| pair[0] != pair[1])
        }),
        Property::always("what ended without doubt has not landed", |_, world: &World| {
            world.remote.landed.iter().all(|(_, task)| !world.tasks[*task].ended_without_doubt())
        }),
        Property::always(
            "nothing lands that no agent of the chain has made",
            |_, world: &World| world.remote.landed.iter().all(|(work, _)| *work != STRANGER),
        ),
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

fn lineage(world: &World, work: u8) -> u8 {
    world.works.get(usize::from(work)).copied().unwrap_or(u8::MAX)
}

/// A task succeeds only when work of its lineage was brought to the branch.
fn succeeded_by_right(world: &World, record: &super::store::Record) -> bool {
    let of = world.number_of(record.task.lineage);
    let landed = world.remote.landed.iter().any(|(work, _)| lineage(world, *work) == of);
    landed || world.brought_in.contains(&of)
}

/// Whether every task ends when nothing more goes wrong and a runner lives.
fn can_end(protocol: &Protocol, world: &World) -> bool {
    const ENOUGH: usize = 300;
    let protocol = Protocol { variant: Variant::Protocol, ..*protocol };
    let mut world = world.clone();
    world.left = Left { recoveries: 0, lost: 0, people: 0, refusals: 0, agents: 9 };
    world.broken = None;
    for _ in 0..ENOUGH {
        if world.tasks.iter().all(|record| record.task.state.is_terminal()) {
            return true;
        }
        let live = world
            .runners
            .iter()
            .position(|attempt| attempt.as_ref().is_some_and(|attempt| attempt.holds(&world)));
        if let Some(runner) = live {
            runner::go(&mut world, &protocol, runner, Choice::Well);
            continue;
        }
        // Nobody who lives holds it: whoever is left is a zombie.
        world.runners.fill(None);
        if let Some(task) = world.tasks.iter().position(|record| record.lease.is_some()) {
            world.recover(task);
        } else if let Some(task) = world.tasks.iter().position(|record| record.is_claimable()) {
            let claim = super::Action::Claim { runner: 0, task };
            world.apply(&protocol, &claim);
        } else {
            return false;
        }
    }
    false
}
