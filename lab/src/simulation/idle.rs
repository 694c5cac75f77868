//! What must hold where nothing goes wrong: no build waits while its project has a free slot and a
//! runner that takes it has one, too.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::FutureExt;
use rdev_domain::ids::{ProjectId, WorkerId};
use rdev_domain::ports::Store;
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;

use super::{Simulation, check};

/// How long a wake-up and a claim take at most, and what a runner does after the end of an attempt
/// before it receives again. Far less than a minute, in which a sweep would wake somebody.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A span in which somebody held a task.
struct Held {
    project: ProjectId,
    worker: WorkerId,
    from: Timestamp,
    to: Timestamp,
}

/// Looks at the time between the moment in which each task was queued and its first attempt.
pub(super) fn check(simulation: &Simulation) {
    let world = &simulation.world;
    let tasks = check::tasks(simulation);
    let held: Vec<Held> = tasks.iter().flat_map(held).collect();
    for task in &tasks {
        let Some(first) = task.attempts.first() else { continue };
        // Something changes only where a task is taken or given back.
        let ends = held.iter().flat_map(|held| [held.from, held.to]);
        let between = ends.filter(|at| (task.created_at..first.started_at).contains(at));
        let moments: BTreeSet<Timestamp> =
            between.chain([task.created_at, first.started_at]).collect();
        let mut idle_since = None;
        for at in moments {
            let since = *idle_since.get_or_insert(at);
            if at.since(since) > AT_ONCE {
                let (id, agent) = (task.id, task.work.agent());
                world.violation(format!(
                    "{id} of {agent:?} waits from {since} to {at}, and could run"
                ));
                break;
            }
            if !could_run(simulation, &held, task, at) {
                idle_since = None;
            }
        }
    }
}

fn held(task: &Task) -> Vec<Held> {
    let of = |attempt: &rdev_domain::task::Attempt| Held {
        project: task.project_id.clone(),
        worker: attempt.worker_id.clone(),
        from: attempt.started_at,
        to: attempt.ended_at.unwrap_or(Timestamp::MAX),
    };
    task.attempts.iter().map(of).collect()
}

/// Whether the project has a free slot from this moment on, and a runner that takes the task.
fn could_run(simulation: &Simulation, held: &[Held], task: &Task, at: Timestamp) -> bool {
    let plan = &simulation.world.plan;
    let now: Vec<&Held> = held.iter().filter(|held| held.from <= at && at < held.to).collect();
    let project = simulation.store.project(&task.project_id).now_or_never();
    let limit = project.and_then(Result::ok).map_or(0, |project| project.build_limit as usize);
    let free = |number: usize| {
        let worker = &simulation.workers[number];
        now.iter().filter(|held| held.worker == *worker).count() < plan.slots as usize
    };
    let takes = |number: &usize| {
        let taken = plan.queue_of(*number).taken(&plan.agents_of(*number));
        let has = |agent| taken.as_ref().is_ok_and(|taken| taken.contains(&agent));
        task.work.agent().is_none_or(has)
    };
    let in_project = now.iter().filter(|held| held.project == task.project_id).count();
    in_project < limit && (0..simulation.workers.len()).filter(takes).any(free)
}
