//! PowerDNS behind [`Dns`]: record sets of one zone, over the HTTP API of the authoritative
//! server (4.5 or later).
//!
//! The ownership tag is a comment of the record set, since PowerDNS has no comments on single
//! records: every record in a set with our ownership tag is ours. So the zone's backend must store
//! comments, as those of SQLite, MySQL and PostgreSQL do. An id is `<name>/<type>`.
//!
//! PowerDNS has no proxy, and no automatic time to live: the adapter uses 300 s. It has no
//! conditional write either: every change reads, compares and writes, and in between somebody
//! else may write the same set. Changes by rdev end with one record all the same: the adapter
//! writes whole sets, and PowerDNS refuses a CNAME beside another set, which is then read again.
//!
//! Of several changes at the same moment, PowerDNS' SQLite backend accepts one, rolls the others
//! back and answers them with 500. So the adapter retries a change that is answered with 500. Each
//! retry reads the sets again and decides anew what to write. The pauses grow from about 50 ms to
//! about 1 s, and no retry starts later than [`RETRY_FOR`] after the operation began. If PowerDNS
//! still answers 500, the operation fails with `Unavailable` and PowerDNS' own words.

mod check;
mod wire;

use std::time::Duration;

use async_trait::async_trait;
use rdev_domain::Invalid;
use rdev_domain::dns::{DomainName, DomainSpec, RecordKind, Ttl};
use rdev_domain::hostname::Hostname;
use rdev_domain::ports::{Conflict, Dns, DnsRecord, PortError, PortResult};
use rdev_domain::token::Token;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::dns::{ROUNDS, SYSTEM, check, check_name, check_ownership_tag};
use crate::http::{Auth, Http};
use crate::retry::Retries;
use wire::{RecordSet, Refusal, ZoneView, refusal, said};

/// The time to live in seconds when the provider may choose it.
const AUTOMATIC_TTL: u32 = 300;

/// The author of a comment, as PowerDNS shows it.
const ACCOUNT: &str = "rdev";

/// How PowerDNS is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The URL of its web server, such as `http://127.0.0.1:8081`.
    pub url: String,
    /// The zone, such as `example.com`. It must exist.
    pub zone: Hostname,
    /// The server's id in the API.
    pub server: String,
    /// Seconds to wait for an answer.
    pub timeout_s: u64,
    /// How long a change that is answered with 500 is retried: [`RETRY_FOR`].
    pub retry_for: Duration,
}

/// How long a change that is answered with 500 is retried: 10 s.
pub const RETRY_FOR: Duration = Duration::from_secs(10);

/// The adapter.
#[derive(Debug)]
pub struct PowerDns {
    http: Http,
    zone: Hostname,
    /// The zone as the API names it, with the final dot.
    zone_id: String,
    server: String,
    retry_for: Duration,
}

impl PowerDns {
    /// Makes the adapter. It sends nothing yet. `token` is the server's `api-key`.
    ///
    /// # Errors
    /// When the URL is invalid.
    pub fn new(settings: Settings, token: Token) -> Result<Self, Invalid> {
        let Settings { url, zone, server, timeout_s, retry_for } = settings;
        let timeout = Duration::from_secs(timeout_s.max(1));
        let http = Http::new(SYSTEM, &url, Auth::ApiKey, token, timeout)?;
        Ok(Self { http, zone_id: format!("{zone}."), zone, server, retry_for })
    }

    fn path(&self) -> [&str; 6] {
        ["api", "v1", "servers", &self.server, "zones", &self.zone_id]
    }

    /// The sets of A, AAAA and CNAME records of a name.
    async fn sets(&self, name: &DomainName) -> PortResult<Vec<RecordSet>> {
        let dotted = format!("{name}.");
        // Servers before 4.5 ignore the filter and answer with the whole zone.
        let query = [("rrset_name", dotted.as_str())];
        let answer = self.http.send(Method::GET, &self.path(), &query, None).await?;
        if answer.status != StatusCode::OK {
            return Err(match answer.status {
                StatusCode::NOT_FOUND => {
                    PortError::upstream(SYSTEM, format!("it has no zone {}", self.zone))
                }
                _ => answer.unexpected(&said(&answer)),
            });
        }
        let zone: ZoneView = answer.json()?;
        Ok(zone.rrsets.into_iter().filter(|set| set.resolves(&dotted)).collect())
    }

    /// Applies changes to record sets, all or none.
    async fn change(&self, sets: &[Value]) -> Result<(), Refusal> {
        let body = json!({ "rrsets": sets });
        let answer = self.http.send(Method::PATCH, &self.path(), &[], Some(&body)).await?;
        match answer.status {
            StatusCode::NO_CONTENT => Ok(()),
            _ => Err(refusal(&answer)),
        }
    }
}

