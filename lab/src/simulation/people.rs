//! People: what they do in the repositories, and what users ask of rdev.

use std::sync::Arc;
use std::time::Duration;

use rdev_domain::audit::Actor;
use rdev_domain::git::{CommitId, OwnRef};
use rdev_domain::outbox;
use rdev_domain::ports::{Enqueued, PortResult, Record, Store};
use rdev_domain::spec::{BuildSpec, Work};
use rdev_domain::step::{Event, retry};
use rdev_domain::task::{Task, TaskState};
use ulid::Ulid;

use super::check::record;
use super::faults::Fault;
use super::plan::Fleet;
use super::server::{Refs, State};
use super::{COMMON, RARE, Simulation};
use rdev_domain::ids::TaskId;

/// The branch that builds are delivered to.
const MAIN: &str = "refs/heads/main";

/// Does something in a repository from time to time, until everything is calm.
pub(super) async fn act_in_repositories(simulation: Arc<Simulation>) {
    let world = Arc::clone(&simulation.world);
    let every = millis(world.plan.acts_every);
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(world.millis(1, 2 * every)) => {}
            // Somebody reacts to what rdev has just done.
            () = simulation.server.touched.notified() => {
                if !world.happens(world.plan.reactions) {
                    continue;
                }
                tokio::time::sleep(world.millis(1, 3_000)).await;
            }
        }
        if world.is_calm() {
            return;
        }
        let number = world.below(world.plan.projects) as usize;
        if let Some(done) = act(&simulation, number) {
            world.count(done);
        }
    }
}

/// Does one thing in a repository, if it can be done now.
fn act(simulation: &Simulation, number: usize) -> Option<Fault> {
    let world = &simulation.world;
    let mut server = simulation.server.state();
    let State { commits, repositories, .. } = &mut *server;
    let repository = &mut repositories[number];
    let refs = &mut repository.refs;
    let main = refs.get(MAIN).cloned();
    let text = format!("a person at {}", world.elapsed().as_millis());
    let done = match world.below(12) {
        0..=2 => {
            let mut files = (*commits.files(main.as_ref())).clone();
            let path = match world.below(3) {
                0 => "theirs".to_owned(),
                _ => format!("shared-{}", world.below(2)),
            };
            files.insert(path, text.clone());
            let new = commits.make(main.as_ref(), None, Arc::new(files), &text);
            refs.insert(MAIN.to_owned(), new.clone());
            repository.tips.push(new);
            Fault::Commit
        }
        3 => {
            let parent = commits.get(main.as_ref()?).parent.clone()?;
            refs.insert(MAIN.to_owned(), parent);
            repository.rewritten = true;
            Fault::Rewind
        }
        4 => {
            refs.remove(any_branch(refs, world.below(100))?.0.as_str());
            repository.rewritten = true;
            Fault::BranchDeleted
        }
        5 => {
            let (name, _) = any_own(refs, world.below(100))?;
            refs.remove(&name);
            Fault::TicketDeleted
        }
        6 => {
            let (name, _) = any_own(refs, world.below(100))?;
            let OwnRef::Wip(task, fence) = OwnRef::parse(&name)? else { return None };
            let forged = OwnRef::Wip(task, fence.next());
            let files = Arc::new([("forged".to_owned(), text)].into());
            let new = commits.make(main.as_ref(), None, files, "forged");
            refs.insert(format!("refs/{}", forged.path()), new);
            Fault::TicketForged
        }
        7 => {
            let (_, commit) = any_own(refs, world.below(100))?;
            let on_top = main.as_ref().is_none_or(|main| commits.contains(main, &commit));
            let new = match on_top {
                true => commit,
                false => match commits.rebase(&commit, main.as_ref()?) {
                    rdev_runner::git::Rebased::Clean(new) => new,
                    _ => return None,
                },
            };
            refs.insert(MAIN.to_owned(), new.clone());
            repository.tips.push(new);
            Fault::TicketMerged
        }
        8 => {
            let (_, commit) = any_own(refs, world.below(100))?;
            let files = Arc::new(commits.merged(&commit, main.as_ref()).ok()?);
            let new = commits.make(main.as_ref(), None, files, &text);
            refs.insert(MAIN.to_owned(), new.clone());
            repository.tips.push(new);
            Fault::TicketSquashed
        }
        9 | 10 => {
            let name = refs.keys().find(|name| name.starts_with("refs/heads/rdev/0"))?.clone();
            let (main, commit) = (main?, refs.get(&name)?.clone());
            let files = Arc::new(commits.merged(&commit, Some(&main)).ok()?);
            let new = commits.make(Some(&main), Some(&commit), files, &text);
            refs.remove(&name);
            refs.insert(MAIN.to_owned(), new.clone());
            repository.tips.push(new);
            repository.rewritten = true;
            Fault::PullRequestMerged
        }
        _ => {
            repository.protected = !repository.protected;
            Fault::BranchProtected
        }
    };
    world.trace(|| format!("people: {done:?} in {number}, {refs:?}"));
    Some(done)
}

