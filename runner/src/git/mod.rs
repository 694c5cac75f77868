//! Git: mirrors, checkouts, commits and pushes, without a `git` program.
//!
//! libgit2 does the work on disk (packs, trees, merges). The network is our own small client of
//! the smart HTTP protocol (`wire`) on one HTTP client per process (`transport`). No repository
//! has a configured remote, so an agent cannot redirect or run anything by its configuration
//! (`insteadOf`, hooks, filters, fsmonitor).
//!
//! All functions block: call them in `spawn_blocking`. A build goes
//! [`fetch`] → [`checkout`] → (agent) → [`stage`] → [`commit`] → [`push`].

mod blocking;
mod checkout;
mod commit;
mod error;
mod leftovers;
mod local;
mod lock;
mod mirror;
mod names;
mod pack;
mod pkt;
mod push;
mod ref_locks;
mod remembered;
mod scan;
mod transport;
mod tree;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use git2::{Oid, Repository};
use rdev_domain::git::{CommitId, OwnRef, Tip};
use rdev_domain::git_url::{GitUrl, UrlPolicy};
use rdev_domain::result::FileChange;
use rdev_domain::secret::Secret;

pub(crate) use blocking::blocking;
pub use checkout::{CheckedOut, Ignored, checkout, reset};
pub use commit::{Rebased, commit, parent, rebase};
pub use error::GitError;
pub(crate) use leftovers::discard_leftovers;
pub use local::in_log;
pub use mirror::{Fetched, Mirror, Seen, fetch, fetch_commit, fetch_if_there, list_own, look};
pub use push::{KnownRefs, Push, Pushed, Until, delete_refs, push};
pub(crate) use remembered::Remembered;
pub use remembered::not_atomic_folder;
pub use scan::{Scan, contains, find_lineage};
pub use transport::pushes_ended;
pub use tree::{diff_of, stage};

/// A remote repository, and how to connect to it.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Its clone URL.
    pub url: GitUrl,
    /// The credentials. They are sent to this URL's origin only.
    pub credentials: Option<Credentials>,
    /// The addresses that a connection may use.
    pub policy: UrlPolicy,
    /// The time without a byte after which the server counts as unreachable.
    pub timeout: Duration,
}

/// Credentials for HTTP basic authentication.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub username: String,
    /// The password or token.
    pub token: Secret,
}

/// The author of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    pub name: String,
    pub email: String,
}

/// The two folders of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workdir {
    /// The runner's own repository. It lies outside the checkout; the agent does not know it.
    pub gitdir: PathBuf,
    /// The files, with a disposable `.git` of their own for the agent.
    pub checkout: PathBuf,
}

/// The limits on what one build may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// The number of files added, changed or removed.
    pub files: u64,
    /// The bytes of the files added or changed, as they are in the checkout.
    pub bytes: u64,
    /// The bytes of the diff that are kept.
    pub diff_bytes: usize,
}

/// The position that a ref must have for a push to succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Any: the ref is rdev's own, and only its attempt writes it.
    Any,
    /// Exactly this one; the pushed commit need not be a descendant of it.
    Exactly(Tip),
    /// Exactly this one, and the pushed commit must be a descendant of it.
    Forward(Tip),
}

/// A tree in the attempt's repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeId(Oid);

impl TreeId {
    /// The tree with this SHA-1 hash.
    pub fn from_hash(hash: [u8; 20]) -> Self {
        Self(Oid::from_bytes(&hash).unwrap_or(Oid::ZERO_SHA1))
    }

    /// Its hash.
    pub fn hash(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// The changes of a tree or commit against its base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The resulting tree.
    pub tree: TreeId,
    /// The changed files, at most 1,000, by path.
    pub files: Vec<FileChange>,
    /// The number of changed files.
    pub total: u64,
    /// The unified diff. A diff longer than the cap is cut at the end of a line and says so.
    pub diff: String,
}

/// A ref of rdev's own, as a server advertised it.
pub type OwnTip = (OwnRef, CommitId);

/// The full names that a ref of rdev's own may have: on a server that accepts only branches, the
/// second.
pub(crate) fn own_names(own: OwnRef) -> [String; 2] {
    [format!("refs/{}", own.path()), format!("refs/heads/{}", own.path())]
}

/// Prepares libgit2 for this process, once; further calls do nothing.
///
/// libgit2 then ignores every git configuration of the system and the user: their search paths
/// for configuration, attributes and ignore files are empty.
pub fn init_process() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        use git2::ConfigLevel::{Global, ProgramData, System, XDG};
        for level in [ProgramData, System, XDG, Global] {
            // SAFETY: libgit2 wants no other call of it at the same time. Every
            // function of this module begins here, and `Once` lets one in.
            // An error means that the level does not exist on this system.
            let _ = unsafe { git2::opts::set_search_path(level, "") };
        }
    });
}

/// Opens an attempt's own repository, with the checkout as its work tree.
fn open(dirs: &Workdir) -> Result<Repository, GitError> {
    init_process();
    let repository = Repository::open_bare(&dirs.gitdir)
        .map_err(|error| GitError::broken("opening the attempt's repository", error))?;
    repository
        .set_workdir(&dirs.checkout, false)
        .map_err(|error| GitError::broken("opening the attempt's repository", error))?;
    Ok(repository)
}

/// libgit2's form of a commit id.
fn oid(id: &CommitId) -> Result<Oid, GitError> {
    Oid::from_str(id.as_str()).map_err(|error| GitError::broken("reading a commit id", error))
}

/// The domain's form of an object id.
fn commit_id(id: Oid) -> CommitId {
    id.to_string().parse().expect("libgit2 writes ids as 40 lower-case hexadecimal digits")
}

/// The domain's form of where a ref points.
fn tip_of(id: Option<Oid>) -> Tip {
    id.map_or(Tip::Absent, |id| Tip::Commit(commit_id(id)))
}
