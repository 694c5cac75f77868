//! Every call of the DNS adapters, gone wrong in every way: the error has its kind, no token goes
//! elsewhere, and what is there is what was there or what was wanted. A repeat ends it well.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use rdev_domain::dns::{DomainName, DomainSpec};
use rdev_domain::ports::{Dns, PortResult};
use rdev_platform::powerdns::RETRY_FOR;
use rdev_testkit::servers::cloudflare::TOKEN;
use rdev_testkit::servers::faults::{Fault, Server};
use rdev_testkit::tools::trial::Outcome;

use crate::dns::{
    OWNERSHIP_TAG, PATIENT_S, a, cloudflare_at, cloudflare_with, cname, kind, name, powerdns_with,
    shown, told, zone,
};

rdev_testkit::trials! {
    async every_call_to_cloudflare_can_go_wrong;
    async every_call_to_powerdns_can_go_wrong;
    async a_domain_is_deleted_after_the_answer_to_its_last_change_was_lost;
    async a_delete_whose_answer_was_lost_is_repeated;
    async a_powerdns_that_cannot_write_at_all_is_unavailable_and_nothing_is_changed;
    async a_change_that_powerdns_refuses_eight_times_is_read_anew_each_time_and_made;
    async a_retry_sees_what_somebody_else_wrote_after_the_change_was_refused;
}

/// Seconds that an adapter waits for an answer that never comes. On a busy machine another answer
/// may be as late; then the work is tried on a new name by an adapter that waits longer.
const HASTY_S: [u64; 3] = [2, 10, PATIENT_S];

/// How many runs there are at once. Each has servers of its own before the provider.
const AT_ONCE: usize = 6;

/// A provider, and how an adapter for it is made at some origin.
#[derive(Clone)]
struct Provider {
    origin: String,
    token: String,
    /// Whether it is Cloudflare, whose zone is looked up first.
    cloudflare: bool,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Add,
    Change,
    ToCname,
    ToA,
    Same,
    Delete,
    Records,
}

impl Work {
    const ALL: [Self; 7] = [
        Self::Add,
        Self::Change,
        Self::ToCname,
        Self::ToA,
        Self::Same,
        Self::Delete,
        Self::Records,
    ];

    /// What is there before it.
    fn before(self, name: &DomainName) -> Option<DomainSpec> {
        match self {
            Self::Add => None,
            Self::ToA => Some(cname(name, "web.example.net")),
            _ => Some(a(name, "192.0.2.1")),
        }
    }

    /// What is there after it.
    fn after(self, name: &DomainName) -> Option<DomainSpec> {
        match self {
            Self::Delete => None,
            Self::ToCname => Some(cname(name, "web.example.net")),
            Self::Change | Self::ToA => Some(a(name, "192.0.2.2")),
            Self::Add | Self::Same | Self::Records => Some(a(name, "192.0.2.1")),
        }
    }

    /// How many requests it is.
    fn calls(self, provider: &Provider) -> usize {
        let look_up = usize::from(provider.cloudflare);
        look_up
            + match self {
                // Cloudflare is asked again whether somebody was as fast.
                Self::Add if provider.cloudflare => 3,
                Self::Same | Self::Records => 1,
                _ => 2,
            }
    }

    async fn run(self, dns: &dyn Dns, name: &DomainName) -> PortResult<()> {
        match (self, self.after(name)) {
            (Self::Records, _) => dns.records(name).await.map(|_| ()),
            (_, Some(spec)) => dns.put(&spec, OWNERSHIP_TAG).await.map(|_| ()),
            (_, None) => dns.delete(name, Some("an-id-of-before"), OWNERSHIP_TAG).await,
        }
    }
}

impl Provider {
    fn at(&self, origin: &str) -> Arc<dyn Dns> {
        self.waiting(origin, PATIENT_S)
    }

    /// An adapter that waits this many seconds for an answer.
    fn waiting(&self, origin: &str, timeout_s: u64) -> Arc<dyn Dns> {
        if self.cloudflare {
            Arc::new(cloudflare_with(origin, &self.token, timeout_s))
        } else {
            Arc::new(powerdns_with(origin, &self.token, timeout_s, RETRY_FOR))
        }
    }
}

