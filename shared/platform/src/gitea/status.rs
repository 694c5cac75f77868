//! Commit statuses.

use rdev_domain::ports::{CommitState, CommitStatus, PortResult};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{Gitea, invalid, refused};

/// The name that tells rdev's status from those of CI.
const CONTEXT: &str = "rdev/build";

#[derive(Debug, Deserialize)]
pub(super) struct Created {
    #[serde(rename = "id")]
    _id: u64,
}

/// Adds a status to a commit. The newest status of a context counts, so a repeat changes nothing.
pub(super) async fn set(gitea: &Gitea, status: &CommitStatus) -> PortResult<()> {
    let repository =
        gitea.repository_path(&status.git_url, "a commit status outside of the forge")?;
    let state = match status.state {
        CommitState::Pending => "pending",
        CommitState::Success => "success",
        CommitState::Failure => "failure",
    };
    let body = json!({
        "context": CONTEXT,
        "state": state,
        "description": status.description,
        "target_url": status.url.as_deref().unwrap_or_default(),
    });
    let path = ["repos", &repository.owner, &repository.name, "statuses", status.commit.as_str()];
    let answer = gitea.send(Method::POST, &path, &[], Some(&body)).await?;
    match answer.status {
        StatusCode::CREATED => answer.json::<Created>().map(drop),
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
            Err(invalid("commit status", &answer))
        }
        _ => Err(refused(&answer, &repository)),
    }
}
