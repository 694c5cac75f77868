//! What PowerDNS's answers look like, and what its refusals mean.

use rdev_domain::Invalid;
use rdev_domain::ports::{Conflict, PortError};
use reqwest::StatusCode;
use serde::Deserialize;

use super::ACCOUNT;
use crate::dns::WHAT;
use crate::http::Answer;

/// Why a change was not made.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Another set is in the way.
    Taken,
    Other(PortError),
}

impl Refusal {
    pub(super) fn into_error(self) -> PortError {
        match self {
            Self::Taken => Conflict::Contended.into(),
            Self::Other(error) => error,
        }
    }
}

impl From<PortError> for Refusal {
    fn from(error: PortError) -> Self {
        Self::Other(error)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct ZoneView {
    pub(super) rrsets: Vec<RecordSet>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct RecordSet {
    name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) ttl: u32,
    pub(super) records: Vec<Record>,
    #[serde(default)]
    pub(super) comments: Vec<Comment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Record {
    content: String,
    #[serde(default)]
    pub(super) disabled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Comment {
    pub(super) content: String,
    #[serde(default)]
    pub(super) account: String,
    #[serde(default)]
    pub(super) modified_at: i64,
}

impl RecordSet {
    /// Whether it decides where a name (with its final dot) leads. Under a filter by name the
    /// server shows comments of other names as sets without records.
    pub(super) fn leads(&self, name: &str) -> bool {
        matches!(self.kind.as_str(), "A" | "AAAA" | "CNAME")
            && self.name.eq_ignore_ascii_case(name)
            && !self.records.is_empty()
    }

    pub(super) fn has(&self, tag: &str) -> bool {
        self.comments.iter().any(|comment| comment.content == tag)
    }

    /// The comment by rdev; any other when there is none.
    pub(super) fn ownership_tag(&self) -> Option<&str> {
        let ours = self.comments.iter().find(|comment| comment.account == ACCOUNT);
        ours.or(self.comments.first()).map(|comment| comment.content.as_str())
    }
}

impl Record {
    /// What it says, as a target says it.
    pub(super) fn content(&self) -> String {
        let text = self.content.strip_suffix('.').unwrap_or(&self.content);
        text.to_ascii_lowercase()
    }
}

#[derive(Deserialize)]
struct Said {
    error: String,
}

/// What an answer to a change means that is not 204.
pub(super) fn refusal(answer: &Answer) -> Refusal {
    if answer.status != StatusCode::UNPROCESSABLE_ENTITY {
        return answer.unexpected("").into();
    }
    let said = match answer.json::<Said>() {
        Ok(said) => said.error,
        Err(error) => return error.into(),
    };
    if said.contains("Conflicts with") {
        return Refusal::Taken;
    }
    if said.contains("editing comments") {
        let why = "the zone's backend keeps no comments, and rdev tags its records with them: \
                   use the one of SQLite, MySQL or PostgreSQL";
        return PortError::upstream(WHAT, why).into();
    }
    let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
    let why = format!("is refused by the DNS provider: {said}");
    Refusal::Other(Invalid::new("record", why).into())
}
