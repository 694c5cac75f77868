//! Removing refs of rdev's own that nobody needs any more; off the path of any build.

use std::sync::Arc;
use std::time::Duration;

use rdev_domain::git::{CommitId, OwnRef};
use rdev_domain::ids::TaskId;
use rdev_domain::ports::PortError;
use rdev_domain::task::{Task, TaskState};
use rdev_domain::time::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::attempt::{Attempt, unpushed};
use crate::git::{self, Remote, blocking};
use crate::runner::context::Shared;
use crate::{chain, now};

/// How many refs of other tasks one fetch looks at.
const AT_ONCE: usize = 20;

/// How old a task must be for its absence from the store to mean that its
/// record has expired. A younger one may be another installation's, which
/// shares the repository.
const EXPIRED_AFTER: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// How long one clean-up may take.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// After a build has ended well (or was cancelled): removes the refs it has pushed.
pub(crate) fn after(attempt: &Attempt, task: &Task) {
    if !done_with(task.state) {
        return;
    }
    unpushed::forget_unpushed(&attempt.shared.folders, task.id);
    let Some((remote, mut refs)) = attempt.pushed_refs() else {
        return;
    };
    refs.retain(|name| !matches!(OwnRef::parse(name), None | Some(OwnRef::Kept(_))));
    delete(&attempt.shared, remote, refs);
}

/// At a fetch: removes refs of other tasks that ended, as far as they are no
/// longer needed: wip and part refs of tasks that succeeded or were cancelled,
/// and all refs of old tasks whose records have expired.
pub(crate) fn later(attempt: &Attempt, remote: &Remote, own: &[(OwnRef, CommitId)]) {
    let mut others: Vec<OwnRef> = own
        .iter()
        .map(|(own, _)| *own)
        // What stays until a record expires is not in the way of the rest.
        .filter(|own| !matches!(own, OwnRef::Kept(task) if !expired(*task)))
        .filter(|own| {
            own.task() != attempt.task.id
                && Some(own.task()) != attempt.task.resume_from.map(|wip| wip.task)
        })
        .collect();
    if others.is_empty() {
        return;
    }
    // From anywhere: many that must stay are not in the way of those that may go.
    let first = rand::random_range(0..others.len());
    others.rotate_left(first);
    others.truncate(AT_ONCE);
    let (shared, remote) = (Arc::clone(&attempt.shared), remote.clone());
    attempt.shared.background.spawn(async move {
        let mut refs = Vec::new();
        for own in others {
            let gone = match shared.ports.store.task(own.task()).await {
                Ok(record) => done_with(record.task.state) && !matches!(own, OwnRef::Kept(_)),
                Err(PortError::NotFound { .. }) => expired(own.task()),
                Err(_) => false,
            };
            if gone {
                refs.push(format!("refs/{}", own.path()));
                refs.push(format!("refs/heads/{}", own.path()));
            }
        }
        delete(&shared, remote, refs);
    });
}

/// At a runner's start: forgets unpushed work whose task needs it no more.
pub(crate) async fn unpushed(shared: &Shared) {
    for id in unpushed::tasks_with_unpushed(&shared.folders) {
        let gone = match shared.ports.store.task(id).await {
            Ok(record) => done_with(record.task.state),
            Err(PortError::NotFound { .. }) => true,
            Err(_) => false,
        };
        if gone {
            unpushed::forget_unpushed(&shared.folders, id);
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

fn delete(shared: &Shared, remote: Remote, refs: Vec<String>) {
    if refs.is_empty() {
        return;
    }
    shared.background.spawn(async move {
        let stop = CancellationToken::new();
        let token = stop.clone();
        let deleted = blocking(move || git::delete_refs(&remote, &refs, &token));
        match tokio::time::timeout(TIME_LIMIT, deleted).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(
                error = chain(&error),
                "refs of ended tasks were not removed; a later fetch will"
            ),
            Err(_) => stop.cancel(),
        }
    });
}
