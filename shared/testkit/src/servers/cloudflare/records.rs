//! Zones and records, and the rules that Cloudflare has for them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rdev_domain::time::Timestamp;
use serde_json::{Map, Value};
use ulid::Ulid;

use super::LONGEST_COMMENT;

/// The most changes in one batch on a free plan.
const LONGEST_BATCH: usize = 200;

/// A record as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// 32 hexadecimal digits.
    pub id: String,
    /// The whole name, without a final dot.
    pub name: String,
    /// `A`, `CNAME`, `TXT`, …
    pub kind: String,
    /// What it says, names without a final dot.
    pub content: String,
    /// Seconds; 1 is automatic.
    pub ttl: u32,
    /// Whether the proxy stands before it.
    pub proxied: bool,
    /// What is noted beside it.
    pub comment: Option<String>,
    pub created_on: String,
    pub modified_on: String,
}

/// A zone with what is in it.
#[derive(Debug)]
pub(super) struct Zone {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) status: String,
    pub(super) records: Vec<Record>,
    /// The records after each transaction.
    pub(super) history: Vec<Vec<Record>>,
}

/// Why something was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: u16,
    pub(super) code: u32,
    pub(super) message: String,
    /// The real reason, where `code` says only that something was not valid.
    pub(super) chain: Option<(u32, String)>,
}

impl Refused {
    pub(super) fn new(status: u16, code: u32, message: &str) -> Self {
        Self { status, code, message: message.to_owned(), chain: None }
    }

    fn invalid(code: u32, message: &str) -> Self {
        let chain = Some((code, message.to_owned()));
        Self { chain, ..Self::new(400, 1004, "DNS Validation Error") }
    }
}

pub(super) fn id() -> String {
    // Later ones are greater: times are too coarse to tell which of two records is the older.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = u128::from(COUNT.fetch_add(1, Ordering::Relaxed));
    format!("{:032x}", count << 80 | Ulid::generate().random())
}

fn now() -> String {
    Timestamp::from(SystemTime::now()).to_string()
}

impl Record {
    pub(super) fn new(name: &str, kind: &str, content: &str, comment: Option<&str>) -> Self {
        Self {
            id: id(),
            name: name.to_owned(),
            kind: kind.to_owned(),
            content: content.to_owned(),
            ttl: 1,
            proxied: false,
            comment: comment.map(str::to_owned),
            created_on: now(),
            modified_on: now(),
        }
    }

    /// Whether it decides where its name leads.
    pub(super) fn leads(&self) -> bool {
        matches!(self.kind.as_str(), "A" | "AAAA" | "CNAME")
    }
}

impl Zone {
    pub(super) fn new(name: &str) -> Self {
        let status = "active".to_owned();
        Self { id: id(), name: name.to_owned(), status, records: Vec::new(), history: Vec::new() }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        name == self.name || name.strip_suffix(&self.name).is_some_and(|rest| rest.ends_with('.'))
    }

    pub(super) fn add(&mut self, record: Record) -> String {
        let id = record.id.clone();
        self.records.push(record);
        self.note();
        id
    }

    /// Remembers what it has now.
    pub(super) fn note(&mut self) {
        self.history.push(self.records.clone());
    }

    /// Carries out a batch, all of it or nothing: deletes, patches, puts, posts.
    pub(super) fn batch(&mut self, body: &Map<String, Value>) -> Result<Done, Refused> {
        let lists = ["deletes", "patches", "puts", "posts"];
        if body.keys().any(|key| !lists.contains(&key.as_str())) {
            return Err(unreadable());
        }
        let [deletes, patches, puts, posts] = lists.map(|list| changes(body, list));
        let (deletes, patches, puts, posts) = (deletes?, patches?, puts?, posts?);
        if deletes.len() + patches.len() + puts.len() + posts.len() > LONGEST_BATCH {
            return Err(Refused::new(400, 9207, "Too many changes in one batch."));
        }
        let mut draft = self.records.clone();
        let mut done = Done::default();
        for change in deletes {
            done.deletes.push(delete(&mut draft, named(change)?)?);
        }
        for change in patches {
            done.patches.push(self.patch(&mut draft, named(change)?, change)?);
        }
        for change in puts {
            done.puts.push(self.put(&mut draft, named(change)?, change)?);
        }
        for change in posts {
            done.posts.push(self.post(&mut draft, change)?);
        }
        self.commit(draft);
        Ok(done)
    }

