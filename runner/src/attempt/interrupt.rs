//! Why a phase ends an attempt early, and the failure class of each error.

use rdev_domain::chain;
use rdev_domain::failure::{Failure, FailureClass};

use crate::git::GitError;

/// Why a phase ended without a result.
#[derive(Debug)]
pub(crate) enum Interrupt {
    /// It failed.
    Failed(Failure),
    /// It failed, and its ticket was revoked: no push of it can land.
    Revoked(Failure),
    /// The attempt was stopped; [`super::stop::Stop::reason`] says why.
    Stopped,
}

impl Interrupt {
    pub(crate) fn failed(class: FailureClass, message: impl Into<String>) -> Self {
        Self::Failed(Failure::new(class, message))
    }

    /// The commit has landed: whatever ends the task now, it does not end it as one that pushed
    /// nothing.
    pub(crate) fn after_landing(self) -> Self {
        match self {
            Self::Failed(failure) => Self::Failed(Failure { push_in_doubt: true, ..failure }),
            other => other,
        }
    }

    /// Somebody has rewritten the branch.
    pub(crate) fn rewritten(what: &str) -> Self {
        Self::failed(FailureClass::HistoryRewritten, what)
    }
}

impl From<GitError> for Interrupt {
    fn from(error: GitError) -> Self {
        let class = match &error {
            GitError::Cancelled => return Self::Stopped,
            GitError::Auth { .. } => FailureClass::Auth,
            GitError::Rejected { .. } | GitError::RefNamespaceRefused => FailureClass::PushRejected,
            GitError::RepositoryNotFound
            | GitError::BranchNotFound(_)
            | GitError::NotAllowed(_)
            | GitError::BadTree(_) => FailureClass::Invalid,
            GitError::Unreachable { .. }
            | GitError::Elsewhere { .. }
            | GitError::NotAtomic
            | GitError::Gone { .. }
            | GitError::Moved { .. }
            | GitError::MirrorDamaged { .. }
            | GitError::Broken { .. } => FailureClass::Infra,
        };
        Self::failed(class, chain(&error))
    }
}

impl From<anyhow::Error> for Interrupt {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(FailureClass::Infra, format!("{error:#}"))
    }
}
