//! Commit statuses.

use rdev_domain::ports::{CommitState, CommitStatus, PortResult};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{Gitea, invalid, refused};

/// What a build's status is called beside those of CI.
const CONTEXT: &str = "rdev/build";

/// A status that was added.
#[derive(Debug, Deserialize)]
struct Made {
    #[serde(rename = "id")]
    _id: u64,
}

/// Adds a status to a commit; of one context the newest counts, so that a repeat changes nothing.
pub(super) async fn set(gitea: &Gitea, status: &CommitStatus) -> PortResult<()> {
    let place = gitea.place(&status.git_url, "a commit status outside of the forge")?;
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
    let path = ["repos", &place.owner, &place.name, "statuses", status.commit.as_str()];
    let answer = gitea.send(Method::POST, &path, &[], Some(&body)).await?;
    match answer.status {
        StatusCode::CREATED => answer.json::<Made>().map(drop),
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
            Err(invalid("commit status", &answer))
        }
        _ => Err(refused(&answer, &place)),
    }
}