    pub(super) fn commit(&mut self, records: Vec<Record>) {
        self.records = records;
        self.note();
    }

    pub(super) fn post(
        &self,
        draft: &mut Vec<Record>,
        fields: &Map<String, Value>,
    ) -> Result<Record, Refused> {
        let record = self.read(Record::new("", "", "", None), fields)?;
        fits(draft, &record)?;
        draft.push(record.clone());
        Ok(record)
    }

    pub(super) fn patch(
        &self,
        draft: &mut Vec<Record>,
        id: &str,
        fields: &Map<String, Value>,
    ) -> Result<Record, Refused> {
        let at = place(draft, id)?;
        self.write(draft, at, draft[at].clone(), fields)
    }

    /// Replaces a record: a field that is missing gets its default.
    pub(super) fn put(
        &self,
        draft: &mut Vec<Record>,
        id: &str,
        fields: &Map<String, Value>,
    ) -> Result<Record, Refused> {
        let at = place(draft, id)?;
        let before = &draft[at];
        let blank = Record {
            content: String::new(),
            ttl: 1,
            proxied: false,
            comment: None,
            ..before.clone()
        };
        self.write(draft, at, blank, fields)
    }

    fn write(
        &self,
        draft: &mut Vec<Record>,
        at: usize,
        from: Record,
        fields: &Map<String, Value>,
    ) -> Result<Record, Refused> {
        let before = draft.remove(at);
        let mut record = self.read(from, fields)?;
        if record.kind != before.kind {
            // Nobody documents what it says to that; that it is no way to change a type, it does.
            return Err(Refused::new(400, 1004, "DNS Validation Error"));
        }
        fits(draft, &record)?;
        record.modified_on = now();
        draft.insert(at, record.clone());
        Ok(record)
    }

    /// A record with these fields over those of `from`.
    fn read(&self, mut from: Record, fields: &Map<String, Value>) -> Result<Record, Refused> {
        for (field, value) in fields {
            let text = value.as_str().map(str::to_owned);
            match field.as_str() {
                "id" => {}
                "type" => from.kind = text.ok_or_else(unreadable)?,
                "name" => from.name = self.whole(&text.ok_or_else(unreadable)?)?,
                "content" => from.content = text.ok_or_else(unreadable)?,
                "ttl" => from.ttl = ttl(value)?,
                "proxied" => from.proxied = value.as_bool().ok_or_else(unreadable)?,
                "comment" => from.comment = comment(value)?,
                _ => return Err(unreadable()),
            }
        }
        if from.name.is_empty() {
            return Err(Refused::new(400, 9000, "DNS name is invalid."));
        }
        from.content = content(&from)?;
        if from.proxied && !from.leads() {
            return Err(Refused::new(400, 9004, "This record type cannot be proxied."));
        }
        if from.proxied {
            from.ttl = 1;
        }
        Ok(from)
    }

    /// A name as it is kept. A name that does not end with the zone is relative to it.
    fn whole(&self, name: &str) -> Result<String, Refused> {
        let name = name.strip_suffix('.').unwrap_or(name).to_lowercase();
        let whole = match name.as_str() {
            "@" => self.name.clone(),
            name if self.has(name) => name.to_owned(),
            name => format!("{name}.{}", self.name),
        };
        let label = |(at, label): (usize, &str)| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
            (1..=63).contains(&label.len()) && label.chars().all(plain) || at == 0 && label == "*"
        };
        if whole.len() <= 253 && whole.split('.').enumerate().all(label) {
            return Ok(whole);
        }
        Err(Refused::new(400, 9000, "DNS name is invalid."))
    }
}

