//! Looks whether the forge can be used, without changing anything.

use std::time::SystemTime;

use rdev_domain::ports::{PortError, PortResult};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{Gitea, WHAT, absent, unexpected};
use crate::Finding;
use crate::http::Answer;

/// A repository that nobody has: what is asked of it is refused for that, or before that for
/// want of a scope.
const NO_REPOSITORY: &str = "rdev-doctor.no-such-repository";

#[derive(Deserialize)]
struct Version {
    version: String,
}

#[derive(Deserialize)]
struct User {
    login: String,
}

#[derive(Deserialize)]
struct Rights {
    can_create_repository: bool,
}

pub(super) async fn check(gitea: &Gitea) -> Vec<Finding> {
    let url = &gitea.settings.url;
    let reached = format!("{WHAT} at {url}");
    let answer = match gitea.send(Method::GET, &["version"], &[], None).await {
        Ok(answer) => answer,
        Err(error) => {
            let mend = "check its URL and that this machine reaches it";
            return vec![Finding::failed(reached, &error, mend)];
        }
    };
    let clock = Finding::clock(WHAT, &answer, SystemTime::now());
    let mut findings = match read_version(&answer) {
        Ok(version) => vec![Finding::fine(format!("{reached} (version {version})")), clock],
        Err(error) => {
            let mend = "check that the URL is the root of a Gitea or Forgejo, without /api/v1";
            return vec![Finding::failed(reached, &error, mend)];
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
        // An installation that shows nothing to strangers wants a valid token even here.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok("not shown".to_owned()),
        _ => Err(unexpected(answer)),
    }
}

/// Whether the token is one, and whose, where it may tell.
async fn check_token(gitea: &Gitea) -> (Finding, Option<String>) {
    let what = format!("{WHAT}'s token");
    let mend = "make a new one there with the scopes write:repository and write:organization \
                (write:user for a user's own repositories) and configure it";
    let answer = match gitea.send(Method::GET, &["user"], &[], None).await {
        Ok(answer) => answer,
        Err(error) => return (Finding::failed(what, &error, "try again later"), None),
    };
    match answer.status {
        StatusCode::OK => match answer.json::<User>() {
            Ok(user) => (Finding::fine(what), Some(user.login)),
            Err(error) => (Finding::failed(what, &error, mend), None),
        },
        // It is valid, and has no right to read its user, which is not needed.
        StatusCode::FORBIDDEN => (Finding::fine(what), None),
        _ => (Finding::failed(what, &unexpected(&answer), mend), None),
    }
}

/// Whether repositories may be made for the owner: a request without a name is refused for
/// that, or before that for want of rights.
async fn check_owner(gitea: &Gitea, login: Option<&str>) -> Finding {
    let owner = gitea.settings.owner.as_str();
    let what = format!("repositories for {owner:?} on {WHAT}");
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
    let mend = format!("give the token the scope {scope}, and its user the right in the owner");
    match answer.status {
        StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST => {}
        _ if absent(&answer) => {
            let problem =
                format!("there is no organisation {owner:?} that the token's user may see");
            return Finding::problem(what, format!("{problem}; make it, or correct the owner"));
        }
        _ => return Finding::failed(what, &unexpected(&answer), &mend),
    }
    match may_create(gitea, login.filter(|_| !own), owner).await {
        Ok(true) => Finding::fine(what),
        Ok(false) => {
            let problem = "the token's user may not make repositories there";
            Finding::problem(what, format!("{problem}; put it into a team that may"))
        }
        Err(error) => Finding::failed(what, &error, "try again later"),
    }
}

/// Whether the user may make repositories in the organisation, as far as the token may ask.
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

/// Whether the token may write to repositories: to one that is not there, it may not even so.
async fn check_repositories(gitea: &Gitea) -> Finding {
    let what = format!("writing to repositories on {WHAT}");
    let path = ["repos", &gitea.settings.owner, NO_REPOSITORY, "hooks"];
    match gitea.send(Method::POST, &path, &[], Some(&json!({}))).await {
        Ok(answer) if absent(&answer) => Finding::fine(what),
        Ok(answer) => {
            let mend = "give the token the scope write:repository";
            Finding::failed(what, &unexpected(&answer), mend)
        }
        Err(error) => Finding::failed(what, &error, "try again later"),
    }
}
