//! PowerDNS behind [`Dns`]: record sets of one zone, over the HTTP API of the authoritative
//! server (4.5 or later).
//!
//! The ownership tag stands in a comment of the record set, since single records have none: whatever
//! stands in a set with our ownership tag is ours. So the zone's backend must keep comments, as those of
//! SQLite, MySQL and PostgreSQL do. An id is `<name>/<type>`.
//!
//! There is no proxy to stand before a record, and no automatic time to live: that is 300 s. Nor
//! is there a conditional write: every change reads, compares and writes, and in between somebody
//! may write the same set. Changes by rdev end with one record all the same: sets are written
//! whole, and a CNAME beside another set is refused and read again.

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
use ulid::Ulid;

use crate::dns::{ROUNDS, WHAT, check, check_name, check_ownership_tag};
use crate::http::{Auth, Http};
use wire::{RecordSet, Refusal, ZoneView, refusal};

/// Seconds that answers may be kept when the provider is to decide.
const AUTOMATIC_TTL: u32 = 300;

/// Who has written a comment, as PowerDNS shows it beside the comment.
const ACCOUNT: &str = "rdev";

/// How PowerDNS is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The URL of its web server, as `http://127.0.0.1:8081`.
    pub url: String,
    /// The zone, as `example.com`. It must be there.
    pub zone: Hostname,
    /// The server's id in the API.
    pub server: String,
    /// How long an answer is waited for.
    pub timeout_s: u64,
}

/// How often a change is sent that the server cannot make at this moment.
const TRIES: u32 = 7;

/// The adapter.
#[derive(Debug)]
pub struct PowerDns {
    http: Http,
    zone: Hostname,
    /// The zone as the API names it, with the final dot.
    zone_id: String,
    server: String,
}

impl PowerDns {
    /// An adapter; nothing is sent yet. `token` is the server's `api-key`.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn new(settings: Settings, token: Token) -> Result<Self, Invalid> {
        let Settings { url, zone, server, timeout_s } = settings;
        let timeout = Duration::from_secs(timeout_s.max(1));
        let http = Http::new(WHAT, &url, Auth::ApiKey, token, timeout)?;
        Ok(Self { http, zone_id: format!("{zone}."), zone, server })
    }

    fn path(&self) -> [&str; 6] {
        ["api", "v1", "servers", &self.server, "zones", &self.zone_id]
    }

    /// The sets of A, AAAA and CNAME records of a name.
    async fn sets(&self, name: &DomainName) -> PortResult<Vec<RecordSet>> {
        let dotted = format!("{name}.");
        // Servers before 4.5 know no filter and answer with the whole zone.
        let query = [("rrset_name", dotted.as_str())];
        let answer = self.http.send(Method::GET, &self.path(), &query, None).await?;
        if answer.status != StatusCode::OK {
            return Err(match answer.status {
                StatusCode::NOT_FOUND => {
                    PortError::upstream(WHAT, format!("it has no zone {}", self.zone))
                }
                _ => answer.unexpected(""),
            });
        }
        let zone: ZoneView = answer.json()?;
        Ok(zone.rrsets.into_iter().filter(|set| set.leads(&dotted)).collect())
    }

    /// Applies changes to record sets, all or none.
    ///
    /// Its SQLite backend answers 500 to one of two changes at the same moment and takes that
    /// one back. To write a set twice, or to delete it twice, is nothing else than once, so a
    /// change is tried again then.
    async fn change(&self, sets: &[Value]) -> Result<(), Refusal> {
        let body = json!({ "rrsets": sets });
        let mut tried = 0;
        loop {
            let answer = self.http.send(Method::PATCH, &self.path(), &[], Some(&body)).await?;
            tried += 1;
            match answer.status {
                StatusCode::NO_CONTENT => return Ok(()),
                StatusCode::INTERNAL_SERVER_ERROR if tried < TRIES => pause(tried).await,
                _ => return Err(refusal(&answer)),
            }
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
        // What stood there when a change was refused because of what is there.
        let mut refused: Option<Vec<RecordSet>> = None;
        for _ in 0..ROUNDS {
            let there = self.sets(&spec.domain).await?;
            if there.iter().any(|set| !set.has(tag)) {
                return Err(Conflict::RecordNotOurs.into());
            }
            if refused.as_ref() == Some(&there) {
                // In the way is what is not shown here: a set of a kind that rdev never makes.
                return Err(Conflict::RecordNotOurs.into());
            }
            let (same, others): (Vec<&RecordSet>, Vec<&RecordSet>) =
                there.iter().partition(|set| set.kind == kind.as_str());
            if others.is_empty() && same.iter().any(|set| is(set, spec)) {
                return Ok(id);
            }
            let mut changes: Vec<Value> =
                others.iter().map(|set| gone(&spec.domain, &set.kind)).collect();
            changes.push(written(spec, tag, same.first().copied()));
            match self.change(&changes).await {
                Ok(()) => return Ok(id),
                Err(Refusal::Taken) => refused = Some(there),
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
        let there = self.sets(name).await?;
        let ours: Vec<&RecordSet> = there.iter().filter(|set| set.has(tag)).collect();
        if ours.is_empty() {
            return if there.is_empty() { Ok(()) } else { Err(Conflict::RecordNotOurs.into()) };
        }
        let is_there = |recorded: &str| ours.iter().any(|set| id(name, &set.kind) == recorded);
        if let Some(recorded) = recorded.filter(|recorded| !is_there(recorded)) {
            tracing::info!(%name, recorded, "the recorded DNS record is not there");
        }
        let changes: Vec<Value> = ours.iter().map(|set| gone(name, &set.kind)).collect();
        self.change(&changes).await.map_err(Refusal::into_error)
    }
}

/// Longer at each try, and never as long as that of another who was refused with us.
async fn pause(tried: u32) {
    let jitter = u64::try_from(Ulid::generate().random() % 50).unwrap_or_default();
    tokio::time::sleep(Duration::from_millis(25 * (1 << tried.min(4)) + jitter)).await;
}

fn id(name: &DomainName, kind: &str) -> String {
    format!("{name}/{kind}")
}

fn ttl(wanted: Ttl) -> u32 {
    if wanted == Ttl::AUTOMATIC { AUTOMATIC_TTL } else { wanted.seconds() }
}

/// Whether a set of the wanted kind is the wanted one.
fn is(set: &RecordSet, wanted: &DomainSpec) -> bool {
    let [record] = set.records.as_slice() else { return false };
    !record.disabled && record.content() == wanted.target.content() && set.ttl == ttl(wanted.ttl)
}

/// The change that removes a set.
fn gone(name: &DomainName, kind: &str) -> Value {
    json!({ "name": format!("{name}."), "type": kind, "changetype": "DELETE" })
}

/// The change that writes a set, in the place of `before`. What others have noted there stays.
fn written(spec: &DomainSpec, tag: &str, before: Option<&RecordSet>) -> Value {
    let content = match spec.target.kind() {
        RecordKind::A => spec.target.content(),
        RecordKind::Cname => format!("{}.", spec.target.content()),
    };
    let mut comments = vec![json!({ "content": tag, "account": ACCOUNT })];
    let noted = before.iter().flat_map(|set| &set.comments);
    comments.extend(noted.filter(|comment| comment.content != tag).map(|comment| {
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
