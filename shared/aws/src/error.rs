//! What DynamoDB's errors mean to the port.

use std::error::Error;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use rdev_domain::ports::PortError;

use crate::queue::{Kind, kind};

const WHAT: &str = "the store";

/// The table's name, before what DynamoDB said.
#[derive(Debug, thiserror::Error)]
#[error("{permission} on table {table}")]
struct At {
    permission: &'static str,
    table: String,
    source: Box<dyn Error + Send + Sync>,
}

/// There is no such table, or no such index of it.
#[derive(Debug, thiserror::Error)]
#[error("there is no table {0}, or it lacks an index")]
struct Missing(String);

/// A record that is not as this program writes it.
#[derive(Debug, thiserror::Error)]
#[error("the record {pk} {sk} cannot be read")]
struct Unreadable {
    pk: String,
    sk: String,
}

/// Maps an error that the SDK does not try again. `permission` is the IAM action.
pub(crate) fn failed<E>(
    table: &str,
    permission: &'static str,
    error: SdkError<E, HttpResponse>,
) -> PortError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let status = error.raw_response().map(|answer| answer.status().as_u16());
    let never_sent = matches!(error, SdkError::ConstructionFailure(_));
    let means = meaning(error.code().unwrap_or_default(), status);
    match means {
        Kind::Denied => {
            PortError::Denied { what: format!("{WHAT}'s table {table} ({permission})") }
        }
        Kind::Missing => PortError::broken(WHAT, Missing(table.to_owned())),
        Kind::Unavailable | Kind::Broken => {
            let source = At { permission, table: table.to_owned(), source: error.into() };
            if never_sent || means == Kind::Broken {
                PortError::broken(WHAT, source)
            } else {
                PortError::unavailable(WHAT, source)
            }
        }
    }
}

/// DynamoDB was busy, again and again.
pub(crate) fn busy(table: &str, permission: &'static str, said: &str) -> PortError {
    let source = At { permission, table: table.to_owned(), source: said.into() };
    PortError::unavailable(WHAT, source)
}

/// A request that cannot be made, or a value that cannot be written.
pub(crate) fn defect(error: impl Into<Box<dyn Error + Send + Sync>>) -> PortError {
    PortError::broken(WHAT, error)
}

/// A record that lacks what every one of its kind has.
pub(crate) fn unreadable(pk: &str, sk: &str) -> PortError {
    PortError::broken(WHAT, Unreadable { pk: pk.to_owned(), sk: sk.to_owned() })
}

fn meaning(code: &str, status: Option<u16>) -> Kind {
    match code {
        "ProvisionedThroughputExceededException"
        | "ReplicatedWriteConflictException"
        | "TransactionConflictException"
        | "TransactionInProgressException"
        | "LimitExceededException" => Kind::Unavailable,
        _ => kind(code, status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_busy_may_pass_and_what_is_wrong_may_not() {
        for (code, status, expected) in [
            ("ProvisionedThroughputExceededException", Some(400), Kind::Unavailable),
            ("ThrottlingException", Some(400), Kind::Unavailable),
            ("TransactionInProgressException", Some(400), Kind::Unavailable),
            ("InternalServerError", Some(500), Kind::Unavailable),
            ("", None, Kind::Unavailable),
            ("ResourceNotFoundException", Some(400), Kind::Missing),
            ("AccessDeniedException", Some(400), Kind::Denied),
            ("ValidationException", Some(400), Kind::Broken),
        ] {
            assert_eq!(meaning(code, status), expected, "{code}");
        }
    }
}
