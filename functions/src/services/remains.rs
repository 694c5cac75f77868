//! What a deleted project leaves in other systems, because these refuse to let rdev remove it.
//!
//! A system that does not answer may answer later, so the project stays `deleting` and the sweep
//! ends its deletion. A system that says no will say it again: the deletion ends, and tells people
//! what is left for them to remove.

use rdev_domain::chain;
use rdev_domain::ports::{Conflict, PortError, PortResult};
use serde::Serialize;
use utoipa::ToSchema;

/// Something that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Remains {
    /// What it is.
    pub what: RemainsOf,
    /// Its name there: the repository's URL, its id at the CI server, the domain.
    pub name: String,
    /// What stays and why, for people.
    pub detail: String,
}

/// What stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RemainsOf {
    /// The repository on the forge.
    Repository,
    /// The repository at the CI server.
    Ci,
    /// The record at the DNS provider.
    Domain,
}

impl Remains {
    /// What stays after a try to remove it: nothing, if it is gone.
    ///
    /// # Errors
    /// The error of the try, if another one may succeed.
    pub(crate) fn of(
        what: RemainsOf,
        name: impl Into<String>,
        removed: PortResult<()>,
    ) -> PortResult<Option<Self>> {
        let error = match removed {
            Ok(()) => return Ok(None),
            Err(error) => error,
        };
        let refused = matches!(
            error,
            PortError::Denied { .. }
                | PortError::Conflict(Conflict::RepositoryNotOurs | Conflict::RecordNotOurs)
        );
        if !refused {
            return Err(error);
        }
        let name = name.into();
        let thing = match what {
            RemainsOf::Repository => format!("the repository {name}"),
            RemainsOf::Ci => format!("repository {name} at the CI server"),
            RemainsOf::Domain => format!("the DNS record of {name}"),
        };
        let detail =
            format!("{thing} stays: {}; remove it there if nobody needs it", chain(&error));
        Ok(Some(Self { what, name, detail }))
    }
}

/// All of it in one text, for the audit.
pub(crate) fn in_words(left: &[Remains]) -> Option<String> {
    let details: Vec<&str> = left.iter().map(|one| one.detail.as_str()).collect();
    (!details.is_empty()).then(|| details.join("\n"))
}
