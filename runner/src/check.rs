//! The `check` task type: the verify phase alone, without an agent and without a commit.

use rdev_domain::failure::FailureClass;
use rdev_domain::result::{CheckResult, TaskResult};
use rdev_domain::spec::CheckSpec;
use rdev_domain::step::Event;

use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::settle::Settlement;
use crate::git::{self, blocking};
use crate::verify;

/// Runs a check's commands on its branch.
pub(crate) async fn run(attempt: &Attempt, spec: &CheckSpec) -> Result<Settlement, Interrupt> {
    let shared = &attempt.shared;
    let remote = attempt.remote(None)?;
    let branch = attempt.branch(spec.branch.as_ref());
    let workspace = attempt.workspace(&attempt.task.id.to_string()).await?;
    let dirs = workspace.workdir();
    // The mirror is held to the end: the checkout's `.git` borrows its objects.
    let (commit, _mirror) = attempt
        .phase("checkout", async {
            let cache = shared.folders.cache.clone();
            let cap = shared.config.runner.max_cache_bytes;
            let stop = attempt.held.stop.token().clone();
            let branch = branch.clone();
            let (start, mirror) = blocking(move || {
                let fetched = git::fetch(&cache, cap, &remote, &branch, &branch, &stop)?;
                git::checkout(&fetched.mirror, fetched.start.as_ref(), &branch, &dirs, &stop)?;
                Ok((fetched.start, fetched.mirror))
            })
            .await?;
            let none =
                || Interrupt::failed(FailureClass::Invalid, "there is no such branch to check");
            Ok((start.ok_or_else(none)?, mirror))
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
            holder: attempt.held.holder.clone(),
            result,
            usage: *attempt.held.usage.borrow(),
        },
        diff: None,
    })
}
