//! The Cloudflare adapter against a server that keeps records as Cloudflare does.

use std::future::ready;
use std::sync::Arc;

use rdev_domain::dns::DomainSpec;
use rdev_domain::ports::{Dns, PortError};
use rdev_platform::DnsAdapter as _;
use rdev_testkit::conformance::dns;
use rdev_testkit::servers::cloudflare::Cloudflare;
use rdev_testkit::servers::faults::{Fault, Server};
use rdev_testkit::tools::trial::Trial;
use serde_json::json;

use crate::dns::{
    OWNERSHIP_TAG, PATIENT_S, a, cloudflare_at, cloudflare_under_test, cloudflare_with, cname,
    kind, name, shown, told,
};

rdev_testkit::trials! {
    async a_change_of_the_kind_is_one_batch_and_the_name_never_leads_nowhere;
    async a_change_of_the_target_keeps_the_records_id;
    async the_zone_is_looked_up_once_and_a_list_is_asked_for_by_the_exact_name;
    async records_are_found_on_whatever_page_they_stand;
    async two_of_ours_are_merged_into_the_oldest;
    async all_of_ours_are_deleted_and_nothing_else;
    async a_record_that_came_up_in_between_is_read_again;
    async another_kind_that_came_up_in_between_is_changed;
    async somebody_elses_record_that_came_up_in_between_stays_alone;
    async what_is_in_the_way_and_not_shown_is_somebody_elses;
    async a_record_that_went_away_in_between_is_made_anew;
    async what_cloudflare_refuses_for_good_is_invalid_and_names_the_field;
    async a_limit_is_respected_until_it_is_over;
    async a_zone_that_the_token_does_not_see_is_an_error_of_the_configuration;
    async a_proxied_record_has_no_time_to_live_of_its_own;
    async the_check_says_what_is_wrong_and_how_to_mend_it;
}

fn start() -> Cloudflare {
    Cloudflare::start(&["example.org", "example.com"])
}

fn json_body(status: u16, body: &serde_json::Value) -> Fault {
    Fault::Body(status, "application/json", body.to_string())
}

/// A list without records, as it was before somebody was faster.
fn nothing() -> Fault {
    let info =
        json!({ "page": 1, "per_page": 100, "count": 0, "total_count": 0, "total_pages": 1 });
    json_body(
        200,
        &json!({ "success": true, "errors": [], "messages": [], "result": [], "result_info": info }),
    )
}

fn refused(code: u32) -> Fault {
    let errors = json!([{ "code": code, "message": "because" }]);
    json_body(400, &json!({ "success": false, "errors": errors, "messages": [], "result": null }))
}

/// The cases of the conformance suite.
pub(crate) fn conformance() -> Vec<Trial> {
    let server = Arc::new(start());
    dns::trials("cloudflare", move || ready(Ok(cloudflare_under_test(&server))))
}

async fn a_change_of_the_kind_is_one_batch_and_the_name_never_leads_nowhere() {
    let server = start();
    let before = Server::before(&server.origin());
    let (dns, site) = (cloudflare_at(&before.url()), name("site.example.com"));
    dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await.expect("a free name");
    for spec in [cname(&site, "web.example.net"), a(&site, "192.0.2.2")] {
        before.forget();
        dns.put(&spec, OWNERSHIP_TAG).await.expect("a change of the kind");
        let asked: Vec<String> =
            before.requests().into_iter().map(|request| request.method).collect();
        assert_eq!(asked, ["GET", "POST"]);
        assert!(before.requests()[1].path().ends_with("/dns_records/batch"));
    }
    let history = server.history("site.example.com");
    assert_eq!(history, [vec![], vec!["192.0.2.1"], vec!["web.example.net"], vec!["192.0.2.2"]]);
}

async fn a_change_of_the_target_keeps_the_records_id() {
    let server = start();
    let (dns, site) = (cloudflare_at(&server.origin()), name("site.example.com"));
    let id = dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await.expect("a free name");
    assert_eq!(dns.put(&a(&site, "192.0.2.2"), OWNERSHIP_TAG).await.expect("a change"), id);
    let history = server.history("site.example.com");
    assert_eq!(history, [vec![], vec!["192.0.2.1"], vec!["192.0.2.2"]]);
}

async fn the_zone_is_looked_up_once_and_a_list_is_asked_for_by_the_exact_name() {
    let server = start();
    let before = Server::before(&server.origin());
    let (dns, site) = (cloudflare_at(&before.url()), name("*.site.example.com"));
    for address in ["192.0.2.1", "192.0.2.2"] {
        dns.put(&a(&site, address), OWNERSHIP_TAG).await.expect("a change");
        dns.records(&site).await.expect("the records");
    }
    let requests = before.requests();
    let zones = requests.iter().filter(|request| request.path() == "/client/v4/zones");
    let zones: Vec<&str> = zones.map(|request| request.target.as_str()).collect();
    assert_eq!(zones, ["/client/v4/zones?name=example.com"]);
    let lists = requests.iter().filter(|request| request.method == "GET").skip(1);
    for list in lists {
        assert!(list.target.contains("?name.exact=*.site.example.com&"), "{}", list.target);
    }
}

