//! The agent and the verification, in rounds: until the work passes, or the rounds are used up.

use std::time::Duration;

use rdev_domain::event::EventKind;
use rdev_domain::failure::FailureClass;
use rdev_domain::git::CommitId;
use rdev_domain::ids::TaskId;
use rdev_domain::result::{TaskResult, Usage};
use rdev_domain::spec::BuildSpec;
use serde_json::json;

use super::commit;
use super::output::AgentOutput;
use super::push::{PushContext, Verification};
use super::target::BuildTarget;
use super::verified::lands_verified;
use crate::agent::{self, AgentContext, AgentRequest, End, Progress};
use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::workspace::Workspace;
use crate::git::{Changes, Fetched};
use crate::verify;

/// How many times the agent gets the output of a failed verification.
const VERIFY_ROUNDS: u32 = 2;

/// What the agent has made, and its commit if that is on the server already.
pub(super) struct AgentWork<'a> {
    pub(super) output: AgentOutput,
    pub(super) push: Option<PushContext<'a>>,
}

/// Runs the agent and the verification until the work passes or the rounds are used up.
pub(super) async fn run<'a>(
    attempt: &'a Attempt,
    spec: &'a BuildSpec,
    target: &'a BuildTarget,
    workspace: &'a Workspace,
    fetched: &Fetched,
) -> Result<AgentWork<'a>, Interrupt> {
    let mut push = None;
    let outcome = rounds(attempt, spec, target, workspace, fetched, &mut push).await;
    // The last commit that was verified, if it did not pass: the agent was stopped before it made
    // another one, or the rounds are used up, or it has taken its changes back.
    let mut failed = push.take_if(|push| push.verification == Verification::Failed);
    if let Some(failed) = &mut failed
        && let Err(error) = failed.put_aside().await
        && outcome.is_ok()
    {
        return Err(error);
    }
    Ok(AgentWork { output: outcome?, push })
}

async fn rounds<'a>(
    attempt: &'a Attempt,
    spec: &'a BuildSpec,
    target: &'a BuildTarget,
    workspace: &'a Workspace,
    fetched: &Fetched,
    push: &mut Option<PushContext<'a>>,
) -> Result<AgentOutput, Interrupt> {
    let start = fetched.start.as_ref();
    let mut session = match spec.continue_from {
        Some(from) => Some(session_to_continue(attempt, from).await?),
        None => None,
    };
    let mut prompt = spec.prompt.clone();
    let mut total = Usage::default();
    let mut round = 0;
    loop {
        let running = run_agent(attempt, spec, workspace, &prompt, session.as_deref(), total);
        let report = attempt.phase("agent", running).await?;
        total = total.plus(report.usage);
        attempt.lease.usage.send_replace(total);
        let changes = stage(attempt, spec, workspace, start).await?;
        let mut output = AgentOutput {
            run: Some(report.run),
            summary: report.summary,
            changes,
            verify: vec![],
            warnings: vec![],
        };
        if spec.verify.is_empty() || output.changes.total == 0 {
            return Ok(output);
        }
        let runs = if lands_verified(spec) {
            let commit = commit::commit(attempt, spec, workspace, start, &output);
            let commit = attempt.phase("commit", commit).await?;
            let next = match push.take() {
                Some(before) => before.replace(commit),
                None => {
                    PushContext::of_work(attempt, spec, target, workspace, fetched, commit).await?
                }
            };
            push.insert(next).verify().await?
        } else {
            let running = verify::run(attempt, workspace, &spec.verify, attempt.deadline);
            attempt.phase("verify", running).await?
        };
        if verify::passed(&runs) {
            output.verify = verify::told(&runs);
            return Ok(output);
        }
        let complaint = verify::complaint(&runs);
        if round == VERIFY_ROUNDS {
            return Err(Interrupt::failed(FailureClass::VerifyFailed, complaint));
        }
        round += 1;
        session = output.run.and_then(|run| run.session_id);
        let feedback =
            format!("The verification of your changes failed. Please fix it.\n\n{complaint}");
        // An agent without sessions needs the task again.
        prompt =
            if session.is_some() { feedback } else { format!("{}\n\n{feedback}", spec.prompt) };
    }
}

/// The session that `continue_from` names, as the finished task recorded it.
async fn session_to_continue(attempt: &Attempt, from: TaskId) -> Result<String, Interrupt> {
    let record = attempt.context.ports.store.task(from).await;
    let record = record
        .map_err(|error| anyhow::Error::new(error).context(format!("cannot read task {from}")))?;
    let session = record.task.result.as_ref().and_then(TaskResult::as_build);
    let session = session.and_then(|build| build.agent.as_ref()?.session_id.clone());
    session.ok_or_else(|| {
        Interrupt::failed(
            FailureClass::Invalid,
            format!("task {from} has no agent session to continue"),
        )
    })
}

