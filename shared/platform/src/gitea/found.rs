//! Looking up a repository of ours.

use rdev_domain::Invalid;
use rdev_domain::git::Branch;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{PortError, PortResult};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use url::Url;

use super::{Gitea, RepositoryPath, SYSTEM, absent, is_valid_name, unexpected};
use crate::http::Answer;

/// A repository, with the fields that the adapter reads.
#[derive(Debug, Deserialize)]
pub(super) struct Found {
    pub(super) id: u64,
    pub(super) name: String,
    full_name: String,
    pub(super) description: String,
    pub(super) empty: bool,
    pub(super) default_branch: String,
    #[serde(default)]
    clone_url: String,
}

pub(super) async fn look_up(gitea: &Gitea, project: &ProjectId) -> PortResult<Option<Found>> {
    let path = ["repos", &gitea.settings.owner, project.as_str()];
    let answer = gitea.send(Method::GET, &path, &[], None).await?;
    match answer.status {
        StatusCode::OK => read(&answer, project).map(Some),
        _ if absent(&answer) => Ok(None),
        _ => Err(unexpected(&answer)),
    }
}

/// The repository of this id, whatever its name is by now.
pub(super) async fn by_id(gitea: &Gitea, id: u64) -> PortResult<Option<Found>> {
    let answer = gitea.send(Method::GET, &["repositories", &id.to_string()], &[], None).await?;
    match answer.status {
        StatusCode::OK => {
            let found: Found = answer.json()?;
            if found.id != id {
                return Err(PortError::upstream(SYSTEM, "it answered with another repository"));
            }
            Ok(Some(found))
        }
        _ if absent(&answer) => Ok(None),
        _ => Err(unexpected(&answer)),
    }
}

/// The repository in an answer, which must be the requested one.
pub(super) fn read(answer: &Answer, project: &ProjectId) -> PortResult<Found> {
    let found: Found = answer.json()?;
    if !found.name.eq_ignore_ascii_case(project.as_str()) {
        return Err(PortError::upstream(SYSTEM, "it answered with another repository"));
    }
    Ok(found)
}

impl Found {
    pub(super) fn branch(&self) -> PortResult<Branch> {
        self.default_branch.parse().map_err(|error: Invalid| PortError::upstream(SYSTEM, error))
    }

    /// Where it is.
    pub(super) fn path(&self) -> PortResult<RepositoryPath> {
        match self.full_name.split_once('/') {
            Some((owner, name)) if is_valid_name(owner) && is_valid_name(name) => {
                Ok(RepositoryPath { owner: owner.to_owned(), name: name.to_owned() })
            }
            _ => Err(PortError::upstream(SYSTEM, "a repository has no valid name")),
        }
    }

    pub(super) fn clone_url(&self, gitea: &Gitea) -> PortResult<GitUrl> {
        if let Ok(url) = Url::parse(&self.clone_url)
            && url.origin() == gitea.root.origin()
            && let Ok(url) = self.clone_url.parse()
        {
            return Ok(url);
        }
        gitea.clone_url_of(&gitea.settings.owner, &self.name)
    }
}
