//! The self-check.

use rdev_platform::Finding;
use rdev_testkit::servers::faults::{Fault, Server};
use rdev_testkit::servers::woodpecker::WoodpeckerServer;

use super::{adapter, hasty, with};

rdev_testkit::trials! {
    async a_server_that_is_well_has_no_problem;
    async a_wrong_token_is_found_and_how_to_mend_it;
    async a_wrong_url_is_found;
    async a_server_that_is_too_old_is_found;
    async a_server_that_cannot_be_reached_is_one_problem;
}

/// The findings that are problems: what, and the problem.
fn problems(findings: &[Finding]) -> Vec<(&str, &str)> {
    let with = |it: &'_ Finding| it.problem.is_some();
    let found = findings.iter().filter(|it| with(it));
    found.map(|it| (it.what.as_str(), it.problem.as_deref().unwrap_or_default())).collect()
}

async fn a_server_that_is_well_has_no_problem() {
    let server = WoodpeckerServer::start();
    let findings = adapter(&server.url()).check().await;
    assert_eq!(problems(&findings), []);
    assert_eq!(findings.len(), 4);
}

async fn a_wrong_token_is_found_and_how_to_mend_it() {
    let server = WoodpeckerServer::start();
    let findings = with(&server.url(), "wrong", 10).check().await;
    let [(what, problem)] = problems(&findings)[..] else { panic!("{findings:?}") };
    assert_eq!(what, "the CI server's token");
    assert!(problem.contains("401") && problem.contains("personal token"), "{problem}");
    assert!(!problem.contains("wrong\""), "{problem}");
}

async fn a_wrong_url_is_found() {
    let server = WoodpeckerServer::start();
    let findings = adapter(&format!("{}/api", server.url())).check().await;
    let [(_, problem)] = problems(&findings)[..] else { panic!("{findings:?}") };
    assert!(problem.contains("without /api"), "{problem}");
}

async fn a_server_that_is_too_old_is_found() {
    let server = WoodpeckerServer::start();
    let between = Server::before(&server.url());
    let old = r#"{"source": "x", "version": "2.8.3"}"#.to_owned();
    between.break_on("GET", "/version", Fault::Body(200, "application/json", old));
    let findings = adapter(&between.url()).check().await;
    let [(what, problem)] = problems(&findings)[..] else { panic!("{findings:?}") };
    assert_eq!(what, "the CI server's version");
    assert!(problem.contains("2.8.3"), "{problem}");
}

async fn a_server_that_cannot_be_reached_is_one_problem() {
    let server = Server::start();
    for fault in [Fault::Refused, Fault::Hang, Fault::Html, Fault::Status(502), Fault::Huge] {
        server.answer_with(fault.clone());
        let url = server.url();
        let ci = if fault == Fault::Hang { hasty(&url) } else { adapter(&url) };
        let findings = ci.check().await;
        assert_eq!(problems(&findings).len(), 1, "{fault:?}: {findings:?}");
        assert_eq!(findings.len(), 1, "{fault:?}");
    }
}
