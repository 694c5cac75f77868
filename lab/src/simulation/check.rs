//! What must hold: while a simulation runs, and when everything has ended.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::FutureExt;
use rdev_domain::ids::TaskId;
use rdev_domain::ports::{Store, TaskRecord, WorkStats};
use rdev_domain::result::{Outcome, TaskResult};
use rdev_domain::spec::Work;
use rdev_domain::task::{Task, TaskState};
use std::time::Duration;

use super::{Simulation, idle};
use crate::memory::MemoryStore;

/// A task's record, without any fault. `None`: it was never accepted.
pub(super) fn record(store: &MemoryStore, task: TaskId) -> Option<TaskRecord> {
    store.task(task).now_or_never()?.ok()
}

/// The accepted tasks.
pub(super) fn tasks(simulation: &Simulation) -> Vec<Task> {
    records(simulation).into_iter().map(|record| record.task).collect()
}

fn records(simulation: &Simulation) -> Vec<TaskRecord> {
    let ids: Vec<TaskId> = simulation.server.state().chains.keys().copied().collect();
    ids.into_iter().filter_map(|id| record(&simulation.store, id)).collect()
}

/// What was seen while a simulation ran.
#[derive(Default)]
pub(super) struct Watch {
    ended: BTreeMap<TaskId, TaskState>,
}

impl Watch {
    /// Looks at all tasks; whether all have ended.
    pub(super) fn look(&mut self, simulation: &Simulation) -> bool {
        let world = &simulation.world;
        let mut held: BTreeMap<String, u32> = BTreeMap::new();
        let mut all = true;
        for TaskRecord { task, lease } in records(simulation) {
            if lease.is_some() {
                *held.entry(task.project_id.to_string()).or_default() += 1;
            }
            if task.state.is_terminal() {
                let first = *self.ended.entry(task.id).or_insert(task.state);
                if first != task.state || lease.is_some() {
                    world.violation(format!("{} has left its state {first:?}", task.id));
                }
            } else {
                all = false;
                if let Some(first) = self.ended.get(&task.id) {
                    world.violation(format!("{} has left its state {first:?}", task.id));
                }
            }
        }
        for (project, held) in held {
            let id = project.parse().expect("it is one's id");
            let limit = simulation.store.project(&id).now_or_never();
            let limit = limit.and_then(Result::ok).map_or(0, |project| project.build_limit);
            if held > limit {
                world.violation(format!("{project} has {held} tasks held, {limit} may be"));
            }
        }
        all
    }
}

/// An entry of the outbox that is so old was met by a sweep: it is overdue after 30 s, and a sweep
/// comes each minute.
const SENT_BY_THEN: Duration = Duration::from_secs(90);

/// Checks everything at the end.
pub(super) async fn end(simulation: &Simulation) {
    let world = &simulation.world;
    for task in tasks(simulation) {
        check_task(simulation, &task);
    }
    check_landings(simulation);
    if world.plan.undisturbed && !world.plan.older_api {
        idle::check(simulation);
    }
    match simulation.store.work_stats(world.now()).await {
        Ok(stats) => {
            let idle = WorkStats { dead_letters: stats.dead_letters, ..WorkStats::default() };
            if stats != idle {
                world.violation(format!("there is something left to do: {stats:?}"));
            }
        }
        Err(error) => world.violation(format!("the store cannot be read: {error}")),
    }
    let (now, later) = (world.now(), world.now().plus(Duration::from_secs(60)));
    match simulation.store.sweep(later).await {
        Ok(mut swept) => {
            // What was parked for long and cancelled then has its wake-up still to come.
            swept.outbox.retain(|entry| entry.send_at.plus(SENT_BY_THEN) < now);
            if !swept.outbox.is_empty() || !swept.wake.is_empty() || swept.recovered > 0 {
                world.violation(format!("the sweep has something left to do: {swept:?}"));
            }
        }
        Err(error) => world.violation(format!("the store cannot be swept: {error}")),
    }
}

fn check_task(simulation: &Simulation, task: &Task) {
    let world = &simulation.world;
    if !task.state.is_terminal() {
        let (id, state, failure) = (task.id, task.state, &task.failure);
        world.violation(format!("{id} is stranded: {state:?} since {failure:?}"));
        return;
    }
    let server = simulation.server.state();
    // Also where pushes are not atomic, whatever people do to the branch.
    let landed = server.landings.iter().any(|landing| landing.task == task.id);
    let doubt = task.failure.as_ref().is_some_and(|failure| failure.push_in_doubt);
    if landed && !doubt && task.state != TaskState::Succeeded {
        drop(server);
        let (id, state, failure) = (task.id, task.state, &task.failure);
        world.violation(format!("{id} ended {state:?} without doubt and has landed: {failure:?}"));
        return;
    }
    let Some(TaskResult::Build(result)) = &task.result else { return };
    if task.state == TaskState::Succeeded && result.outcome == Outcome::Delivered {
        let url = format!("/{}.git", task.project_id);
        let repository = server.repositories.iter().find(|one| one.url.ends_with(&url));
        let commit = result.commit_sha.as_ref();
        let delivered = repository.zip(commit).is_some_and(|(repository, commit)| {
            let mut tips = repository.tips.iter().rev();
            tips.any(|tip| tip == commit || server.commits.contains(commit, tip))
        });
        drop(server);
        if !delivered {
            world.violation(format!("{} is said to be delivered: {commit:?}", task.id));
        }
    }
}

/// A lineage lands once, and verified if it is to be. Where pushes are not atomic that holds unless people rewrite a branch.
fn check_landings(simulation: &Simulation) {
    let server = simulation.server.state();
    let (mut seen, mut broken) = (BTreeSet::new(), Vec::new());
    for landing in &server.landings {
        let repository = &server.repositories[landing.repository];
        let weak = repository.lacks.atomic || repository.lacks.deletions;
        let excused = weak && repository.rewritten;
        let is_first = seen.insert((landing.repository, &landing.lineage));
        if !is_first && !excused {
            broken.push(format!("lineage {} has landed twice", landing.lineage));
        }
        let files = server.commits.files(Some(&landing.commit));
        if is_verified(simulation, landing.task) && !server.verified.contains(&*files) {
            broken.push(format!("{} has landed unverified", landing.commit));
        }
    }
    drop(server);
    broken.into_iter().for_each(|what| simulation.world.violation(what));
}

/// Whether a task's work has to pass verify commands.
fn is_verified(simulation: &Simulation, task: TaskId) -> bool {
    let record = record(&simulation.store, task);
    record.is_some_and(|record| match record.task.work {
        Work::Build(spec) => !spec.verify.is_empty(),
        _ => false,
    })
}
