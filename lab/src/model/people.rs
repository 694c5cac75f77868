//! What people do to the repository.

use rdev_domain::git::OwnRef;

use super::remote::{Item, work_of};
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
    DeleteRef(String),
    /// Brings the commit of a ref to the branch by hand (a merge, or a squash with its message).
    BringIn(String),
    /// Makes a ref under rdev's own names, from a commit that no agent has finished.
    MakeRef(String),
}

/// What a person may do now.
pub fn deeds(world: &World) -> Vec<Deed> {
    let mut deeds = vec![Deed::Commit];
    if let Some(branch) = &world.remote.branch {
        deeds.push(Deed::DeleteBranch);
        if !branch.is_empty() {
            deeds.push(Deed::Rewind);
        }
    }
    for (path, commit) in &world.remote.own {
        deeds.push(Deed::DeleteRef(path.clone()));
        // Once only: a second time would be a person's own doubling.
        let item = Item::of_work(work_of(commit), true);
        if !world.remote.branch.iter().flatten().any(|other| *other == item) {
            deeds.push(Deed::BringIn(path.clone()));
        }
    }
    if let Some(record) = world.tasks.last() {
        let next = OwnRef::Wip(record.task.id, record.task.fence);
        if !world.remote.own.contains_key(&next.path()) && world.works.len() < 8 {
            deeds.push(Deed::MakeRef(next.path()));
        }
    }
    deeds
}

/// The work of a stranger: no agent's, so it must never be delivered.
pub const STRANGER: u8 = 0xee;

/// Does it.
pub fn act(world: &mut World, deed: &Deed) {
    if let Deed::BringIn(path) = deed
        && let Some(commit) = world.remote.own.get(path)
        && let Some(of) = world.works.get(usize::from(work_of(commit)))
        && !world.brought_in.contains(of)
    {
        world.brought_in.push(*of);
    }
    world.taken_away |= matches!(deed, Deed::Rewind | Deed::DeleteBranch | Deed::DeleteRef(_));
    let remote = &mut world.remote;
    match deed {
        Deed::Commit => {
            let number = world.left.people;
            remote.branch.get_or_insert_default().push(Item::of_person(number));
        }
        Deed::Rewind => {
            remote.branch.as_mut().and_then(Vec::pop);
        }
        Deed::DeleteBranch => remote.branch = None,
        Deed::DeleteRef(path) => {
            remote.own.remove(path);
        }
        Deed::BringIn(path) => {
            if let Some(commit) = remote.own.get(path) {
                let item = Item::of_work(work_of(commit), true);
                remote.branch.get_or_insert_default().push(item);
            }
        }
        Deed::MakeRef(path) => {
            remote.own.insert(path.clone(), super::remote::commit(STRANGER, 0));
        }
    }
}
