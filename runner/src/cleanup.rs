//! Removes refs of rdev's own and unpushed work that nobody needs any more. It runs in the
//! background; no build waits for it.
//!
//! A build that ends well removes its own refs. What a runner could not remove, because it died or
//! the git server was away, goes at the next fetch, which lists the refs anyway; and where nobody
//! fetches any more, at a look that the store has planned at each fetch ([`look`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::git::OwnRef;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ports::PortError;
use rdev_domain::ref_look::{SELDOM, SOON};
use rdev_domain::task::{Task, TaskState};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::attempt::Attempt;
use crate::git::{Fetched, GitError, Remote, own_names};
use crate::runner::context::RunnerContext;

mod fate;
mod look;
mod memory;

pub(crate) use look::look_where_due;
pub(crate) use memory::Memory;

use fate::{Fate, done_with, is_in_doubt, is_old};

/// The number of other tasks about which one fetch asks the store.
const TASKS_PER_FETCH: usize = 20;

/// The time limit for one clean-up.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// After a build: removes the refs that its attempts have pushed if it succeeded or was cancelled;
/// otherwise it leaves them.
pub(crate) fn after_attempt(attempt: &Attempt, task: &Task) {
    if !done_with(task.state) {
        return;
    }
    attempt.machine().forget_unpushed(task.id);
    let Some((remote, mut refs)) = attempt.own_refs.all() else {
        return;
    };
    let cancelled = task.state == TaskState::Cancelled;
    refs.retain(|name| match OwnRef::parse(name) {
        None | Some(OwnRef::Kept(_)) => false,
        Some(own) => !(cancelled && is_in_doubt(task, own)),
    });
    if refs.is_empty() {
        return;
    }
    let context = Arc::clone(&attempt.context);
    attempt.context.in_background(async move {
        if let Removal::Failed = remove(&context, &remote, &refs).await {
            plan(&context, &remote.url, SOON).await;
        }
    });
}

/// At a fetch: plans a look within a day; notes the refs of the task's own earlier attempts, which
/// go with its good end; and removes refs of other tasks that nobody needs any more: those of tasks
/// that succeeded or were cancelled, and all of tasks whose records have expired.
pub(crate) fn at_fetch(attempt: &Attempt, remote: &Remote, fetched: &Fetched) {
    let context = &attempt.context;
    let own_task = attempt.task.id;
    let mine = fetched.own.iter().filter(|(own, _)| own.task() == own_task);
    attempt.own_refs.listed(
        remote,
        mine.map(|(own, commit)| {
            (own.full_name(fetched.own_branches.contains(own)), commit.clone())
        }),
    );
    let now = attempt.now();
    if context.memory.begin_plan(&remote.url, now) {
        let (context, url) = (Arc::clone(context), remote.url.clone());
        attempt.context.in_background(async move { plan(&context, &url, SELDOM).await });
    }
    let others: Vec<OwnRef> = fetched
        .own
        .iter()
        .map(|(own, _)| *own)
        // Kept refs stay until the record expires: they must not use up the limit.
        .filter(|own| !matches!(own, OwnRef::Kept(task) if !is_old(context, *task)))
        .filter(|own| {
            own.task() != own_task
                && Some(own.task()) != attempt.task.retry_of
                && Some(own.task()) != attempt.task.resume_from.map(|wip| wip.task)
        })
        .collect();
    let tasks = others.iter().map(|own| own.task());
    let mut tasks = context.memory.unsettled(&remote.url, tasks, now);
    if tasks.is_empty() {
        return;
    }
    // Start anywhere in the list: many refs that must stay must not hide those that can go.
    let first = context.machine.random(u32::try_from(tasks.len()).unwrap_or(u32::MAX));
    tasks.rotate_left(first as usize);
    tasks.truncate(TASKS_PER_FETCH);
    let (context, remote) = (Arc::clone(context), remote.clone());
    attempt.context.in_background(async move {
        let (memory, url) = (&context.memory, &remote.url);
        let (mut refs, mut of_tasks) = (Vec::new(), Vec::new());
        for task in tasks {
            let fate = Fate::of(&context, task, &BTreeSet::new()).await;
            let of_task = others.iter().copied().filter(|own| own.task() == task);
            let go: Vec<OwnRef> = of_task.filter(|own| fate.lets_go(*own)).collect();
            if !go.is_empty() {
                refs.extend(go);
                of_tasks.push(task);
            } else if matches!(fate, Fate::Ended(_) | Fate::Foreign) {
                memory.settle(url, task, now.plus(SELDOM));
            }
        }
        if refs.is_empty() {
            return;
        }
        let alone = match remove(&context, &remote, &names(&refs)).await {
            Removal::Done => return,
            Removal::Refused => SELDOM,
            Removal::Failed => SOON,
        };
        of_tasks.into_iter().for_each(|task| memory.settle(url, task, now.plus(alone)));
        plan(&context, url, alone).await;
    });
}

/// Plans a look through a repository `within` a time.
async fn plan(context: &RunnerContext, url: &GitUrl, within: Duration) {
    let now = context.machine.now();
    if let Err(error) = context.ports.store.plan_look(url, now.plus(within), now).await {
        context.memory.forget_plan(url);
        debug!(error = chain(&error), "a look for refs was not planned; the next fetch plans it");
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

/// What came of the removal of refs.
enum Removal {
    /// They are gone.
    Done,
    /// The server does not remove one of them.
    Refused,
    /// It did not come so far.
    Failed,
}

/// The full names that refs may have.
fn names(refs: &[OwnRef]) -> Vec<String> {
    refs.iter().flat_map(|own| own_names(*own)).collect()
}

async fn remove(context: &RunnerContext, remote: &Remote, refs: &[String]) -> Removal {
    let stop = CancellationToken::new();
    let removed = context.machine.delete_refs(remote, refs, &stop);
    let error = match tokio::time::timeout(TIME_LIMIT, removed).await {
        Ok(Ok(())) => return Removal::Done,
        Ok(Err(error)) => error,
        Err(_) => {
            stop.cancel();
            return Removal::Failed;
        }
    };
    debug!(url = %remote.url, error = chain(&error), "refs that nobody needs were not removed; a later fetch or look will");
    match error {
        GitError::Rejected { .. } | GitError::Auth { .. } => Removal::Refused,
        _ => Removal::Failed,
    }
}
