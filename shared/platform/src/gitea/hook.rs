//! The webhook of a repository.

use rdev_domain::ports::PortResult;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{Gitea, Hook, unexpected};

#[derive(Debug, Deserialize)]
pub(super) struct Listed {
    id: u64,
    pub(super) config: Config,
}

#[derive(Debug, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    pub(super) url: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Created {
    #[serde(rename = "id")]
    _id: u64,
}

/// What became of the wish that the forge sends a test message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TestMessage {
    /// The forge has put it into its queue: it is the message of a push of the newest commit.
    Queued {
        /// Where it goes.
        to: String,
    },
    /// The repository has no webhook that leads to this rdev.
    NoHook {
        /// Where it should lead.
        to: String,
    },
    /// The configuration wants no webhooks.
    NotConfigured,
}

/// Lets the forge send a test message through the hook of a repository of ours.
pub(super) async fn test(gitea: &Gitea, name: &str) -> PortResult<TestMessage> {
    let Some(hook) = &gitea.settings.hook else { return Ok(TestMessage::NotConfigured) };
    let (owner, to) = (gitea.settings.owner.as_str(), hook.url.clone());
    let same = |listed: &Listed| listed.config.url == hook.url;
    let found = gitea.find(&["repos", owner, name, "hooks"], &[], unexpected, same).await?;
    let Some(found) = found else { return Ok(TestMessage::NoHook { to }) };
    let id = found.id.to_string();
    let path = ["repos", owner, name, "hooks", &id, "tests"];
    let answer = gitea.send(Method::POST, &path, &[], None).await?;
    match answer.status {
        StatusCode::NO_CONTENT => Ok(TestMessage::Queued { to }),
        _ => Err(unexpected(&answer)),
    }
}

/// Registers the hook at a repository of ours, unless the repository has one with this URL.
pub(super) async fn register(gitea: &Gitea, name: &str, hook: &Hook) -> PortResult<()> {
    let path = ["repos", &gitea.settings.owner, name, "hooks"];
    let same = |listed: &Listed| listed.config.url == hook.url;
    if gitea.find(&path, &[], unexpected, same).await?.is_some() {
        return Ok(());
    }
    let secret = hook.secret.get().await?;
    let body = json!({
        // Forgejo accepts this name too.
        "type": "gitea",
        "active": true,
        "config": {
            "url": hook.url,
            "content_type": "json",
            "secret": secret.expose(),
        },
        "events": ["push", "status"],
    });
    let answer = gitea.send(Method::POST, &path, &[], Some(&body)).await?;
    match answer.status {
        StatusCode::CREATED => answer.json::<Created>().map(drop),
        _ => Err(unexpected(&answer)),
    }
}