fn told_as(spec: Option<DomainSpec>) -> Vec<String> {
    let show = |spec: DomainSpec| {
        let (kind, content) = (spec.target.kind().as_str(), spec.target.content());
        format!("{kind} {content} {} {OWNERSHIP_TAG}", spec.ttl.seconds())
    };
    spec.into_iter().map(show).collect()
}

fn expected(fault: &Fault) -> &'static str {
    match fault {
        Fault::Hang | Fault::HoldAnswer => "timed out",
        Fault::Limited(_) => "limited",
        Fault::Refused | Fault::Gone | Fault::CutOff | Fault::LoseAnswer | Fault::Status(500) => {
            "unavailable"
        }
        Fault::Status(401 | 403) => "denied",
        _ => "upstream",
    }
}

/// One work whose call number `at` goes wrong.
async fn go_wrong(provider: Provider, number: usize, work: Work, at: usize, fault: Fault) {
    let case = format!("{work:?}, call {at}, {fault:?}");
    let direct = provider.at(&provider.origin);
    let elsewhere = Server::start();
    let fault = match fault {
        Fault::Redirect(_) => Fault::Redirect(elsewhere.url()),
        fault => fault,
    };
    let server = Server::before(&provider.origin);
    let silent = matches!(fault, Fault::Hang | Fault::HoldAnswer);
    let mut waits = if silent { HASTY_S.to_vec() } else { vec![PATIENT_S] }.into_iter();
    let (site, outcome) = loop {
        let wait = waits.next().expect("the patient one is the last");
        let site = name(&format!("site-{number}-{wait}.{}", zone()));
        if let Some(spec) = work.before(&site) {
            direct.put(&spec, OWNERSHIP_TAG).await.expect("a free name");
        }
        server.forget();
        server.break_nth(at, fault.clone());
        let outcome = work.run(provider.waiting(&server.url(), wait).as_ref(), &site).await;
        let went_wrong = match fault {
            Fault::HoldAnswer => server.held() > 0,
            Fault::Hang => server.requests().len() > at,
            _ => true,
        };
        if went_wrong || wait == PATIENT_S {
            break (site, outcome);
        }
    };
    let busy = !provider.cloudflare && at == 1 && fault == Fault::Status(500);
    if busy {
        // One of two changes at the same moment: it is made at the second try.
        outcome.unwrap_or_else(|error| panic!("{case}: {error:?}"));
        assert_eq!(shown(direct.as_ref(), &site).await, told_as(work.after(&site)), "{case}");
        return;
    }
    assert_eq!(kind(&outcome), expected(&fault), "{case}: {outcome:?}");
    let said = told(&outcome.expect_err("an error"));
    assert!(!said.contains(&provider.token), "{case}: {said}");
    assert_eq!(elsewhere.requests(), [], "{case}");

    let left = shown(direct.as_ref(), &site).await;
    let (before, after) = (told_as(work.before(&site)), told_as(work.after(&site)));
    let lost = matches!(fault, Fault::LoseAnswer | Fault::HoldAnswer);
    let last_write = at + 1 == work.calls(&provider)
        || work == Work::Add && provider.cloudflare && at + 2 == work.calls(&provider);
    let checks_only = work == Work::Add && provider.cloudflare && at == 3;
    if lost && last_write || checks_only {
        assert_eq!(left, after, "{case}: it was done, and is not known to be");
    } else {
        assert_eq!(left, before, "{case}: nothing was done");
    }

    // The same again, by a process that was told nothing.
    server.heal();
    let again = provider.at(&server.url());
    work.run(again.as_ref(), &site).await.unwrap_or_else(|error| panic!("{case}: {error:?}"));
    assert_eq!(shown(direct.as_ref(), &site).await, after, "{case}: one record, or none");
}

/// How many faults there are: those of the table, and the two that lose an answer.
fn faults() -> usize {
    Fault::table("http://elsewhere.invalid").len() + 2
}

