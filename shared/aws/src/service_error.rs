//! What the error codes and statuses of AWS services mean.

/// What an error means, whichever service and call it is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The credentials do not allow the call.
    Denied,
    /// There is no such resource.
    Missing,
    /// The same call may succeed later.
    Unavailable,
    /// The same call will never succeed.
    Broken,
}

/// The meaning of an error code, and of the status if the service has answered.
pub(crate) fn meaning(code: &str, status: Option<u16>) -> Meaning {
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
        | "UnrecognizedClientException" => Meaning::Denied,
        "NonExistentQueue"
        | "QueueDoesNotExist"
        | "QueueDeletedRecently"
        | "ResourceNotFoundException" => Meaning::Missing,
        "KmsThrottled"
        | "OverLimit"
        | "RequestLimitExceeded"
        | "RequestThrottled"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequestsException" => Meaning::Unavailable,
        // Without an answer, the network failed, or there are no credentials yet.
        _ => match status {
            None | Some(200..=399 | 408 | 429 | 500..) => Meaning::Unavailable,
            Some(403) => Meaning::Denied,
            Some(_) => Meaning::Broken,
        },
    }
}

/// SQS gives some codes the name of an older protocol, as
/// `AWS.SimpleQueueService.NonExistentQueue`.
pub(crate) fn short(code: &str) -> &str {
    code.rsplit(['.', '#']).next().unwrap_or(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_decides_before_the_status() {
        for (code, status, expected) in [
            ("AWS.SimpleQueueService.NonExistentQueue", Some(400), Meaning::Missing),
            ("com.amazonaws.sqs#QueueDoesNotExist", Some(400), Meaning::Missing),
            ("AccessDenied", Some(403), Meaning::Denied),
            ("", Some(403), Meaning::Denied),
            ("ThrottlingException", Some(400), Meaning::Unavailable),
            ("OverLimit", Some(403), Meaning::Unavailable),
            ("InternalFailure", Some(500), Meaning::Unavailable),
            ("", None, Meaning::Unavailable),
            ("InvalidMessageContents", Some(400), Meaning::Broken),
        ] {
            assert_eq!(meaning(code, status), expected, "{code} {status:?}");
        }
    }
}