#[async_trait]
impl Dns for PowerDns {
    async fn put(&self, spec: &DomainSpec, tag: &str) -> PortResult<String> {
        check(spec, &self.zone, tag)?;
        let kind = spec.target.kind();
        if kind == RecordKind::Cname && spec.domain.as_str() == self.zone.as_str() {
            return Err(Invalid::new("type", "must be A for the zone itself").into());
        }
        let id = id(&spec.domain, kind.as_str());
        // The sets that were there when PowerDNS refused a change because of another set.
        let mut refused: Option<Vec<RecordSet>> = None;
        let mut retries = Retries::within(self.retry_for);
        let mut rounds = 0;
        while rounds < ROUNDS {
            let there = self.sets(&spec.domain).await?;
            if there.iter().any(|set| !set.has(tag)) {
                return Err(Conflict::RecordNotOurs.into());
            }
            if refused.as_ref() == Some(&there) {
                // The conflict is with a set of a type that rdev neither creates nor lists.
                return Err(Conflict::RecordNotOurs.into());
            }
            let (same, others): (Vec<&RecordSet>, Vec<&RecordSet>) =
                there.iter().partition(|set| set.kind == kind.as_str());
            if others.is_empty() && same.iter().any(|set| matches(set, spec)) {
                return Ok(id);
            }
            let mut changes: Vec<Value> =
                others.iter().map(|set| deletion(&spec.domain, &set.kind)).collect();
            changes.push(replacement(spec, tag, same.first().copied()));
            match self.change(&changes).await {
                Ok(()) => return Ok(id),
                Err(Refusal::Taken) => {
                    refused = Some(there);
                    rounds += 1;
                }
                Err(Refusal::Busy(error)) => {
                    refused = None;
                    retries.pause(error).await?;
                }
                Err(Refusal::Other(error)) => return Err(error),
            }
        }
        Err(Conflict::Contended.into())
    }

    async fn records(&self, name: &DomainName) -> PortResult<Vec<DnsRecord>> {
        check_name(name, &self.zone)?;
        let there = self.sets(name).await?;
        Ok(there.iter().flat_map(|set| records(name, set)).collect())
    }

    async fn delete(&self, name: &DomainName, recorded: Option<&str>, tag: &str) -> PortResult<()> {
        check_name(name, &self.zone)?;
        check_ownership_tag(tag)?;
        let mut retries = Retries::within(self.retry_for);
        loop {
            let there = self.sets(name).await?;
            let ours: Vec<&RecordSet> = there.iter().filter(|set| set.has(tag)).collect();
            if ours.is_empty() {
                return if there.is_empty() { Ok(()) } else { Err(Conflict::RecordNotOurs.into()) };
            }
            let is_there = |recorded: &str| ours.iter().any(|set| id(name, &set.kind) == recorded);
            if let Some(recorded) = recorded.filter(|recorded| !is_there(recorded)) {
                tracing::info!(%name, recorded, "the recorded DNS record does not exist");
            }
            let changes: Vec<Value> = ours.iter().map(|set| deletion(name, &set.kind)).collect();
            match self.change(&changes).await {
                Ok(()) => return Ok(()),
                Err(Refusal::Busy(error)) => retries.pause(error).await?,
                Err(Refusal::Taken) => return Err(Conflict::Contended.into()),
                Err(Refusal::Other(error)) => return Err(error),
            }
        }
    }
}

fn id(name: &DomainName, kind: &str) -> String {
    format!("{name}/{kind}")
}

fn ttl(ttl: Ttl) -> u32 {
    if ttl == Ttl::AUTOMATIC { AUTOMATIC_TTL } else { ttl.seconds() }
}

/// Whether a set of the right type has the right content.
fn matches(set: &RecordSet, spec: &DomainSpec) -> bool {
    let [record] = set.records.as_slice() else { return false };
    !record.disabled && record.content() == spec.target.content() && set.ttl == ttl(spec.ttl)
}

/// The change that removes a set.
fn deletion(name: &DomainName, kind: &str) -> Value {
    json!({ "name": format!("{name}."), "type": kind, "changetype": "DELETE" })
}

/// The change that writes a set in place of `before`. It keeps the comments of others.
fn replacement(spec: &DomainSpec, tag: &str, before: Option<&RecordSet>) -> Value {
    let content = match spec.target.kind() {
        RecordKind::A => spec.target.content(),
        RecordKind::Cname => format!("{}.", spec.target.content()),
    };
    let mut comments = vec![json!({ "content": tag, "account": ACCOUNT })];
    let others = before.iter().flat_map(|set| &set.comments);
    comments.extend(others.filter(|comment| comment.content != tag).map(|comment| {
        json!({
            "content": comment.content,
            "account": comment.account,
            "modified_at": comment.modified_at,
        })
    }));
    json!({
        "name": format!("{}.", spec.domain),
        "type": spec.target.kind().as_str(),
        "changetype": "REPLACE",
        "ttl": ttl(spec.ttl),
        "records": [{ "content": content, "disabled": false }],
        "comments": comments,
    })
}

fn records(name: &DomainName, set: &RecordSet) -> Vec<DnsRecord> {
    let record = |record: &wire::Record| DnsRecord {
        id: id(name, &set.kind),
        kind: set.kind.parse().ok(),
        content: record.content(),
        ttl: set.ttl,
        proxied: false,
        ownership_tag: set.ownership_tag().map(str::to_owned),
    };
    set.records.iter().map(record).collect()
}
