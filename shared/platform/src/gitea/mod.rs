//! Gitea and Forgejo: repositories, pull requests and commit statuses, through their API v1.
//!
//! A repository that this adapter makes has ` [rdev:<nonce>]` at the end of its description. That
//! ownership tag tells it from other repositories of the same name. After a lost answer the adapter
//! finds the repository by its tag and completes it; it never deletes a repository without the tag.
//! A user who removes the tag keeps the repository. A repository that was renamed or moved to
//! another owner is found by its id.
//!
//! The adapter uses the server's clone URL only if it has the origin of the configured URL.
//! Otherwise (the server is configured with another name of itself) the clone URL is
//! `<url>/<owner>/<name>.git`: the token belongs to the configured origin.
//!
//! The status alone decides what an answer means; messages are for people. A 404 means "does not
//! exist" only if the API itself wrote it: a wrong base URL is answered with 404 too.

mod check;
mod completion;
mod found;
mod hook;
mod pull_request;
#[cfg(test)]
mod recorded;
mod repository;
mod seed;
mod standing;
mod status;

use std::time::Duration;

use async_trait::async_trait;
use rdev_domain::Invalid;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{
    CommitStatus, Forge, FoundPullRequest, NewRepository, OpenedPullRequest, OwnRepository,
    PortError, PortResult, PullRequest, PullRequestBranches, PushTarget, Repository, Standing,
};
use rdev_domain::token::Token;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::OnceCell;
use url::Url;

use crate::http::{Answer, Auth, Http};

pub use hook::TestMessage;

/// The name of the system in messages.
const SYSTEM: &str = "the forge";

/// The largest page; servers have the same default.
const PAGE: usize = 50;

/// The most pages to read: a server with a longer list repeats itself.
const MAX_PAGES: usize = 1000;

/// Where the forge is, and how it creates repositories.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its root, such as `https://git.example.com` or `https://example.com/gitea`.
    pub url: String,
    /// The owner of new repositories: an organisation, or the token's own user.
    pub owner: String,
    /// Whether new repositories are private.
    pub private: bool,
    /// Seconds to wait for an answer.
    pub timeout_s: u64,
    /// The webhook of each new repository.
    pub hook: Option<Hook>,
}

/// A webhook of a repository, for pushes and commit statuses.
#[derive(Debug, Clone)]
pub struct Hook {
    /// The URL that the server posts to.
    pub url: String,
    /// The key of its signature (HMAC-SHA256, `X-Gitea-Signature`).
    pub secret: Token,
}

/// The adapter.
#[derive(Debug)]
pub struct Gitea {
    http: Http,
    settings: Settings,
    root: Url,
    owner_kind: OnceCell<OwnerKind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OwnerKind {
    Organisation,
    /// The token's own user.
    User,
}

/// A repository's path on the forge.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RepositoryPath {
    owner: String,
    name: String,
}

impl Gitea {
    /// Makes the adapter. It sends nothing yet.
    ///
    /// # Errors
    /// When a URL is invalid, or the owner cannot be the name of one.
    pub fn new(settings: Settings, token: Token) -> Result<Self, Invalid> {
        let base = format!("{}/api/v1", settings.url.trim_end_matches('/'));
        let timeout = Duration::from_secs(settings.timeout_s.max(1));
        let http = Http::new(SYSTEM, &base, Auth::Token, token, timeout)?;
        let Ok(root) = Url::parse(&settings.url) else {
            return Err(Invalid::new("URL", "is not a URL"));
        };
        if !is_valid_name(&settings.owner) {
            return Err(Invalid::new("owner", "must have letters, digits, '-', '_' and '.' only"));
        }
        if let Some(hook) = &settings.hook {
            let url = Url::parse(&hook.url).ok();
            if !url.is_some_and(|url| matches!(url.scheme(), "http" | "https")) {
                return Err(Invalid::new("webhook URL", "must begin with http:// or https://"));
            }
        }
        Ok(Self { http, settings, root, owner_kind: OnceCell::new() })
    }

    /// Lets the forge send a test message for a project that has its repository there.
    ///
    /// # Errors
    /// The forge does not answer, or refuses.
    pub async fn send_test_message(&self, project: &ProjectId) -> PortResult<TestMessage> {
        hook::test(self, project.as_str()).await
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> PortResult<Answer> {
        self.http.send(method, path, query, body).await
    }

    /// The first item of a list that `matches`. `refused` turns another status than 200 into an
    /// error.
    async fn find<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        refused: impl Fn(&Answer) -> PortError,
        matches: impl Fn(&T) -> bool,
    ) -> PortResult<Option<T>> {
        let (limit, mut read) = (PAGE.to_string(), 0);
        for page in 1..=MAX_PAGES {
            let page = page.to_string();
            let mut query = query.to_vec();
            query.extend([("page", page.as_str()), ("limit", limit.as_str())]);
            let answer = self.send(Method::GET, path, &query, None).await?;
            if answer.status != StatusCode::OK {
                return Err(refused(&answer));
            }
            let items: Vec<T> = answer.json()?;
            read += items.len();
            // A server may be configured to smaller pages than this one, so a short page may not
            // be the last.
            let last = items.is_empty() || total(&answer).is_some_and(|total| read >= total);
            if let Some(item) = items.into_iter().find(&matches) {
                return Ok(Some(item));
            }
            if last {
                return Ok(None);
            }
        }
        Err(PortError::upstream(SYSTEM, format!("a list has more than {MAX_PAGES} pages")))
    }

