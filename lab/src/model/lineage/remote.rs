//! The git server: a branch with its history, and rdev's own refs. A push is a compare-and-swap of
//! one or two refs, applied wholly or not at all.

use std::collections::{BTreeMap, BTreeSet};

use rdev_domain::git::{CommitId, OwnRef, Tip};

use super::folder::{self, Lock, Name};

/// A commit in the branch's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Item(u16);

/// A person's commit.
const PERSON: u16 = 0x8000;
/// The work of a lineage, as a person brought it in.
const BY_PERSON: u16 = 0x4000;
/// The work of a lineage.
const WORK: u16 = 0x2000;

impl Item {
    /// A commit of a person's own.
    pub fn of_person(number: u8) -> Self {
        Self(PERSON | u16::from(number))
    }

    /// Work, with the lineage's trailer.
    pub fn of_work(work: u8, by_person: bool) -> Self {
        Self(WORK | if by_person { BY_PERSON } else { 0 } | u16::from(work))
    }

    /// The work of a commit that rdev has made.
    pub fn of_rdev(self) -> Option<u8> {
        self.work().filter(|_| self.0 & BY_PERSON == 0)
    }

    /// The work that it is, whoever has brought it.
    fn work(self) -> Option<u8> {
        (self.0 & WORK != 0).then_some((self.0 & 0xff) as u8)
    }

    /// Whether it has a lineage's trailer; `lineages` says whose each work is.
    pub fn is_of(self, lineage: u8, lineages: &[u8]) -> bool {
        self.work().is_some_and(|work| lineages.get(usize::from(work)) == Some(&lineage))
    }
}

/// The history of a branch, oldest first. Its tip's id tells all of it.
pub type History = Vec<Item>;

/// The tip of a history.
pub fn tip(history: Option<&History>) -> Tip {
    let Some(history) = history else { return Tip::Absent };
    let mut id: String = history.iter().map(|item| format!("{:04x}", item.0)).collect();
    id.push_str(&"f".repeat(40 - id.len()));
    Tip::Commit(id.parse().expect("40 hexadecimal digits"))
}

/// The history that a tip ends.
pub fn history(tip: &Tip) -> Option<History> {
    let Tip::Commit(id) = tip else { return None };
    let parts = id.as_str().as_bytes().chunks(4);
    let items = parts.map(|part| std::str::from_utf8(part).expect("digits"));
    let items = items.take_while(|part| *part != "ffff");
    Some(items.map(|part| Item(u16::from_str_radix(part, 16).expect("digits"))).collect())
}

/// The commit of a work, rebased this many times.
pub fn commit(work: u8, rebased: u8) -> CommitId {
    format!("{:040x}", u64::from(work) << 8 | u64::from(rebased) | 1 << 16)
        .parse()
        .expect("40 hexadecimal digits")
}

/// The work of a commit.
pub fn work_of(commit: &CommitId) -> u8 {
    let number = u64::from_str_radix(&commit.as_str()[20..], 16).expect("digits");
    (number >> 8 & 0xff) as u8
}

/// How often a commit was rebased.
pub fn rebased(commit: &CommitId) -> u8 {
    let number = u64::from_str_radix(&commit.as_str()[20..], 16).expect("digits");
    (number & 0xff) as u8
}

/// What a repository's server can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// It moves a branch and deletes a ticket, both or none.
    Atomic,
    /// It moves one ref at a time, and lets none be deleted: tickets prove nothing.
    BranchAlone,
    /// There is none: the repository is a folder, whose refs move under lock files
    /// ([`super::folder`]).
    Folder,
}

/// A push: all or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Push {
    pub sets: Sets,
    /// Another ref that it deletes, from this value.
    pub deletes: Option<(OwnRef, CommitId)>,
}

/// What a push sets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Sets {
    /// The branch moves on from a tip to a commit, on behalf of a task.
    Branch { from: Option<History>, to: CommitId, task: usize },
    /// A ref of rdev's own, from this value.
    Own { own: OwnRef, from: Option<CommitId>, to: CommitId },
    /// Nothing: it only deletes.
    Nothing,
}

