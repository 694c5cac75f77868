//! Secrets Manager: the tokens of the systems around a build.

use std::error::Error;

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use rdev_domain::ports::{PortError, PortResult};
use rdev_domain::secret::Secret;
use rdev_domain::token::Token;

use crate::service_error::{self, Meaning};

const WHAT: &str = "AWS Secrets Manager";

/// Reads text secrets.
#[derive(Debug, Clone)]
pub struct Secrets(Client);

impl Secrets {
    /// Creates the client. It makes no call.
    pub fn new(sdk: &SdkConfig) -> Self {
        Self(Client::new(sdk))
    }

    /// The secret `arn`, which is read when it is first needed.
    pub fn token(&self, arn: &str) -> Token {
        let (secrets, arn) = (self.clone(), arn.to_owned());
        Token::fetched(move || {
            let (secrets, arn) = (secrets.clone(), arn.clone());
            Box::pin(async move { secrets.get(&arn).await })
        })
    }

    /// The text of the secret `arn`, trimmed: the file that it was created from may end with a
    /// line feed.
    ///
    /// # Errors
    /// `Denied` if it does not exist or may not be read, `Unavailable` if there is no answer,
    /// `Upstream` if it is not a text or is about to be deleted.
    pub async fn get(&self, arn: &str) -> PortResult<Secret> {
        let answer = self.0.get_secret_value().secret_id(arn).send().await;
        let answer = answer.map_err(|error| port_error(arn, error))?;
        match answer.secret_string.as_deref().map(str::trim) {
            Some(text) if !text.is_empty() => Ok(Secret::new(text)),
            _ => Err(PortError::upstream(WHAT, format!("the secret {arn} has no text"))),
        }
    }
}

fn port_error<E>(arn: &str, error: SdkError<E, HttpResponse>) -> PortError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let status = error.raw_response().map(|answer| answer.status().as_u16());
    match meaning(error.code().unwrap_or_default(), status) {
        Meaning::Denied | Meaning::Missing => {
            let permission = "secretsmanager:GetSecretValue";
            PortError::Denied { what: format!("{WHAT} ({permission} on {arn})") }
        }
        Meaning::Unavailable => PortError::unavailable(WHAT, error),
        Meaning::Broken => PortError::upstream(WHAT, error),
    }
}

fn meaning(code: &str, status: Option<u16>) -> Meaning {
    match code {
        // The secret is encrypted with a key that these credentials may not use.
        "DecryptionFailure" => Meaning::Denied,
        _ => service_error::meaning(code, status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_secrets_manager_are_denied_or_unavailable_or_broken() {
        for (code, status, expected) in [
            ("AccessDeniedException", Some(400), Meaning::Denied),
            ("DecryptionFailure", Some(400), Meaning::Denied),
            ("ResourceNotFoundException", Some(400), Meaning::Missing),
            ("InvalidRequestException", Some(400), Meaning::Broken),
            ("InternalServiceError", Some(500), Meaning::Unavailable),
            ("ThrottlingException", Some(400), Meaning::Unavailable),
            ("", None, Meaning::Unavailable),
        ] {
            assert_eq!(meaning(code, status), expected, "{code}");
        }
    }
}
