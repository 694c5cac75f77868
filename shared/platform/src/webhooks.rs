//! Sending webhooks when builds end: Standard Webhooks, from the deliveries in the store.
//!
//! The sender counts an attempt in the store before it makes it. So of two senders only one makes
//! the attempt, and an attempt that dies half-way is followed by another one. A receiver may get a
//! message twice and recognises it by its id. The sender follows no redirect, uses no proxy, and
//! checks every address at the moment of connecting.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use rdev_domain::Invalid;
use rdev_domain::git_url::UrlPolicy;
use rdev_domain::ports::{PortError, PortResult, Store};
use rdev_domain::result::TaskResult;
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;
use rdev_domain::webhook::{TIMEOUT, Webhook, WebhookDelivery};
use reqwest::Client;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

/// How many deliveries one round handles, and how many of them at once.
const BATCH: u32 = 50;
const AT_ONCE: usize = 8;

/// Sends webhooks.
#[derive(Debug, Clone)]
pub struct Sender {
    client: Client,
    policy: UrlPolicy,
    /// The address of rdev for people, such as `https://rdev.example.com`.
    public_url: Option<String>,
}

impl Sender {
    /// Makes a sender. Without `allow_private` it connects to public addresses only.
    ///
    /// # Errors
    /// When TLS is not available on this machine.
    pub fn new(allow_private: bool, public_url: Option<String>) -> Result<Self, Invalid> {
        let policy = UrlPolicy { allow_private, file_root: None };
        // Another part of the process may have installed a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("rdev/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            .timeout(TIMEOUT)
            .dns_resolver(Arc::new(CheckedResolver(policy.clone())))
            .build()
            .map_err(|_| Invalid::new("webhooks", "cannot be sent: no TLS on this machine"))?;
        Ok(Self { client, policy, public_url })
    }

    /// Makes every attempt that is due, up to fifty, and returns their number.
    ///
    /// # Errors
    /// The first error of the store; the next round makes the attempts that this one did not.
    pub async fn send_due(
        &self,
        store: &dyn Store,
        now: impl Fn() -> Timestamp + Sync,
    ) -> PortResult<usize> {
        let due = store.due_deliveries(now(), BATCH).await?;
        let count = due.len();
        let mut attempts = stream::iter(due)
            .map(|delivery| self.attempt(store, delivery, &now))
            .buffer_unordered(AT_ONCE);
        let mut ended = Ok(count);
        while let Some(one) = attempts.next().await {
            if let (Err(error), Ok(_)) = (one, &ended) {
                ended = Err(error);
            }
        }
        ended
    }

    async fn attempt(
        &self,
        store: &dyn Store,
        delivery: WebhookDelivery,
        now: impl Fn() -> Timestamp,
    ) -> PortResult<()> {
        let begun = delivery.begun(now());
        if !store.update_delivery(&delivery, &begun).await? {
            // Another sender makes this attempt.
            return Ok(());
        }
        // Before the project: if that is still the delivery's own, the webhook was its own too, and
        // not that of a project which was made under the name meanwhile.
        let webhook = store.webhook(&begun.project_id).await?;
        let webhook = match store.project(&begun.project_id).await {
            // The webhook of a later project of that name is told nothing of the earlier one.
            Ok(project) if project.owns(begun.project_nonce, begun.task_id.0) => webhook,
            Ok(_) | Err(PortError::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        let task = match store.task(begun.task_id).await {
            Ok(record) => Some(record.task),
            Err(PortError::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        let ended = match (webhook, task) {
            (Some(webhook), Some(task)) => {
                let (status, error) = match self.post(&webhook, &begun, &task, now()).await {
                    Ok(status) => (Some(status), None),
                    Err(why) => (None, Some(why)),
                };
                begun.ended(status, error, now())
            }
            (None, _) => begun.dropped("the project has no webhook any more", now()),
            (_, None) => begun.dropped("the task's record has expired", now()),
        };
        store.update_delivery(&begun, &ended).await?;
        Ok(())
    }

    /// The status of the answer, or a text that says what went wrong, for the log of deliveries.
    async fn post(
        &self,
        webhook: &Webhook,
        delivery: &WebhookDelivery,
        task: &Task,
        now: Timestamp,
    ) -> Result<u16, String> {
        webhook.url.check(&self.policy).map_err(|invalid| invalid.to_string())?;
        let body = payload(delivery, task, self.public_url.as_deref()).to_string();
        let id = format!("msg_{}", delivery.id);
        let seconds = now.as_millis().div_euclid(1000);
        let signature = standardwebhooks::Webhook::new(webhook.secret.expose())
            .and_then(|key| key.sign(&id, seconds, body.as_bytes()))
            .map_err(|_| "the secret cannot sign".to_owned())?;
        let sent = self
            .client
            .post(webhook.url.as_str())
            .header(CONTENT_TYPE, "application/json")
            .header(standardwebhooks::HEADER_WEBHOOK_ID, id)
            .header(standardwebhooks::HEADER_WEBHOOK_TIMESTAMP, seconds.to_string())
            .header(standardwebhooks::HEADER_WEBHOOK_SIGNATURE, signature)
            .body(body)
            .send()
            .await;
        match sent {
            // Only the status matters; the body is not read.
            Ok(response) => Ok(response.status().as_u16()),
            Err(error) => Err(reason(&error)),
        }
    }
}

/// The message: enough for the receiver to decide whether to fetch more.
fn payload(delivery: &WebhookDelivery, task: &Task, public_url: Option<&str>) -> Value {
    let result = task.result.as_ref().and_then(TaskResult::as_build);
    let path = format!("/projects/{}/builds/{}", task.project_id, task.id);
    json!({
        "type": delivery.event,
        "timestamp": delivery.created_at,
        "data": {
            "project_id": task.project_id,
            "task_id": task.id,
            "lineage": task.lineage,
            "state": task.state,
            "outcome": result.map(|result| result.outcome),
            "commit_sha": result.and_then(|result| result.commit_sha.clone()),
            "branch": result.map(|result| result.branch.clone()),
            "pull_request_url": result.and_then(|result| result.pull_request_url.clone()),
            "failure_class": task.failure.as_ref().map(|failure| failure.class),
            "usage": task.usage,
            "url": public_url.map(|base| format!("{}{path}", base.trim_end_matches('/'))),
        }
    })
}

/// Why an attempt got no answer, without the URL, which may contain a secret of the receiver.
fn reason(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if error.is_timeout() {
        format!("no answer within {} s", TIMEOUT.as_secs())
    } else {
        cause.to_string().chars().take(200).collect()
    }
}

/// Resolves names to addresses that the policy allows.
#[derive(Debug)]
struct CheckedResolver(UrlPolicy);

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            let addresses: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let refused =
                addresses.iter().any(|address| policy.check_address(address.ip()).is_err());
            if refused {
                return Err(Invalid::new("webhook URL", "leads to a private address").into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(allow_private: bool) -> Result<usize, String> {
        let policy = UrlPolicy { allow_private, file_root: None };
        let name = "localhost".parse().expect("a name");
        let resolved = CheckedResolver(policy).resolve(name).await;
        resolved.map(Iterator::count).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_private_address_is_not_connected_to() {
        let refused = found(false).await.expect_err("refused");
        assert_eq!(refused, "webhook URL leads to a private address");
        assert!(found(true).await.is_ok_and(|count| count > 0));
    }
}
