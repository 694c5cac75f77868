//! The two DNS providers, each before its adapter.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rdev_domain::dns::{DomainName, DomainSpec, RecordKind, Target, Ttl};
use rdev_domain::hostname::Hostname;
use rdev_domain::ports::{Conflict, Dns, PortError, PortResult};
use rdev_domain::secret::Secret;
use rdev_domain::token::Token;
use rdev_platform::cloudflare::{self, Cloudflare};
use rdev_platform::powerdns::{self, PowerDns};
use rdev_testkit::conformance::dns::{DnsUnderTest, ForeignRecord};

pub(crate) const OWNERSHIP_TAG: &str = "rdev:site:01KB3J5X7Z9Q2M4N6P8R0S1T3V";

pub(crate) fn zone() -> Hostname {
    "example.com".parse().expect("a zone")
}

pub(crate) fn name(text: &str) -> DomainName {
    text.parse().expect("a name")
}

/// An A record with a time to live of 300 s.
pub(crate) fn a(domain: &DomainName, address: &str) -> DomainSpec {
    let target = Target::parse(RecordKind::A, address, true).expect("an address");
    spec(domain, target)
}

/// A CNAME record, likewise.
pub(crate) fn cname(domain: &DomainName, to: &str) -> DomainSpec {
    spec(domain, Target::parse(RecordKind::Cname, to, true).expect("a name"))
}

fn spec(domain: &DomainName, target: Target) -> DomainSpec {
    let ttl = Ttl::try_from(300).expect("a time to live");
    DomainSpec { domain: domain.clone(), target, proxied: false, ttl }
}

/// Seconds that an adapter waits for an answer that comes, however busy the machine is.
pub(crate) const PATIENT_S: u64 = 30;

/// An adapter for a Cloudflare below this origin.
pub(crate) fn cloudflare_at(origin: &str) -> Cloudflare {
    cloudflare_with(origin, rdev_testkit::servers::cloudflare::TOKEN, PATIENT_S)
}

pub(crate) fn cloudflare_with(origin: &str, token: &str, timeout_s: u64) -> Cloudflare {
    let url = format!("{origin}/client/v4");
    let settings = cloudflare::Settings { url, zone: zone(), timeout_s };
    Cloudflare::new(settings, Token::known(Secret::new(token))).expect("a URL")
}

/// An adapter for a PowerDNS at this origin.
pub(crate) fn powerdns_at(origin: &str, key: &str) -> PowerDns {
    powerdns_with(origin, key, PATIENT_S, powerdns::RETRY_FOR)
}

pub(crate) fn powerdns_with(
    origin: &str,
    key: &str,
    timeout_s: u64,
    retry_for: Duration,
) -> PowerDns {
    let (url, server) = (origin.to_owned(), "localhost".to_owned());
    let settings = powerdns::Settings { url, zone: zone(), server, timeout_s, retry_for };
    PowerDns::new(settings, Token::known(Secret::new(key))).expect("a URL")
}

/// For the conformance suite. Only one case needs a wildcard to answer.
pub(crate) fn cloudflare_under_test(
    server: &Arc<rdev_testkit::servers::cloudflare::Cloudflare>,
) -> DnsUnderTest {
    let (writing, looking) = (Arc::clone(server), Arc::clone(server));
    let write = move |record: ForeignRecord| {
        let server = Arc::clone(&writing);
        async move { write_at_cloudflare(&server, &record) }.boxed()
    };
    let look_up = move |name: String| {
        let server = Arc::clone(&looking);
        async move { server.look_up(&name) }.boxed()
    };
    DnsUnderTest {
        dns: Arc::new(cloudflare_at(&server.origin())),
        zone: zone(),
        write: Arc::new(write),
        look_up: Arc::new(look_up),
        automatic_ttl: 1,
        has_proxy: true,
        keep: Box::new(Arc::clone(server)),
    }
}

fn write_at_cloudflare(
    server: &rdev_testkit::servers::cloudflare::Cloudflare,
    record: &ForeignRecord,
) {
    let ForeignRecord { name, kind, content, comment } = record;
    let there = server.records(name).into_iter().find(|record| record.kind == *kind);
    match (there, content) {
        (Some(record), Some(content)) => server.change(&record.id, |record| {
            record.content.clone_from(content);
            record.comment.clone_from(comment);
            true
        }),
        (Some(record), None) => server.change(&record.id, |_| false),
        (None, Some(content)) => {
            server.add(name, kind, content, comment.as_deref());
        }
        (None, None) => {}
    }
}

/// For the conformance suite.
pub(crate) fn powerdns_under_test(
    server: &Arc<rdev_testkit::servers::powerdns::PowerDns>,
) -> DnsUnderTest {
    let (writing, looking) = (Arc::clone(server), Arc::clone(server));
    let write = move |ForeignRecord { name, kind, content, comment }: ForeignRecord| {
        let server = Arc::clone(&writing);
        blocking(move || {
            let dot = if kind == "CNAME" { "." } else { "" };
            let content = content.map(|content| format!("{content}{dot}"));
            let contents: Vec<&str> = content.as_deref().into_iter().collect();
            server.write(&name, kind, &contents, comment.as_deref());
        })
    };
    let look_up = move |name: String| {
        let server = Arc::clone(&looking);
        blocking(move || {
            // A CNAME answers for every kind. One question, so that it is one moment.
            let of = |kind| {
                let resolved = server.resolve(&name, kind);
                resolved.answers.into_iter().map(|found| found.content).collect::<Vec<_>>()
            };
            let found = of("A");
            if found.is_empty() { of("AAAA") } else { found }
        })
    };
    DnsUnderTest {
        dns: Arc::new(powerdns_at(&server.url(), server.key())),
        zone: zone(),
        write: Arc::new(write),
        look_up: Arc::new(look_up),
        automatic_ttl: 300,
        has_proxy: false,
        keep: Box::new(Arc::clone(server)),
    }
}

fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> futures_util::future::BoxFuture<'static, T> {
    tokio::task::spawn_blocking(work).map(|done| done.expect("no panic")).boxed()
}

/// The records of a name in words: kind, content, time to live, ownership tag.
pub(crate) async fn shown(dns: &dyn Dns, name: &DomainName) -> Vec<String> {
    let records = dns.records(name).await.expect("the records");
    let show = |record: &rdev_domain::ports::DnsRecord| {
        let kind = record.kind.map_or("other", RecordKind::as_str);
        let tag = record.ownership_tag.as_deref().unwrap_or("no ownership tag");
        format!("{kind} {} {} {tag}", record.content, record.ttl)
    };
    records.iter().map(show).collect()
}

/// What went wrong, in one word.
pub(crate) fn kind<T: Debug>(outcome: &PortResult<T>) -> &'static str {
    match outcome {
        Ok(_) => "ok",
        Err(PortError::Unavailable { .. }) => "unavailable",
        Err(PortError::TimedOut { .. }) => "timed out",
        Err(PortError::Limited { .. }) => "limited",
        Err(PortError::Upstream { .. }) => "upstream",
        Err(PortError::Denied { .. }) => "denied",
        Err(PortError::Invalid(_)) => "invalid",
        Err(PortError::Conflict(Conflict::RecordNotOurs)) => "not ours",
        Err(PortError::Conflict(Conflict::Contended)) => "contended",
        Err(_) => "another",
    }
}

/// An error with all its sources, as it would stand in a log.
pub(crate) fn told(error: &PortError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