fn any_branch(refs: &Refs, any: u32) -> Option<(String, CommitId)> {
    let branches = refs.iter().filter(|(name, _)| OwnRef::parse(name).is_none());
    pick(branches.filter(|(name, _)| name.starts_with("refs/heads/")), any)
}

fn any_own(refs: &Refs, any: u32) -> Option<(String, CommitId)> {
    pick(refs.iter().filter(|(name, _)| OwnRef::parse(name).is_some()), any)
}

fn pick<'a>(
    found: impl Iterator<Item = (&'a String, &'a CommitId)>,
    any: u32,
) -> Option<(String, CommitId)> {
    let found: Vec<_> = found.collect();
    let (name, commit) = found.get(any as usize % found.len().max(1))?;
    Some(((*name).clone(), (*commit).clone()))
}

/// Queues the plan's tasks, one by one.
pub(super) async fn queue_tasks(simulation: Arc<Simulation>) {
    let world = Arc::clone(&simulation.world);
    let between = millis(world.plan.span) / u64::from(world.plan.tasks.max(1));
    for _ in 0..world.plan.tasks {
        tokio::time::sleep(world.millis(1, between)).await;
        let mut spec = BuildSpec::of("do it");
        spec.stall_timeout_s = 300;
        spec.timeout_s = 1800;
        spec.agent = match world.plan.fleet {
            Fleet::Mixed { rare } if world.happens(rare) => RARE,
            _ => COMMON,
        };
        spec.pull_request = Some(world.happens(200));
        spec.auto_push = spec.opens_pull_request() || world.happens(920);
        if world.happens(400) {
            spec.verify = vec!["true".to_owned()];
        }
        let number = world.below(world.plan.projects) as usize;
        let project = simulation.projects[number].clone();
        let mut task = Task::new(new_id(&simulation), project, Work::Build(spec), world.now());
        task.max_attempts = 1 + world.below(3);
        enqueue(&simulation, &task).await;
    }
}

fn new_id(simulation: &Simulation) -> TaskId {
    let world = &simulation.world;
    let millis = u64::try_from(world.now().as_millis()).unwrap_or_default();
    TaskId(Ulid::from_parts(millis, u128::from(world.below(u32::MAX))))
}

/// Queues a task as the API does: again and again until there is an answer.
async fn enqueue(simulation: &Simulation, task: &Task) {
    simulation.world.under_way(false);
    enqueue_repeatedly(simulation, task).await;
    simulation.world.under_way(true);
}

