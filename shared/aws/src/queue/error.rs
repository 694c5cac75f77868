//! What SQS's errors mean to the port.

use std::sync::Arc;

use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use rdev_domain::ports::PortError;

const WHAT: &str = "the queue";

/// A call and what it was about, for an error that says what to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    permission: &'static str,
    url: &'a str,
}

impl<'a> Call<'a> {
    /// `permission` is the IAM action that the call needs.
    pub(super) fn new(permission: &'static str, url: &'a str) -> Self {
        Self { permission, url }
    }
}

/// The queue's name, before what SQS said.
#[derive(Debug, thiserror::Error)]
#[error("{permission} on {url}")]
struct At<E: std::error::Error + Send + Sync + 'static> {
    permission: &'static str,
    url: String,
    source: Arc<E>,
}

/// There is no such queue.
#[derive(Debug, thiserror::Error)]
#[error("there is no queue {0}")]
struct Missing(String);

/// Maps an error that is not to be tried again by the SDK.
pub(super) fn failed<E>(
    call: Call<'_>,
    error: impl Into<Arc<SdkError<E, HttpResponse>>>,
) -> PortError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let Call { permission, url } = call;
    let error = error.into();
    let status = error.raw_response().map(|answer| answer.status().as_u16());
    let code = error.code().unwrap_or_default().to_owned();
    match kind(&code, status) {
        Kind::Denied => PortError::Denied { what: format!("{WHAT} {url} ({permission})") },
        Kind::Missing => PortError::broken(WHAT, Missing(url.to_owned())),
        kind => {
            let never_sent = matches!(*error, SdkError::ConstructionFailure(_));
            let source = At { permission, url: url.to_owned(), source: error };
            if kind == Kind::Broken || never_sent {
                PortError::broken(WHAT, source)
            } else {
                PortError::unavailable(WHAT, source)
            }
        }
    }
}

/// Whether SQS says that the receipt names no delivery any more. Some answer so, some say
/// nothing.
pub(super) fn is_stale<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    error.code().is_some_and(is_stale_code)
}

/// See [`is_stale`]. An `InvalidParameterValue` is an expired receipt: all else that we
/// name is always valid.
pub(super) fn is_stale_code(code: &str) -> bool {
    matches!(
        short(code),
        "ReceiptHandleIsInvalid"
            | "MessageNotInflight"
            | "InvalidParameterValue"
            | "InvalidIdFormat"
    )
}

/// What an error means, whatever was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The credentials do not allow it.
    Denied,
    /// There is no such queue or table.
    Missing,
    /// It may go through later.
    Unavailable,
    /// It will not.
    Broken,
}

/// Reads an error's code, and the answer's status if there was an answer.
pub(crate) fn kind(code: &str, status: Option<u16>) -> Kind {
    match short(code) {
        "AccessDenied"
        | "AccessDeniedException"
        | "AuthFailure"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "InvalidClientTokenId"
        | "InvalidSecurity"
        | "InvalidSignatureException"
        | "KmsAccessDenied"
        | "MissingAuthenticationToken"
        | "OptInRequired"
        | "SignatureDoesNotMatch"
        | "UnrecognizedClientException" => Kind::Denied,
        "NonExistentQueue"
        | "QueueDoesNotExist"
        | "QueueDeletedRecently"
        | "ResourceNotFoundException" => Kind::Missing,
        "KmsThrottled"
        | "OverLimit"
        | "RequestLimitExceeded"
        | "RequestThrottled"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequestsException" => Kind::Unavailable,
        // Without an answer it was the network, or there are no credentials yet.
        _ => match status {
            None | Some(200..=399 | 408 | 429 | 500..) => Kind::Unavailable,
            Some(403) => Kind::Denied,
            Some(_) => Kind::Broken,
        },
    }
}

/// SQS gives some codes the name of an older protocol, as
/// `AWS.SimpleQueueService.NonExistentQueue`.
fn short(code: &str) -> &str {
    code.rsplit(['.', '#']).next().unwrap_or(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_statuses_mean_what_they_say() {
        let told = [
            ("AWS.SimpleQueueService.NonExistentQueue", Some(400), Kind::Missing),
            ("com.amazonaws.sqs#QueueDoesNotExist", Some(400), Kind::Missing),
            ("AccessDenied", Some(403), Kind::Denied),
            ("", Some(403), Kind::Denied),
            ("ThrottlingException", Some(400), Kind::Unavailable),
            ("OverLimit", Some(403), Kind::Unavailable),
            ("InternalFailure", Some(500), Kind::Unavailable),
            ("", None, Kind::Unavailable),
            ("InvalidMessageContents", Some(400), Kind::Broken),
        ];
        for (code, status, expected) in told {
            assert_eq!(kind(code, status), expected, "{code} {status:?}");
        }
        assert!(is_stale_code("ReceiptHandleIsInvalid"));
        assert!(is_stale_code("AWS.SimpleQueueService.MessageNotInflight"));
        assert!(!is_stale_code("AccessDenied"));
    }
}
