//! Pull requests.

use rdev_domain::ports::{Conflict, PortError, PortResult, PullRequest};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{Gitea, RepositoryPath, invalid, refused};

/// A pull request, with the fields that the adapter reads.
#[derive(Debug, Deserialize)]
struct Found {
    html_url: String,
    head: Side,
    base: Side,
}

#[derive(Debug, Deserialize)]
struct Side {
    #[serde(rename = "ref")]
    branch: String,
    repo_id: i64,
}

/// The open pull request of these branches, or a new one; its page.
pub(super) async fn find_or_open(gitea: &Gitea, request: &PullRequest) -> PortResult<String> {
    let repository =
        gitea.repository_path(&request.git_url, "a pull request outside of the forge")?;
    if let Some(url) = find(gitea, &repository, request).await? {
        return Ok(url);
    }
    let body = json!({
        "head": request.head,
        "base": request.base,
        "title": request.title,
        "body": request.body,
    });
    let path = ["repos", &repository.owner, &repository.name, "pulls"];
    let answer = gitea.send(Method::POST, &path, &[], Some(&body)).await?;
    match answer.status {
        StatusCode::CREATED => Ok(answer.json::<Found>()?.html_url),
        // Somebody else opened it at the same time.
        StatusCode::CONFLICT => {
            find(gitea, &repository, request).await?.ok_or_else(|| Conflict::Contended.into())
        }
        StatusCode::UNPROCESSABLE_ENTITY => Err(invalid("pull request", &answer)),
        _ => Err(refused(&answer, &repository)),
    }
}

async fn find(
    gitea: &Gitea,
    repository: &RepositoryPath,
    request: &PullRequest,
) -> Result<Option<String>, PortError> {
    let path = ["repos", &repository.owner, &repository.name, "pulls"];
    let matches = |found: &Found| {
        // A branch of the same name in a fork is another branch.
        found.head.branch == request.head.as_str()
            && found.base.branch == request.base.as_str()
            && found.head.repo_id == found.base.repo_id
    };
    let refused = |answer: &_| refused(answer, repository);
    let found = gitea.find(&path, &[("state", "open")], refused, matches).await?;
    Ok(found.map(|found| found.html_url))
}
