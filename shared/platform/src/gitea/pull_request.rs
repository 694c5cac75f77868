//! Pull requests.

use std::time::Duration;

use rdev_domain::git::CommitId;
use rdev_domain::ports::{
    Conflict, FoundPullRequest, PortError, PortResult, PullRequest, PullRequestBranches,
};
use rdev_domain::time::Timestamp;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{Gitea, RepositoryPath, invalid, refused};

/// The most that the server's clock is behind.
const CLOCKS: Duration = Duration::from_secs(60 * 60);

/// A pull request, with the fields that the adapter reads.
#[derive(Debug, Deserialize)]
pub(super) struct Found {
    pub(super) html_url: String,
    created_at: Timestamp,
    pub(super) head: Side,
    base: Side,
}

#[derive(Debug, Deserialize)]
pub(super) struct Side {
    /// The branch, also after it was deleted. (`ref` is `refs/pull/<n>/head` then.)
    pub(super) label: String,
    repo_id: i64,
    pub(super) sha: CommitId,
}

/// The pull request of these branches, or a new one; its page.
pub(super) async fn find_or_open(gitea: &Gitea, request: &PullRequest) -> PortResult<String> {
    let branches = &request.branches;
    let repository = repository_of(gitea, branches)?;
    if let Some(found) = find_in(gitea, &repository, branches).await? {
        return Ok(found.url);
    }
    let body = json!({
        "head": branches.head,
        "base": branches.base,
        "title": request.title,
        "body": request.body,
    });
    let path = ["repos", &repository.owner, &repository.name, "pulls"];
    let answer = gitea.send(Method::POST, &path, &[], Some(&body)).await?;
    match answer.status {
        StatusCode::CREATED => Ok(answer.json::<Found>()?.html_url),
        // Somebody else opened it at the same time.
        StatusCode::CONFLICT => {
            let found = find_in(gitea, &repository, branches).await?;
            found.map(|found| found.url).ok_or_else(|| Conflict::Contended.into())
        }
        StatusCode::UNPROCESSABLE_ENTITY => Err(invalid("pull request", &answer)),
        _ => Err(refused(&answer, &repository)),
    }
}

/// The newest pull request of these branches.
pub(super) async fn find(
    gitea: &Gitea,
    branches: &PullRequestBranches,
) -> PortResult<Option<FoundPullRequest>> {
    let repository = repository_of(gitea, branches)?;
    find_in(gitea, &repository, branches).await
}

fn repository_of(gitea: &Gitea, branches: &PullRequestBranches) -> PortResult<RepositoryPath> {
    gitea.repository_path(&branches.git_url, "a pull request outside of the forge")
}

async fn find_in(
    gitea: &Gitea,
    repository: &RepositoryPath,
    branches: &PullRequestBranches,
) -> Result<Option<FoundPullRequest>, PortError> {
    let path = ["repos", &repository.owner, &repository.name, "pulls"];
    let oldest = branches.since.minus(CLOCKS);
    let matches = |found: &Found| {
        // A branch of the same name in a fork is another branch.
        found.head.label == branches.head.as_str()
            && found.base.label == branches.base.as_str()
            && found.head.repo_id == found.base.repo_id
    };
    let refused = |answer: &_| refused(answer, repository);
    // The newest come first, so nothing behind an old one is of interest.
    let ends = |found: &Found| matches(found) || found.created_at < oldest;
    let found = gitea.find(&path, &[("state", "all")], refused, ends).await?;
    let found = found.filter(|found| found.created_at >= oldest);
    Ok(found.map(|found| FoundPullRequest { url: found.html_url, commit: found.head.sha }))
}