async fn enqueue_repeatedly(simulation: &Simulation, task: &Task) {
    let world = &simulation.world;
    let first = match task.retry_of {
        None => task.id,
        Some(old) => simulation.server.state().chains.get(&old).copied().unwrap_or(old),
    };
    simulation.server.state().chains.insert(task.id, first);
    let by = Actor::maintenance();
    for _ in 0..10 {
        match simulation.users.0.enqueue(task, &by, world.now()).await {
            Ok(Enqueued { outbox, .. }) => {
                let (store, queue) = (&*simulation.users.0, &*simulation.users.1);
                // What is not sent, the sweep sends.
                let _ = outbox::send(store, queue, &outbox, world.now()).await;
                return;
            }
            Err(error) if error.is_transient() => {
                tokio::time::sleep(world.millis(1_000, 60_000)).await;
            }
            Err(error) => {
                world.trace(|| format!("not queued: {error}"));
                return;
            }
        }
    }
}

/// Cancels, retries and drains from time to time, until everything is calm.
pub(super) async fn ask(simulation: Arc<Simulation>) {
    let world = Arc::clone(&simulation.world);
    let every = millis(world.plan.requests_every);
    loop {
        tokio::time::sleep(world.millis(1, 2 * every)).await;
        if world.is_calm() {
            return;
        }
        match world.below(8) {
            0 | 1 => {
                let live = |task: &Task| !task.state.is_terminal();
                if let Some(task) = any_task(&simulation, live) {
                    world.count(Fault::Cancel);
                    // Refused when it has ended or pushes by now.
                    let _ = cancel(&simulation, task.id).await;
                }
            }
            2..=5 => {
                let ended =
                    |task: &Task| matches!(task.state, TaskState::Failed | TaskState::Cancelled);
                if let Some(old) = any_task(&simulation, ended) {
                    retry_task(&simulation, &old).await;
                }
            }
            6 => {
                let number = world.below(world.plan.runners) as usize;
                if let Some(handle) = simulation.handle(number) {
                    world.count(Fault::Terminated);
                    if world.happens(500) { handle.drain() } else { handle.drain_now() }
                }
            }
            _ => {
                let simulation = Arc::clone(&simulation);
                tokio::spawn(async move { drain_for_a_while(&simulation).await });
            }
        }
    }
}

async fn cancel(simulation: &Simulation, task: TaskId) -> PortResult<()> {
    let (store, queue) = (&simulation.users.0, &simulation.users.1);
    let (by, now) = (Actor::maintenance(), simulation.world.now());
    let advanced = store.advance(task, Event::Cancel, Record::default(), &by, now).await?;
    outbox::send(&**store, &**queue, &advanced.outbox, now).await
}

async fn retry_task(simulation: &Arc<Simulation>, old: &Task) {
    let world = &simulation.world;
    let twice = world.happens(300);
    world.count(if twice { Fault::RetryTwice } else { Fault::Retry });
    for _ in 0..=u32::from(twice) {
        let Ok(new) = retry(old, new_id(simulation), world.now()) else { return };
        let simulation = Arc::clone(simulation);
        tokio::spawn(async move { enqueue(&simulation, &new).await });
    }
}

async fn drain_for_a_while(simulation: &Simulation) {
    let world = &simulation.world;
    let number = world.below(world.plan.runners) as usize;
    let (worker, by) = (simulation.workers[number].clone(), Actor::maintenance());
    if simulation.store.set_drain(&worker, true, &by, world.now()).await.is_err() {
        return;
    }
    world.count(Fault::Drained);
    tokio::time::sleep(world.millis(10_000, 600_000)).await;
    // It was there before.
    let _ = simulation.store.set_drain(&worker, false, &by, world.now()).await;
}

/// Any task that was queued and of which `wanted` holds.
fn any_task(simulation: &Simulation, wanted: impl Fn(&Task) -> bool) -> Option<Task> {
    let ids: Vec<TaskId> = simulation.server.state().chains.keys().copied().collect();
    let tasks = ids.into_iter().filter_map(|id| Some(record(&simulation.store, id)?.task));
    let mut found: Vec<Task> = tasks.filter(|task| wanted(task)).collect();
    let any = simulation.world.below(u32::try_from(found.len()).unwrap_or(1)) as usize;
    (any < found.len()).then(|| found.swap_remove(any))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1)
}
