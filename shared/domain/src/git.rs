//! Git's own names: branches, commits, a branch's tip, and the refs rdev keeps.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Invalid;
use crate::ids::{Fence, TaskId, text};

/// A branch's short name (`main`, `feature/x`), as `git check-ref-format --branch`
/// accepts it; at most 200 bytes; not below `rdev/wip/`, which is rdev's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "main")]
pub struct Branch(String);

impl Branch {
    /// The branch `main`.
    pub fn main() -> Self {
        Self("main".to_owned())
    }

    /// The full ref name, `refs/heads/<branch>`.
    pub fn full_name(&self) -> String {
        format!("refs/heads/{}", self.0)
    }
}

impl FromStr for Branch {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |why: &str| Err(Invalid::new("branch", why));
        if text.is_empty() || text.len() > 200 {
            return invalid("must have 1 to 200 bytes");
        }
        if text.starts_with('-') || text == "HEAD" || text == "@" {
            return invalid("must not begin with '-' and must not be 'HEAD' or '@'");
        }
        let forbidden =
            |c: char| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\');
        if text.contains(forbidden) {
            return invalid("must not have blanks, control characters or any of ~^:?*[\\");
        }
        if text.contains("..") || text.contains("@{") || text.ends_with('.') {
            return invalid("must not have '..' or '@{' and must not end with '.'");
        }
        let bad_part =
            |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
        if text.split('/').any(bad_part) {
            return invalid(
                "must not have a part that is empty, begins with '.' or ends with '.lock'",
            );
        }
        if text.starts_with("refs/") {
            return invalid("must be a short name, without 'refs/heads/'");
        }
        if text.starts_with("rdev/wip/")
            || text.starts_with("rdev/part/")
            || text.starts_with("rdev/kept/")
        {
            return invalid("must not lie below rdev/wip, rdev/part or rdev/kept");
        }
        Ok(Self(text.to_owned()))
    }
}

/// A commit's id: 40 (SHA-1) or 64 (SHA-256) lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[0-9a-f]{40}([0-9a-f]{24})?$")]
pub struct CommitId(String);

impl FromStr for CommitId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if matches!(text.len(), 40 | 64) && text.bytes().all(hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Invalid::new("commit id", "must have 40 or 64 lower-case hexadecimal digits"))
        }
    }
}

text!(Branch, CommitId);

/// Where a branch pointed when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "at", content = "commit")]
pub enum Tip {
    /// There was no such branch.
    Absent,
    /// It pointed at this commit.
    Commit(CommitId),
}

/// The refs rdev keeps in a repository, beside the branch it delivers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnRef {
    /// Finished work of an attempt, pushed before it is prepared.
    Wip(TaskId, Fence),
    /// Unfinished work of an attempt; never delivered.
    Part(TaskId, Fence),
    /// The commit of a task with `auto_push` off.
    Kept(TaskId),
}

impl OwnRef {
    /// The ref's name below `refs/`, or below `refs/heads/` on a server that
    /// accepts no other refs: `rdev/wip/<task>/<fence>`.
    pub fn path(self) -> String {
        match self {
            Self::Wip(task, fence) => format!("rdev/wip/{task}/{fence}"),
            Self::Part(task, fence) => format!("rdev/part/{task}/{fence}"),
            Self::Kept(task) => format!("rdev/kept/{task}"),
        }
    }

    /// Reads a full ref name; `None` when it is not one of rdev's own.
    pub fn parse(full_name: &str) -> Option<Self> {
        let rest = full_name.strip_prefix("refs/")?;
        let rest = rest.strip_prefix("heads/").unwrap_or(rest).strip_prefix("rdev/")?;
        let mut parts = rest.split('/');
        let (kind, task) = (parts.next()?, parts.next()?.parse().ok()?);
        let fence = parts.next();
        if parts.next().is_some() {
            return None;
        }
        match (kind, fence) {
            ("wip", Some(fence)) => Some(Self::Wip(task, Fence(fence.parse().ok()?))),
            ("part", Some(fence)) => Some(Self::Part(task, Fence(fence.parse().ok()?))),
            ("kept", None) => Some(Self::Kept(task)),
            _ => None,
        }
    }

    /// The task the ref belongs to.
    pub fn task(self) -> TaskId {
        match self {
            Self::Wip(task, _) | Self::Part(task, _) | Self::Kept(task) => task,
        }
    }
}

impl fmt::Display for Tip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Commit(id) => id.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_is_what_git_takes() {
        for good in ["main", "feature/x", "a.b", "ünïcode", "rdev/01JDGZ2V9QK8M3T5X7Y9ABCDEF"] {
            assert!(good.parse::<Branch>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-x",
            "HEAD",
            "@",
            "a b",
            "a..b",
            "a~1",
            "a^",
            "a:b",
            "a?",
            "a*",
            "a[",
            "a\\b",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a.",
            "a.lock",
            "a.lock/b",
            "a@{0}",
            "a\0",
            "a\n",
            "rdev/wip/x/1",
            "refs/heads/main",
        ] {
            assert!(bad.parse::<Branch>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_own_ref_reads_back_what_it_writes_in_both_places() {
        let task: TaskId = "01JDGZ2V9QK8M3T5X7Y9ABCDEF".parse().expect("a ULID");
        for own in [OwnRef::Wip(task, Fence(3)), OwnRef::Part(task, Fence(9)), OwnRef::Kept(task)] {
            assert_eq!(OwnRef::parse(&format!("refs/{}", own.path())), Some(own));
            assert_eq!(OwnRef::parse(&format!("refs/heads/{}", own.path())), Some(own));
        }
        for other in ["refs/heads/main", "refs/rdev/wip/x/1", "refs/rdev/wip", "rdev/kept/x"] {
            assert_eq!(OwnRef::parse(other), None, "{other}");
        }
    }
}
