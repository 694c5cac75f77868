//! Cloudflare behind [`Dns`]: records of one zone, over the API in version 4.
//!
//! There is no conditional write and no idempotency key, so every change reads, compares and
//! writes, and begins anew when the answer says that somebody was faster. The ownership tag stands in the
//! record's comment. What lost answers and changes at the same moment leave behind, two records
//! with one ownership tag, is merged into the oldest by the next change.

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

use crate::dns::{ROUNDS, WHAT, check, check_name, check_ownership_tag};
use crate::http::{Auth, Http};
use wire::{Batch, Listed, Record, Refusal, Zone};

/// How many records are asked for at once; Cloudflare's own default.
const PER_PAGE: &str = "100";

/// One name has few records: whoever gets more pages than this talks to something else.
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
    /// How long an answer is waited for.
    pub timeout_s: u64,
}

/// The adapter.
#[derive(Debug)]
pub struct Cloudflare {
    http: Http,
    zone: Hostname,
    /// Looked up at the first use, and then known.
    zone_id: OnceCell<String>,
}

impl Cloudflare {
    /// An adapter; nothing is sent yet. `token` is an API token.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn new(settings: Settings, token: Token) -> Result<Self, Invalid> {
        let Settings { url, zone, timeout_s } = settings;
        let timeout = Duration::from_secs(timeout_s.max(1));
        let http = Http::new(WHAT, &url, Auth::Bearer, token, timeout)?;
        Ok(Self { http, zone, zone_id: OnceCell::new() })
    }

    async fn zone_id(&self) -> PortResult<&str> {
        let look_up = || async {
            match self.find_zone().await? {
                Some(zone) => Ok(zone.id),
                None => {
                    let why = format!("the token sees no zone {}", self.zone);
                    Err(PortError::upstream(WHAT, why))
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

    /// The A, AAAA and CNAME records of a name, the oldest first, so that everybody who merges
    /// two of them keeps the same one.
    async fn list(&self, name: &DomainName) -> PortResult<Vec<Record>> {
        let zone = self.zone_id().await?;
        let mut found: Vec<Record> = Vec::new();
        for page in 1..=MOST_PAGES {
            let number = page.to_string();
            let query =
                [("name.exact", name.as_str()), ("per_page", PER_PAGE), ("page", number.as_str())];
            let path = ["zones", zone, "dns_records"];
            let listed: Listed<Record> = self.call(Method::GET, &path, &query, None).await?;
            found.extend(listed.items.into_iter().filter(|record| record.leads(name)));
            if page >= listed.pages {
                found.sort_by(|a, b| (&a.created_on, &a.id).cmp(&(&b.created_on, &b.id)));
                return Ok(found);
            }
        }
        Err(PortError::upstream(WHAT, format!("more than {MOST_PAGES} pages of records")))
    }

    /// One step towards the wanted record from what is there.
    async fn step(&self, ours: &[Record], wanted: &Wanted<'_>) -> Result<Step, Refusal> {
        let zone = self.zone_id().await?;
        let Some((kept, others)) = ours.split_first() else {
            let path = ["zones", zone, "dns_records"];
            let made: Record =
                self.try_call(Method::POST, &path, &[], Some(&wanted.body())).await?;
            return Ok(Step::Made(made.id));
        };
        if others.is_empty() && wanted.is(kept) {
            return Ok(Step::Done(kept.id.clone()));
        }
        if others.is_empty() && kept.kind == wanted.kind() {
            let path = ["zones", zone, "dns_records", &kept.id];
            let changed: Record =
                self.try_call(Method::PATCH, &path, &[], Some(&wanted.body())).await?;
            return Ok(Step::Done(changed.id));
        }
        // One transaction, deletes first: at no moment is there no record, or a CNAME beside an A.
        let stays = kept.kind == wanted.kind();
        let leaving = if stays { others } else { ours };
        let deletes: Vec<Value> = leaving.iter().map(|record| json!({ "id": record.id })).collect();
        let body = if stays {
            let mut patch = wanted.body();
            patch["id"] = json!(kept.id);
            json!({ "deletes": deletes, "patches": [patch] })
        } else {
            json!({ "deletes": deletes, "posts": [wanted.body()] })
        };
        let path = ["zones", zone, "dns_records", "batch"];
        let done: Batch = self.try_call(Method::POST, &path, &[], Some(&body)).await?;
        let written = if stays { done.patches } else { done.posts };
        match written.into_iter().flatten().next() {
            Some(record) => Ok(Step::Done(record.id)),
            None => Err(PortError::upstream(WHAT, "a batch without its records").into()),
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
        let wanted = Wanted { spec, tag };
        // What stood there when a change was refused because of what is there.
        let mut refused: Option<Vec<Record>> = None;
        let mut made: Option<String> = None;
        for _ in 0..ROUNDS {
            let there = self.list(&spec.domain).await?;
            if there.iter().any(|record| !record.has(tag)) {
                // Somebody's came up at the same moment: ours does not stay beside it.
                if let Some(id) = &made {
                    self.remove(id).await?;
                }
                return Err(Conflict::RecordNotOurs.into());
            }
            // Two of ours came up at the same moment otherwise: Cloudflare takes both.
            if let Some(id) = made.take_if(|id| there.iter().all(|record| record.id == *id)) {
                return Ok(id);
            }
            if refused.as_ref() == Some(&there) {
                // In the way is what is not shown here: a record of a kind that rdev never makes.
                return Err(Conflict::RecordNotOurs.into());
            }
            refused = None;
            match self.step(&there, &wanted).await {
                Ok(Step::Done(id)) => return Ok(id),
                Ok(Step::Made(id)) => made = Some(id),
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
            tracing::info!(%name, id, ours = ours.len(), "the recorded DNS record is not there");
        }
        for record in ours {
            self.remove(&record.id).await?;
        }
        Ok(())
    }
}

/// How a step ended.
enum Step {
    /// The record with this id is as it is wanted, and the only one of ours.
    Done(String),
    /// This one was made; whether it is the only one is to be seen.
    Made(String),
}

/// A record that is wanted.
struct Wanted<'a> {
    spec: &'a DomainSpec,
    tag: &'a str,
}

impl Wanted<'_> {
    fn kind(&self) -> &'static str {
        self.spec.target.kind().as_str()
    }

    /// Before a record stands the proxy, its time to live is Cloudflare's own choice.
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

    fn is(&self, record: &Record) -> bool {
        record.kind == self.kind()
            && record.content() == self.spec.target.content()
            && record.ttl == self.ttl()
            && record.proxied == self.spec.proxied
    }
}
