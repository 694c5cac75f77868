//! Removes refs of rdev's own and unpushed work that nobody needs any more. It runs in the
//! background; no build waits for it. A fetch lists the refs anyway; the store is asked about them
//! only when a look is due: whoever leaves a ref brings it forward.

use std::sync::Arc;
use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::git::{CommitId, OwnRef};
use rdev_domain::ids::TaskId;
use rdev_domain::ports::PortError;
use rdev_domain::task::{Task, TaskState};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::attempt::Attempt;
use crate::git::Remote;
use crate::machine::Machine;
use crate::runner::context::RunnerContext;

/// The number of refs of other tasks that one look checks.
const REFS_PER_FETCH: usize = 20;

/// When the store does not know a task of this age, its record has expired. A younger task may
/// belong to another installation that shares the repository.
const EXPIRED_AFTER: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// The time between two looks if nothing else is known.
const SELDOM: Duration = Duration::from_secs(24 * 60 * 60);

/// The time until a look that may find something: a task is about to end, or there were too many
/// refs for one look.
const SOON: Duration = Duration::from_secs(60 * 60);

/// The time limit for one clean-up.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// After a build: removes the refs that its attempts have pushed if it succeeded or was cancelled;
/// otherwise it leaves them, and plans when somebody looks for them.
pub(crate) fn after_attempt(attempt: &Attempt, task: &Task) {
    let done = done_with(task.state);
    if done {
        attempt.machine().forget_unpushed(task.id);
    }
    let Some((remote, mut refs)) = attempt.pushed_refs() else {
        return;
    };
    if !done {
        if !refs.is_empty() {
            look_soon(attempt.machine(), &remote);
        }
        return;
    }
    let cancelled = task.state == TaskState::Cancelled;
    refs.retain(|name| match OwnRef::parse(name) {
        None | Some(OwnRef::Kept(_)) => false,
        Some(own) => !(cancelled && is_in_doubt(task, own)),
    });
    delete(&attempt.context, remote, refs);
}

/// At a fetch: notes the refs that the task's own earlier attempts have left, which go with its
/// end, and removes refs of other tasks that nobody needs any more: wip and part refs of tasks that
/// succeeded or were cancelled, and all refs of old tasks whose records have expired.
pub(crate) fn remove_refs_of_ended_tasks(
    attempt: &Attempt,
    remote: &Remote,
    own: &[(OwnRef, CommitId)],
) {
    let machine = attempt.machine();
    // Those of its own earlier attempts go with its end.
    for (own, _) in own.iter().filter(|(own, _)| own.task() == attempt.task.id) {
        attempt.remember_ref(remote, &format!("refs/{}", own.path()));
    }
    let mut others: Vec<OwnRef> = own
        .iter()
        .map(|(own, _)| *own)
        // Kept refs stay until the record expires: they must not use up the limit.
        .filter(|own| !matches!(own, OwnRef::Kept(task) if !expired(*task, machine)))
        .filter(|own| {
            own.task() != attempt.task.id
                && Some(own.task()) != attempt.task.resume_from.map(|wip| wip.task)
        })
        .collect();
    let now = machine.now();
    let is_due = machine.next_look(&remote.url).is_none_or(|next| next <= now);
    if others.is_empty() || !is_due {
        return;
    }
    // Before the look: of builds that fetch at once, one looks.
    machine.plan_look(&remote.url, now.plus(SELDOM));
    let mut again_soon = others.len() > REFS_PER_FETCH;
    // Start anywhere in the list: many refs that must stay must not hide those that can go.
    let first = machine.random(u32::try_from(others.len()).unwrap_or(u32::MAX));
    others.rotate_left(first as usize);
    others.truncate(REFS_PER_FETCH);
    let (context, remote) = (Arc::clone(&attempt.context), remote.clone());
    attempt.context.in_background(async move {
        let mut refs = Vec::new();
        for own in others {
            let removable = match context.ports.store.task(own.task()).await {
                Ok(record) => {
                    again_soon |= !record.task.state.is_terminal();
                    done_with(record.task.state)
                        && !matches!(own, OwnRef::Kept(_))
                        && !is_in_doubt(&record.task, own)
                }
                Err(PortError::NotFound { .. }) => expired(own.task(), &*context.machine),
                Err(_) => {
                    again_soon = true;
                    false
                }
            };
            if removable {
                refs.push(format!("refs/{}", own.path()));
                refs.push(format!("refs/heads/{}", own.path()));
            }
        }
        if again_soon {
            look_soon(&*context.machine, &remote);
        }
        delete(&context, remote, refs);
    });
}

/// The next look is within the hour. Where nothing is planned, it is due at once anyway.
fn look_soon(machine: &dyn Machine, remote: &Remote) {
    let at = machine.now().plus(SOON);
    if machine.next_look(&remote.url).is_some_and(|next| next > at) {
        machine.plan_look(&remote.url, at);
    }
}

/// Removes unpushed work of tasks that have ended and do not need it any more.
pub(crate) async fn forget_ended_unpushed(context: &RunnerContext) {
    for id in context.machine.tasks_with_unpushed() {
        let removable = match context.ports.store.task(id).await {
            Ok(record) => done_with(record.task.state),
            Err(PortError::NotFound { .. }) => true,
            Err(_) => false,
        };
        if removable {
            context.machine.forget_unpushed(id);
        }
    }
}

fn expired(task: TaskId, machine: &dyn Machine) -> bool {
    machine.now().since(task.created_at()) > EXPIRED_AFTER
}

/// Whether it is the ticket of a push that is in doubt: it tells a retry that it has not landed.
fn is_in_doubt(task: &Task, own: OwnRef) -> bool {
    task.own_refs.iter().any(|recorded| recorded.may_land && recorded.own == own)
}

fn done_with(state: TaskState) -> bool {
    matches!(state, TaskState::Succeeded | TaskState::Cancelled)
}

fn delete(context: &Arc<RunnerContext>, remote: Remote, refs: Vec<String>) {
    if refs.is_empty() {
        return;
    }
    let machine = Arc::clone(&context.machine);
    context.in_background(async move {
        let stop = CancellationToken::new();
        let deleted = machine.delete_refs(&remote, &refs, &stop);
        let again = || look_soon(&*machine, &remote);
        match tokio::time::timeout(TIME_LIMIT, deleted).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                debug!(
                    error = chain(&error),
                    "refs of ended tasks were not removed; a later fetch will"
                );
                again();
            }
            Err(_) => {
                stop.cancel();
                again();
            }
        }
    });
}