/// Why a push changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// What it sets is elsewhere.
    Moved,
    /// What it deletes is elsewhere.
    Gone,
    /// Another process has the lock of one of its refs.
    Locked,
}

/// A push that has moved the branch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Landing {
    pub commit: CommitId,
    /// For which task.
    pub task: usize,
}

/// The repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Remote {
    pub branch: Option<History>,
    /// rdev's own refs.
    pub own: BTreeMap<OwnRef, CommitId>,
    pub landed: Vec<Landing>,
    /// The lock files of a folder.
    pub locks: BTreeMap<Name, Lock>,
    /// The works that the branch's log names, in a folder.
    pub log: BTreeSet<u8>,
}

impl Remote {
    /// Applies a push.
    pub fn apply(&mut self, push: &Push) -> Result<(), Refused> {
        if push.locks().any(|name| self.locks.contains_key(&name)) {
            return Err(Refused::Locked);
        }
        self.expects(&push.sets)?;
        if let Some((own, value)) = &push.deletes {
            if self.own.get(own) != Some(value) {
                return Err(Refused::Gone);
            }
            self.own.remove(own);
        }
        self.set(&push.sets);
        Ok(())
    }

    /// Whether what a push sets is where the push expects it.
    pub fn expects(&self, sets: &Sets) -> Result<(), Refused> {
        let there = match sets {
            Sets::Branch { from, .. } => self.branch == *from,
            Sets::Own { own, from, .. } => self.own.get(own) == from.as_ref(),
            Sets::Nothing => true,
        };
        if there { Ok(()) } else { Err(Refused::Moved) }
    }

    /// Sets what a push sets.
    pub fn set(&mut self, sets: &Sets) {
        match sets {
            Sets::Branch { to, task, .. } => {
                self.branch.get_or_insert_default().push(Item::of_work(work_of(to), false));
                self.landed.push(Landing { commit: to.clone(), task: *task });
            }
            Sets::Own { own, to, .. } => {
                self.own.insert(*own, to.clone());
            }
            Sets::Nothing => {}
        }
    }

    /// Whether a list of the refs shows one at a value.
    pub fn has(&self, own: OwnRef, commit: &CommitId) -> bool {
        self.own.get(&own).or_else(|| folder::held_back(self, own)) == Some(commit)
    }
}

impl Push {
    /// The refs that it moves and deletes.
    fn locks(&self) -> impl Iterator<Item = Name> {
        self.sets.name().into_iter().chain(self.deletes.iter().map(|(own, _)| Name::Own(*own)))
    }
}

impl Sets {
    /// The ref that it sets.
    pub fn name(&self) -> Option<Name> {
        match self {
            Self::Branch { .. } => Some(Name::Branch),
            Self::Own { own, .. } => Some(Name::Own(*own)),
            Self::Nothing => None,
        }
    }

    /// The value that it gets.
    pub fn to(&self) -> Option<&CommitId> {
        match self {
            Self::Branch { to, .. } | Self::Own { to, .. } => Some(to),
            Self::Nothing => None,
        }
    }
}

/// The result of a search for a lineage's trailer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    Found,
    NotFound,
    /// The branch no longer contains what the search starts from.
    Rewritten,
}

/// Searches a branch from a base on.
pub fn scan(base: Option<&History>, branch: Option<&History>, lineage: u8, of: &[u8]) -> Scan {
    let (base, branch) = match (base, branch) {
        (None, None) => return Scan::NotFound,
        (Some(_), None) => return Scan::Rewritten,
        (base, Some(branch)) => (base.map_or(&[][..], Vec::as_slice), branch),
    };
    match branch.strip_prefix(base) {
        None => Scan::Rewritten,
        Some(rest) if rest.iter().any(|item| item.is_of(lineage, of)) => Scan::Found,
        Some(_) => Scan::NotFound,
    }
}
