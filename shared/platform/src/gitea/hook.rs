//! The webhook of a repository.

use rdev_domain::ports::PortResult;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{Gitea, Hook, unexpected};

#[derive(Debug, Deserialize)]
pub(super) struct Listed {
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
