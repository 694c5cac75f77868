//! The one error of all ports.

use std::error::Error;
use std::time::Duration;

use crate::Invalid;
use crate::step::Refusal;

/// What a port answers.
pub type PortResult<T> = Result<T, PortError>;

/// Why a call of a port failed.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// There is no such thing.
    #[error("there is no {what}")]
    NotFound {
        /// What was looked for, as `project "site"`.
        what: String,
    },
    /// It conflicts with something that exists.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The state machine refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The port does not offer it at all.
    #[error("{what} is not offered here")]
    NotSupported {
        /// What was requested.
        what: &'static str,
    },
    /// A value the far side does not take.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A credential was refused.
    #[error("{what} refused the credentials")]
    Denied {
        /// Who refused.
        what: String,
    },
    /// It may go through later.
    #[error("{what} is not available")]
    Unavailable {
        /// What was called.
        what: &'static str,
        /// What it said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// No answer came in time; the call may have had its effect.
    #[error("{what} did not answer in time")]
    TimedOut {
        /// What was called.
        what: &'static str,
    },
    /// There were too many calls.
    #[error("{what} takes no more requests for now")]
    Limited {
        /// What was called.
        what: &'static str,
        /// When it accepts calls again.
        retry_after: Option<Duration>,
    },
    /// It answered something that it should not, or refused what it should do.
    #[error("{what} answered wrongly")]
    Upstream {
        /// What was called.
        what: &'static str,
        /// What it said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// It will not go through later either: a broken record, a full disk, a defect.
    #[error("{what} failed")]
    Broken {
        /// What was called.
        what: &'static str,
        /// What it said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// What a call conflicts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// A project of that name is there.
    #[error("a project of that name exists")]
    ProjectExists,
    /// The project is being provisioned, could not be, or is being deleted.
    #[error("the project is not ready")]
    ProjectNotReady,
    /// The record belongs to an earlier project of that name, which was deleted.
    #[error("it belongs to an earlier project of that name, which was deleted")]
    ProjectReplaced,
    /// The project is not at the stage that the change expects.
    #[error("the project has changed meanwhile")]
    ProjectChanged,
    /// The project has tasks that run or push.
    #[error("tasks of the project are running")]
    TasksRunning,
    /// Another task (or key) has that id.
    #[error("the id is taken")]
    IdTaken,
    /// The forge has a repository of that name that is not the project's.
    #[error("the forge has another repository of that name")]
    RepositoryNotOurs,
    /// Another project has the name.
    #[error("another project has the domain")]
    DomainTaken,
    /// The domain is being removed; removing it again completes that.
    #[error("the domain is being removed")]
    DomainLeaving,
    /// The name has a record that rdev did not make.
    #[error("the domain has a record that was not made by rdev")]
    RecordNotOurs,
    /// The pipeline has ended.
    #[error("the pipeline does not run")]
    NotRunning,
    /// Lost a race too often.
    #[error("others changed it at the same time")]
    Contended,
}

impl PortError {
    /// There is no `what`.
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }

    /// `what` may work later.
    pub fn unavailable(
        what: &'static str,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Unavailable { what, source: source.into() }
    }

    /// `what` will not work later either.
    pub fn broken(what: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Broken { what, source: source.into() }
    }

    /// `what` answered something that it should not.
    pub fn upstream(what: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Upstream { what, source: source.into() }
    }

    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. }
                | Self::TimedOut { .. }
                | Self::Limited { .. }
                | Self::Conflict(Conflict::Contended)
        )
    }
}
