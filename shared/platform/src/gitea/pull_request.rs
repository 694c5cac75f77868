//! Pull requests.

use std::time::Duration;

use rdev_domain::git::CommitId;
use rdev_domain::ports::{
    Conflict, FoundPullRequest, OpenedPullRequest, PortError, PortResult, PullRequest,
    PullRequestBranches,
};
use rdev_domain::time::Timestamp;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{Gitea, RepositoryPath, completion, invalid, refused};

/// The most that the server's clock is behind.
const CLOCKS: Duration = Duration::from_secs(60 * 60);

/// A pull request, with the fields that the adapter reads.
#[derive(Debug, Deserialize)]
pub(super) struct Found {
    pub(super) number: u64,
    pub(super) html_url: String,
    /// `open` or `closed`.
    pub(super) state: String,
    /// Whether it is a draft, as its title says.
    pub(super) draft: Option<bool>,
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

impl Found {
    pub(super) fn is_open(&self) -> bool {
        self.state == "open"
    }
}

/// The pull request of these branches, or a new one, with all that it should have.
pub(super) async fn find_or_open(
    gitea: &Gitea,
    request: &PullRequest,
) -> PortResult<OpenedPullRequest> {
    let repository = repository_of(gitea, &request.branches)?;
    let (found, is_new) = match find_in(gitea, &repository, &request.branches).await? {
        Some(found) => (found, false),
        None => open(gitea, &repository, request).await?,
    };
    let lacks = completion::complete(gitea, &repository, &found, request, is_new).await;
    Ok(OpenedPullRequest { url: found.html_url, lacks })
}

/// Opens it. Returns whether it did: somebody else may have done so at the same time.
async fn open(
    gitea: &Gitea,
    repository: &RepositoryPath,
    request: &PullRequest,
) -> PortResult<(Found, bool)> {
    let branches = &request.branches;
    let mark = if request.draft { completion::DRAFT } else { "" };
    let body = json!({
        "head": branches.head,
        "base": branches.base,
        "title": format!("{mark}{}", request.title),
        "body": request.body,
    });
    let path = ["repos", &repository.owner, &repository.name, "pulls"];
    let answer = gitea.send(Method::POST, &path, &[], Some(&body)).await?;
    match answer.status {
        StatusCode::CREATED => Ok((answer.json()?, true)),
        // Somebody else opened it at the same time.
        StatusCode::CONFLICT => {
            let found = find_in(gitea, repository, branches).await?;
            found.map(|found| (found, false)).ok_or_else(|| Conflict::Contended.into())
        }
        StatusCode::UNPROCESSABLE_ENTITY => Err(invalid("pull request", &answer)),
        _ => Err(refused(&answer, repository)),
    }
}

/// The newest pull request of these branches.
pub(super) async fn find(
    gitea: &Gitea,
    branches: &PullRequestBranches,
) -> PortResult<Option<FoundPullRequest>> {
    let repository = repository_of(gitea, branches)?;
    let found = find_in(gitea, &repository, branches).await?;
    Ok(found.map(|found| FoundPullRequest { url: found.html_url, commit: found.head.sha }))
}

fn repository_of(gitea: &Gitea, branches: &PullRequestBranches) -> PortResult<RepositoryPath> {
    gitea.repository_path(&branches.git_url, "a pull request outside of the forge")
}

async fn find_in(
    gitea: &Gitea,
    repository: &RepositoryPath,
    branches: &PullRequestBranches,
) -> Result<Option<Found>, PortError> {
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
    Ok(found.filter(|found| found.created_at >= oldest))
}
