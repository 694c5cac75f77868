//! The JSON of PowerDNS' answers, and what its refusals mean.

use rdev_domain::Invalid;
use rdev_domain::ports::PortError;
use reqwest::StatusCode;
use serde::Deserialize;

use super::ACCOUNT;
use crate::dns::SYSTEM;
use crate::http::Answer;

/// Why PowerDNS refused a change.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Another set of the name conflicts with it.
    Taken,
    /// PowerDNS failed and changed nothing; it may make the change a moment later.
    Busy(PortError),
    Other(PortError),
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
    /// Whether it decides what a name (with its final dot) resolves to. With a filter by name, the
    /// server shows comments of other names as sets without records.
    pub(super) fn resolves(&self, name: &str) -> bool {
        matches!(self.kind.as_str(), "A" | "AAAA" | "CNAME")
            && self.name.eq_ignore_ascii_case(name)
            && !self.records.is_empty()
    }

    pub(super) fn has(&self, tag: &str) -> bool {
        self.comments.iter().any(|comment| comment.content == tag)
    }

    /// The comment by rdev, else the first comment.
    pub(super) fn ownership_tag(&self) -> Option<&str> {
        let ours = self.comments.iter().find(|comment| comment.account == ACCOUNT);
        ours.or(self.comments.first()).map(|comment| comment.content.as_str())
    }
}

impl Record {
    /// The content in the form of a target.
    pub(super) fn content(&self) -> String {
        let text = self.content.strip_suffix('.').unwrap_or(&self.content);
        text.to_ascii_lowercase()
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

/// The reason that PowerDNS gives for an error: the field `error` of a JSON body, or a plain text.
pub(super) fn said(answer: &Answer) -> String {
    match answer.json::<ErrorBody>() {
        Ok(body) => body.error,
        Err(_) => answer.text_line(),
    }
}

/// What an answer to a change means that is not 204.
pub(super) fn refusal(answer: &Answer) -> Refusal {
    match answer.status {
        StatusCode::UNPROCESSABLE_ENTITY => {}
        StatusCode::INTERNAL_SERVER_ERROR => {
            return Refusal::Busy(answer.unexpected(&said(answer)));
        }
        _ => return answer.unexpected(&said(answer)).into(),
    }
    let said = match answer.json::<ErrorBody>() {
        Ok(body) => body.error,
        Err(error) => return error.into(),
    };
    if said.contains("Conflicts with") {
        return Refusal::Taken;
    }
    if said.contains("editing comments") {
        let why = "the zone's backend keeps no comments, and rdev tags its records with them: \
                   use the one of SQLite, MySQL or PostgreSQL";
        return PortError::upstream(SYSTEM, why).into();
    }
    let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
    let why = format!("is refused by the DNS provider: {said}");
    Refusal::Other(Invalid::new("record", why).into())
}