/// What a batch has done.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) deletes: Vec<Record>,
    pub(super) patches: Vec<Record>,
    pub(super) puts: Vec<Record>,
    pub(super) posts: Vec<Record>,
}

pub(super) fn unreadable() -> Refused {
    Refused::new(400, 9207, "Request body is invalid.")
}

fn changes<'a>(
    body: &'a Map<String, Value>,
    list: &str,
) -> Result<Vec<&'a Map<String, Value>>, Refused> {
    let Some(value) = body.get(list) else { return Ok(Vec::new()) };
    let items = value.as_array().ok_or_else(unreadable)?;
    items.iter().map(|item| item.as_object().ok_or_else(unreadable)).collect()
}

fn named(change: &Map<String, Value>) -> Result<&str, Refused> {
    change.get("id").and_then(Value::as_str).ok_or_else(unreadable)
}

pub(super) fn delete(draft: &mut Vec<Record>, id: &str) -> Result<Record, Refused> {
    place(draft, id).map(|at| draft.remove(at))
}

fn place(records: &[Record], id: &str) -> Result<usize, Refused> {
    let at = records.iter().position(|record| record.id == id);
    at.ok_or_else(|| Refused::new(404, 81044, "Record does not exist."))
}

/// Whether a record can stand beside those that are there.
fn fits(there: &[Record], record: &Record) -> Result<(), Refused> {
    let beside = || there.iter().filter(|other| other.name == record.name);
    let same = |other: &Record| other.kind == record.kind && other.content == record.content;
    if record.kind == "CNAME" && beside().any(Record::leads) {
        let message = "An A, AAAA, or CNAME record with that host already exists.";
        return Err(Refused::new(400, 81053, message));
    }
    if record.leads() && beside().any(|other| other.kind == "CNAME") {
        return Err(Refused::new(400, 81054, "A CNAME record with that host already exists."));
    }
    if beside().any(same) {
        return Err(Refused::new(400, 81058, "An identical record already exists."));
    }
    Ok(())
}

fn ttl(value: &Value) -> Result<u32, Refused> {
    let seconds = value.as_u64().and_then(|seconds| u32::try_from(seconds).ok());
    seconds.filter(|seconds| matches!(seconds, 1 | 60..=86_400)).ok_or_else(|| {
        let message = "Invalid TTL. Must be between 60 and 86400 seconds, or 1 for Automatic.";
        Refused::invalid(9021, message)
    })
}

fn comment(value: &Value) -> Result<Option<String>, Refused> {
    let Some(text) = value.as_str() else {
        return if value.is_null() { Ok(None) } else { Err(unreadable()) };
    };
    if text.chars().count() > LONGEST_COMMENT || text.contains(['\n', '\r']) {
        // The limit is documented, the code is not.
        return Err(Refused::new(400, 1004, "DNS Validation Error"));
    }
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

fn content(record: &Record) -> Result<String, Refused> {
    let text = record.content.strip_suffix('.').unwrap_or(&record.content);
    match record.kind.as_str() {
        "A" if text.parse::<Ipv4Addr>().is_err() => {
            Err(Refused::new(400, 9005, "Content for A record must be a valid IPv4 address."))
        }
        "AAAA" if text.parse::<Ipv6Addr>().is_err() => {
            Err(Refused::new(400, 9006, "Content for AAAA record must be a valid IPv6 address."))
        }
        "CNAME" if text.is_empty() || text == record.name || text.contains(' ') => {
            Err(Refused::new(400, 9007, "Content for CNAME record is invalid."))
        }
        "A" | "AAAA" => Ok(text.to_owned()),
        "CNAME" => Ok(text.to_lowercase()),
        "TXT" | "MX" | "NS" | "CAA" => Ok(record.content.clone()),
        _ => Err(unreadable()),
    }
}
