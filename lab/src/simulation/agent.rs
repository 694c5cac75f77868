//! The agent and the verify commands of a simulation.

use std::time::Duration;

use rdev_domain::event::EventKind;
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::ids::TaskId;
use rdev_domain::result::{AgentRun, Usage};
use rdev_domain::task::TaskState;
use rdev_runner::agent::{AgentContext, AgentRequest, End, Progress, Report};
use rdev_runner::process::{Ended, Exit, Launch, Limits};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::check::record;
use super::faults::Fault;
use super::machine::{SimulatedMachine, task_of};

/// Changes a file after a while, or does not.
pub(super) async fn run(
    machine: &SimulatedMachine,
    agent: &AgentContext<'_>,
    request: &AgentRequest<'_>,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Report {
    let world = &machine.world;
    let task = task_of(request.attempt_dir);
    machine.trace(|| format!("the agent begins {task:?}"));
    if !machine.agents.contains(&agent.agent) {
        world.violation(format!("{} runs {}", machine.process.name(), agent.agent));
    }
    if let Some(task) = task {
        check_that_nothing_may_land(machine, task);
    }
    progress(Progress::Event(EventKind::AgentText, json!({"text": "working"})));
    let hangs = world.fails(Fault::AgentHangs, world.plan.per_mille / 2);
    let span = if hangs { request.stall } else { world.millis(2_000, 120_000) };
    let deadline = Instant::from_std(request.deadline);
    let fail = |class, message| End::Failed(Failure::new(class, message));
    let end = tokio::select! {
        biased;
        () = agent.stop.cancelled() => {
            // It ends when it is told to, but not at once.
            tokio::time::sleep(world.millis(1, 10_000)).await;
            End::Stopped
        }
        () = tokio::time::sleep_until(deadline) => fail(FailureClass::Timeout, "too slow"),
        () = tokio::time::sleep(span) => {
            let per_mille = world.plan.per_mille;
            if hangs {
                fail(FailureClass::AgentStalled, "silent")
            } else if world.fails(Fault::AgentFailed, per_mille) {
                fail(FailureClass::AgentFailed, "it failed")
            } else if world.fails(Fault::AgentQuota, per_mille) {
                // The reset time is a stranger's word: it may be past, or far away.
                let at = match world.below(20) {
                    0..10 => world.now().minus(Duration::from_secs(3600)),
                    10..19 => world.now().plus(world.millis(1_000, 600_000)),
                    _ => rdev_domain::time::Timestamp::from_millis(i64::MAX),
                };
                let failure = Failure::new(FailureClass::Quota, "used up");
                End::Failed(Failure { retry_at: Some(at), ..failure })
            } else {
                change(machine, request, task);
                End::Done
            }
        }
    };
    machine.trace(|| format!("the agent of {task:?} has ended: {end:?}"));
    let run = AgentRun { provider: agent.agent, version: None, model: None, session_id: None };
    Report { run, usage: Usage::default(), summary: "done".to_owned(), end }
}

/// Writes into a file of its own, or into one that others write as well, or into none.
fn change(machine: &SimulatedMachine, request: &AgentRequest<'_>, task: Option<TaskId>) {
    let world = &machine.world;
    let path = match world.below(10) {
        0 => return,
        1..=3 => format!("shared-{}", world.below(2)),
        _ => format!("of-{}", task.map(|task| task.to_string()).unwrap_or_default()),
    };
    let text = format!("{} at {}", machine.process.name(), world.elapsed().as_millis());
    machine.disk().of(request.checkout).files.insert(path, text);
}

/// An agent must not begin while prepared work of its chain may still land. One whose lease is
/// lost without its knowing may: nothing of it is taken.
fn check_that_nothing_may_land(machine: &SimulatedMachine, task: TaskId) {
    let Some(record) = record(&machine.store, task) else { return };
    let holds = record.lease.as_ref().is_some_and(|lease| lease.owner == machine.owner());
    if record.task.state != TaskState::Running || !holds {
        return;
    }
    let mut server = machine.server.state();
    let url = record.task.project_id.as_str();
    let Some(number) = server.repositories.iter().position(|one| one.url.contains(url)) else {
        return;
    };
    let lacks = server.repositories[number].lacks;
    if lacks.atomic || lacks.deletions {
        // There a ticket is no right to push.
        return;
    }
    let chain = server.chains.get(&task).copied().unwrap_or(task);
    if let Some(name) = server.may_land(number, chain) {
        drop(server);
        let what = format!("an agent runs for {task} while {name} may still land");
        machine.world.violation(what);
    } else {
        // What was prepared before is dealt with.
        server.prepared.remove(&chain);
    }
}

/// Runs a verify command.
pub(super) async fn verify(
    machine: &SimulatedMachine,
    launch: &Launch,
    limits: Limits,
    stop: &CancellationToken,
) -> Ended {
    let world = &machine.world;
    tokio::select! {
        biased;
        () = stop.cancelled() => Ended::Stopped,
        () = tokio::time::sleep_until(Instant::from_std(limits.deadline)) => Ended::TimedOut,
        () = tokio::time::sleep(world.millis(500, 20_000)) => {
            let fails = world.fails(Fault::VerifyFails, 2 * world.plan.per_mille);
            if !fails {
                let files = machine.disk().of(&launch.cwd).files.clone();
                machine.server.state().verified.insert(files);
            }
            Ended::Exited(Exit { code: Some(i32::from(fails)), signal: None })
        }
    }
}
