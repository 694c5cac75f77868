//! Why a piece of work on a database did not succeed, and what a port makes of it.

use std::fmt;

use rdev_domain::ports::{Conflict, PortError};
use rdev_domain::step::Refusal;
use rusqlite::ErrorCode;

/// What goes wrong inside a transaction.
#[derive(Debug)]
pub(crate) enum Failed {
    /// SQLite said no.
    Sqlite(rusqlite::Error),
    /// A record is not what was written.
    Record(serde_json::Error),
    /// The answer that the port promises for this case.
    Port(PortError),
    /// The work panicked: a defect.
    Panicked(String),
    /// The transaction that held the work did not last.
    Lost(Lost),
}

/// Why a whole batch was not committed. Each of its callers is told.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    why: String,
    transient: bool,
}

impl Lost {
    /// The transaction failed with `error`.
    pub(crate) fn by(error: &rusqlite::Error) -> Self {
        Self { why: error.to_string(), transient: is_transient(error) }
    }

    /// SQLite rolled the transaction back while somebody else's work ran in it.
    pub(crate) fn rolled_back() -> Self {
        Self { why: "the transaction was rolled back".to_owned(), transient: true }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Failed {
    /// As the port's error; `what` names the database.
    pub(crate) fn into_port(self, what: &'static str) -> PortError {
        match self {
            Self::Sqlite(error) if is_transient(&error) => PortError::unavailable(what, error),
            Self::Sqlite(error) => PortError::broken(what, error),
            Self::Record(error) => PortError::broken(what, error),
            Self::Port(error) => error,
            Self::Panicked(message) => PortError::broken(what, message),
            Self::Lost(Lost { why, transient: true }) => PortError::unavailable(what, why),
            Self::Lost(Lost { why, transient: false }) => PortError::broken(what, why),
        }
    }
}

/// Whether the same work may succeed later: somebody else has the file, or the
/// machine lacks something that can be given back to it.
fn is_transient(error: &rusqlite::Error) -> bool {
    let Some(code) = error.sqlite_error_code() else { return false };
    matches!(
        code,
        ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::OutOfMemory
            | ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OperationInterrupted
    )
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<serde_json::Error> for Failed {
    fn from(error: serde_json::Error) -> Self {
        Self::Record(error)
    }
}

impl From<PortError> for Failed {
    fn from(error: PortError) -> Self {
        Self::Port(error)
    }
}

impl From<Conflict> for Failed {
    fn from(conflict: Conflict) -> Self {
        Self::Port(conflict.into())
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Port(refusal.into())
    }
}
