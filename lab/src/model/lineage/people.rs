//! What people do to the repository.

use rdev_domain::git::{CommitId, OwnRef};

use super::folder::{self, Lock, Name};
use super::remote::{Item, Remote, commit, work_of};
use super::world::World;

/// What a person does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// Commits to the branch, or makes it anew.
    Commit,
    /// Takes the last commit off the branch.
    Rewind,
    /// Deletes the branch.
    DeleteBranch,
    /// Deletes a ref of rdev's own.
    DeleteRef(OwnRef),
    /// Brings the commit of a ref to the branch by hand (a merge, or a squash with its message).
    BringIn(OwnRef),
    /// Makes a ref under rdev's own names, from a commit that no agent has finished.
    MakeRef(OwnRef),
    /// Removes the lock of the branch or of a ticket, which a killed process has left, as git
    /// advises.
    RemoveLock(Name),
}

impl Deed {
    /// Whether it takes something away: a ref, a commit, the branch, a lock.
    pub fn takes_away(&self) -> bool {
        match self {
            Self::Rewind | Self::DeleteBranch | Self::DeleteRef(_) | Self::RemoveLock(_) => true,
            Self::Commit | Self::BringIn(_) | Self::MakeRef(_) => false,
        }
    }

    /// Whether it takes commits off the branch.
    pub fn rewrites(&self) -> bool {
        matches!(self, Self::Rewind | Self::DeleteBranch)
    }

    /// The ref that it changes, whose lock it needs.
    fn changes(&self) -> Option<Name> {
        match self {
            Self::Commit | Self::Rewind | Self::DeleteBranch | Self::BringIn(_) => {
                Some(Name::Branch)
            }
            Self::DeleteRef(own) | Self::MakeRef(own) => Some(Name::Own(*own)),
            Self::RemoveLock(_) => None,
        }
    }
}

/// What a person may do now.
pub fn deeds(world: &World) -> Vec<Deed> {
    let remote = &world.remote;
    let mut deeds = vec![Deed::Commit];
    if let Some(branch) = &remote.branch {
        deeds.push(Deed::DeleteBranch);
        if !branch.is_empty() {
            deeds.push(Deed::Rewind);
        }
    }
    for (own, commit) in &remote.own {
        deeds.push(Deed::DeleteRef(*own));
        // Once only: a second time would be a person's own doubling.
        let item = Item::of_work(work_of(commit), true);
        if !remote.branch.iter().flatten().any(|other| *other == item) {
            deeds.push(Deed::BringIn(*own));
        }
    }
    if let Some(record) = world.tasks.last() {
        let next = OwnRef::Wip(record.task.id, record.task.fence);
        if !remote.own.contains_key(&next) && world.works.len() < 8 {
            deeds.push(Deed::MakeRef(next));
        }
    }
    if let Some(Lock::Moves(commit)) = remote.locks.get(&Name::Branch)
        && !is_moving(world, commit)
    {
        deeds.push(Deed::RemoveLock(Name::Branch));
    }
    deeds.extend(folder::left_over(remote).map(|ticket| Deed::RemoveLock(Name::Own(ticket))));
    deeds.retain(|deed| deed.changes().is_none_or(|name| !remote.locks.contains_key(&name)));
    deeds
}

/// Whether a living process is moving the branch to a commit.
fn is_moving(world: &World, commit: &CommitId) -> bool {
    world.remote.locks.values().any(|lock| match lock {
        Lock::Goes { target, to, alive, .. } => *target == Name::Branch && to == commit && *alive,
        Lock::Moves(_) => false,
    })
}

/// The work of a stranger: no agent's, so it must never be delivered.
pub const STRANGER: u8 = 0xee;

/// Does it.
pub fn act(world: &mut World, deed: &Deed) {
    if let Deed::BringIn(own) = deed
        && let Some(commit) = world.remote.own.get(own)
        && let Some(of) = world.works.get(usize::from(work_of(commit)))
        && !world.brought_in.contains(of)
    {
        world.brought_in.push(*of);
    }
    world.taken_away |= deed.takes_away();
    let number = world.left.people;
    world.remote.change(|remote| change(remote, deed, number));
}

fn change(remote: &mut Remote, deed: &Deed, number: u8) {
    match deed {
        Deed::Commit => {
            remote.branch.get_or_insert_default().push(Item::of_person(number));
        }
        Deed::Rewind => {
            let gone = remote.branch.as_mut().and_then(Vec::pop);
            // git writes down where the branch was.
            remote.log.extend(gone.and_then(Item::of_rdev));
        }
        Deed::DeleteBranch => {
            remote.branch = None;
            remote.log.clear();
        }
        Deed::DeleteRef(own) => {
            remote.own.remove(own);
        }
        Deed::BringIn(own) => {
            if let Some(commit) = remote.own.get(own) {
                let item = Item::of_work(work_of(commit), true);
                remote.branch.get_or_insert_default().push(item);
            }
        }
        Deed::MakeRef(own) => {
            remote.own.insert(*own, commit(STRANGER, 0));
        }
        Deed::RemoveLock(name) => {
            remote.locks.remove(name);
        }
    }
}
