//! The JSON of Cloudflare's answers, and what its refusals mean.

use rdev_domain::Invalid;
use rdev_domain::dns::DomainName;
use rdev_domain::ports::{Conflict, DnsRecord, PortError};
use reqwest::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::dns::SYSTEM;
use crate::http::Answer;

/// The record conflicts with an identical one, or with one that a CNAME excludes.
const TAKEN: [u32; 4] = [81053, 81054, 81057, 81058];

/// No record has that id.
const GONE: u32 = 81044;

/// The token is invalid or has no right to this. Some of these codes come with status 400.
const TOKEN: [u32; 7] = [6003, 6111, 9103, 9106, 9109, 10000, 10001];

/// Why Cloudflare refused a call.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The record conflicts with another one.
    Taken,
    /// The record does not exist.
    Gone,
    Other(PortError),
}

impl Refusal {
    pub(super) fn into_error(self) -> PortError {
        match self {
            Self::Taken | Self::Gone => Conflict::Contended.into(),
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
struct Envelope {
    success: bool,
    #[serde(default)]
    errors: Option<Vec<Fault>>,
    #[serde(default)]
    result: Value,
    #[serde(default)]
    result_info: Option<Pages>,
}

#[derive(Debug, Deserialize)]
struct Fault {
    #[serde(default)]
    code: u32,
    #[serde(default)]
    message: String,
    /// The real reason, if the error itself only says that something is invalid.
    #[serde(default)]
    error_chain: Option<Vec<Fault>>,
}

#[derive(Debug, Default, Deserialize)]
struct Pages {
    #[serde(default)]
    total_pages: Option<u32>,
}

/// One page of a list.
#[derive(Debug)]
pub(super) struct Listed<T> {
    pub(super) items: Vec<T>,
    /// The number of all pages.
    pub(super) pages: u32,
}

#[derive(Debug, Deserialize)]
pub(super) struct Zone {
    pub(super) id: String,
    pub(super) name: String,
    #[serde(default)]
    pub(super) status: Option<String>,
    #[serde(default)]
    pub(super) permissions: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    content: String,
    pub(super) ttl: u32,
    #[serde(default)]
    pub(super) proxied: bool,
    #[serde(default)]
    comment: Option<String>,
    #[serde(default)]
    pub(super) created_on: Option<String>,
}

impl Record {
    /// Whether it decides what `name` resolves to.
    pub(super) fn resolves(&self, name: &DomainName) -> bool {
        matches!(self.kind.as_str(), "A" | "AAAA" | "CNAME")
            && self.name.eq_ignore_ascii_case(name.as_str())
    }

    pub(super) fn has(&self, tag: &str) -> bool {
        self.comment.as_deref() == Some(tag)
    }

    /// The content in the form of a target.
    pub(super) fn content(&self) -> String {
        let text = self.content.strip_suffix('.').unwrap_or(&self.content);
        text.to_ascii_lowercase()
    }
}

impl From<Record> for DnsRecord {
    fn from(record: Record) -> Self {
        Self {
            content: record.content(),
            id: record.id,
            kind: record.kind.parse().ok(),
            ttl: record.ttl,
            proxied: record.proxied,
            ownership_tag: record.comment.filter(|comment| !comment.is_empty()),
        }
    }
}

/// The result of a batch.
#[derive(Debug, Deserialize)]
pub(super) struct Batch {
    #[serde(default)]
    pub(super) patches: Option<Vec<Record>>,
    #[serde(default)]
    pub(super) posts: Option<Vec<Record>>,
}

/// The result of `GET /user/tokens/verify`.
#[derive(Debug, Deserialize)]
pub(super) struct Verified {
    pub(super) status: String,
}

/// The result of a call.
pub(super) fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T, Refusal> {
    unwrap_envelope(answer).and_then(|(result, _)| parse(result))
}

/// The result of a call that lists.
pub(super) fn read_list<T: DeserializeOwned>(answer: &Answer) -> Result<Listed<T>, Refusal> {
    let (result, info) = unwrap_envelope(answer)?;
    let pages = info.and_then(|info| info.total_pages).unwrap_or(1);
    Ok(Listed { items: parse(result)?, pages })
}

fn unwrap_envelope(answer: &Answer) -> Result<(Value, Option<Pages>), Refusal> {
    let status = answer.status;
    let denied = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    if denied || status.is_server_error() || status.is_redirection() {
        return Err(answer.unexpected("").into());
    }
    let envelope: Envelope = answer.json()?;
    if status.is_success() && envelope.success {
        return Ok((envelope.result, envelope.result_info));
    }
    Err(refusal(answer, &envelope.errors.unwrap_or_default()))
}

fn parse<T: DeserializeOwned>(result: Value) -> Result<T, Refusal> {
    serde_json::from_value(result).map_err(|error| PortError::upstream(SYSTEM, error).into())
}

fn refusal(answer: &Answer, errors: &[Fault]) -> Refusal {
    let chained = errors.iter().flat_map(|error| error.error_chain.iter().flatten());
    // The chain first: it is more precise.
    let faults: Vec<&Fault> = chained.chain(errors).collect();
    let find = |codes: &[u32]| faults.iter().find(|fault| codes.contains(&fault.code));
    if find(&TAKEN).is_some() {
        return Refusal::Taken;
    }
    if find(&[GONE]).is_some() {
        return Refusal::Gone;
    }
    if let Some(fault) = find(&TOKEN) {
        let what = format!("{SYSTEM} (code {})", fault.code);
        return PortError::Denied { what }.into();
    }
    // Errors in a record have these codes; 1004 announces them.
    let bad = faults.iter().find(|fault| matches!(fault.code, 1004 | 9000..=9099));
    if let Some(fault) = bad {
        let what = match fault.code {
            9000 => "domain",
            9005..=9007 => "target",
            9021 => "ttl",
            _ => "record",
        };
        let reason: String = fault.message.chars().filter(|c| !c.is_control()).take(200).collect();
        let why = format!("is refused by the DNS provider: {reason} ({})", fault.code);
        return Refusal::Other(Invalid::new(what, why).into());
    }
    let reasons: Vec<String> =
        faults.iter().map(|fault| format!("{} ({})", fault.message, fault.code)).collect();
    answer.unexpected(&reasons.join("; ")).into()
}
