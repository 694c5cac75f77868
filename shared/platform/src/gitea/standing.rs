//! Where a repository is now, and whether it takes a push.

use rdev_domain::git::Branch;
use rdev_domain::ports::{PortError, PortResult, PushRight, PushTarget, Standing};
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::{Gitea, RepositoryPath, SYSTEM, absent, is_valid_name, refused};

/// A repository, with the fields that tell whether it takes a push.
#[derive(Debug, Deserialize)]
struct Found {
    full_name: String,
    archived: bool,
    /// Of the token's user; absent where the server does not say.
    permissions: Option<Permissions>,
}

#[derive(Debug, Deserialize)]
struct Permissions {
    push: bool,
}

/// A branch, with the field that tells whether it takes a push.
#[derive(Debug, Deserialize)]
struct FoundBranch {
    user_can_push: bool,
}

pub(super) async fn of(gitea: &Gitea, target: &PushTarget) -> PortResult<Standing> {
    let known = gitea.repository_path(&target.git_url, "a repository outside of the forge")?;
    let (found, branch) =
        tokio::join!(find(gitea, target, &known), protects(gitea, &known, &target.branch));
    let found = found?;
    let (owner, name) = match found.full_name.split_once('/') {
        Some((owner, name)) if is_valid_name(owner) && is_valid_name(name) => (owner, name),
        _ => return Err(PortError::upstream(SYSTEM, "a repository has no valid name")),
    };
    let path = RepositoryPath { owner: owner.to_owned(), name: name.to_owned() };
    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    let is_there = same(&path.owner, &known.owner) && same(&path.name, &known.name);
    let protected = match is_there {
        true => branch?,
        false => protects(gitea, &path, &target.branch).await?,
    };
    let push = if found.archived {
        PushRight::Archived
    } else if found.permissions.is_some_and(|permissions| !permissions.push) {
        PushRight::Denied
    } else if protected {
        PushRight::BranchProtected
    } else {
        PushRight::Granted
    };
    let moved_to = if is_there { None } else { Some(gitea.clone_url_of(&path.owner, &path.name)?) };
    Ok(Standing { moved_to, push })
}

/// The repository by its id, which it keeps; where there is none of that id, by its name: people
/// may have made it anew.
async fn find(gitea: &Gitea, target: &PushTarget, known: &RepositoryPath) -> PortResult<Found> {
    if let Some(id) = target.forge_id {
        let id = id.to_string();
        let answer = gitea.send(Method::GET, &["repositories", &id], &[], None).await?;
        match answer.status {
            StatusCode::OK => return answer.json(),
            _ if absent(&answer) => {}
            _ => return Err(refused(&answer, known)),
        }
    }
    let path = ["repos", &known.owner, &known.name];
    let answer = gitea.send(Method::GET, &path, &[], None).await?;
    match answer.status {
        StatusCode::OK => answer.json(),
        _ if absent(&answer) => {
            Err(PortError::not_found(format!("\"{}/{}\"", known.owner, known.name)))
        }
        _ => Err(refused(&answer, known)),
    }
}

/// Whether a branch takes no push of the token's user. One that is not there is not protected, as
/// far as the server tells.
async fn protects(gitea: &Gitea, of: &RepositoryPath, branch: &Branch) -> PortResult<bool> {
    let mut path = vec!["repos", &of.owner, &of.name, "branches"];
    // The name is the rest of the path, with its slashes.
    path.extend(branch.as_str().split('/'));
    let answer = gitea.send(Method::GET, &path, &[], None).await?;
    match answer.status {
        StatusCode::OK => Ok(!answer.json::<FoundBranch>()?.user_can_push),
        _ if absent(&answer) => Ok(false),
        // In an empty repository, or one with another name by now.
        _ if answer.status == StatusCode::NOT_FOUND || answer.status.is_redirection() => Ok(false),
        _ => Err(refused(&answer, of)),
    }
}