/// Every work, every call of it, every fault.
async fn run_table(provider: Provider) -> usize {
    let mut faults = Fault::table("http://elsewhere.invalid");
    faults.extend([Fault::LoseAnswer, Fault::HoldAnswer]);
    let mut runs = Vec::new();
    for work in Work::ALL {
        for at in 0..work.calls(&provider) {
            runs.extend(faults.iter().map(|fault| (work, at, fault.clone())));
        }
    }
    let (count, cloudflare) = (runs.len(), provider.cloudflare);
    stream::iter(runs.into_iter().enumerate())
        .map(|(number, (work, at, fault))| {
            let provider = provider.clone();
            let run = go_wrong(provider, number, work, at, fault);
            async { tokio::spawn(run).await.expect("as it should be") }
        })
        // PowerDNS' SQLite takes one of two changes at the same moment; here each call counts.
        .buffer_unordered(if cloudflare { AT_ONCE } else { 1 })
        .collect::<Vec<()>>()
        .await;
    count
}

async fn every_call_to_cloudflare_can_go_wrong() {
    let server = rdev_testkit::servers::cloudflare::Cloudflare::start(&["example.com"]);
    let provider = Provider { origin: server.origin(), token: TOKEN.to_owned(), cloudflare: true };
    assert_eq!(run_table(provider).await, (4 + 3 + 3 + 3 + 2 + 3 + 2) * faults());
}

async fn every_call_to_powerdns_can_go_wrong() -> Outcome {
    let server = crate::powerdns::start().await?;
    let provider =
        Provider { origin: server.url(), token: server.key().to_owned(), cloudflare: false };
    assert_eq!(run_table(provider).await, (2 + 2 + 2 + 2 + 1 + 2 + 1) * faults());
    Ok(())
}

/// The store still has the id of the A record, since the answer that named the CNAME was lost.
async fn a_domain_is_deleted_after_the_answer_to_its_last_change_was_lost() {
    let server = rdev_testkit::servers::cloudflare::Cloudflare::start(&["example.com"]);
    let before = Server::before(&server.origin());
    let (dns, site) = (cloudflare_at(&before.url()), name("site.example.com"));
    let recorded = dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await.expect("a free name");
    before.break_on("POST", "/batch", Fault::LoseAnswer);
    let outcome = dns.put(&cname(&site, "web.example.net"), OWNERSHIP_TAG).await;
    assert_eq!(kind(&outcome), "unavailable");
    assert_eq!(server.look_up("site.example.com"), ["web.example.net"]);
    before.heal();
    dns.delete(&site, Some(&recorded), OWNERSHIP_TAG).await.expect("ours");
    assert_eq!(server.records("site.example.com"), []);
}

/// Between its two requests, a delete finds the record gone: somebody else was faster.
async fn a_delete_whose_answer_was_lost_is_repeated() {
    let server = rdev_testkit::servers::cloudflare::Cloudflare::start(&["example.com"]);
    let before = Server::before(&server.origin());
    let (dns, site) = (cloudflare_at(&before.url()), name("site.example.com"));
    let id = dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await.expect("a free name");
    before.break_on("DELETE", "/dns_records/", Fault::LoseAnswer);
    assert_eq!(kind(&dns.delete(&site, Some(&id), OWNERSHIP_TAG).await), "unavailable");
    assert_eq!(server.records("site.example.com"), []);
    dns.delete(&site, Some(&id), OWNERSHIP_TAG).await.expect("there is nothing to do any more");
    let gone = r#"{"success":false,"errors":[{"code":81044,"message":"Record does not exist."}],
                   "messages":[],"result":null}"#;
    server.add("site.example.com", "A", "192.0.2.1", Some(OWNERSHIP_TAG));
    before.break_on("DELETE", "/dns_records/", Fault::Body(404, "application/json", gone.into()));
    dns.delete(&site, Some(&id), OWNERSHIP_TAG).await.expect("somebody else was faster");
}

/// What PowerDNS answers when its SQLite refuses one of several changes at the same moment.
fn locked() -> Fault {
    let body = r#"{"error":"Unable to execute query: database is locked"}"#;
    Fault::Body(500, "application/json", body.to_owned())
}

