//! Projects.

use serde::{Deserialize, Serialize};
use ulid::Ulid;
use utoipa::ToSchema;

use crate::git::Branch;
use crate::git_url::GitUrl;
use crate::ids::ProjectId;
use crate::time::Timestamp;

/// A project: a repository, and what builds of it have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Project {
    /// Its id, which is also its name.
    pub id: ProjectId,
    /// For people, at most 1,000 characters.
    pub description: String,
    /// The template its repository started from.
    pub template: Option<String>,
    /// Its repository; absent while it is provisioned, and for a project
    /// whose builds name their own.
    pub git_url: Option<GitUrl>,
    /// The branch that builds use unless they name another.
    pub default_branch: Branch,
    /// How many of its tasks may run or push at once: 1 to 100, 1 by default.
    pub build_limit: u32,
    /// Whether it takes builds.
    pub state: ProjectState,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Which request made it: tells that request, repeated, from another one.
    #[serde(default)]
    #[schema(ignore)]
    pub nonce: Ulid,
}

/// Where a project is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProjectState {
    /// Its repository is being made.
    Provisioning,
    /// It takes builds.
    Ready,
    /// Its repository could not be made.
    ProvisioningFailed,
    /// It is being deleted and takes nothing new.
    Deleting,
}

impl ProjectState {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Ready => "ready",
            Self::ProvisioningFailed => "provisioning_failed",
            Self::Deleting => "deleting",
        }
    }
}

/// A change of a project; absent fields stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProjectPatch {
    /// A new description.
    pub description: Option<String>,
    /// Another default branch.
    pub default_branch: Option<Branch>,
    /// Another limit; raising it sends a wake-up.
    pub build_limit: Option<u32>,
    /// The repository, once it has been made.
    pub git_url: Option<GitUrl>,
    /// Another state. Nothing leaves `deleting`.
    pub state: Option<ProjectState>,
}
