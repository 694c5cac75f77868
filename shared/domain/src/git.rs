//! Git's own names: branches, commits, a branch's tip, and the refs rdev keeps.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Invalid;
use crate::failure::FailureClass;
use crate::ids::{Fence, TaskId, text};

/// A branch's short name (`main`, `feature/x`), as `git check-ref-format --branch`
/// accepts it; at most 200 bytes; not below `rdev/wip/` and the like, which are rdev's own.
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
        if OwnRef::FOLDERS.iter().any(|folder| {
            text.strip_prefix("rdev/")
                .and_then(|rest| rest.strip_prefix(folder))
                .is_some_and(|rest| rest.starts_with('/'))
        }) {
            return invalid("must not lie below rdev/wip, rdev/revoked, rdev/part or rdev/kept");
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
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "at", content = "commit")]
pub enum Tip {
    /// There was no such branch.
    Absent,
    /// It pointed at this commit.
    Commit(CommitId),
}

/// The refs rdev keeps in a repository, beside the branch it delivers to. A text of this type is
/// its [`OwnRef::path`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum OwnRef {
    /// Finished work of an attempt, pushed before it is prepared. It is the attempt's ticket: the
    /// push that moves the branch takes it away.
    Wip(TaskId, Fence),
    /// A ticket that was taken back: no push of it can land any more.
    Revoked(TaskId, Fence),
    /// Unfinished work of an attempt; never delivered.
    Part(TaskId, Fence),
    /// The commit of a task with `auto_push` off.
    Kept(TaskId),
}

impl OwnRef {
    /// The parts of a name after `rdev/` that rdev's own refs lie below.
    const FOLDERS: [&'static str; 4] = ["wip", "revoked", "part", "kept"];

    /// The ref's name below `refs/`, or below `refs/heads/` on a server that
    /// accepts no other refs: `rdev/wip/<task>/<fence>`.
    pub fn path(self) -> String {
        match self {
            Self::Wip(task, fence) => format!("rdev/wip/{task}/{fence}"),
            Self::Revoked(task, fence) => format!("rdev/revoked/{task}/{fence}"),
            Self::Part(task, fence) => format!("rdev/part/{task}/{fence}"),
            Self::Kept(task) => format!("rdev/kept/{task}"),
        }
    }

    /// The full name: of a branch where the server accepts no other refs.
    pub fn full_name(self, branch: bool) -> String {
        let folder = if branch { "refs/heads" } else { "refs" };
        format!("{folder}/{}", self.path())
    }

    /// What it is for.
    pub fn kind(self) -> RefKind {
        match self {
            Self::Wip(..) => RefKind::Wip,
            Self::Revoked(..) => RefKind::Revoked,
            Self::Part(..) => RefKind::Part,
            Self::Kept(_) => RefKind::Kept,
        }
    }

    /// Reads a full ref name; `None` when it is not one of rdev's own.
    pub fn parse(full_name: &str) -> Option<Self> {
        let rest = full_name.strip_prefix("refs/")?;
        Self::of_path(rest.strip_prefix("heads/").unwrap_or(rest))
    }

    /// Reads what [`Self::path`] wrote.
    fn of_path(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix("rdev/")?.split('/');
        let (kind, task) = (parts.next()?, parts.next()?.parse().ok()?);
        let fence = parts.next();
        if parts.next().is_some() {
            return None;
        }
        match (kind, fence) {
            ("wip", Some(fence)) => Some(Self::Wip(task, Fence(fence.parse().ok()?))),
            ("revoked", Some(fence)) => Some(Self::Revoked(task, Fence(fence.parse().ok()?))),
            ("part", Some(fence)) => Some(Self::Part(task, Fence(fence.parse().ok()?))),
            ("kept", None) => Some(Self::Kept(task)),
            _ => None,
        }
    }

    /// The task the ref belongs to.
    pub fn task(self) -> TaskId {
        match self {
            Self::Wip(task, _)
            | Self::Revoked(task, _)
            | Self::Part(task, _)
            | Self::Kept(task) => task,
        }
    }
}

impl From<OwnRef> for String {
    fn from(own: OwnRef) -> Self {
        own.path()
    }
}

impl TryFrom<String> for OwnRef {
    type Error = Invalid;

