//! Errors in the use of the command line.

/// The command line is well-formed, but its values make no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);
