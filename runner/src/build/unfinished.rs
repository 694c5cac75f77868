//! Unfinished work of an attempt that was stopped: saved for people, never delivered.

use std::time::Duration;

use rdev_domain::failure::Unfinished;
use rdev_domain::git::{CommitId, OwnRef};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::refs::{AsBranch, OwnPush, push_own, within};
use super::target::BuildTarget;
use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::stop::StopReason;
use crate::attempt::workspace::Workspace;
use crate::git::Expect;

/// Saves unfinished work at `refs/rdev/part/…` when the attempt was released, or its time or
/// budget was used up. It is for people; rdev does not deliver it.
pub(super) async fn save(
    attempt: &Attempt,
    target: &BuildTarget,
    workspace: &Workspace,
    start: Option<&CommitId>,
    interrupt: &Interrupt,
) {
    let keep = match interrupt {
        Interrupt::Stopped => {
            matches!(attempt.lease.stop.reason(), Some(StopReason::Released | StopReason::TimedOut))
        }
        Interrupt::Failed(failure) | Interrupt::Revoked(failure) => {
            failure.class.rules().unfinished == Unfinished::Kept
        }
    };
    if !keep {
        return;
    }
    let machine = attempt.machine();
    let (dirs, caps, author) = (workspace.workdir(), attempt.caps(), attempt.author());
    let part = OwnRef::Part(attempt.task.id, attempt.task.fence);
    let message = format!("Unfinished work of task {}\n", attempt.task.id);
    // The attempt's own token is cancelled already.
    let token = CancellationToken::new();
    let saved = async {
        let changes = machine.stage(&dirs, start, &caps, &[]).await?;
        if changes.total == 0 {
            return Ok(false);
        }
        let commit = machine.commit(&dirs, &changes.tree, start, &message, &author).await?;
        let as_branch = AsBranch::IfNeeded;
        let push =
            OwnPush { own: part, commit: &commit, expect: Expect::Any, delete: None, as_branch };
        push_own(attempt, target, workspace, &push, &token).await?;
        Ok::<_, Interrupt>(true)
    };
    let saved = within(Duration::from_secs(30), &token, saved).await;
    match saved {
        Ok(true) => attempt.note(format!("unfinished work is at refs/{}", part.path())),
        Ok(false) => {}
        Err(error) => {
            warn!(task = %attempt.task.id, ?error, "unfinished work was not saved");
        }
    }
}
