//! The PowerDNS adapter against a real PowerDNS.

use std::sync::{Arc, OnceLock};

use rdev_domain::ports::{Dns, PortError};
use rdev_platform::DnsAdapter as _;
use rdev_testkit::conformance::dns;
use rdev_testkit::servers::faults::{Fault, Server};
use rdev_testkit::servers::powerdns::PowerDns;
use rdev_testkit::tools::needs::NotRun;
use rdev_testkit::tools::trial::{Outcome, Trial};
use serde_json::json;

use crate::dns::{
    OWNERSHIP_TAG, PATIENT_S, a, cname, kind, name, powerdns_at, powerdns_under_test, shown, told,
    zone,
};

rdev_testkit::trials! {
    async a_query_over_udp_finds_what_was_put;
    async a_change_of_the_kind_is_one_request;
    async a_cname_is_refused_beside_records_of_kinds_that_rdev_never_makes;
    async the_zone_itself_cannot_be_a_cname;
    async what_others_have_noted_beside_our_records_stays;
    async another_kind_that_came_up_in_between_is_changed;
    async the_rest_of_the_zone_stays_as_it_is;
    async what_powerdns_refuses_for_good_is_invalid_and_a_backend_without_comments_is_named;
    async the_check_says_what_is_wrong_and_how_to_mend_it;
}

pub(crate) async fn start() -> Result<Arc<PowerDns>, NotRun> {
    let started = tokio::task::spawn_blocking(|| PowerDns::start(&zone())).await;
    started.expect("no panic").map(Arc::new)
}

/// The cases of the conformance suite.
pub(crate) fn conformance() -> Vec<Trial> {
    static SERVER: OnceLock<Result<Arc<PowerDns>, NotRun>> = OnceLock::new();
    dns::trials("powerdns", async || {
        let started = SERVER.get_or_init(|| PowerDns::start(&zone()).map(Arc::new));
        started.as_ref().map(powerdns_under_test).map_err(Clone::clone)
    })
}

async fn a_query_over_udp_finds_what_was_put() -> Outcome {
    let server = start().await?;
    let dns = powerdns_at(&server.url(), server.key());
    let (site, alias) = (name("site.example.com"), name("alias.example.com"));
    dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await.expect("a free name");
    dns.put(&cname(&alias, "site.example.com"), OWNERSHIP_TAG).await.expect("a free name");
    let resolved = server.resolve("alias.example.com", "A");
    assert_eq!(resolved.contents("CNAME"), ["site.example.com"]);
    assert_eq!(resolved.contents("A"), ["192.0.2.1"]);
    assert!(resolved.answers.iter().all(|found| found.ttl == 300));
    dns.delete(&site, None, OWNERSHIP_TAG).await.expect("ours");
    assert_eq!(server.resolve("alias.example.com", "A").contents("A"), [""; 0]);
    assert_eq!(server.resolve("site.example.com", "A").code, 3);
    Ok(())
}

async fn a_change_of_the_kind_is_one_request() -> Outcome {
    let server = start().await?;
    let before = Server::before(&server.url());
    let (dns, site) = (powerdns_at(&before.url(), server.key()), name("site.example.com"));
    dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await.expect("a free name");
    for spec in [cname(&site, "web.example.net"), a(&site, "192.0.2.2")] {
        before.forget();
        dns.put(&spec, OWNERSHIP_TAG).await.expect("a change of the kind");
        let asked: Vec<String> =
            before.requests().into_iter().map(|request| request.method).collect();
        assert_eq!(asked, ["GET", "PATCH"]);
        before.forget();
        dns.put(&spec, OWNERSHIP_TAG).await.expect("the same again");
        assert_eq!(before.requests().len(), 1, "one look, and no change");
    }
    Ok(())
}

async fn a_cname_is_refused_beside_records_of_kinds_that_rdev_never_makes() -> Outcome {
    let server = start().await?;
    let (dns, site) = (powerdns_at(&server.url(), server.key()), name("site.example.com"));
    server.write("site.example.com", "TXT", &["\"text\""], Some("by hand"));
    assert_eq!(kind(&dns.put(&cname(&site, "web.example.net"), OWNERSHIP_TAG).await), "not ours");
    assert_eq!(shown(&dns, &site).await, [""; 0]);
    // An address has room beside a text.
    dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await.expect("a name without addresses");
    assert_eq!(server.resolve("site.example.com", "A").contents("A"), ["192.0.2.1"]);
    Ok(())
}

async fn the_zone_itself_cannot_be_a_cname() -> Outcome {
    let server = start().await?;
    let (dns, apex) = (powerdns_at(&server.url(), server.key()), name("example.com"));
    match dns.put(&cname(&apex, "web.example.net"), OWNERSHIP_TAG).await {
        Err(PortError::Invalid(invalid)) => assert_eq!(invalid.what, "type"),
        other => panic!("{other:?}"),
    }
    Ok(())
}

async fn what_others_have_noted_beside_our_records_stays() -> Outcome {
    let server = start().await?;
    let before = Server::before(&server.url());
    let (dns, site) = (powerdns_at(&before.url(), server.key()), name("site.example.com"));
    dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await.expect("a free name");
    // Its set as it would be when somebody had noted something beside it.
    let set = json!({
        "name": "site.example.com.", "type": "A", "ttl": 300,
        "records": [{ "content": "192.0.2.1", "disabled": false }],
        "comments": [
            { "content": "ask Ann first", "account": "ann", "modified_at": 1_700_000_000 },
            { "content": OWNERSHIP_TAG, "account": "rdev", "modified_at": 1_700_000_001 },
        ],
    });
    let zone = json!({ "name": "example.com.", "rrsets": [set] });
    before.break_nth(0, Fault::Body(200, "application/json", zone.to_string()));
    before.forget();
    dns.put(&a(&site, "192.0.2.2"), OWNERSHIP_TAG).await.expect("ours");
    let patch = before.requests().pop().expect("a change");
    for text in ["ask Ann first", "ann", "1700000000"] {
        assert!(patch.shows(text), "{text}");
    }
    assert_eq!(shown(&dns, &site).await, [format!("A 192.0.2.2 300 {OWNERSHIP_TAG}")]);
    Ok(())
}