async fn run_agent(
    attempt: &Attempt,
    spec: &BuildSpec,
    workspace: &Workspace,
    prompt: &str,
    resume: Option<&str>,
    so_far: Usage,
) -> Result<agent::Report, Interrupt> {
    let context = &attempt.context;
    let (max_turns, max_cost_usd) = remaining_limits(spec, so_far)?;
    let dirs = workspace.workdir();
    let (home, tmp) = (workspace.home(), workspace.tmp());
    let settings = context.config.agents.get(&spec.agent).cloned().unwrap_or_default();
    let request = AgentRequest {
        prompt,
        model: spec.model.as_deref(),
        max_turns,
        max_cost_usd,
        resume,
        checkout: &dirs.checkout,
        home: &home,
        tmp: &tmp,
        attempt_dir: workspace.root(),
        deadline: attempt.deadline.into_std(),
        stall: Duration::from_secs(u64::from(spec.stall_timeout_s)),
        grace: Duration::from_secs(context.config.runner.term_grace_s),
    };
    let lease = &attempt.lease;
    let mut progress = |progress: Progress| match progress {
        Progress::Event(kind, data) => lease.events.add(kind, data, attempt.now()),
        Progress::Usage(usage) => {
            lease.usage.send_replace(so_far.plus(usage));
            lease.events.add(EventKind::AgentUsage, json!(usage), attempt.now());
        }
    };
    let agent = AgentContext {
        agent: spec.agent,
        settings: &settings,
        redactor: &context.redactor,
        stop: lease.stop.token(),
    };
    let report = attempt.machine().run_agent(&agent, &request, &mut progress).await;
    lease.usage.send_replace(so_far.plus(report.usage));
    match report.end {
        End::Done => Ok(report),
        End::Stopped => Err(Interrupt::Stopped),
        End::Failed(failure) => Err(Interrupt::Failed(failure)),
    }
}

/// What remains of a build's limits after earlier rounds: the limits are for all rounds together.
fn remaining_limits(
    spec: &BuildSpec,
    so_far: Usage,
) -> Result<(Option<u32>, Option<f64>), Interrupt> {
    let used_up = |limit: &str| {
        let message = format!("the agent used up its {limit} before the work passed verification");
        Interrupt::failed(FailureClass::BudgetExceeded, message)
    };
    let turns = u32::try_from(so_far.turns).unwrap_or(u32::MAX);
    let max_turns = spec.max_turns.map(|max| max.saturating_sub(turns));
    if max_turns == Some(0) {
        return Err(used_up("max_turns"));
    }
    let max_cost_usd = spec.max_cost_usd.map(|max| max - so_far.cost_usd.unwrap_or_default());
    if max_cost_usd.is_some_and(|remaining| remaining <= 0.0) {
        return Err(used_up("max_cost_usd"));
    }
    Ok((max_turns, max_cost_usd))
}

async fn stage(
    attempt: &Attempt,
    spec: &BuildSpec,
    workspace: &Workspace,
    start: Option<&CommitId>,
) -> Result<Changes, Interrupt> {
    let (dirs, caps) = (workspace.workdir(), attempt.caps());
    let ignored = agent::ignored_artifacts(spec.agent);
    Ok(attempt.machine().stage(&dirs, start, &caps, ignored).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_a_build_hold_for_all_its_rounds_together() {
        let spec = BuildSpec { max_turns: Some(10), max_cost_usd: Some(1.0), ..BuildSpec::of("") };
        let used = |turns, cost| Usage { turns, cost_usd: Some(cost), ..Usage::default() };
        let left = |so_far| remaining_limits(&spec, so_far).ok();
        assert_eq!(left(Usage::default()), Some((Some(10), Some(1.0))));
        assert_eq!(left(used(4, 0.25)), Some((Some(6), Some(0.75))));
        assert_eq!(left(used(9, 0.5)), Some((Some(1), Some(0.5))));
        for used_up in [used(10, 0.0), used(11, 0.0), used(0, 1.0), used(0, 1.5)] {
            let Err(Interrupt::Failed(failure)) = remaining_limits(&spec, used_up) else {
                panic!("nothing is left of {used_up:?}");
            };
            assert_eq!(failure.class, FailureClass::BudgetExceeded);
        }
        let none = BuildSpec::of("");
        assert_eq!(remaining_limits(&none, used(100, 100.0)).ok(), Some((None, None)));
    }
}
