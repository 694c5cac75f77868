//! The first content of a repository: the seed, or the copy of a template repository.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rdev_domain::ports::{Conflict, NewRepository, PortError, PortResult, SeedFile};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use ulid::Ulid;

use super::found::{Found, look_up};
use super::{Gitea, PAGE, SYSTEM, absent, invalid, total, unexpected};

#[derive(Debug, Deserialize)]
pub(super) struct Listed {
    commit: Message,
}

#[derive(Debug, Deserialize)]
pub(super) struct Message {
    message: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Changed {
    #[serde(rename = "commit")]
    _commit: CreatedCommit,
}

#[derive(Debug, Deserialize)]
pub(super) struct CreatedCommit {
    #[serde(rename = "sha")]
    _sha: String,
}

/// The last line of the seed's message, which identifies its commit.
fn trailer(nonce: Ulid) -> String {
    format!("Rdev-Seed: {nonce}")
}

/// Commits all files at once.
pub(super) async fn commit_seed(
    gitea: &Gitea,
    new: &NewRepository,
    found: &Found,
    files: &[SeedFile],
) -> PortResult<()> {
    let file = |file: &SeedFile| -> Value {
        let content = STANDARD.encode(&file.content);
        json!({ "operation": "create", "path": file.path, "content": content })
    };
    let body = json!({
        "branch": found.default_branch,
        "message": format!("Start from the template\n\n{}", trailer(new.nonce)),
        "files": files.iter().map(file).collect::<Vec<_>>(),
    });
    let path = ["repos", &gitea.settings.owner, &found.name, "contents"];
    let answer = gitea.send(Method::POST, &path, &[], Some(&body)).await?;
    match answer.status {
        StatusCode::CREATED => answer.json::<Changed>().map(drop),
        StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => {
            // An earlier call of ours, whose answer was lost, may have committed the seed.
            match look_up(gitea, &new.project).await? {
                Some(found) if !found.empty => check_seeded(gitea, new, &found).await,
                _ if answer.status == StatusCode::CONFLICT => Err(Conflict::Contended.into()),
                _ => Err(invalid("template", &answer)),
            }
        }
        _ => Err(unexpected(&answer)),
    }
}

/// Checks that the history of the repository begins with the seed and not with somebody else's
/// commit.
pub(super) async fn check_seeded(
    gitea: &Gitea,
    new: &NewRepository,
    found: &Found,
) -> PortResult<()> {
    let trailer = trailer(new.nonce);
    let seeded = |commits: &[Listed]| {
        commits.iter().any(|listed| listed.commit.message.lines().any(|line| line == trailer))
    };
    let (first, of) = commits(gitea, found, 1).await?;
    if seeded(&first) {
        return Ok(());
    }
    // The seed has no parent, so it is on the last page.
    if !first.is_empty() && of > first.len() {
        let (last, _) = commits(gitea, found, of.div_ceil(first.len())).await?;
        if seeded(&last) {
            return Ok(());
        }
    }
    Err(Conflict::RepositoryNotOurs.into())
}

/// One page of the default branch's commits, newest first, and the number of all commits.
async fn commits(gitea: &Gitea, found: &Found, page: usize) -> PortResult<(Vec<Listed>, usize)> {
    let path = ["repos", &gitea.settings.owner, &found.name, "commits"];
    let (page, limit) = (page.to_string(), PAGE.to_string());
    let query = [
        ("sha", found.default_branch.as_str()),
        ("stat", "false"),
        ("verification", "false"),
        ("files", "false"),
        ("page", &page),
        ("limit", &limit),
    ];
    let answer = gitea.send(Method::GET, &path, &query, None).await?;
    match answer.status {
        StatusCode::OK => Ok((answer.json()?, total(&answer).unwrap_or_default())),
        // The repository has other branches, but not this one.
        _ if absent(&answer) => Ok((Vec::new(), 0)),
        _ => Err(unexpected(&answer)),
    }
}

/// Checks that the forge has copied the whole template.
pub(super) async fn check_generated(gitea: &Gitea, found: &Found) -> PortResult<()> {
    let path = ["repos", &gitea.settings.owner, &found.name, "branches", &found.default_branch];
    let answer = gitea.send(Method::GET, &path, &[], None).await?;
    match answer.status {
        StatusCode::OK => Ok(()),
        _ if absent(&answer) => Err(PortError::unavailable(
            SYSTEM,
            "the repository is still being copied from its template",
        )),
        _ => Err(unexpected(&answer)),
    }
}
