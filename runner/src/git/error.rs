//! The errors of git operations.

use std::error::Error;

use rdev_domain::Invalid;
use rdev_domain::git::Tip;
use rdev_domain::git_url::GitUrl;

/// An error of a git operation. No message contains a credential.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The server needs other credentials, or some: 401, and 403 for a request without credentials
    /// or for reading.
    #[error("the git server refused the credentials: {detail}")]
    Auth {
        /// The request and the answer.
        detail: String,
    },
    /// The server is unreachable, too slow, or has an internal error; it may work later.
    #[error("the git server is not available: {reason}")]
    Unreachable {
        /// What went wrong.
        reason: String,
        /// The request was a push and had been sent: it may have been applied.
        in_doubt: bool,
    },
    /// There is no repository at the URL, or none that these credentials may see.
    #[error("the git server has no such repository, or not for these credentials")]
    RepositoryNotFound,
    /// The repository was moved while the build ran, and another one has its old name. Nothing was
    /// sent; the next attempt follows it.
    #[error(
        "the repository was moved to {url}, and its old name is another one's: the build begins anew there"
    )]
    Elsewhere {
        /// Where it is now.
        url: GitUrl,
    },
    /// Neither the branch nor its base branch exists, but others do.
    #[error("the repository has no branch {0}")]
    BranchNotFound(String),
    /// The clone URL is not allowed in this installation.
    #[error(transparent)]
    NotAllowed(#[from] Invalid),
    /// The server refused the push for good: a hook, a protected branch, no permission (403).
    #[error("the git server refused the push: {reason}")]
    Rejected {
        /// Its message, with the output of hooks; at most 2,000 characters.
        reason: String,
    },
    /// The ref is not where the push expected it; nothing was changed.
    #[error("the branch has moved to {tip}")]
    Moved {
        /// The tip now.
        tip: Tip,
    },
    /// The ref that the push was to delete is not where it was expected; nothing was changed.
    #[error("{name} is gone or has moved")]
    Gone {
        /// Its full name.
        name: String,
    },
    /// The server does not apply a push of two refs, one of them deleted, as a whole: it says so,
    /// or it refused the deletion by itself. Nothing was changed.
    #[error("the git server does not delete a ref and move another one in one atomic push")]
    NotAtomic,
    /// The server refused a ref outside `refs/heads`; it may accept a branch.
    #[error("the git server accepts no ref outside refs/heads")]
    RefNamespaceRefused,
    /// The operation was cancelled.
    #[error("it was cancelled")]
    Cancelled,
    /// The files may not become a commit, or the repository's tree may not become files.
    #[error("{0}")]
    BadTree(String),
    /// The mirror of the repository is damaged. The next fetch makes a new one.
    #[error("the repository's mirror in the cache is damaged; the next attempt fetches it again")]
    MirrorDamaged {
        /// The error that showed the damage.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A repeat will fail as well: a full disk, an unknown kind of server, a defect.
    #[error("{doing} failed")]
    Broken {
        /// What was being done.
        doing: &'static str,
        /// What went wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl GitError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::MirrorDamaged { .. })
    }

    /// Whether a push may have been applied although there was no answer.
    pub fn is_in_doubt(&self) -> bool {
        matches!(self, Self::Unreachable { in_doubt: true, .. })
    }

    /// `doing` failed because of `source`.
    pub(super) fn broken(
        doing: &'static str,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Broken { doing, source: source.into() }
    }

    /// The server may work later; nothing was sent that could have been applied.
    pub(super) fn unreachable(reason: impl Into<String>) -> Self {
        Self::Unreachable { reason: reason.into(), in_doubt: false }
    }
}
