//! Repositories: made, completed, deleted.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rdev_domain::Invalid;
use rdev_domain::git::Branch;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{
    Conflict, NewRepository, PortError, PortResult, Repository, SeedFile, Start,
};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use ulid::Ulid;
use url::Url;

use super::{Gitea, OwnerKind, PAGE, WHAT, absent, hook, invalid, plain, total, unexpected};
use crate::http::Answer;

/// The most characters of a description that are ours to fill; Gitea takes 2,048 in all.
const MAX_DESCRIPTION: usize = 1900;

/// A repository, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Found {
    id: u64,
    name: String,
    description: String,
    empty: bool,
    default_branch: String,
    #[serde(default)]
    clone_url: String,
}

/// A commit of a list.
#[derive(Debug, Deserialize)]
struct Listed {
    commit: Message,
}

#[derive(Debug, Deserialize)]
struct Message {
    message: String,
}

/// What changing files has made.
#[derive(Debug, Deserialize)]
struct Changed {
    #[serde(rename = "commit")]
    _commit: Made,
}

#[derive(Debug, Deserialize)]
struct Made {
    #[serde(rename = "sha")]
    _sha: String,
}

pub(super) async fn create(gitea: &Gitea, new: &NewRepository) -> PortResult<Repository> {
    let made = make(gitea, new).await?;
    let fresh = made.is_some();
    let found = match made {
        Some(found) => found,
        // Something has that name, even where it is not shown to us.
        None => look_up(gitea, &new.project).await?.ok_or(Conflict::RepositoryNotOurs)?,
    };
    if !found.description.ends_with(&ownership_tag(new.nonce)) {
        if fresh {
            return Err(PortError::upstream(WHAT, "it did not keep the repository's description"));
        }
        return Err(Conflict::RepositoryNotOurs.into());
    }
    match &new.start {
        Start::Seed(files) if files.is_empty() => {}
        Start::Seed(files) if found.empty => seed(gitea, new, &found, files).await?,
        Start::Seed(_) => was_seeded(gitea, new, &found).await?,
        Start::Generate(_) if fresh || found.empty => {}
        Start::Generate(_) => is_filled(gitea, &found).await?,
    }
    if let Some(wanted) = &gitea.settings.hook {
        hook::register(gitea, &found.name, wanted).await?;
    }
    let default_branch = branch(&found)?;
    let git_url = clone_url(gitea, &found)?;
    Ok(Repository { git_url, default_branch, forge_id: Some(found.id) })
}

pub(super) async fn delete(gitea: &Gitea, project: &ProjectId, nonce: Ulid) -> PortResult<()> {
    let Some(found) = look_up(gitea, project).await? else { return Ok(()) };
    if !found.description.ends_with(&ownership_tag(nonce)) {
        return Err(Conflict::RepositoryNotOurs.into());
    }
    let path = ["repos", &gitea.settings.owner, &found.name];
    let answer = gitea.send(Method::DELETE, &path, &[], None).await?;
    match answer.status {
        StatusCode::NO_CONTENT => Ok(()),
        _ if absent(&answer) => Ok(()),
        _ => Err(unexpected(&answer)),
    }
}

/// What tells a project's repository from others of its name.
fn ownership_tag(nonce: Ulid) -> String {
    format!("[rdev:{nonce}]")
}

/// The last line of the seed's message, by which its commit is found again.
fn trailer(nonce: Ulid) -> String {
    format!("Rdev-Seed: {nonce}")
}

fn description(new: &NewRepository) -> String {
    let text: String = new.description.chars().take(MAX_DESCRIPTION).collect();
    format!("{} {}", text.trim(), ownership_tag(new.nonce)).trim().to_owned()
}

/// Makes it; `None` when the name is taken.
async fn make(gitea: &Gitea, new: &NewRepository) -> PortResult<Option<Found>> {
    let settings = &gitea.settings;
    let mut body = json!({
        "name": new.project,
        "description": description(new),
        "private": settings.private,
        "default_branch": new.branch,
    });
    let template = match &new.start {
        Start::Seed(_) => None,
        Start::Generate(template) => Some(template_path(template)?),
    };
    let answer = match template {
        Some((owner, name)) => {
            body["owner"] = json!(settings.owner);
            body["git_content"] = json!(true);
            let path = ["repos", owner, name, "generate"];
            gitea.send(Method::POST, &path, &[], Some(&body)).await?
        }
        None => {
            body["auto_init"] = json!(false);
            let path: &[&str] = match owner_kind(gitea).await? {
                OwnerKind::User => &["user", "repos"],
                OwnerKind::Organisation => &["orgs", &settings.owner, "repos"],
            };
            gitea.send(Method::POST, path, &[], Some(&body)).await?
        }
    };
    match (answer.status, template) {
        (StatusCode::CREATED, _) => read(&answer, &new.project).map(Some),
        (StatusCode::CONFLICT, _) => Ok(None),
        (StatusCode::UNPROCESSABLE_ENTITY, _) => {
            if look_up(gitea, &new.project).await?.is_some() {
                return Ok(None);
            }
            // Which of the values it is, only its message knows.
            let what = if template.is_some() { "template or project id" } else { "project id" };
            Err(invalid(what, &answer))
        }
        (_, Some((owner, name))) if absent(&answer) => {
            let template = gitea.send(Method::GET, &["repos", owner, name], &[], None).await?;
            if absent(&template) {
                let why = "must be a repository on the forge that the token may read";
                return Err(Invalid::new("template", why).into());
            }
            Err(no_owner(gitea))
        }
        (_, None) if absent(&answer) => Err(no_owner(gitea)),
        _ => Err(unexpected(&answer)),
    }
}

