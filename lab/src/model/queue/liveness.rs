//! Whether every task can still end, once nothing more goes wrong and a runner lives.

use super::Project;
use super::bounds::Queue;
use super::store::{self, on_clock};
use super::worker::{self, Does};
use super::world::{Action, Left, World};
use crate::model::ends::Step;
use crate::model::part::hash_of;

/// More steps than any end takes.
const ENOUGH: usize = 400;

/// With the sweep alone: every process dies, and every wake-up and every mark is lost.
pub fn by_the_sweep(project: &Project, world: &World) -> bool {
    project.bounds.queue == Queue::Good
        || project.ends[0]
            .reached(&mut begin(world), ENOUGH, key, |world| goes_on(project, world, swept))
}

/// With the queue alone: every process dies, and no wake-up is lost that was sent.
pub fn by_the_queue(project: &Project, world: &World) -> bool {
    project.bounds.queue == Queue::Any
        || project.ends[1]
            .reached(&mut begin(world), ENOUGH, key, |world| goes_on(project, world, delivered))
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
    idle: impl Fn(&Project, &mut World) -> Action,
) -> Step {
    if world.tasks.iter().all(|record| record.task.state.is_terminal()) {
        return Step::Ended;
    }
    world.left.claims = u8::MAX;
    let working = world.runners.iter().enumerate();
    let mut working = working.filter_map(|(runner, work)| Some((runner, work.as_ref()?)));
    let next = match working.next() {
        Some((runner, work)) => {
            let mut choices = worker::choices(world, project, work).into_iter();
            let does = choices.find(|does| *does != Does::Renew);
            Action::Go { runner, does: does.unwrap_or(Does::Renew) }
        }
        None => idle(project, world),
    };
    world.apply(project, &next);
    Step::On
}

/// What the sweep does while no runner works.
fn swept(project: &Project, world: &mut World) -> Action {
    let mut actions = Vec::new();
    world.sweeps(project, &mut actions);
    if let Some(action) = actions.first() {
        return *action;
    }
    if store::is_due(world, project, on_clock(project.bounds.sweep)) {
        // It wakes the project every minute: what is due on its clock will be due on the runner's.
        world.apply(project, &Action::Pass);
        return Action::Receive { runner: 0, message: None };
    }
    Action::Pass
}

/// What the queue does while no runner works.
fn delivered(project: &Project, world: &mut World) -> Action {
    if let Some(message) = world.messages.iter().position(|message| message.hidden_for <= 0) {
        return Action::Receive { runner: 0, message: Some(message) };
    }
    let mut actions = Vec::new();
    world.sends_marks(project, &mut actions);
    actions.first().copied().unwrap_or(Action::Pass)
}
