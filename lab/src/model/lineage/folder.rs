//! A repository in a folder: one ref moves and another one goes under git's lock files, as
//! `runner/src/git/ref_locks.rs` does it, write by write. A process may be killed between any two.
//!
//! The lock of a ticket says how far the move is. A living process has an `flock` on it.

use rdev_domain::git::{CommitId, OwnRef};

use super::Variant;
use super::remote::{Push, Refused, Remote, Sets, work_of};

/// A ref that may be locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    Branch,
    Own(OwnRef),
}

/// A lock file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Lock {
    /// Of the ref that goes, from this value: what moves, and whether it says `landing`. `alive`:
    /// its process is.
    Goes { value: CommitId, target: Name, to: CommitId, landing: bool, alive: bool },
    /// Of the ref that moves: its value.
    Moves(CommitId),
}

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The ticket's lock is there, and the ticket has its value.
    TicketLocked,
    /// So is the target's, and it is where it has to be.
    BothLocked,
    /// The ticket's lock says `landing`.
    Landing,
    /// The ticket is deleted.
    Deleted,
    /// The target's lock was renamed into its place.
    Moved,
    /// The branch's log has it.
    Logged,
}

/// When the ticket is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Before the branch moves. Its lock tells how far that is.
    TicketFirst,
    /// After it. Its lock tells how far that is.
    TicketLast,
    /// After it, and nobody can tell.
    TicketLastUnlocked,
}

impl Order {
    /// The order in which a variant of the protocol does it.
    pub fn of(variant: Variant) -> Self {
        match variant {
            Variant::FolderDeletesTheTicketLast => Self::TicketLast,
            Variant::FolderHasNoLockThatTells => Self::TicketLastUnlocked,
            _ => Self::TicketFirst,
        }
    }
}

/// Begins a move.
pub fn begin(remote: &mut Remote, push: &Push, order: Order) -> Result<Stage, Refused> {
    let Some((own, value)) = &push.deletes else { return Err(Refused::Gone) };
    if remote.locks.contains_key(&Name::Own(*own)) {
        return Err(Refused::Locked);
    }
    if !remote.has(*own, value) {
        return Err(Refused::Gone);
    }
    if let (Some(target), Some(to)) = (push.sets.name(), push.sets.to())
        && order != Order::TicketLastUnlocked
    {
        let (value, to) = (value.clone(), to.clone());
        let lock = Lock::Goes { value, target, to, landing: false, alive: true };
        remote.locks.insert(Name::Own(*own), lock);
    }
    Ok(Stage::TicketLocked)
}

/// The next write of a move. `None`: it is done.
pub fn go(
    remote: &mut Remote,
    push: &Push,
    stage: Stage,
    order: Order,
) -> Result<Option<Stage>, Refused> {
    let (Some((own, _)), Some(target)) = (&push.deletes, push.sets.name()) else {
        return Err(Refused::Gone);
    };
    let ticket = Name::Own(*own);
    match stage {
        Stage::TicketLocked => {
            let refused = if remote.locks.contains_key(&target) {
                Some(Refused::Locked)
            } else {
                remote.expects(&push.sets).err()
            };
            if let Some(refused) = refused {
                remote.locks.remove(&ticket);
                return Err(refused);
            }
            if order == Order::TicketLastUnlocked {
                // The branch moves as by any other program, at once.
                return Ok(Some(Stage::Landing));
            }
            let to = push.sets.to().cloned().ok_or(Refused::Gone)?;
            remote.locks.insert(target, Lock::Moves(to));
            Ok(Some(Stage::BothLocked))
        }
        Stage::BothLocked => {
            if let Some(Lock::Goes { landing, .. }) = remote.locks.get_mut(&ticket) {
                *landing = true;
            }
            Ok(Some(Stage::Landing))
        }
        Stage::Landing if order == Order::TicketFirst => {
            remote.own.remove(own);
            Ok(Some(Stage::Deleted))
        }
        Stage::Landing | Stage::Deleted => {
            // Under its lock nobody has moved it.
            remote.expects(&push.sets)?;
            remote.locks.remove(&target);
            remote.set(&push.sets);
            Ok(Some(Stage::Moved))
        }
        Stage::Moved => {
            if let Sets::Branch { to, .. } = &push.sets {
                remote.log.insert(work_of(to));
            }
            Ok(Some(Stage::Logged))
        }
        Stage::Logged if remote.own.remove(own).is_some() => Ok(Some(Stage::Logged)),
        Stage::Logged => {
            remote.locks.remove(&ticket);
            Ok(None)
        }
    }
}

/// The process that was moving something is killed.
pub fn kill(remote: &mut Remote, push: &Push) {
    let Some((own, _)) = &push.deletes else { return };
    if let Some(Lock::Goes { alive, .. }) = remote.locks.get_mut(&Name::Own(*own)) {
        *alive = false;
    }
}

/// A ticket's lock that a killed process has left.
pub fn left_over(remote: &Remote) -> Option<OwnRef> {
    remote.locks.iter().find_map(|(name, lock)| match (name, lock) {
        (Name::Own(own), Lock::Goes { alive: false, .. }) => Some(*own),
        _ => None,
    })
}

/// One write of whoever ends or undoes what a killed process has left. It may be killed itself: the
/// next one reads the lock again.
pub fn tidy(remote: &mut Remote, ticket: OwnRef) {
    let name = Name::Own(ticket);
    let Some(Lock::Goes { value, target, to, landing, .. }) = remote.locks.get(&name).cloned()
    else {
        return;
    };
    let ours = remote.locks.get(&target) == Some(&Lock::Moves(to));
    match (landing, ours) {
        (false, true) => {
            remote.locks.remove(&target);
        }
        (true, true) if !remote.own.contains_key(&ticket) => {
            remote.own.insert(ticket, value);
        }
        (true, true) => {
            if let Some(Lock::Goes { landing, .. }) = remote.locks.get_mut(&name) {
                *landing = false;
            }
        }
        (true, false) if remote.own.contains_key(&ticket) => {
            remote.own.remove(&ticket);
        }
        (_, false) => {
            remote.locks.remove(&name);
        }
    }
}

/// The value of a ticket that is deleted and whose branch has not moved yet. It counts as there.
pub fn held_back(remote: &Remote, ticket: OwnRef) -> Option<&CommitId> {
    match remote.locks.get(&Name::Own(ticket))? {
        Lock::Goes { value, target, to, landing: true, .. } => {
            let lock = remote.locks.get(target)?;
            matches!(lock, Lock::Moves(other) if other == to).then_some(value)
        }
        Lock::Goes { .. } | Lock::Moves(_) => None,
    }
}

/// The locks of refs that no known process is moving: somebody has removed the lock of the ticket
/// that told of it.
pub fn stale_locks(remote: &Remote) -> Vec<Name> {
    let moving =
        |name: &Name, lock: &Lock| matches!(lock, Lock::Goes { target, .. } if target == name);
    let stale = |(name, lock): &(&Name, &Lock)| {
        matches!(lock, Lock::Moves(_)) && !remote.locks.values().any(|lock| moving(name, lock))
    };
    remote.locks.iter().filter(stale).map(|(name, _)| *name).collect()
}

/// What every list of the refs does first.
pub fn tidy_all(remote: &mut Remote) {
    while let Some(ticket) = left_over(remote) {
        tidy(remote, ticket);
    }
}
