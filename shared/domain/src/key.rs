//! API keys and their scopes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Invalid;
use crate::ids::KeyId;
use crate::time::Timestamp;

/// An API key as it is stored: never its secret, only a digest of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// The public part, which is in the key's text.
    pub id: KeyId,
    /// What people call it, at most 100 characters.
    pub name: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// SHA-256 of the 256-bit secret, in hexadecimal.
    pub secret_sha256: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// What a key allows. `admin` allows everything.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
pub enum Scope {
    /// Everything, keys and the audit log too.
    #[serde(rename = "admin")]
    Admin,
    /// See projects.
    #[serde(rename = "projects:read")]
    ProjectsRead,
    /// Create, change and delete projects.
    #[serde(rename = "projects:write")]
    ProjectsWrite,
    /// See builds, their events and diffs.
    #[serde(rename = "builds:read")]
    BuildsRead,
    /// Start, cancel and retry builds.
    #[serde(rename = "builds:write")]
    BuildsWrite,
    /// See domains.
    #[serde(rename = "domains:read")]
    DomainsRead,
    /// Add and remove domains.
    #[serde(rename = "domains:write")]
    DomainsWrite,
    /// Use the zone itself, wildcards and names that begin with `_` too.
    #[serde(rename = "domains:admin")]
    DomainsAdmin,
    /// See pipelines.
    #[serde(rename = "ci:read")]
    CiRead,
    /// Restart and cancel pipelines.
    #[serde(rename = "ci:write")]
    CiWrite,
    /// See the raw queue.
    #[serde(rename = "work:read")]
    WorkRead,
    /// Use the raw queue.
    #[serde(rename = "work:write")]
    WorkWrite,
    /// See workers and metrics.
    #[serde(rename = "workers:read")]
    WorkersRead,
    /// Drain and resume workers.
    #[serde(rename = "workers:write")]
    WorkersWrite,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 14] = [
        Self::Admin,
        Self::ProjectsRead,
        Self::ProjectsWrite,
        Self::BuildsRead,
        Self::BuildsWrite,
        Self::DomainsRead,
        Self::DomainsWrite,
        Self::DomainsAdmin,
        Self::CiRead,
        Self::CiWrite,
        Self::WorkRead,
        Self::WorkWrite,
        Self::WorkersRead,
        Self::WorkersWrite,
    ];

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::ProjectsRead => "projects:read",
            Self::ProjectsWrite => "projects:write",
            Self::BuildsRead => "builds:read",
            Self::BuildsWrite => "builds:write",
            Self::DomainsRead => "domains:read",
            Self::DomainsWrite => "domains:write",
            Self::DomainsAdmin => "domains:admin",
            Self::CiRead => "ci:read",
            Self::CiWrite => "ci:write",
            Self::WorkRead => "work:read",
            Self::WorkWrite => "work:write",
            Self::WorkersRead => "workers:read",
            Self::WorkersWrite => "workers:write",
        }
    }
}

impl ApiKey {
    /// Whether the key allows what `scope` stands for.
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| Invalid::new("scope", "is not one of the documented scopes"))
    }
}