async fn records_are_found_on_whatever_page_they_stand() {
    let server = start();
    server.page_size(1);
    for number in 0..5 {
        server.add("site.example.com", "TXT", &format!("text {number}"), None);
    }
    let (dns, site) = (cloudflare_at(&server.origin()), name("site.example.com"));
    dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await.expect("a name without addresses");
    dns.put(&a(&site, "192.0.2.2"), OWNERSHIP_TAG).await.expect("a change");
    assert_eq!(shown(&dns, &site).await, [format!("A 192.0.2.2 300 {OWNERSHIP_TAG}")]);
    server.add("site.example.com", "AAAA", "2001:db8::9", None);
    assert_eq!(kind(&dns.put(&a(&site, "192.0.2.3"), OWNERSHIP_TAG).await), "not ours");
    assert_eq!(server.records("site.example.com").len(), 7);
}

async fn two_of_ours_are_merged_into_the_oldest() {
    for wanted in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "web.example.net"] {
        let server = start();
        let (dns, site) = (cloudflare_at(&server.origin()), name("site.example.com"));
        let oldest = server.add("site.example.com", "A", "192.0.2.1", Some(OWNERSHIP_TAG));
        server.add("site.example.com", "A", "192.0.2.2", Some(OWNERSHIP_TAG));
        let spec = match wanted {
            "web.example.net" => cname(&site, wanted),
            address => a(&site, address),
        };
        let id = dns.put(&spec, OWNERSHIP_TAG).await.expect("ours");
        let kept = spec.target.kind().as_str() == "A";
        assert_eq!(id == oldest, kept, "{wanted}");
        let left = server.records("site.example.com");
        let left: Vec<_> =
            left.iter().map(|record| (&record.id, record.content.as_str())).collect();
        assert_eq!(left, [(&id, wanted)]);
        assert!(server.history("site.example.com")[1..].iter().all(|now| !now.is_empty()));
    }
}

async fn all_of_ours_are_deleted_and_nothing_else() {
    let server = start();
    let (dns, site) = (cloudflare_at(&server.origin()), name("site.example.com"));
    let id = server.add("site.example.com", "A", "192.0.2.1", Some(OWNERSHIP_TAG));
    server.add("site.example.com", "A", "192.0.2.2", Some(OWNERSHIP_TAG));
    server.add("site.example.com", "A", "192.0.2.9", Some("by hand"));
    server.add("site.example.com", "TXT", "text", Some(OWNERSHIP_TAG));
    dns.delete(&site, Some(&id), OWNERSHIP_TAG).await.expect("ours");
    let left = server.records("site.example.com");
    let left: Vec<_> = left.iter().map(|record| record.content.as_str()).collect();
    assert_eq!(left, ["192.0.2.9", "text"]);
}

async fn a_record_that_came_up_in_between_is_read_again() {
    let (server, site) = (start(), name("site.example.com"));
    let before = Server::before(&server.origin());
    let dns = cloudflare_at(&before.url());
    dns.records(&site).await.expect("the zone is known from here on");
    // The same one, which another process makes after this one has looked.
    let direct = cloudflare_at(&server.origin());
    let made = direct.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await.expect("a free name");
    before.break_nth(0, nothing());
    before.forget();
    assert_eq!(
        dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await.expect("the same record"),
        made
    );
    let asked: Vec<String> = before.requests().into_iter().map(|request| request.method).collect();
    assert_eq!(asked, ["GET", "POST", "GET"]);
    assert_eq!(server.records("site.example.com").len(), 1);
}

async fn another_kind_that_came_up_in_between_is_changed() {
    let (server, site) = (start(), name("site.example.com"));
    let before = Server::before(&server.origin());
    let dns = cloudflare_at(&before.url());
    dns.records(&site).await.expect("the zone is known from here on");
    let direct = cloudflare_at(&server.origin());
    for (there, wanted) in [
        (a(&site, "192.0.2.1"), cname(&site, "web.example.net")),
        (cname(&site, "web.example.net"), a(&site, "192.0.2.1")),
    ] {
        direct.put(&there, OWNERSHIP_TAG).await.expect("ours");
        before.break_nth(0, nothing());
        dns.put(&wanted, OWNERSHIP_TAG).await.expect("ours, read again");
        let left = server.records("site.example.com");
        assert_eq!((left.len(), &left[0].content), (1, &wanted.target.content()));
    }
}

