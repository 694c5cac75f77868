//! DynamoDB's errors as errors of the port.

use std::error::Error;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use rdev_domain::chain;
use rdev_domain::ports::{PortError, PortResult};

use crate::schema::Key;
use crate::service_error::{self, Meaning};

const WHAT: &str = "the store";

/// Names permission and table before DynamoDB's own error.
#[derive(Debug, thiserror::Error)]
#[error("{permission} on table {table}")]
struct CallFailed {
    permission: &'static str,
    table: String,
    source: Box<dyn Error + Send + Sync>,
}

#[derive(Debug, thiserror::Error)]
#[error("there is no table {0}, or it lacks an index")]
struct Missing(String);

/// A record that this program has not written in this form.
#[derive(Debug, thiserror::Error)]
#[error("the record {pk} {sk} cannot be read")]
struct CorruptRecord {
    pk: String,
    sk: String,
}

/// Maps an error after the SDK has made its own retries. `permission` is the IAM action.
pub(crate) fn port_error<E>(
    table: &str,
    permission: &'static str,
    error: SdkError<E, HttpResponse>,
) -> PortError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let status = error.raw_response().map(|answer| answer.status().as_u16());
    let never_sent = matches!(error, SdkError::ConstructionFailure(_));
    let meaning = meaning(error.code().unwrap_or_default(), status);
    match meaning {
        Meaning::Denied => {
            PortError::Denied { what: format!("{WHAT}'s table {table} ({permission})") }
        }
        Meaning::Missing => PortError::broken(WHAT, Missing(table.to_owned())),
        Meaning::Unavailable | Meaning::Broken => {
            let source = CallFailed { permission, table: table.to_owned(), source: error.into() };
            if never_sent || meaning == Meaning::Broken {
                PortError::broken(WHAT, source)
            } else {
                PortError::unavailable(WHAT, source)
            }
        }
    }
}

/// DynamoDB was busy at every try.
pub(crate) fn busy(table: &str, permission: &'static str, reason: &str) -> PortError {
    let source = CallFailed { permission, table: table.to_owned(), source: reason.into() };
    PortError::unavailable(WHAT, source)
}

/// A request that cannot be made, or a value that cannot be written.
pub(crate) fn defect(error: impl Into<Box<dyn Error + Send + Sync>>) -> PortError {
    PortError::broken(WHAT, error)
}

/// A record that lacks an attribute which every record of its kind has.
pub(crate) fn corrupt_record(pk: &str, sk: &str) -> PortError {
    PortError::broken(WHAT, CorruptRecord { pk: pk.to_owned(), sk: sk.to_owned() })
}

/// The result of work on one record among many. If it failed because of this record, that is logged
/// and the result is `None`: the others go on.
///
/// # Errors
/// The store's own: then the others would fail as well.
pub(crate) fn alone<T>(record: &Key, result: PortResult<T>) -> PortResult<Option<T>> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(
            error @ (PortError::Broken { .. }
            | PortError::Invalid(_)
            | PortError::NotFound { .. }
            | PortError::Conflict(_)
            | PortError::Refused(_)),
        ) => {
            let Key { pk, sk } = record;
            tracing::error!(pk, sk, error = chain(&error), "a record is left as it is");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn meaning(code: &str, status: Option<u16>) -> Meaning {
    match code {
        "ProvisionedThroughputExceededException"
        | "ReplicatedWriteConflictException"
        | "TransactionConflictException"
        | "TransactionInProgressException"
        | "LimitExceededException" => Meaning::Unavailable,
        _ => service_error::meaning(code, status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_unavailable_and_an_invalid_request_is_broken() {
        for (code, status, expected) in [
            ("ProvisionedThroughputExceededException", Some(400), Meaning::Unavailable),
            ("ThrottlingException", Some(400), Meaning::Unavailable),
            ("TransactionInProgressException", Some(400), Meaning::Unavailable),
            ("InternalServerError", Some(500), Meaning::Unavailable),
            ("", None, Meaning::Unavailable),
            ("ResourceNotFoundException", Some(400), Meaning::Missing),
            ("AccessDeniedException", Some(400), Meaning::Denied),
            ("ValidationException", Some(400), Meaning::Broken),
        ] {
            assert_eq!(meaning(code, status), expected, "{code}");
        }
    }
}