    /// The clone URL of a repository below the configured URL.
    fn clone_url_of(&self, owner: &str, name: &str) -> PortResult<GitUrl> {
        let root = self.root.as_str().trim_end_matches('/');
        let url = format!("{root}/{owner}/{name}.git");
        url.parse().map_err(|error: Invalid| PortError::upstream(SYSTEM, error))
    }

    /// The path of the repository with this clone URL; `NotSupported` if it is on another forge.
    fn repository_path(&self, url: &GitUrl, what: &'static str) -> PortResult<RepositoryPath> {
        let elsewhere = || PortError::NotSupported { what };
        let url = Url::parse(url.as_str()).map_err(|_| elsewhere())?;
        if url.origin() != self.root.origin() {
            return Err(elsewhere());
        }
        let below = url.path().strip_prefix(self.root.path().trim_end_matches('/'));
        let below = below.and_then(|path| path.strip_prefix('/')).ok_or_else(elsewhere)?;
        let below = below.trim_end_matches('/');
        let below = below.strip_suffix(".git").unwrap_or(below);
        match below.split_once('/') {
            Some((owner, name)) if is_valid_name(owner) && is_valid_name(name) => {
                Ok(RepositoryPath { owner: owner.to_owned(), name: name.to_owned() })
            }
            _ => Err(elsewhere()),
        }
    }
}

#[async_trait]
impl Forge for Gitea {
    async fn create_repository(&self, new: &NewRepository) -> PortResult<Repository> {
        repository::create(self, new).await
    }

    async fn delete_repository(&self, of: &OwnRepository) -> PortResult<()> {
        repository::delete(self, of).await
    }

    async fn pull_request(&self, request: &PullRequest) -> PortResult<OpenedPullRequest> {
        pull_request::find_or_open(self, request).await
    }

    async fn find_pull_request(
        &self,
        branches: &PullRequestBranches,
    ) -> PortResult<Option<FoundPullRequest>> {
        pull_request::find(self, branches).await
    }

    async fn standing(&self, of: &PushTarget) -> PortResult<Standing> {
        standing::of(self, of).await
    }

    fn shows_statuses(&self, repository: &GitUrl) -> bool {
        self.repository_path(repository, "a commit status outside of the forge").is_ok()
    }

    async fn set_status(&self, status: &CommitStatus) -> PortResult<()> {
        status::set(self, status).await
    }
}

/// Whether a text is a valid name of an owner or a repository.
fn is_valid_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !matches!(name, "" | "." | "..") && name.len() <= 100 && name.chars().all(good)
}

/// The message of an error, for people: the API's own (`{message, url}`) or plain text. A page of
/// HTML has none.
fn message(answer: &Answer) -> String {
    #[derive(Deserialize)]
    struct ErrorBody {
        #[serde(default)]
        message: String,
    }
    if let Ok(body) = answer.json::<ErrorBody>() {
        return body.message;
    }
    let text = String::from_utf8_lossy(&answer.body);
    if text.trim_start().starts_with('<') { String::new() } else { text.trim().to_owned() }
}

/// Whether the API itself says that something does not exist.
fn absent(answer: &Answer) -> bool {
    answer.status == StatusCode::NOT_FOUND
        && answer.json::<Value>().is_ok_and(|body| body.get("message").is_some())
}

/// The error of a status that the adapter does not expect.
fn unexpected(answer: &Answer) -> PortError {
    answer.unexpected(&message(answer))
}

/// The error of a call about a repository that may be somebody else's. The repository, branch or
/// commit may not exist any more, and the token may have no rights there: neither is a fault of the
/// installation.
fn refused(answer: &Answer, repository: &RepositoryPath) -> PortError {
    match answer.status {
        _ if absent(answer) => {
            let RepositoryPath { owner, name } = repository;
            PortError::not_found(format!("\"{owner}/{name}\", or no such branch or commit in it"))
        }
        StatusCode::LOCKED => Invalid::new("repository", "is archived").into(),
        _ => unexpected(answer),
    }
}

/// The error of a value that the server refuses.
fn invalid(what: &'static str, answer: &Answer) -> PortError {
    let message = message(answer);
    let reason: String = message.chars().filter(|c| !c.is_control()).take(200).collect();
    Invalid::new(what, format!("was refused by the forge: {reason}")).into()
}

/// The number of items in the whole list of which an answer is one page.
fn total(answer: &Answer) -> Option<usize> {
    answer.headers.get("x-total-count")?.to_str().ok()?.parse().ok()
}