async fn somebody_elses_record_that_came_up_in_between_stays_alone() {
    let site = name("site.example.com");
    for (content, wanted) in [
        // Refused as identical, refused as no CNAME, and taken, since two addresses may be.
        ("192.0.2.1", a(&site, "192.0.2.1")),
        ("192.0.2.9", cname(&site, "web.example.net")),
        ("192.0.2.9", a(&site, "192.0.2.1")),
    ] {
        let server = start();
        let before = Server::before(&server.origin());
        let dns = cloudflare_at(&before.url());
        dns.records(&site).await.expect("the zone is known from here on");
        let id = server.add("site.example.com", "A", content, None);
        before.break_nth(0, nothing());
        assert_eq!(kind(&dns.put(&wanted, OWNERSHIP_TAG).await), "not ours", "{content}");
        let left = server.records("site.example.com");
        assert_eq!((left.len(), &left[0].id), (1, &id));
    }
}

async fn what_is_in_the_way_and_not_shown_is_somebody_elses() {
    let (server, site) = (start(), name("site.example.com"));
    let before = Server::before(&server.origin());
    let dns = cloudflare_at(&before.url());
    for code in [81053, 81054, 81057, 81058] {
        before.break_on("POST", "/dns_records", refused(code));
        before.forget();
        assert_eq!(
            kind(&dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await),
            "not ours",
            "{code}"
        );
        let posts = before.requests().iter().filter(|request| request.method == "POST").count();
        assert_eq!(posts, 1, "it is not tried over and over");
    }
    assert_eq!(server.records("site.example.com"), []);
}

async fn a_record_that_went_away_in_between_is_made_anew() {
    let (server, site) = (start(), name("site.example.com"));
    let dns = cloudflare_at(&server.origin());
    let before = Server::before(&server.origin());
    let late = cloudflare_at(&before.url());
    for wanted in [a(&site, "192.0.2.2"), cname(&site, "web.example.net")] {
        dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await.expect("a change");
        late.records(&site).await.expect("the zone is known from here on");
        let listed = format!(
            "{}/zones/{}/dns_records?name.exact=site.example.com&per_page=100&page=1",
            server.url(),
            before.requests().last().expect("a list").path().split('/').nth(4).expect("its id")
        );
        let stale = get(&listed).await;
        dns.delete(&site, None, OWNERSHIP_TAG).await.expect("ours");
        before.break_nth(0, Fault::Body(200, "application/json", stale));
        late.put(&wanted, OWNERSHIP_TAG).await.expect("a free name");
        let left = server.records("site.example.com");
        assert_eq!((left.len(), &left[0].content), (1, &wanted.target.content()));
    }
}

async fn get(url: &str) -> String {
    let client = reqwest::Client::new();
    let answer = client.get(url).bearer_auth(rdev_testkit::servers::cloudflare::TOKEN).send().await;
    answer.expect("an answer").text().await.expect("its text")
}

async fn what_cloudflare_refuses_for_good_is_invalid_and_names_the_field() {
    let (server, site) = (start(), name("site.example.com"));
    let before = Server::before(&server.origin());
    let dns = cloudflare_at(&before.url());
    for (code, what) in
        [(9000, "domain"), (9005, "target"), (9007, "target"), (9021, "ttl"), (9004, "record")]
    {
        let direct = refused(code);
        let errors = json!([{
            "code": 1004, "message": "DNS Validation Error",
            "error_chain": [{ "code": code, "message": "because" }],
        }]);
        let chained =
            json_body(400, &json!({ "success": false, "errors": errors, "result": null }));
        for fault in [direct, chained] {
            before.break_on("POST", "/dns_records", fault);
            match dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await {
                Err(PortError::Invalid(invalid)) => {
                    let why = format!("is refused by the DNS provider: because ({code})");
                    assert_eq!((invalid.what, invalid.why), (what, why));
                }
                other => panic!("{code}: {other:?}"),
            }
        }
    }
    for (codes, expected) in
        [(&[6003, 9103, 9106, 9109, 10000][..], "denied"), (&[81045, 7003, 1][..], "upstream")]
    {
        for &code in codes {
            before.break_on("POST", "/dns_records", refused(code));
            let outcome = dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await;
            assert_eq!(kind(&outcome), expected, "{code}");
        }
    }
    // Neither is it success for its status alone, nor by its envelope alone.
    let (good, bad) = (json!({ "success": true, "result": {} }), json!({ "success": false }));
    for fault in [json_body(200, &bad), json_body(400, &good), json_body(200, &good)] {
        before.break_on("POST", "/dns_records", fault.clone());
        assert_eq!(
            kind(&dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await),
            "upstream",
            "{fault:?}"
        );
    }
    assert_eq!(server.records("site.example.com"), []);
}

