//! The git server: a branch with its history, and rdev's own refs. A push is a compare-and-swap of
//! one or two refs, applied wholly or not at all.

use std::collections::BTreeMap;

use rdev_domain::git::{CommitId, OwnRef, Tip};

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

    /// Whether it has a lineage's trailer; `lineages` says whose each work is.
    pub fn is_of(self, lineage: u8, lineages: &[u8]) -> bool {
        self.0 & WORK != 0 && lineages.get(usize::from(self.0 & 0xff)) == Some(&lineage)
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

/// A push: all or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Push {
    pub sets: Sets,
    /// Another ref that it deletes, from this value.
    pub deletes: Option<(String, CommitId)>,
}

/// What a push sets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Sets {
    /// The branch moves on from a tip to a commit, on behalf of a task.
    Branch { from: Option<History>, to: CommitId, task: usize },
    /// A ref of rdev's own, from this value.
    Own { name: String, from: Option<CommitId>, to: CommitId },
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
}

/// The repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Remote {
    pub branch: Option<History>,
    /// rdev's own refs, by path.
    pub own: BTreeMap<String, CommitId>,
    /// The landings: the works that rdev's pushes have brought to the branch, and for which task.
    pub landed: Vec<(u8, usize)>,
}

impl Remote {
    /// Applies a push.
    pub fn apply(&mut self, push: &Push) -> Result<(), Refused> {
        match &push.sets {
            Sets::Branch { from, .. } if self.branch != *from => return Err(Refused::Moved),
            Sets::Own { name, from, .. } if self.own.get(name) != from.as_ref() => {
                return Err(Refused::Moved);
            }
            _ => {}
        }
        if let Some((name, value)) = &push.deletes {
            if self.own.get(name) != Some(value) {
                return Err(Refused::Gone);
            }
            self.own.remove(name);
        }
        match &push.sets {
            Sets::Branch { to, task, .. } => {
                let work = work_of(to);
                self.branch.get_or_insert_default().push(Item::of_work(work, false));
                self.landed.push((work, *task));
            }
            Sets::Own { name, to, .. } => {
                self.own.insert(name.clone(), to.clone());
            }
            Sets::Nothing => {}
        }
        Ok(())
    }

    /// Whether it has a ref at a value.
    pub fn has(&self, own: OwnRef, commit: &CommitId) -> bool {
        self.own.get(&own.path()) == Some(commit)
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
