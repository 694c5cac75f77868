//! Cloudflare behind [`Dns`]: records of one zone, over the API in version 4.
//!
//! Cloudflare has no conditional write and no idempotency key. So every change reads, compares and
//! writes, and starts again when the answer says that somebody else made a change first. The
//! ownership tag is the record's comment. Lost answers and simultaneous changes may leave two
//! records with one ownership tag; the next change merges them into the oldest.

mod check;
mod wire;

use std::time::Duration;

use async_trait::async_trait;
use rdev_domain::Invalid;
use rdev_domain::dns::{DomainName, DomainSpec};
use rdev_domain::hostname::Hostname;
use rdev_domain::ports::{Conflict, Dns, DnsRecord, PortError, PortResult};
use rdev_domain::token::Token;
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::dns::{ROUNDS, SYSTEM, check, check_name, check_ownership_tag};
use crate::http::{Auth, Http};
use wire::{Batch, Listed, Record, Refusal, Zone};

/// The size of a page; Cloudflare's own default.
const PER_PAGE: &str = "100";

/// One name has few records: a server with more pages than this is not Cloudflare.
const MOST_PAGES: u32 = 50;

/// Cloudflare's own API.
pub const API: &str = "https://api.cloudflare.com/client/v4";

/// How Cloudflare is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The API's base URL.
    pub url: String,
    /// The zone, as `example.com`. The token needs `Zone / DNS / Edit` for it and nothing more.
    pub zone: Hostname,
    /// Seconds to wait for an answer.
    pub timeout_s: u64,
}

/// The adapter.
#[derive(Debug)]
pub struct Cloudflare {
    http: Http,
    zone: Hostname,
    /// Looked up at the first use and kept.
    zone_id: OnceCell<String>,
}

impl Cloudflare {
    /// Makes the adapter. It sends nothing yet. `token` is an API token.
    ///
    /// # Errors
    /// When the URL is invalid.
    pub fn new(settings: Settings, token: Token) -> Result<Self, Invalid> {
        let Settings { url, zone, timeout_s } = settings;
        let timeout = Duration::from_secs(timeout_s.max(1));
        let http = Http::new(SYSTEM, &url, Auth::Bearer, token, timeout)?;
        Ok(Self { http, zone, zone_id: OnceCell::new() })
    }

    async fn zone_id(&self) -> PortResult<&str> {
        let look_up = || async {
            match self.find_zone().await? {
                Some(zone) => Ok(zone.id),
                None => {
                    let why = format!("the token sees no zone {}", self.zone);
                    Err(PortError::upstream(SYSTEM, why))
                }
            }
        };
        self.zone_id.get_or_try_init(look_up).await.map(String::as_str)
    }

    async fn find_zone(&self) -> PortResult<Option<Zone>> {
        let query = [("name", self.zone.as_str())];
        let zones: Listed<Zone> = self.call(Method::GET, &["zones"], &query, None).await?;
        Ok(zones.items.into_iter().find(|zone| zone.name == self.zone.as_str()))
    }

    /// The A, AAAA and CNAME records of a name, the oldest first, so that all processes that merge
    /// two records keep the same one.
    async fn list(&self, name: &DomainName) -> PortResult<Vec<Record>> {
        let zone = self.zone_id().await?;
        let mut found: Vec<Record> = Vec::new();
        for page in 1..=MOST_PAGES {
            let number = page.to_string();
            let query =
                [("name.exact", name.as_str()), ("per_page", PER_PAGE), ("page", number.as_str())];
            let path = ["zones", zone, "dns_records"];
            let listed: Listed<Record> = self.call(Method::GET, &path, &query, None).await?;
            found.extend(listed.items.into_iter().filter(|record| record.resolves(name)));
            if page >= listed.pages {
                found.sort_by(|a, b| (&a.created_on, &a.id).cmp(&(&b.created_on, &b.id)));
                return Ok(found);
            }
        }
        Err(PortError::upstream(SYSTEM, format!("more than {MOST_PAGES} pages of records")))
    }

    /// One step from our existing records towards the target state.
    async fn step(&self, ours: &[Record], target: &TargetRecord<'_>) -> Result<Step, Refusal> {
        let zone = self.zone_id().await?;
        let Some((kept, others)) = ours.split_first() else {
            let path = ["zones", zone, "dns_records"];
            let created: Record =
                self.try_call(Method::POST, &path, &[], Some(&target.body())).await?;
            return Ok(Step::Created(created.id));
        };
        if others.is_empty() && target.matches(kept) {
            return Ok(Step::Done(kept.id.clone()));
        }
        if others.is_empty() && kept.kind == target.kind() {
            let path = ["zones", zone, "dns_records", &kept.id];
            let changed: Record =
                self.try_call(Method::PATCH, &path, &[], Some(&target.body())).await?;
            return Ok(Step::Done(changed.id));
        }
        // One transaction, deletes first: the name always has a record, and never a CNAME beside an
        // A.
        let same_kind = kept.kind == target.kind();
        let obsolete = if same_kind { others } else { ours };
        let deletes: Vec<Value> =
            obsolete.iter().map(|record| json!({ "id": record.id })).collect();
        let body = if same_kind {
            let mut patch = target.body();
            patch["id"] = json!(kept.id);
            json!({ "deletes": deletes, "patches": [patch] })
        } else {
            json!({ "deletes": deletes, "posts": [target.body()] })
        };
        let path = ["zones", zone, "dns_records", "batch"];
        let done: Batch = self.try_call(Method::POST, &path, &[], Some(&body)).await?;
        let written = if same_kind { done.patches } else { done.posts };
        match written.into_iter().flatten().next() {
            Some(record) => Ok(Step::Done(record.id)),
            None => Err(PortError::upstream(SYSTEM, "a batch without its records").into()),
        }
    }

