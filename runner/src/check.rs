//! The `check` task type: the verify phase alone, without an agent and without a commit.

use async_trait::async_trait;
use rdev_domain::failure::FailureClass;
use rdev_domain::result::{CheckResult, TaskResult};
use rdev_domain::spec::CheckSpec;
use rdev_domain::step::Event;

use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::settle::Settlement;
use crate::git::Fetched;
use crate::job::handler::TaskHandler;
use crate::verify;

/// The task type `check`.
pub(crate) struct CheckHandler<'a>(pub(crate) &'a CheckSpec);

#[async_trait]
impl TaskHandler for CheckHandler<'_> {
    async fn run(&self, attempt: &Attempt) -> Result<Settlement, Interrupt> {
        run(attempt, self.0).await
    }
}

/// Runs a check's commands on its branch.
async fn run(attempt: &Attempt, spec: &CheckSpec) -> Result<Settlement, Interrupt> {
    let remote = attempt.remote(None)?;
    let branch = attempt.branch(spec.branch.as_ref());
    let workspace = attempt.workspace(&attempt.task.id.to_string()).await?;
    let dirs = workspace.workdir();
    // The mirror stays locked to the end: the checkout's `.git` borrows its objects.
    let (commit, _mirror) = attempt
        .phase("checkout", async {
            let (machine, stop) = (attempt.machine(), attempt.lease.stop.token());
            let fetched = machine.fetch(&remote, &branch, &branch, stop).await?;
            let Fetched { start, mirror, .. } = fetched.with_start(&branch)?;
            machine.checkout(&mirror, start.as_ref(), &branch, &dirs, stop).await?;
            let no_branch =
                || Interrupt::failed(FailureClass::Invalid, "there is no such branch to check");
            Ok((start.ok_or_else(no_branch)?, mirror))
        })
        .await?;
    let runs = attempt
        .phase("verify", verify::run(attempt, &workspace, &spec.commands, attempt.deadline))
        .await?;
    if !verify::passed(&runs) {
        return Err(Interrupt::failed(FailureClass::VerifyFailed, verify::complaint(&runs)));
    }
    let result = TaskResult::Check(CheckResult { commit_sha: commit, commands: runs });
    Ok(Settlement {
        event: Event::Finish {
            holder: attempt.lease.holder.clone(),
            result,
            usage: *attempt.lease.usage.borrow(),
        },
        diff: None,
    })
}
