//! Removes refs of rdev's own and unpushed work that nobody needs any more. It runs in the
//! background; no build waits for it. A fetch lists the refs anyway; the store is asked about them
//! only when a look is due ([`looks`]).

mod looks;

use std::sync::Arc;
use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::git::{CommitId, OwnRef};
use rdev_domain::ids::TaskId;
use rdev_domain::ports::PortError;
use rdev_domain::task::{Task, TaskState};
use rdev_domain::time::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::attempt::{Attempt, unpushed};
use crate::git::{self, Remote, blocking};
use crate::now;
use crate::runner::context::RunnerContext;

/// The number of refs of other tasks that one look checks.
const REFS_PER_FETCH: usize = 20;

/// When the store does not know a task of this age, its record has expired. A younger task may
/// belong to another installation that shares the repository.
const EXPIRED_AFTER: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// The time limit for one clean-up.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// After a build: removes the refs that it has pushed if it succeeded or was cancelled; otherwise
/// it leaves them, and plans when somebody looks for them.
pub(crate) fn after_attempt(attempt: &Attempt, task: &Task) {
    let done = done_with(task.state);
    if done {
        unpushed::forget_unpushed(&attempt.context.folders, task.id);
    }
    let Some((remote, mut refs)) = attempt.pushed_refs() else {
        return;
    };
    if !done {
        if !refs.is_empty() {
            look_soon(&attempt.context, &remote);
        }
        return;
    }
    refs.retain(|name| !matches!(OwnRef::parse(name), None | Some(OwnRef::Kept(_))));
    delete(&attempt.context, remote, refs);
}

/// At a fetch: removes refs of other tasks that nobody needs any more: wip and part refs of tasks
/// that succeeded or were cancelled, and all refs of old tasks whose records have expired.
pub(crate) fn remove_refs_of_ended_tasks(
    attempt: &Attempt,
    remote: &Remote,
    own: &[(OwnRef, CommitId)],
) {
    let mut others: Vec<OwnRef> = own
        .iter()
        .map(|(own, _)| *own)
        // Kept refs stay until the record expires: they must not use up the limit.
        .filter(|own| !matches!(own, OwnRef::Kept(task) if !expired(*task)))
        .filter(|own| {
            own.task() != attempt.task.id
                && Some(own.task()) != attempt.task.resume_from.map(|wip| wip.task)
        })
        .collect();
    let cache = attempt.context.folders.cache.clone();
    if others.is_empty() || !looks::is_due(&cache, &remote.url, now()) {
        return;
    }
    // Before the look: of builds that fetch at once, one looks.
    looks::plan(&cache, &remote.url, now().plus(looks::SELDOM));
    let mut again_soon = others.len() > REFS_PER_FETCH;
    // Start anywhere in the list: many refs that must stay must not hide those that can go.
    let first = rand::random_range(0..others.len());
    others.rotate_left(first);
    others.truncate(REFS_PER_FETCH);
    let (context, remote) = (Arc::clone(&attempt.context), remote.clone());
    attempt.context.background.spawn(async move {
        let mut refs = Vec::new();
        for own in others {
            let removable = match context.ports.store.task(own.task()).await {
                Ok(record) => {
                    again_soon |= !record.task.state.is_terminal();
                    // A ticket of a push that is in doubt tells a retry that it has not landed.
                    let mut own_refs = record.task.own_refs.iter();
                    done_with(record.task.state)
                        && !matches!(own, OwnRef::Kept(_))
                        && !own_refs.any(|recorded| recorded.may_land && recorded.own == own)
                }
                Err(PortError::NotFound { .. }) => expired(own.task()),
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
            look_soon(&context, &remote);
        }
        delete(&context, remote, refs);
    });
}

fn look_soon(context: &RunnerContext, remote: &Remote) {
    let cache = &context.folders.cache;
    looks::bring_forward(cache, &remote.url, now().plus(looks::SOON));
}

/// Removes unpushed work of tasks that have ended and do not need it any more.
pub(crate) async fn forget_ended_unpushed(context: &RunnerContext) {
    for id in unpushed::tasks_with_unpushed(&context.folders) {
        let removable = match context.ports.store.task(id).await {
            Ok(record) => done_with(record.task.state),
            Err(PortError::NotFound { .. }) => true,
            Err(_) => false,
        };
        if removable {
            unpushed::forget_unpushed(&context.folders, id);
        }
    }
}

fn expired(task: TaskId) -> bool {
    let created = i64::try_from(task.0.timestamp_ms()).unwrap_or(i64::MAX);
    now().since(Timestamp::from_millis(created)) > EXPIRED_AFTER
}

fn done_with(state: TaskState) -> bool {
    matches!(state, TaskState::Succeeded | TaskState::Cancelled)
}

fn delete(context: &RunnerContext, remote: Remote, refs: Vec<String>) {
    if refs.is_empty() {
        return;
    }
    let cache = context.folders.cache.clone();
    context.background.spawn(async move {
        let stop = CancellationToken::new();
        let token = stop.clone();
        let url = remote.url.clone();
        let deleted = blocking(move || git::delete_refs(&remote, &refs, &token));
        let again = || looks::bring_forward(&cache, &url, now().plus(looks::SOON));
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
