//! API keys and their scopes.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumCount, EnumString, IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use crate::Invalid;
use crate::ids::KeyId;
use crate::names::names;
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
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
    Display,
    EnumCount,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[strum(parse_err_ty = Invalid, parse_err_fn = unknown_scope)]
pub enum Scope {
    /// Everything, keys and the audit log too.
    #[serde(rename = "admin")]
    #[strum(serialize = "admin")]
    Admin,
    /// See projects.
    #[serde(rename = "projects:read")]
    #[strum(serialize = "projects:read")]
    ProjectsRead,
    /// Create, change and delete projects.
    #[serde(rename = "projects:write")]
    #[strum(serialize = "projects:write")]
    ProjectsWrite,
    /// See builds, their events and diffs.
    #[serde(rename = "builds:read")]
    #[strum(serialize = "builds:read")]
    BuildsRead,
    /// Start, cancel and retry builds.
    #[serde(rename = "builds:write")]
    #[strum(serialize = "builds:write")]
    BuildsWrite,
    /// See domains.
    #[serde(rename = "domains:read")]
    #[strum(serialize = "domains:read")]
    DomainsRead,
    /// Add and remove domains.
    #[serde(rename = "domains:write")]
    #[strum(serialize = "domains:write")]
    DomainsWrite,
    /// Use the zone itself, wildcards and names that begin with `_` too.
    #[serde(rename = "domains:admin")]
    #[strum(serialize = "domains:admin")]
    DomainsAdmin,
    /// See pipelines.
    #[serde(rename = "ci:read")]
    #[strum(serialize = "ci:read")]
    CiRead,
    /// Restart and cancel pipelines.
    #[serde(rename = "ci:write")]
    #[strum(serialize = "ci:write")]
    CiWrite,
    /// See the raw queue.
    #[serde(rename = "work:read")]
    #[strum(serialize = "work:read")]
    WorkRead,
    /// Use the raw queue.
    #[serde(rename = "work:write")]
    #[strum(serialize = "work:write")]
    WorkWrite,
    /// See workers and metrics.
    #[serde(rename = "workers:read")]
    #[strum(serialize = "workers:read")]
    WorkersRead,
    /// Drain and resume workers.
    #[serde(rename = "workers:write")]
    #[strum(serialize = "workers:write")]
    WorkersWrite,
}

names!(Scope);

impl ApiKey {
    /// Whether the key has `scope` or `admin`.
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }
}

fn unknown_scope(_: &str) -> Invalid {
    Invalid::new("scope", "is not one of the documented scopes")
}