    async fn remove(&self, id: &str) -> PortResult<()> {
        let path = ["zones", self.zone_id().await?, "dns_records", id];
        match self.try_call::<Value>(Method::DELETE, &path, &[], None).await {
            Ok(_) | Err(Refusal::Gone) => Ok(()),
            Err(refusal) => Err(refusal.into_error()),
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> PortResult<Listed<T>> {
        let answer = self.http.send(method, path, query, body).await?;
        wire::read_list(&answer).map_err(Refusal::into_error)
    }

    async fn try_call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<T, Refusal> {
        let answer = self.http.send(method, path, query, body).await?;
        wire::read(&answer)
    }
}

#[async_trait]
impl Dns for Cloudflare {
    async fn put(&self, spec: &DomainSpec, tag: &str) -> PortResult<String> {
        check(spec, &self.zone, tag)?;
        let target = TargetRecord { spec, tag };
        // The records that were there when Cloudflare refused a change because of another record.
        let mut refused: Option<Vec<Record>> = None;
        let mut created: Option<String> = None;
        for _ in 0..ROUNDS {
            let there = self.list(&spec.domain).await?;
            if there.iter().any(|record| !record.has(tag)) {
                // Somebody else created a record at the same moment: remove ours.
                if let Some(id) = &created {
                    self.remove(id).await?;
                }
                return Err(Conflict::RecordNotOurs.into());
            }
            // If another record of ours appeared at the same moment, the loop merges both:
            // Cloudflare accepts duplicates.
            if let Some(id) = created.take_if(|id| there.iter().all(|record| record.id == *id)) {
                return Ok(id);
            }
            if refused.as_ref() == Some(&there) {
                // The conflict is with a record of a type that rdev neither creates nor lists.
                return Err(Conflict::RecordNotOurs.into());
            }
            refused = None;
            match self.step(&there, &target).await {
                Ok(Step::Done(id)) => return Ok(id),
                Ok(Step::Created(id)) => created = Some(id),
                Err(Refusal::Gone) => {}
                Err(Refusal::Taken) => refused = Some(there),
                Err(Refusal::Other(error)) => return Err(error),
            }
        }
        Err(Conflict::Contended.into())
    }

    async fn records(&self, name: &DomainName) -> PortResult<Vec<DnsRecord>> {
        check_name(name, &self.zone)?;
        let there = self.list(name).await?;
        Ok(there.into_iter().map(DnsRecord::from).collect())
    }

    async fn delete(&self, name: &DomainName, id: Option<&str>, tag: &str) -> PortResult<()> {
        check_name(name, &self.zone)?;
        check_ownership_tag(tag)?;
        let there = self.list(name).await?;
        let (ours, others): (Vec<Record>, Vec<Record>) =
            there.into_iter().partition(|record| record.has(tag));
        if ours.is_empty() && !others.is_empty() {
            return Err(Conflict::RecordNotOurs.into());
        }
        if let Some(id) = id.filter(|id| ours.iter().all(|record| record.id != *id)) {
            tracing::info!(%name, id, ours = ours.len(), "the recorded DNS record does not exist");
        }
        for record in ours {
            self.remove(&record.id).await?;
        }
        Ok(())
    }
}

/// The result of a step.
enum Step {
    /// The record with this id is in the target state, and the only one of ours.
    Done(String),
    /// The record with this id is new; the next read shows whether it is the only one.
    Created(String),
}

/// The state that a name's record gets.
struct TargetRecord<'a> {
    spec: &'a DomainSpec,
    tag: &'a str,
}

impl TargetRecord<'_> {
    fn kind(&self) -> &'static str {
        self.spec.target.kind().as_str()
    }

    /// Cloudflare chooses the time to live of proxied records.
    fn ttl(&self) -> u32 {
        if self.spec.proxied { 1 } else { self.spec.ttl.seconds() }
    }

    fn body(&self) -> Value {
        json!({
            "type": self.kind(),
            "name": self.spec.domain,
            "content": self.spec.target.content(),
            "ttl": self.ttl(),
            "proxied": self.spec.proxied,
            "comment": self.tag,
        })
    }

    fn matches(&self, record: &Record) -> bool {
        record.kind == self.kind()
            && record.content() == self.spec.target.content()
            && record.ttl == self.ttl()
            && record.proxied == self.spec.proxied
    }
}
