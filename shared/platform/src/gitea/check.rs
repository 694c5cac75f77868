//! The check of the forge's configuration, for `rdev doctor`.

use std::time::SystemTime;

use rdev_domain::ports::{PortError, PortResult};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{Gitea, SYSTEM, absent, unexpected};
use crate::Finding;
use crate::http::Answer;

/// A repository that does not exist: the forge refuses a call on it for that reason, or, before
/// that, because the token lacks a scope.
const NO_REPOSITORY: &str = "rdev-doctor.no-such-repository";

#[derive(Deserialize)]
pub(super) struct Version {
    pub(super) version: String,
}

#[derive(Deserialize)]
pub(super) struct User {
    pub(super) login: String,
}

#[derive(Deserialize)]
pub(super) struct Rights {
    pub(super) can_create_repository: bool,
}

impl Gitea {
    /// Checks that the forge answers, that its clock agrees with ours, that it accepts the token,
    /// and that the token may create repositories for the owner. It changes nothing.
    pub async fn check(&self) -> Vec<Finding> {
        check(self).await
    }
}

async fn check(gitea: &Gitea) -> Vec<Finding> {
    let url = &gitea.settings.url;
    let reached = format!("{SYSTEM} at {url}");
    let answer = match gitea.send(Method::GET, &["version"], &[], None).await {
        Ok(answer) => answer,
        Err(error) => {
            let fix = "check its URL and that this machine reaches it";
            return vec![Finding::failed(reached, &error, fix)];
        }
    };
    let clock = Finding::clock(SYSTEM, &answer, SystemTime::now());
    let mut findings = match read_version(&answer) {
        Ok(version) => vec![Finding::fine(format!("{reached} (version {version})")), clock],
        Err(error) => {
            let fix = "check that the URL is the root of a Gitea or Forgejo, without /api/v1";
            return vec![Finding::failed(reached, &error, fix)];
        }
    };
    let (token, login) = check_token(gitea).await;
    let valid = token.problem.is_none();
    findings.push(token);
    if valid {
        findings.push(check_owner(gitea, login.as_deref()).await);
        findings.push(check_repositories(gitea).await);
    }
    findings
}

fn read_version(answer: &Answer) -> PortResult<String> {
    match answer.status {
        StatusCode::OK => Ok(answer.json::<Version>()?.version),
        // A private installation requires a valid token even here.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok("not shown".to_owned()),
        _ => Err(unexpected(answer)),
    }
}

/// Whether the token is valid, and its user, if the token may read that.
async fn check_token(gitea: &Gitea) -> (Finding, Option<String>) {
    let what = format!("{SYSTEM}'s token");
    let fix = "make a new one there with the scopes write:repository and write:organization \
                (write:user for a user's own repositories) and configure it";
    let answer = match gitea.send(Method::GET, &["user"], &[], None).await {
        Ok(answer) => answer,
        Err(error) => return (Finding::failed(what, &error, "try again later"), None),
    };
    match answer.status {
        StatusCode::OK => match answer.json::<User>() {
            Ok(user) => (Finding::fine(what), Some(user.login)),
            Err(error) => (Finding::failed(what, &error, fix), None),
        },
        // The token is valid. It may not read its user, which rdev does not need.
        StatusCode::FORBIDDEN => (Finding::fine(what), None),
        _ => (Finding::failed(what, &unexpected(&answer), fix), None),
    }
}

/// Whether the token may create repositories for the owner: the forge refuses a request without a
/// name for that reason, or, before that, because the token lacks the right.
async fn check_owner(gitea: &Gitea, login: Option<&str>) -> Finding {
    let owner = gitea.settings.owner.as_str();
    let what = format!("repositories for {owner:?} on {SYSTEM}");
    let own = login.is_some_and(|login| login.eq_ignore_ascii_case(owner));
    let (path, scope): (&[&str], _) = if own {
        (&["user", "repos"], "write:user")
    } else {
        (&["orgs", owner, "repos"], "write:organization")
    };
    let answer = match gitea.send(Method::POST, path, &[], Some(&json!({}))).await {
        Ok(answer) => answer,
        Err(error) => return Finding::failed(what, &error, "try again later"),
    };
    let fix = format!("give the token the scope {scope}, and its user the right in the owner");
    match answer.status {
        StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST => {}
        _ if absent(&answer) => {
            let problem = format!("the token's user sees no organisation {owner:?}");
            return Finding::problem(what, format!("{problem}; create it, or correct the owner"));
        }
        _ => return Finding::failed(what, &unexpected(&answer), &fix),
    }
    match may_create(gitea, login.filter(|_| !own), owner).await {
        Ok(true) => Finding::fine(what),
        Ok(false) => {
            let problem = "the token's user may not create repositories there";
            Finding::problem(what, format!("{problem}; put the user into a team that may"))
        }
        Err(error) => Finding::failed(what, &error, "try again later"),
    }
}

/// Whether the user may create repositories in the organisation, if the token may read that.
async fn may_create(gitea: &Gitea, login: Option<&str>, owner: &str) -> Result<bool, PortError> {
    let Some(login) = login else { return Ok(true) };
    let path = ["users", login, "orgs", owner, "permissions"];
    let answer = gitea.send(Method::GET, &path, &[], None).await?;
    match answer.status {
        StatusCode::OK => Ok(answer.json::<Rights>()?.can_create_repository),
        StatusCode::FORBIDDEN => Ok(true),
        _ if absent(&answer) => Ok(false),
        _ => Err(unexpected(&answer)),
    }
}

/// Whether the token may write to repositories; a call on a missing one shows it.
async fn check_repositories(gitea: &Gitea) -> Finding {
    let what = format!("writing to repositories on {SYSTEM}");
    let path = ["repos", &gitea.settings.owner, NO_REPOSITORY, "hooks"];
    match gitea.send(Method::POST, &path, &[], Some(&json!({}))).await {
        Ok(answer) if absent(&answer) => Finding::fine(what),
        Ok(answer) => {
            let fix = "give the token the scope write:repository";
            Finding::failed(what, &unexpected(&answer), fix)
        }
        Err(error) => Finding::failed(what, &error, "try again later"),
    }
}