fn no_owner(gitea: &Gitea) -> PortError {
    let owner = &gitea.settings.owner;
    PortError::upstream(WHAT, format!("there is no owner {owner:?} that the token may see"))
}

fn template_path(template: &str) -> Result<(&str, &str), Invalid> {
    match template.split_once('/') {
        Some((owner, name)) if plain(owner) && plain(name) => Ok((owner, name)),
        _ => Err(Invalid::new("template", "must be 'owner/name' of a repository on the forge")),
    }
}

/// Whose the repositories are to be. A token that may not read its own user may not make
/// repositories for it either, so that then it must be an organisation.
async fn owner_kind(gitea: &Gitea) -> PortResult<OwnerKind> {
    #[derive(Deserialize)]
    struct User {
        login: String,
    }
    let ask = || async {
        let answer = gitea.send(Method::GET, &["user"], &[], None).await?;
        match answer.status {
            StatusCode::OK => {
                let user: User = answer.json()?;
                let own = user.login.eq_ignore_ascii_case(&gitea.settings.owner);
                Ok(if own { OwnerKind::User } else { OwnerKind::Organisation })
            }
            StatusCode::FORBIDDEN => Ok(OwnerKind::Organisation),
            _ => Err(unexpected(&answer)),
        }
    };
    gitea.owner_kind.get_or_try_init(ask).await.copied()
}

async fn look_up(gitea: &Gitea, project: &ProjectId) -> PortResult<Option<Found>> {
    let path = ["repos", &gitea.settings.owner, project.as_str()];
    let answer = gitea.send(Method::GET, &path, &[], None).await?;
    match answer.status {
        StatusCode::OK => read(&answer, project).map(Some),
        _ if absent(&answer) => Ok(None),
        _ => Err(unexpected(&answer)),
    }
}

fn read(answer: &Answer, project: &ProjectId) -> PortResult<Found> {
    let found: Found = answer.json()?;
    if !found.name.eq_ignore_ascii_case(project.as_str()) {
        return Err(PortError::upstream(WHAT, "it answered with another repository"));
    }
    Ok(found)
}

/// Commits all files at once.
async fn seed(
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
            // Another call of ours may have been at it, whose answer nobody has waited for.
            match look_up(gitea, &new.project).await? {
                Some(found) if !found.empty => was_seeded(gitea, new, &found).await,
                _ if answer.status == StatusCode::CONFLICT => Err(Conflict::Contended.into()),
                _ => Err(invalid("template", &answer)),
            }
        }
        _ => Err(unexpected(&answer)),
    }
}

/// Makes sure that what is in the repository began with the seed, and not with somebody who
/// was faster.
async fn was_seeded(gitea: &Gitea, new: &NewRepository, found: &Found) -> PortResult<()> {
    let trailer = trailer(new.nonce);
    let seeded = |commits: &[Listed]| {
        commits.iter().any(|listed| listed.commit.message.lines().any(|line| line == trailer))
    };
    let (first, of) = commits(gitea, found, 1).await?;
    if seeded(&first) {
        return Ok(());
    }
    // The seed has no parent, so that it is on the last page.
    if !first.is_empty() && of > first.len() {
        let (last, _) = commits(gitea, found, of.div_ceil(first.len())).await?;
        if seeded(&last) {
            return Ok(());
        }
    }
    Err(Conflict::RepositoryNotOurs.into())
}

/// A page of the default branch's commits, newest first, and how many there are in all.
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
        // There are other branches, but not this one.
        _ if absent(&answer) => Ok((Vec::new(), 0)),
        _ => Err(unexpected(&answer)),
    }
}

/// Makes sure that the copying of a template has come to its end.
async fn is_filled(gitea: &Gitea, found: &Found) -> PortResult<()> {
    let path = ["repos", &gitea.settings.owner, &found.name, "branches", &found.default_branch];
    let answer = gitea.send(Method::GET, &path, &[], None).await?;
    match answer.status {
        StatusCode::OK => Ok(()),
        _ if absent(&answer) => Err(PortError::unavailable(
            WHAT,
            "the repository is still being copied from its template",
        )),
        _ => Err(unexpected(&answer)),
    }
}

fn branch(found: &Found) -> PortResult<Branch> {
    found.default_branch.parse().map_err(|error: Invalid| PortError::upstream(WHAT, error))
}

fn clone_url(gitea: &Gitea, found: &Found) -> PortResult<GitUrl> {
    if let Ok(url) = Url::parse(&found.clone_url)
        && url.origin() == gitea.root.origin()
        && let Ok(url) = found.clone_url.parse()
    {
        return Ok(url);
    }
    let root = gitea.root.as_str().trim_end_matches('/');
    let url = format!("{root}/{}/{}.git", gitea.settings.owner, found.name);
    url.parse().map_err(|error: Invalid| PortError::upstream(WHAT, error))
}
