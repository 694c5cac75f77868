//! The looks that the store has planned: through repositories from which nobody fetches any more,
//! too. Of all runners one takes each look; should it die, another one takes it an hour later.

use std::collections::BTreeSet;
use std::sync::Arc;

use rdev_domain::chain;
use rdev_domain::git::OwnRef;
use rdev_domain::ids::TaskId;
use rdev_domain::ref_look::RefLook;
use tracing::{debug, info};

use super::fate::Fate;
use super::{Removal, TIME_LIMIT, names, remove};
use crate::git::{GitError, OwnTip, Remote};
use crate::runner::context::RunnerContext;

/// How many due looks are read at once.
const AT_ONCE: u32 = 100;

/// The most tasks that one look asks the store about.
const TASKS_PER_LOOK: usize = 500;

/// Looks through the repositories for which that is due, until none is left or the runner drains.
pub(crate) async fn look_where_due(context: Arc<RunnerContext>) {
    let (store, machine) = (&context.ports.store, &context.machine);
    loop {
        let mut due = match store.due_looks(machine.now(), AT_ONCE).await {
            Ok(due) if due.is_empty() => return,
            Ok(due) => due,
            Err(error) => {
                debug!(
                    error = chain(&error),
                    "the store does not tell which looks for refs are due"
                );
                return;
            }
        };
        // Runners that look at once begin with different ones.
        let first = machine.random(u32::try_from(due.len()).unwrap_or(u32::MAX));
        due.rotate_left(first as usize);
        let mut looked = false;
        for before in due {
            if context.until_drain().is_cancelled() {
                return;
            }
            // Another runner may be allowed to use it.
            let Ok(remote) = context.remote(before.repository.clone()) else { continue };
            let taken = before.taken(machine.now());
            match store.update_look(&before, Some(&taken)).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(_) => return,
            }
            looked = true;
            look(&context, &taken, &remote).await;
        }
        if !looked {
            return;
        }
    }
}

/// Looks through one repository, and plans the next look.
async fn look(context: &RunnerContext, taken: &RefLook, remote: &Remote) {
    let stop = context.until_drain();
    let listed = context.machine.own_refs(remote, &stop);
    let listed = tokio::time::timeout(TIME_LIMIT, listed).await;
    let (known, again) = match listed {
        Ok(Ok(own)) => sort_out(context, taken, remote, &own).await,
        Ok(Err(error)) => {
            let url = &taken.repository;
            debug!(%url, error = chain(&error), "a repository was not looked through for refs");
            match error {
                // It may only be hidden. It is looked for until all records have expired.
                GitError::RepositoryNotFound => (still_recorded(context, taken).await, false),
                // The rights of rdev's user do not change within the hour.
                GitError::Auth { .. } | GitError::NotAllowed(_) => (taken.known.clone(), false),
                _ => (taken.known.clone(), true),
            }
        }
        Err(_) => {
            stop.cancel();
            (taken.known.clone(), true)
        }
    };
    let after = taken.looked(known, again, context.machine.now());
    end(context, taken, after).await;
}

/// Removes what nobody needs. Returns the tasks of ours whose refs are there, and whether there is
/// more to do.
async fn sort_out(
    context: &RunnerContext,
    taken: &RefLook,
    remote: &Remote,
    own: &[OwnTip],
) -> (BTreeSet<TaskId>, bool) {
    let tasks: BTreeSet<TaskId> = own.iter().map(|(own, _)| own.task()).collect();
    let mut tasks: Vec<TaskId> = tasks.into_iter().collect();
    let mut again = tasks.len() > TASKS_PER_LOOK;
    // Start anywhere: many that must stay must not hide those that can go.
    if !tasks.is_empty() {
        let first = context.machine.random(u32::try_from(tasks.len()).unwrap_or(u32::MAX));
        tasks.rotate_left(first as usize);
    }
    let mut known = BTreeSet::new();
    let (mut gone, mut refs): (BTreeSet<TaskId>, Vec<OwnRef>) = Default::default();
    for (number, task) in tasks.into_iter().enumerate() {
        if number >= TASKS_PER_LOOK {
            known.extend(taken.known.get(&task));
            continue;
        }
        let fate = Fate::of(context, task, &taken.known).await;
        match &fate {
            Fate::Ended(_) | Fate::Living => known.extend([task]),
            Fate::Unknown => {
                again = true;
                known.extend(taken.known.get(&task));
            }
            Fate::Expired | Fate::Foreign => {}
        }
        let of_task = own.iter().map(|(own, _)| *own).filter(|own| own.task() == task);
        let go: Vec<OwnRef> = of_task.filter(|own| fate.lets_go(*own)).collect();
        if !go.is_empty() {
            gone.insert(task);
            refs.extend(go);
        }
    }
    if refs.is_empty() {
        return (known, again);
    }
    match remove(context, remote, &names(&refs)).await {
        Removal::Done => {
            let number = refs.len();
            info!(url = %remote.url, number, "removed refs that nobody needs any more");
            // Those of which something stays are seen by the next look.
            let stays = |task: &TaskId| {
                own.iter().any(|(own, _)| own.task() == *task && !refs.contains(own))
            };
            known.retain(|task| !gone.contains(task) || stays(task));
        }
        Removal::Refused => known.extend(gone),
        Removal::Failed => {
            known.extend(gone);
            again = true;
        }
    }
    (known, again)
}

/// The known tasks whose records have not expired.
async fn still_recorded(context: &RunnerContext, taken: &RefLook) -> BTreeSet<TaskId> {
    let mut known = taken.known.clone();
    for task in &taken.known {
        if let Fate::Expired = Fate::of(context, *task, &taken.known).await {
            known.remove(task);
        }
    }
    known
}

/// If the plan has changed meanwhile, the next look is within the hour.
async fn end(context: &RunnerContext, taken: &RefLook, after: Option<RefLook>) {
    if let Err(error) = context.ports.store.update_look(taken, after.as_ref()).await {
        debug!(
            error = chain(&error),
            "the next look for refs was not planned; it is within the hour"
        );
    }
}
