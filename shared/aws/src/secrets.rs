//! Secrets Manager: the tokens of the systems around a build.

use std::error::Error;

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use rdev_domain::ports::{PortError, PortResult};
use rdev_domain::secret::Secret;
use rdev_domain::token::Token;

use crate::queue::{Kind, kind};

const WHAT: &str = "AWS Secrets Manager";

/// Reads secrets that are texts.
#[derive(Debug, Clone)]
pub struct Secrets(Client);

impl Secrets {
    /// From a configuration that is loaded. Nothing is called yet.
    pub fn new(sdk: &SdkConfig) -> Self {
        Self(Client::new(sdk))
    }

    /// The secret called `arn`, read when it is first needed.
    pub fn token(&self, arn: &str) -> Token {
        let (secrets, arn) = (self.clone(), arn.to_owned());
        Token::fetched(move || {
            let (secrets, arn) = (secrets.clone(), arn.clone());
            Box::pin(async move { secrets.get(&arn).await })
        })
    }

    /// The text of the secret called `arn`, without white space around it: a file that it was
    /// made from ends with a line feed.
    ///
    /// # Errors
    /// `Denied` when it may not be read or is not there, `Unavailable` when there is no answer,
    /// `Upstream` when it is no text, or is to be deleted.
    pub async fn get(&self, arn: &str) -> PortResult<Secret> {
        let answer = self.0.get_secret_value().secret_id(arn).send().await;
        let answer = answer.map_err(|error| failed(arn, error))?;
        match answer.secret_string.as_deref().map(str::trim) {
            Some(text) if !text.is_empty() => Ok(Secret::new(text)),
            _ => Err(PortError::upstream(WHAT, format!("the secret {arn} has no text"))),
        }
    }
}

fn failed<E>(arn: &str, error: SdkError<E, HttpResponse>) -> PortError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let status = error.raw_response().map(|answer| answer.status().as_u16());
    match meaning(error.code().unwrap_or_default(), status) {
        Kind::Denied | Kind::Missing => {
            let permission = "secretsmanager:GetSecretValue";
            PortError::Denied { what: format!("{WHAT} ({permission} on {arn})") }
        }
        Kind::Unavailable => PortError::unavailable(WHAT, error),
        Kind::Broken => PortError::upstream(WHAT, error),
    }
}

fn meaning(code: &str, status: Option<u16>) -> Kind {
    match code {
        // Its key is another's.
        "DecryptionFailure" => Kind::Denied,
        _ => kind(code, status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_read_is_denied_and_what_is_away_may_come_back() {
        for (code, status, expected) in [
            ("AccessDeniedException", Some(400), Kind::Denied),
            ("DecryptionFailure", Some(400), Kind::Denied),
            ("ResourceNotFoundException", Some(400), Kind::Missing),
            ("InvalidRequestException", Some(400), Kind::Broken),
            ("InternalServiceError", Some(500), Kind::Unavailable),
            ("ThrottlingException", Some(400), Kind::Unavailable),
            ("", None, Kind::Unavailable),
        ] {
            assert_eq!(meaning(code, status), expected, "{code}");
        }
    }
}
