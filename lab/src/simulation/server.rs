//! The git server in memory: refs that move by compare and swap, and everything that ever moved.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdev_domain::git::{CommitId, OwnRef};
use rdev_domain::ids::{Fence, TaskId};
use tokio::sync::{Notify, oneshot};

use super::commits::{Commits, Files};
use super::faults::Fault;
use super::plan::Broken;
use super::world::World;

/// The refs of a repository, by full name.
pub(super) type Refs = BTreeMap<String, CommitId>;

/// One change of a ref: from exactly `old` to `new`.
#[derive(Debug, Clone)]
pub(super) struct Update {
    pub(super) name: String,
    pub(super) old: Option<CommitId>,
    pub(super) new: Option<CommitId>,
}

/// How the server answers a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    /// A ref was not where the push expected it.
    Raced,
    /// This ref may not be changed so.
    Refused(String),
    /// It is away, or has an internal error; it has changed nothing.
    Away,
}

/// A push of rdev's that moved a branch.
#[derive(Debug, Clone)]
pub(super) struct Landing {
    pub(super) repository: usize,
    /// Of the attempt that pushed it.
    pub(super) task: TaskId,
    pub(super) lineage: String,
    pub(super) commit: CommitId,
}

/// What a server cannot do.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lacks {
    pub(super) atomic: bool,
    pub(super) deletions: bool,
    pub(super) other_refs: bool,
}

/// The repositories, and their history.
pub(super) struct Server {
    world: Arc<World>,
    /// Notified when rdev has changed something.
    pub(super) touched: Notify,
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) commits: Commits,
    pub(super) repositories: Vec<Repository>,
    pub(super) landings: Vec<Landing>,
    /// Of each chain, the tickets whose work is or was pushing and that nobody has taken over.
    pub(super) prepared: BTreeMap<TaskId, BTreeSet<(TaskId, Fence)>>,
    /// Of each task, the first one of its chain of retries.
    pub(super) chains: BTreeMap<TaskId, TaskId>,
    /// The files that have passed the verify commands.
    pub(super) verified: BTreeSet<Files>,
}

pub(super) struct Repository {
    pub(super) url: String,
    pub(super) refs: Refs,
    pub(super) lacks: Lacks,
    /// Until when (of the world's time) it refuses to move a branch.
    pub(super) protected: bool,
    /// Every commit that a branch was ever at.
    pub(super) tips: Vec<CommitId>,
    /// Whether a person took commits away from a branch.
    pub(super) rewritten: bool,
}