async fn another_kind_that_came_up_in_between_is_changed() -> Outcome {
    let server = start().await?;
    let before = Server::before(&server.url());
    let dns = powerdns_at(&before.url(), server.key());
    let direct = powerdns_at(&server.url(), server.key());
    let site = name("site.example.com");
    let nothing = json!({ "name": "example.com.", "rrsets": [] }).to_string();
    for (there, wanted) in [
        (a(&site, "192.0.2.1"), cname(&site, "web.example.net")),
        (cname(&site, "web.example.net"), a(&site, "192.0.2.1")),
    ] {
        direct.put(&there, OWNERSHIP_TAG).await.expect("ours");
        before.break_nth(0, Fault::Body(200, "application/json", nothing.clone()));
        dns.put(&wanted, OWNERSHIP_TAG).await.expect("ours, read again");
        assert_eq!(direct.records(&site).await.expect("the records").len(), 1);
        assert_eq!(
            server.resolve("site.example.com", "A").answers[0].content,
            wanted.target.content()
        );
    }
    // Somebody else's is seen when it is read again, and stays.
    direct.delete(&site, None, OWNERSHIP_TAG).await.expect("ours");
    server.write("site.example.com", "CNAME", &["x.example.net."], None);
    before.break_nth(0, Fault::Body(200, "application/json", nothing));
    assert_eq!(kind(&dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await), "not ours");
    assert_eq!(shown(&dns, &site).await, ["CNAME x.example.net 3600 no ownership tag"]);
    Ok(())
}

async fn the_rest_of_the_zone_stays_as_it_is() -> Outcome {
    let server = start().await?;
    let (dns, apex) = (powerdns_at(&server.url(), server.key()), name("example.com"));
    let before = server.resolve("example.com", "SOA");
    assert_eq!(before.answers.len(), 1);
    dns.put(&a(&apex, "192.0.2.1"), OWNERSHIP_TAG).await.expect("no address so far");
    dns.delete(&apex, None, OWNERSHIP_TAG).await.expect("ours");
    let after = server.resolve("example.com", "SOA");
    assert_eq!(after, before);
    Ok(())
}

async fn what_powerdns_refuses_for_good_is_invalid_and_a_backend_without_comments_is_named()
-> Outcome {
    let server = start().await?;
    let before = Server::before(&server.url());
    let (dns, site) = (powerdns_at(&before.url(), server.key()), name("site.example.com"));
    let refused =
        |why: &str| Fault::Body(422, "application/json", json!({ "error": why }).to_string());
    before.break_on("PATCH", "/zones/", refused("Name is out of zone"));
    match dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await {
        Err(PortError::Invalid(invalid)) => {
            assert_eq!(invalid.why, "is refused by the DNS provider: Name is out of zone");
        }
        other => panic!("{other:?}"),
    }
    before.break_on(
        "PATCH",
        "/zones/",
        refused("Hosting backend does not support editing comments."),
    );
    let error = dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await.expect_err("no comments");
    assert!(told(&error).contains("keeps no comments"), "{}", told(&error));
    assert_eq!(shown(&dns, &site).await, [""; 0]);
    Ok(())
}

async fn the_check_says_what_is_wrong_and_how_to_mend_it() -> Outcome {
    let server = start().await?;
    let problems = |findings: Vec<rdev_platform::Finding>| -> Vec<String> {
        let problem = |finding: rdev_platform::Finding| {
            finding.problem.map(|problem| format!("{}: {problem}", finding.what))
        };
        findings.into_iter().filter_map(problem).collect()
    };
    let findings = powerdns_at(&server.url(), server.key()).check().await;
    let looked_at: Vec<&str> = findings.iter().map(|finding| finding.what.as_str()).collect();
    assert_eq!(
        looked_at,
        ["the DNS provider", "the DNS provider's API key", "the zone example.com"]
    );
    assert_eq!(problems(findings), [""; 0]);

    let found = problems(powerdns_at(&server.url(), "wrong").check().await);
    assert!(found[0].starts_with("the DNS provider's API key: "), "{found:?}");
    assert!(found[0].contains("api-key") && !found[0].contains("wrong;"), "{found:?}");

    let other = "example.net".parse().expect("a zone");
    let url = server.url();
    let settings = rdev_platform::powerdns::Settings {
        url,
        zone: other,
        server: "localhost".to_owned(),
        timeout_s: PATIENT_S,
        retry_for: rdev_platform::powerdns::RETRY_FOR,
    };
    let token = rdev_domain::secret::Secret::new(server.key());
    let token = rdev_domain::token::Token::known(token);
    let elsewhere = rdev_platform::powerdns::PowerDns::new(settings, token).expect("a URL");
    let found = problems(elsewhere.check().await);
    assert!(found[0].contains("pdnsutil create-zone example.net"), "{found:?}");
    let site = name("site.example.net");
    let error =
        elsewhere.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await.expect_err("no such zone");
    assert!(told(&error).contains("it has no zone example.net"), "{}", told(&error));

    let gone = Server::start();
    gone.answer_with(Fault::Refused);
    let found = problems(powerdns_at(&gone.url(), "key").check().await);
    assert!(found[0].starts_with("the DNS provider: ") && found.len() == 1, "{found:?}");
    Ok(())
}