    fn try_from(path: String) -> Result<Self, Invalid> {
        let valid = "must be rdev/wip/<task>/<fence>, or the like with revoked, part or kept";
        Self::of_path(&path).ok_or_else(|| Invalid::new("ref of rdev's own", valid))
    }
}

/// A ref of rdev's own with the value that it was about to get. The store has it before the ref is
/// written: a ref that no record names, or that has another value, is nobody's finished work.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct RecordedRef {
    /// Its name.
    #[serde(rename = "ref")]
    #[schema(value_type = String, example = "rdev/wip/01JDGZ2V9QK8M3T5X7Y9ABCDEF/1")]
    pub own: OwnRef,
    /// Its value.
    pub commit: CommitId,
    /// Of a ticket: its work is or was `pushing`, so a push may have taken it to the branch. Where
    /// such a ticket is gone and was neither revoked nor taken over, its commit has landed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_land: bool,
    /// Of a ticket: it was written while its work was being verified. Whoever finds it verifies it
    /// first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unverified: bool,
    /// Of a revoked ticket: why its task ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_for: Option<FailureClass>,
    /// The fence of the attempt that found the work and recorded it anew, so that it ran no agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted_by: Option<Fence>,
}

impl RecordedRef {
    /// A ref that is written for any other reason than a failure.
    pub fn of(own: OwnRef, commit: CommitId) -> Self {
        Self {
            own,
            commit,
            may_land: false,
            unverified: false,
            revoked_for: None,
            adopted_by: None,
        }
    }
}

/// A ref of rdev's own as an attempt has left it in the repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LeftRef {
    /// Which one.
    #[serde(rename = "ref")]
    pub own: OwnRef,
    /// Its value.
    pub commit: CommitId,
    /// It is a branch: its server accepts no other refs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub branch: bool,
}

impl LeftRef {
    /// Its full name.
    pub fn name(&self) -> String {
        self.own.full_name(self.branch)
    }
}

/// What one of rdev's own refs is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefKind {
    /// Finished work that is not on the branch.
    Wip,
    /// Finished work whose push was given up.
    Revoked,
    /// Unfinished work.
    Part,
    /// The commit of a build with `auto_push` off.
    Kept,
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
        for good in [
            "main",
            "feature/x",
            "a.b",
            "ünïcode",
            "rdev/01JDGZ2V9QK8M3T5X7Y9ABCDEF",
            "rdev/wipe/x",
        ] {
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
            "rdev/revoked/x",
            "rdev/part/x",
            "rdev/kept/x",
            "refs/heads/main",
        ] {
            assert!(bad.parse::<Branch>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_own_ref_reads_back_what_it_writes_in_both_places() {
        let task: TaskId = "01JDGZ2V9QK8M3T5X7Y9ABCDEF".parse().expect("a ULID");
        for own in [
            OwnRef::Wip(task, Fence(3)),
            OwnRef::Revoked(task, Fence(3)),
            OwnRef::Part(task, Fence(9)),
            OwnRef::Kept(task),
        ] {
            assert_eq!(String::from(own).try_into(), Ok(own));
            assert_eq!(OwnRef::parse(&format!("refs/{}", own.path())), Some(own));
            assert_eq!(OwnRef::parse(&format!("refs/heads/{}", own.path())), Some(own));
            assert_eq!(own.full_name(false), format!("refs/{}", own.path()));
            assert_eq!(own.full_name(true), format!("refs/heads/{}", own.path()));
        }
        for other in ["refs/heads/main", "refs/rdev/wip/x/1", "refs/rdev/wip", "rdev/kept/x"] {
            assert_eq!(OwnRef::parse(other), None, "{other}");
        }
    }
}