/// The methods of the requests so far, as `GET PATCH …`.
fn methods(server: &Server) -> String {
    let methods: Vec<String> =
        server.requests().into_iter().map(|request| request.method).collect();
    methods.join(" ")
}

async fn a_powerdns_that_cannot_write_at_all_is_unavailable_and_nothing_is_changed() -> Outcome {
    let server = crate::powerdns::start().await?;
    let before = Server::before(&server.url());
    let site = name("site.example.com");
    let dns = powerdns_with(&before.url(), server.key(), PATIENT_S, Duration::from_millis(500));
    dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await.expect("a free name");
    before.break_on("PATCH", "/zones/", locked());
    let outcomes = [
        dns.put(&a(&site, "192.0.2.2"), OWNERSHIP_TAG).await.map(drop),
        dns.delete(&site, None, OWNERSHIP_TAG).await,
    ];
    for outcome in outcomes {
        assert_eq!(kind(&outcome), "unavailable");
        let text = told(&outcome.expect_err("an error"));
        assert!(text.contains("status 500: Unable to execute query: database is locked"), "{text}");
    }
    assert_eq!(shown(&dns, &site).await, [format!("A 192.0.2.1 300 {OWNERSHIP_TAG}")]);
    // At least one retry each, and every change after a read of its own.
    before.forget();
    let outcome = dns.delete(&site, None, OWNERSHIP_TAG).await;
    assert_eq!(kind(&outcome), "unavailable");
    let methods = methods(&before);
    assert!(methods.starts_with("GET PATCH GET PATCH"), "{methods}");
    assert!(!methods.contains("PATCH PATCH"), "{methods}");
    Ok(())
}

/// More often than seven times, which once was too few on a busy machine.
async fn a_change_that_powerdns_refuses_eight_times_is_read_anew_each_time_and_made() -> Outcome {
    let server = crate::powerdns::start().await?;
    let before = Server::before(&server.url());
    let site = name("site.example.com");
    // Eight pauses take up to 7 s; the time of a busy machine is added.
    let dns = powerdns_with(&before.url(), server.key(), PATIENT_S, Duration::from_secs(60));
    let refused_eight_times = "GET PATCH ".repeat(8) + "GET PATCH";
    before.break_first(8, "PATCH", "/zones/", locked());
    dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await.expect("the ninth change");
    assert_eq!(methods(&before), refused_eight_times);
    assert_eq!(shown(&dns, &site).await, [format!("A 192.0.2.1 300 {OWNERSHIP_TAG}")]);
    before.break_first(2, "PATCH", "/zones/", locked());
    before.forget();
    dns.delete(&site, None, OWNERSHIP_TAG).await.expect("the third change");
    assert_eq!(methods(&before), "GET PATCH GET PATCH GET PATCH");
    assert_eq!(shown(&dns, &site).await, [""; 0]);
    Ok(())
}

async fn a_retry_sees_what_somebody_else_wrote_after_the_change_was_refused() -> Outcome {
    let server = crate::powerdns::start().await?;
    let before = Arc::new(Server::before(&server.url()));
    let site = name("site.example.com");
    let dns = powerdns_with(&before.url(), server.key(), PATIENT_S, Duration::from_secs(60));
    before.break_on("PATCH", "/zones/", locked());
    let put = {
        let site = site.clone();
        tokio::spawn(async move { dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await })
    };
    let seen = Arc::clone(&before);
    // Until the end: the server ends when it is dropped.
    let _server = tokio::task::spawn_blocking(move || {
        let deadline = Instant::now() + Duration::from_secs(600);
        while !methods(&seen).contains("PATCH") {
            assert!(Instant::now() < deadline, "the change was not sent");
            std::thread::sleep(Duration::from_millis(5));
        }
        server.write("site.example.com", "A", &["192.0.2.9"], Some("by hand"));
        server
    })
    .await
    .expect("somebody else's record");
    assert_eq!(kind(&put.await.expect("no panic")), "not ours");
    assert!(!methods(&before).contains("PATCH PATCH"), "{}", methods(&before));
    Ok(())
}