async fn a_limit_is_respected_until_it_is_over() {
    let (server, site) = (start(), name("site.example.com"));
    let dns = cloudflare_at(&server.origin());
    dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await.expect("a free name");
    server.limit(1, 300);
    // The list is answered, the change is not; and from then on nothing is asked for.
    let limited = |outcome| match outcome {
        Err(PortError::Limited { retry_after, .. }) => retry_after.expect("how long").as_secs(),
        other => panic!("{other:?}"),
    };
    let changed = a(&site, "192.0.2.2");
    assert_eq!(limited(dns.put(&changed, OWNERSHIP_TAG).await.map(|_| ())), 300);
    let asked = server.requests();
    assert!(limited(dns.delete(&site, None, OWNERSHIP_TAG).await) > 290);
    assert_eq!(server.requests(), asked);
    assert_eq!(server.records("site.example.com")[0].content, "192.0.2.1");
    server.lift_limit();
    // Another process, which was not told to wait.
    let dns = cloudflare_at(&server.origin());
    dns.put(&changed, OWNERSHIP_TAG).await.expect("a change");
    assert_eq!(server.records("site.example.com").len(), 1);
}

async fn a_zone_that_the_token_does_not_see_is_an_error_of_the_configuration() {
    let server = Cloudflare::start(&["example.org", "sub.example.com"]);
    let (dns, site) = (cloudflare_at(&server.origin()), name("site.example.com"));
    let outcome = dns.put(&a(&site, "192.0.2.1"), OWNERSHIP_TAG).await;
    let error = outcome.expect_err("no such zone");
    assert!(told(&error).contains("the token sees no zone example.com"), "{}", told(&error));
    assert!(matches!(error, PortError::Upstream { .. }));
}

async fn a_proxied_record_has_no_time_to_live_of_its_own() {
    let server = start();
    let (dns, site) = (cloudflare_at(&server.origin()), name("site.example.com"));
    let proxied = DomainSpec { proxied: true, ..a(&site, "192.0.2.1") };
    dns.put(&proxied, OWNERSHIP_TAG).await.expect("a free name");
    let asked = server.requests();
    dns.put(&proxied, OWNERSHIP_TAG).await.expect("the same again");
    assert_eq!(server.requests(), asked + 1, "one look, and no change");
    let record = &server.records("site.example.com")[0];
    assert_eq!(
        (record.proxied, record.ttl, record.comment.as_deref()),
        (true, 1, Some(OWNERSHIP_TAG))
    );
}

async fn the_check_says_what_is_wrong_and_how_to_mend_it() {
    let server = start();
    let problems = |findings: Vec<rdev_platform::Finding>| -> Vec<String> {
        let problem = |finding: rdev_platform::Finding| {
            finding.problem.map(|problem| format!("{}: {problem}", finding.what))
        };
        findings.into_iter().filter_map(problem).collect()
    };
    let dns = cloudflare_at(&server.origin());
    let findings = dns.check().await;
    let looked_at: Vec<&str> = findings.iter().map(|finding| finding.what.as_str()).collect();
    let all = [
        "the DNS provider",
        "the clock of the DNS provider",
        "the DNS provider's token",
        "the zone example.com",
        "the token's rights",
    ];
    assert_eq!(looked_at, all);
    // Whether the server's answers have a date is up to its HTTP library.
    assert_eq!(problems(findings), [""; 0]);

    server.token_is_of_user(false);
    assert_eq!(problems(dns.check().await), [""; 0]);
    server.token_may_edit(false);
    let found = problems(dns.check().await);
    assert!(
        found[0].starts_with("the token's rights: it may read records only; make"),
        "{found:?}"
    );
    server.token_may_edit(true);
    server.zone_is("example.com", "pending");
    let found = problems(dns.check().await);
    assert!(found[0].starts_with("the zone example.com: it is pending"), "{found:?}");

    let wrong = cloudflare_with(&server.origin(), "not-a-token", PATIENT_S);
    let found = problems(wrong.check().await);
    assert!(found[0].starts_with("the DNS provider's token: "), "{found:?}");
    assert!(found[0].contains("make an API token") && !found[0].contains("not-a-token"));

    let elsewhere = Cloudflare::start(&["example.org"]);
    let found = problems(cloudflare_at(&elsewhere.origin()).check().await);
    assert!(found[0].starts_with("the zone example.com: the token does not see it"), "{found:?}");

    let gone = Server::start();
    gone.answer_with(Fault::Refused);
    let found = problems(cloudflare_at(&gone.url()).check().await);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("the DNS provider: "), "{found:?}");
}
