//! What a simulated machine does at the git server: the steps of `rdev_runner::git`, over the
//! server in memory.

use std::time::Duration;

use rdev_domain::git::{CommitId, OwnRef};
use rdev_runner::git::{Expect, GitError, Push, Pushed, Remote};
use tokio_util::sync::CancellationToken;

use super::faults::Fault;
use super::machine::{SimulatedMachine, task_of, tip_of};
use super::process::pause;
use super::server::{Answer, Refs, Update};

fn unreachable(reason: &str, in_doubt: bool) -> GitError {
    GitError::Unreachable { reason: reason.to_owned(), in_doubt }
}

/// The full names that a ref of rdev's own may have.
pub(super) fn names(own: OwnRef) -> [String; 2] {
    [format!("refs/{}", own.path()), format!("refs/heads/{}", own.path())]
}

/// Lists the refs of a repository.
pub(super) async fn list(
    machine: &SimulatedMachine,
    remote: &Remote,
    stop: &CancellationToken,
) -> Result<Refs, GitError> {
    let listed = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(GitError::Cancelled),
        listed = machine.server.list(remote.url.as_str()) => listed,
    };
    listed.ok_or_else(|| unreachable("the server is away", false))
}

/// See [`rdev_runner::git::push`].
pub(super) async fn push(
    machine: &SimulatedMachine,
    push: &Push<'_>,
    stop: &CancellationToken,
) -> Result<Pushed, GitError> {
    let (url, world) = (push.remote.url.as_str(), &machine.world);
    let forward = matches!(push.expect, Expect::Forward(_));
    if forward && world.fails(Fault::PauseBeforePush, world.plan.pauses / 5) {
        machine.process.pause(pause(world));
    }
    let refs = list(machine, push.remote, stop).await?;
    let atomic = machine.server.state().repository(url).is_some_and(|one| !one.lacks.atomic);
    let old = refs.get(push.target);
    let deleted = push.delete.map(|(own, at)| {
        let [name, as_branch] = names(own);
        let name = if refs.contains_key(&name) { name } else { as_branch };
        (refs.get(&name), name, at)
    });
    let pushed = Pushed { tip: tip_of(refs.get(&push.watch.full_name())), atomic, refs: None };
    let is_gone = deleted.as_ref().is_none_or(|(now, ..)| now.is_none());
    let done = old == Some(push.commit) && is_gone;
    if done && !forward {
        return Ok(pushed);
    }
    if let Expect::Exactly(expected) | Expect::Forward(expected) = push.expect
        && tip_of(old) != *expected
    {
        return Err(GitError::Moved { tip: tip_of(old) });
    }
    let ignored = world.plan.broken == Some(super::plan::Broken::TicketIgnored);
    if let Some((now, name, at)) = &deleted
        && *now != Some(*at)
        && !ignored
    {
        return Err(GitError::Gone { name: name.clone() });
    }
    if let (true, Some(old)) = (forward, old)
        && !machine.server.state().commits.contains(old, push.commit)
    {
        return Err(GitError::Broken {
            doing: "pushing",
            source: "the commit is not a descendant of the branch's tip".into(),
        });
    }
    if done {
        return Ok(pushed);
    }
    if deleted.is_some() && !atomic {
        return Err(GitError::NotAtomic);
    }
    if stop.is_cancelled() {
        return Err(GitError::Cancelled);
    }
    let new = Some(push.commit.clone());
    let mut updates = vec![Update { name: push.target.to_owned(), old: old.cloned(), new }];
    if let Some((now, name, _)) = deleted {
        updates.push(Update { name, old: now.cloned(), new: None });
    }
    let task = push.dirs.gitdir.parent().and_then(task_of);
    let answered = machine.server.push(url, updates.clone(), updates.len() > 1, task);
    match answer(answered, stop).await? {
        Answer::Done => Ok(pushed),
        Answer::Away => Err(unreachable("it has an internal error", true)),
        Answer::Refused(why) if why.starts_with("deletion") => Err(GitError::NotAtomic),
        Answer::Refused(why) if why.starts_with("refs outside") => {
            Err(GitError::RefNamespaceRefused)
        }
        Answer::Refused(reason) => Err(GitError::Rejected { reason }),
        Answer::Raced => {
            let refs = list(machine, push.remote, stop).await?;
            let moved = updates.iter().find(|update| refs.get(&update.name) != update.old.as_ref());
            Err(match moved {
                Some(Update { name, new: Some(_), .. }) => {
                    GitError::Moved { tip: tip_of(refs.get(name)) }
                }
                Some(Update { name, new: None, .. }) => GitError::Gone { name: name.clone() },
                None => unreachable("it could not update a ref", false),
            })
        }
    }
}

/// Waits for the answer to a push, for at most a minute.
async fn answer(
    answered: tokio::sync::oneshot::Receiver<Answer>,
    stop: &CancellationToken,
) -> Result<Answer, GitError> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(GitError::Cancelled),
        answer = tokio::time::timeout(Duration::from_secs(60), answered) => match answer {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(unreachable("it was silent for 60 s", true)),
        },
    }
}

/// See [`rdev_runner::git::delete_refs`].
pub(super) async fn delete(
    machine: &SimulatedMachine,
    remote: &Remote,
    wanted: &[String],
    stop: &CancellationToken,
) -> Result<(), GitError> {
    let refs = list(machine, remote, stop).await?;
    let existing = wanted.iter().filter_map(|name| {
        let old: &CommitId = refs.get(name)?;
        Some(Update { name: name.clone(), old: Some(old.clone()), new: None })
    });
    let existing: Vec<Update> = existing.collect();
    if existing.is_empty() {
        return Ok(());
    }
    let answered = machine.server.push(remote.url.as_str(), existing, false, None);
    match answer(answered, stop).await? {
        Answer::Done | Answer::Raced => Ok(()),
        Answer::Refused(reason) => Err(GitError::Rejected { reason }),
        Answer::Away => Err(unreachable("it has an internal error", true)),
    }
}
