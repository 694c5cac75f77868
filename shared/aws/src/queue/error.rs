//! SQS's errors as errors of the port.

use std::sync::Arc;

use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use rdev_domain::ports::PortError;

use crate::service_error::{Meaning, meaning, short};

const WHAT: &str = "the queue";

/// A call and the queue that it was for, so that its error can name both.
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

/// Names call and queue before SQS's own error.
#[derive(Debug, thiserror::Error)]
#[error("{permission} on {url}")]
struct CallFailed<E: std::error::Error + Send + Sync + 'static> {
    permission: &'static str,
    url: String,
    source: Arc<E>,
}

#[derive(Debug, thiserror::Error)]
#[error("there is no queue {0}")]
struct Missing(String);

/// Maps an error after the SDK has made its own retries.
pub(super) fn port_error<E>(
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
    match meaning(&code, status) {
        Meaning::Denied => PortError::Denied { what: format!("{WHAT} {url} ({permission})") },
        Meaning::Missing => PortError::broken(WHAT, Missing(url.to_owned())),
        other => {
            let never_sent = matches!(*error, SdkError::ConstructionFailure(_));
            let source = CallFailed { permission, url: url.to_owned(), source: error };
            if other == Meaning::Broken || never_sent {
                PortError::broken(WHAT, source)
            } else {
                PortError::unavailable(WHAT, source)
            }
        }
    }
}

/// Whether SQS says that the receipt is no longer valid. Some of its calls say so, others
/// succeed.
pub(super) fn is_stale<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    error.code().is_some_and(is_stale_code)
}

/// See [`is_stale`]. An `InvalidParameterValue` is an expired receipt: every other parameter
/// that this program sends is valid.
pub(super) fn is_stale_code(code: &str) -> bool {
    matches!(
        short(code),
        "ReceiptHandleIsInvalid"
            | "MessageNotInflight"
            | "InvalidParameterValue"
            | "InvalidIdFormat"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_receipt_is_known_by_its_code() {
        assert!(is_stale_code("ReceiptHandleIsInvalid"));
        assert!(is_stale_code("AWS.SimpleQueueService.MessageNotInflight"));
        assert!(!is_stale_code("AccessDenied"));
    }
}
