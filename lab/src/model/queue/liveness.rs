//! Whether every task can still end, once nothing more goes wrong and a runner lives.

use super::Project;
use super::wake_ups::Sending;
use super::worker::{self, Does};
use super::world::{Action, Left, World};
use crate::model::ends::Step;
use crate::model::part::hash_of;

/// More steps than any end takes.
const ENOUGH: usize = 2000;

/// With the sweep alone: every process dies, and every wake-up is lost. What the store has is enough.
pub fn by_the_sweep(project: &Project, world: &World) -> bool {
    if !project.bounds.faulty {
        return true;
    }
    let mut world = World { messages: Vec::new(), ..begin(world) };
    project.ends[0].reached(&mut world, ENOUGH, key, |world| {
        goes_on(project, world, |world, actions| world.sweeps(project, false, actions))
    })
}

/// With the queue alone: every process dies, and no wake-up is lost.
pub fn by_the_queue(project: &Project, world: &World) -> bool {
    if project.bounds.faulty {
        return true;
    }
    project.ends[1]
        .reached(&mut begin(world), ENOUGH, key, |world| goes_on(project, world, |_, _| {}))
}

/// Every process is dead.
fn begin(world: &World) -> World {
    let left = Left { claims: u8::MAX, faults: 0, parks: 0, releases: 0, cancels: 0 };
    let mut world = World { left, broken: None, recoverers: Vec::new(), ..world.clone() };
    world.runners.fill(None);
    for message in &mut world.messages {
        message.by = None;
    }
    world
}

fn key(world: &World) -> u64 {
    let runner = (&world.runners, &world.recoverers);
    hash_of(&(&world.tasks, runner, &world.messages, &world.marks))
}

fn goes_on(
    project: &Project,
    world: &mut World,
    sweeps: impl Fn(&World, &mut Vec<Action>),
) -> Step {
    if world.tasks.iter().all(|record| record.task.state.is_terminal()) {
        return Step::Ended;
    }
    world.left.claims = u8::MAX;
    let working = world.runners.iter().position(Option::is_some);
    if let Some(runner) = working
        && let Some(work) = &world.runners[runner]
    {
        let choices = worker::choices(world, project, work);
        let does = choices.into_iter().find(|does| *does != Does::Renew);
        let does = does.unwrap_or(Does::Renew);
        world.apply(project, &Action::Go { runner, does });
        return Step::On;
    }
    let mut actions = Vec::new();
    sweeps(world, &mut actions);
    let overdue = actions.into_iter().find(|action| match action {
        Action::Overdue { how, .. } | Action::Recover { how, .. } => *how == Sending::Well,
        _ => true,
    });
    let visible = world.messages.iter().position(|message| message.hidden_for <= 0);
    let received = visible.map(|message| Action::Receive { runner: 0, message });
    world.apply(project, &received.or(overdue).unwrap_or(Action::Pass));
    Step::On
}
