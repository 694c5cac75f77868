//! Errors of database work, and how they become errors of a port.

use std::fmt;

use rdev_domain::ports::{Conflict, PortError};
use rdev_domain::step::Refusal;
use rusqlite::ErrorCode;

/// Why a piece of database work failed.
#[derive(Debug)]
pub(crate) enum Error {
    Sqlite(rusqlite::Error),
    /// A record cannot be encoded as JSON.
    Record(serde_json::Error),
    /// An error that the port's contract defines, as it is.
    Port(PortError),
    /// The work panicked: a defect.
    Panicked(String),
    /// The transaction that contained the work was not committed.
    NotCommitted(NotCommitted),
}

/// Why a whole batch was not committed. Each caller of the batch gets this error.
#[derive(Debug, Clone)]
pub(crate) struct NotCommitted {
    reason: String,
    transient: bool,
}

impl NotCommitted {
    pub(crate) fn because_of(error: &rusqlite::Error) -> Self {
        Self { reason: error.to_string(), transient: is_transient(error) }
    }

    /// SQLite rolled the transaction back while another caller's work ran in it.
    pub(crate) fn rolled_back() -> Self {
        Self { reason: "the transaction was rolled back".to_owned(), transient: true }
    }
}

impl fmt::Display for NotCommitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Error {
    /// Whether the reason is the record that the work was about, and not the database: other
    /// records can still be read and written.
    pub(crate) fn is_of_one_record(&self) -> bool {
        match self {
            // A conversion that failed, or a row that is missing, has no code.
            Self::Sqlite(error) => error.sqlite_error_code().is_none_or(|code| {
                matches!(
                    code,
                    ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig
                )
            }),
            Self::Record(_) => true,
            Self::Port(error) => matches!(
                error,
                PortError::NotFound { .. }
                    | PortError::Conflict(_)
                    | PortError::Refused(_)
                    | PortError::Invalid(_)
            ),
            Self::Panicked(_) | Self::NotCommitted(_) => false,
        }
    }

    /// Converts to the port's error; `what` is the database's name in the message.
    pub(crate) fn into_port(self, what: &'static str) -> PortError {
        match self {
            Self::Sqlite(error) if is_transient(&error) => PortError::unavailable(what, error),
            Self::Sqlite(error) => PortError::broken(what, error),
            Self::Record(error) => PortError::broken(what, error),
            Self::Port(error) => error,
            Self::Panicked(message) => PortError::broken(what, message),
            Self::NotCommitted(NotCommitted { reason, transient }) => {
                if transient {
                    PortError::unavailable(what, reason)
                } else {
                    PortError::broken(what, reason)
                }
            }
        }
    }
}

/// Whether the same work may succeed later: another program has locked the file,
/// or the machine is short of a resource that can become free again.
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

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Record(error)
    }
}

impl From<PortError> for Error {
    fn from(error: PortError) -> Self {
        Self::Port(error)
    }
}

impl From<Conflict> for Error {
    fn from(conflict: Conflict) -> Self {
        Self::Port(conflict.into())
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Port(refusal.into())
    }
}