impl Server {
    pub(super) fn new(world: &Arc<World>) -> Arc<Self> {
        let state = State {
            commits: Commits::default(),
            repositories: Vec::new(),
            landings: Vec::new(),
            prepared: BTreeMap::new(),
            chains: BTreeMap::new(),
            verified: BTreeSet::new(),
        };
        Arc::new(Self {
            world: Arc::clone(world),
            touched: Notify::new(),
            state: Mutex::new(state),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A list of a repository's refs. `None`: it does not answer.
    pub(super) async fn list(&self, url: &str) -> Option<Refs> {
        let world = &self.world;
        tokio::time::sleep(world.millis(1, 60)).await;
        if world.is_server_away() || world.fails(Fault::GitError, world.plan.per_mille) {
            tokio::time::sleep(world.millis(1, 20_000)).await;
            return None;
        }
        let mut refs = self.state().repository(url)?.refs.clone();
        if world.fails(Fault::TornList, world.plan.per_mille) {
            tokio::time::sleep(world.millis(1, 5_000)).await;
            let later = self.state().repository(url)?.refs.clone();
            // Branches are listed before rdev's own refs, or the other way round.
            let first = world.happens(500);
            let is_first = |name: &str| name.starts_with("refs/heads/") == first;
            refs.retain(|name, _| is_first(name));
            refs.extend(later.into_iter().filter(|(name, _)| !is_first(name)));
        }
        tokio::time::sleep(world.millis(1, 60)).await;
        Some(refs)
    }

    /// Sends a push. It is applied also when its sender is gone by then. The answer may never come.
    pub(super) fn push(
        self: &Arc<Self>,
        url: &str,
        updates: Vec<Update>,
        atomic: bool,
        task: Option<TaskId>,
    ) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        let (server, url) = (Arc::clone(self), url.to_owned());
        self.world.under_way(false);
        tokio::spawn(async move {
            let world = &server.world;
            let per_mille = world.plan.per_mille;
            let late = world.fails(Fault::PushLate, per_mille);
            let span = if late { world.millis(60_000, 1_800_000) } else { world.millis(1, 400) };
            tokio::time::sleep(span).await;
            let moves_branch = updates.iter().any(|update| OwnRef::parse(&update.name).is_none());
            if let (Some(away), true) = (world.plan.outage, task.is_some() && moves_branch)
                && world.counts().of(Fault::ServerAway) == 0
            {
                world.take_server_away(away);
            }
            let outcome = if world.is_server_away() || world.fails(Fault::GitError, per_mille) {
                Answer::Away
            } else {
                server.state().apply(world, &url, &updates, atomic, task)
            };
            world.under_way(true);
            server.touched.notify_one();
            let lost = outcome == Answer::Done && world.fails(Fault::PushAnswerLost, per_mille);
            tokio::time::sleep(world.millis(1, 200)).await;
            if lost {
                // The sender waits until it gives up.
                tokio::time::sleep(world.millis(60_000, 120_000)).await;
            }
            // Nobody may wait any more.
            let _ = answer.send(outcome);
        });
        answered
    }
}

impl State {
    pub(super) fn repository(&mut self, url: &str) -> Option<&mut Repository> {
        self.repositories.iter_mut().find(|repository| repository.url == url)
    }

    /// Moves refs for rdev (`task`), or for its clean-up.
    fn apply(
        &mut self,
        world: &World,
        url: &str,
        updates: &[Update],
        atomic: bool,
        task: Option<TaskId>,
    ) -> Answer {
        let Some(number) = self.repositories.iter().position(|one| one.url == url) else {
            return Answer::Refused("there is no such repository".to_owned());
        };
        let repository = &self.repositories[number];
        let verdict = |update: &Update| {
            let (now, own) = (repository.refs.get(&update.name), OwnRef::parse(&update.name));
            if repository.lacks.other_refs && !update.name.starts_with("refs/heads/") {
                return Answer::Refused("refs outside refs/heads".to_owned());
            }
            if own.is_none() && repository.protected {
                return Answer::Refused("protected branch".to_owned());
            }
            if update.new.is_none() && repository.lacks.deletions {
                return Answer::Refused("deletion".to_owned());
            }
            let ignored = update.new.is_none() && world.plan.broken == Some(Broken::TicketIgnored);
            if now == update.old.as_ref() || ignored { Answer::Done } else { Answer::Raced }
        };
        let verdicts: Vec<Answer> = updates.iter().map(verdict).collect();
        let refused = verdicts.iter().find(|verdict| **verdict != Answer::Done).cloned();
        if let Some(refused) = refused.filter(|_| atomic || updates.len() == 1) {
            world.trace(|| format!("server {url} refuses {updates:?}: {refused:?}"));
            return refused;
        }
        world.trace(|| format!("server {url} applies {updates:?}"));
        for (update, verdict) in updates.iter().zip(&verdicts) {
            if *verdict == Answer::Done {
                self.set(number, update, task);
            }
        }
        self.follow_takeover(updates);
        Answer::Done
    }

    fn set(&mut self, number: usize, update: &Update, task: Option<TaskId>) {
        let repository = &mut self.repositories[number];
        match &update.new {
            Some(new) => repository.refs.insert(update.name.clone(), new.clone()),
            None => repository.refs.remove(&update.name),
        };
        if OwnRef::parse(&update.name).is_some() {
            return;
        }
        let Some(new) = &update.new else { return };
        repository.tips.push(new.clone());
        if let (Some(task), Some(lineage)) = (task, self.commits.trailer(new, "Rdev-Lineage")) {
            let commit = new.clone();
            self.landings.push(Landing { repository: number, task, lineage, commit });
        }
    }

    /// A ticket that is made of one that may land may land as well.
    fn follow_takeover(&mut self, updates: &[Update]) {
        let wip = |update: &Update| match OwnRef::parse(&update.name) {
            Some(OwnRef::Wip(task, fence)) => Some((task, fence)),
            _ => None,
        };
        let gone = updates.iter().filter(|update| update.new.is_none()).find_map(wip);
        let made = updates.iter().filter(|update| update.new.is_some()).find_map(wip);
        let (Some(gone), Some(made)) = (gone, made) else { return };
        for tickets in self.prepared.values_mut() {
            if tickets.contains(&gone) {
                tickets.insert(made);
            }
        }
    }

    /// A ticket of a chain that may still land, if any is at the server.
    pub(super) fn may_land(&self, number: usize, chain: TaskId) -> Option<String> {
        let refs = &self.repositories[number].refs;
        let names = self.prepared.get(&chain)?.iter().flat_map(|(task, fence)| {
            let path = OwnRef::Wip(*task, *fence).path();
            [format!("refs/{path}"), format!("refs/heads/{path}")]
        });
        // One that a stranger has moved elsewhere lets nothing land.
        let is_ours = |name: &String| {
            let trailer = |commit| self.commits.trailer(commit, "Rdev-Lineage");
            refs.get(name).and_then(trailer).is_some()
        };
        names.into_iter().find(is_ours)
    }
}
