//! Creating, completing and deleting repositories.

use rdev_domain::Invalid;
use rdev_domain::ports::{
    Conflict, NewRepository, OwnRepository, PortError, PortResult, Repository, Start,
};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use ulid::Ulid;

use super::found::{self, Found, look_up};
use super::seed::{check_generated, check_seeded, commit_seed};
use super::{Gitea, OwnerKind, SYSTEM, absent, hook, invalid, is_valid_name, unexpected};

/// The most characters of a project's description that are kept; Gitea accepts 2,048 with the tag.
const MAX_DESCRIPTION: usize = 1900;

pub(super) async fn create(gitea: &Gitea, new: &NewRepository) -> PortResult<Repository> {
    let created = try_create(gitea, new).await?;
    let is_new = created.is_some();
    let found = match created {
        Some(found) => found,
        // The name is taken, even if the token may not see the repository.
        None => look_up(gitea, &new.project).await?.ok_or(Conflict::RepositoryNotOurs)?,
    };
    if !found.description.ends_with(&ownership_tag(new.nonce)) {
        if is_new {
            return Err(PortError::upstream(
                SYSTEM,
                "it did not store the repository's description",
            ));
        }
        return Err(Conflict::RepositoryNotOurs.into());
    }
    match &new.start {
        Start::Seed(files) if files.is_empty() => {}
        Start::Seed(files) if found.empty => commit_seed(gitea, new, &found, files).await?,
        Start::Seed(_) => check_seeded(gitea, new, &found).await?,
        Start::Generate(_) if is_new || found.empty => {}
        Start::Generate(_) => check_generated(gitea, &found).await?,
    }
    if let Some(hook) = &gitea.settings.hook {
        hook::register(gitea, &found.name, hook).await?;
    }
    let default_branch = found.branch()?;
    let git_url = found.clone_url(gitea)?;
    Ok(Repository { git_url, default_branch, forge_id: Some(found.id) })
}

pub(super) async fn delete(gitea: &Gitea, of: &OwnRepository) -> PortResult<()> {
    let by_id = match of.forge_id {
        Some(id) => found::by_id(gitea, id).await?,
        None => None,
    };
    let is_known = by_id.is_some();
    let found = match by_id {
        Some(found) => found,
        // It is gone, or its id is not known. People may have made it anew, with its description.
        None => match look_up(gitea, &of.project).await? {
            Some(found) => found,
            None => return Ok(()),
        },
    };
    if !found.description.ends_with(&ownership_tag(of.nonce)) {
        if of.forge_id.is_some() && !is_known {
            // Ours is gone, and somebody else has taken its name.
            return Ok(());
        }
        return Err(Conflict::RepositoryNotOurs.into());
    }
    let path = found.path()?;
    let path = ["repos", &path.owner, &path.name];
    let answer = gitea.send(Method::DELETE, &path, &[], None).await?;
    match answer.status {
        StatusCode::NO_CONTENT => Ok(()),
        _ if absent(&answer) => Ok(()),
        _ => Err(unexpected(&answer)),
    }
}

/// The tag that tells a project's repository from others of the same name.
fn ownership_tag(nonce: Ulid) -> String {
    format!("[rdev:{nonce}]")
}

fn description(new: &NewRepository) -> String {
    let text: String = new.description.chars().take(MAX_DESCRIPTION).collect();
    format!("{} {}", text.trim(), ownership_tag(new.nonce)).trim().to_owned()
}

/// Creates the repository; `None` when the name is taken.
async fn try_create(gitea: &Gitea, new: &NewRepository) -> PortResult<Option<Found>> {
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
        (StatusCode::CREATED, _) => found::read(&answer, &new.project).map(Some),
        (StatusCode::CONFLICT, _) => Ok(None),
        (StatusCode::UNPROCESSABLE_ENTITY, _) => {
            if look_up(gitea, &new.project).await?.is_some() {
                return Ok(None);
            }
            // Only the message says which value is wrong.
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
    PortError::upstream(SYSTEM, format!("there is no owner {owner:?} that the token may see"))
}

fn template_path(template: &str) -> Result<(&str, &str), Invalid> {
    match template.split_once('/') {
        Some((owner, name)) if is_valid_name(owner) && is_valid_name(name) => Ok((owner, name)),
        _ => Err(Invalid::new("template", "must be 'owner/name' of a repository on the forge")),
    }
}

/// The kind of the configured owner. A token that may not read its own user may not create
/// repositories for it either, so the owner must be an organisation then.
async fn owner_kind(gitea: &Gitea) -> PortResult<OwnerKind> {
    #[derive(Deserialize)]
    struct User {
        login: String,
    }
    let look_up = || async {
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
    gitea.owner_kind.get_or_try_init(look_up).await.copied()
}
