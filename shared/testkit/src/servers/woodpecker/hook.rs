//! Changes of pipelines, and how a webhook tells of them.

use anyhow::{Context, Result};
use axum::body::Bytes;
use axum::http::Request;
use axum::http::header::CONTENT_TYPE;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use sha2::Sha256;
use ulid::Ulid;

/// A pipeline's status, when it has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `owner/name`.
    pub repository: String,
    /// The repository's id on the forge.
    pub forge_id: u64,
    pub number: u64,
    pub status: String,
    pub commit: String,
    pub branch: String,
    /// Where people see it.
    pub url: String,
    /// When it ended, in Unix seconds, if it has.
    pub finished_at: Option<i64>,
}

impl Change {
    /// The body of a webhook about it.
    pub fn body(&self) -> String {
        json!({
            "repository": self.repository,
            "forge_id": self.forge_id,
            "number": self.number,
            "status": self.status,
            "commit": self.commit,
            "branch": self.branch,
            "url": self.url,
            "finished_at": self.finished_at,
        })
        .to_string()
    }
}

/// Tells an `http:` URL of a change, signed with `secret`; the answer's status.
///
/// Woodpecker has no webhooks of its own: in an installation a last step of the pipeline sends
/// this. `X-Rdev-Delivery` is `delivery`, so that a repeat can have the same; `X-Rdev-Signature`
/// is `sha256=` and the HMAC-SHA256 of the body in hex.
///
/// # Errors
/// When there is no answer.
pub async fn post(url: &str, secret: &[u8], delivery: Ulid, change: &Change) -> Result<u16> {
    let body = change.body();
    let request = Request::post(url)
        .header(CONTENT_TYPE, "application/json")
        .header("x-rdev-delivery", delivery.to_string())
        .header("x-rdev-signature", format!("sha256={}", signature(secret, body.as_bytes())))
        .body(Full::new(Bytes::from(body)))
        .context("no URL to send a webhook to")?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request).await.context("cannot send the webhook")?;
    Ok(answer.status().as_u16())
}

/// The HMAC-SHA256 of a text, in hex.
fn signature(secret: &[u8], text: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC accepts keys of any length");
    mac.update(text);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_standard() {
        // RFC 4231, test case 2.
        assert_eq!(
            signature(b"Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
