//! Gitea and Forgejo: repositories, pull requests and commit statuses, through their API v1.
//!
//! A repository that this adapter makes has ` [rdev:<nonce>]` at the end of its description. That
//! ownership tag is what tells it from others of its name: after a lost answer it is found by it and
//! completed, and nothing without it is ever deleted. Somebody who edits it away keeps the
//! repository.
//!
//! A clone URL of the server is used only when it lies on the configured URL's origin. Otherwise
//! (an installation that is reached by another name than the one it was told) it is
//! `<url>/<owner>/<name>.git`: the token belongs to the configured origin.
//!
//! What the server says is known by its status alone; its messages are for people. A 404 counts
//! as "not there" only where it is one of the API itself: a wrong base URL has 404s too.

mod check;
mod hook;
mod pull_request;
mod repository;
mod status;

use std::time::Duration;

use async_trait::async_trait;
use rdev_domain::Invalid;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{
    CommitStatus, Forge, NewRepository, PortError, PortResult, PullRequest, Repository,
};
use rdev_domain::token::Token;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::OnceCell;
use ulid::Ulid;
use url::Url;

use crate::Finding;
use crate::http::{Answer, Auth, Http};

/// What messages call it.
const WHAT: &str = "the forge";

/// How many items a page has at most, on the server's side too.
const PAGE: usize = 50;

/// More pages than this are not read: a list that long is a server that repeats itself.
const MAX_PAGES: usize = 1000;

/// Which forge, and how repositories are made there.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its root, as `https://git.example.com` or `https://example.com/gitea`.
    pub url: String,
    /// Whose the repositories are: an organisation, or the token's own user.
    pub owner: String,
    /// Whether new repositories are private.
    pub private: bool,
    /// How long an answer is waited for, in seconds.
    pub timeout_s: u64,
    /// The webhook that each new repository gets.
    pub hook: Option<Hook>,
}

/// A webhook of a repository, for pushes and commit statuses.
#[derive(Debug, Clone)]
pub struct Hook {
    /// Where the server posts to.
    pub url: String,
    /// What it signs with (HMAC-SHA256, `X-Gitea-Signature`).
    pub secret: Token,
}

/// The forge.
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
    /// The user whose token it is.
    User,
}

/// Where a repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    owner: String,
    name: String,
}

impl Gitea {
    /// The forge of these settings. Nothing is sent yet.
    ///
    /// # Errors
    /// When a URL is none, or the owner cannot be one.
    pub fn new(settings: Settings, token: Token) -> Result<Self, Invalid> {
        let base = format!("{}/api/v1", settings.url.trim_end_matches('/'));
        let timeout = Duration::from_secs(settings.timeout_s.max(1));
        let http = Http::new(WHAT, &base, Auth::Token, token, timeout)?;
        let Ok(root) = Url::parse(&settings.url) else {
            return Err(Invalid::new("URL", "is not a URL"));
        };
        if !plain(&settings.owner) {
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

    /// Looks whether the forge can be used: whether it answers, its clock, the token, and
    /// whether that may make repositories for the owner. Changes nothing there.
    ///
    /// # Errors
    /// None: what goes wrong is a finding.
    pub async fn check(&self) -> PortResult<Vec<Finding>> {
        Ok(check::check(self).await)
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

    /// The first item of a list that is `wanted`. `refused` says what another status than 200 is.
    async fn find<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        refused: impl Fn(&Answer) -> PortError,
        wanted: impl Fn(&T) -> bool,
    ) -> PortResult<Option<T>> {
        let (limit, mut seen) = (PAGE.to_string(), 0);
        for page in 1..=MAX_PAGES {
            let page = page.to_string();
            let mut query = query.to_vec();
            query.extend([("page", page.as_str()), ("limit", limit.as_str())]);
            let answer = self.send(Method::GET, path, &query, None).await?;
            if answer.status != StatusCode::OK {
                return Err(refused(&answer));
            }
            let items: Vec<T> = answer.json()?;
            seen += items.len();
            // A server may be configured to smaller pages than were asked for, so that a short
            // one is not the last.
            let last = items.is_empty() || total(&answer).is_some_and(|total| seen >= total);
            if let Some(item) = items.into_iter().find(&wanted) {
                return Ok(Some(item));
            }
            if last {
                return Ok(None);
            }
        }
        Err(PortError::upstream(WHAT, format!("a list has more than {MAX_PAGES} pages")))
    }

    /// Where a repository is by its clone URL; `NotSupported` when it is not on this forge.
    fn place(&self, url: &GitUrl, what: &'static str) -> PortResult<Place> {
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
            Some((owner, name)) if plain(owner) && plain(name) => {
                Ok(Place { owner: owner.to_owned(), name: name.to_owned() })
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

    async fn delete_repository(&self, project: &ProjectId, nonce: Ulid) -> PortResult<()> {
        repository::delete(self, project, nonce).await
    }

    async fn pull_request(&self, request: &PullRequest) -> PortResult<String> {
        pull_request::find_or_open(self, request).await
    }

    async fn set_status(&self, status: &CommitStatus) -> PortResult<()> {
        status::set(self, status).await
    }
}

/// Whether a text can be the name of an owner or a repository.
fn plain(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !matches!(name, "" | "." | "..") && name.len() <= 100 && name.chars().all(good)
}

/// The message of an error, for people: the API's own (`{message, url}`) or a line of plain text.
/// Pages of HTML say nothing.
fn said(answer: &Answer) -> String {
    #[derive(Deserialize)]
    struct Said {
        #[serde(default)]
        message: String,
    }
    if let Ok(said) = answer.json::<Said>() {
        return said.message;
    }
    let text = String::from_utf8_lossy(&answer.body);
    if text.trim_start().starts_with('<') { String::new() } else { text.trim().to_owned() }
}

/// Whether this is the API's own answer that a thing is not there.
fn absent(answer: &Answer) -> bool {
    answer.status == StatusCode::NOT_FOUND
        && answer.json::<Value>().is_ok_and(|body| body.get("message").is_some())
}

/// The error of a status that must not be.
fn unexpected(answer: &Answer) -> PortError {
    answer.unexpected(&said(answer))
}

/// The error of a call about a repository that may be somebody else's: it may be gone, or what
/// was named in it, and the token may have no rights there. That is no fault of the installation.
fn refused(answer: &Answer, place: &Place) -> PortError {
    match answer.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            PortError::Denied { what: WHAT.to_owned() }
        }
        _ if absent(answer) => {
            let Place { owner, name } = place;
            PortError::not_found(format!("\"{owner}/{name}\", or no such branch or commit in it"))
        }
        StatusCode::LOCKED => Invalid::new("repository", "is archived").into(),
        _ => unexpected(answer),
    }
}

/// The error of a value that the server does not take.
fn invalid(what: &'static str, answer: &Answer) -> PortError {
    let said: String = said(answer).chars().filter(|c| !c.is_control()).take(200).collect();
    Invalid::new(what, format!("was refused by the forge: {said}")).into()
}

/// How long the whole list is that an answer is a page of.
fn total(answer: &Answer) -> Option<usize> {
    answer.headers.get("x-total-count")?.to_str().ok()?.parse().ok()
}
