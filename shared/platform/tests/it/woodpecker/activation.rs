//! Activation and removal: whatever went wrong before, the next call ends the same.

use rdev_domain::pipeline::CiId;
use rdev_domain::ports::{Ci, Conflict, PortError};
use rdev_testkit::servers::faults::{Fault, Server};
use rdev_testkit::servers::woodpecker::{Age, Known, WoodpeckerServer};

use super::{FORGE_ID, active, adapter, chain, hasty, named, site};

rdev_testkit::trials! {
    async a_repository_is_activated_once_however_often_it_is_asked_for;
    async an_activation_whose_answer_is_lost_ends_the_same;
    async any_call_of_an_activation_may_break_and_the_next_activation_ends_it;
    async a_conflict_is_success_only_when_the_look_up_agrees;
    async a_conflict_with_an_entry_that_was_deactivated_meanwhile_is_tried_again_later;
    async a_conflict_with_a_repository_of_another_name_says_how_to_mend_it;
    async a_repository_that_the_server_cannot_see_yet_is_activated_later;
    async an_activation_without_a_webhook_is_not_done;
    async a_repository_of_others_is_refused_in_the_servers_words;
    async an_answer_about_another_repository_is_no_success;
    async a_repository_is_removed_once_and_its_name_is_free;
    async a_removal_whose_answer_is_lost_ends_the_same;
    async a_removal_is_done_when_a_second_look_finds_nothing;
    async a_removal_of_what_is_still_there_is_not_done;
}

/// The only repository, which must be active and have its webhook.
fn only(server: &WoodpeckerServer) -> Known {
    let [only] = server.repositories().try_into().expect("one repository");
    assert!(only.active && only.hooked && only.forge_id == FORGE_ID, "{only:?}");
    only
}

fn with_site(age: Age) -> WoodpeckerServer {
    let server = WoodpeckerServer::start_as(age);
    server.add_forge_repository(FORGE_ID, "team", "site");
    server
}

async fn a_repository_is_activated_once_however_often_it_is_asked_for() {
    let (server, ci, id) = active().await;
    assert_eq!(only(&server).id, id.0);
    assert_eq!(ci.activate(&site()).await.expect("it is active"), id);
    let other = adapter(&server.url());
    assert_eq!(other.activate(&site()).await.expect("it is active"), id);
    assert_eq!(only(&server).id, id.0);
}

async fn an_activation_whose_answer_is_lost_ends_the_same() {
    for fault in [Fault::HoldAnswer, Fault::LoseAnswer] {
        let server = with_site(Age::Current);
        let between = Server::before(&server.url());
        let ci = hasty(&between.url());
        between.break_on("POST", "/api/repos?", fault.clone());
        let error = ci.activate(&site()).await.expect_err("no answer");
        assert!(error.is_transient(), "{fault:?}: {error:?}");
        let made = only(&server);
        between.heal();
        let ci = adapter(&between.url());
        assert_eq!(ci.activate(&site()).await.expect("it is active").0, made.id);
        assert_eq!(only(&server), made);
    }
}

async fn any_call_of_an_activation_may_break_and_the_next_activation_ends_it() {
    for age in [Age::Current, Age::Old] {
        for broken in 0..3 {
            for fault in [Fault::Status(503), Fault::LoseAnswer, Fault::Gone] {
                let server = with_site(age);
                let between = Server::before(&server.url());
                let ci = adapter(&between.url());
                // So that all three calls are needed: look up, and make the webhook again.
                if age == Age::Old {
                    server.break_next_hook();
                } else {
                    ci.activate(&site()).await.expect("an activation by somebody else");
                }
                between.break_nth(broken, fault.clone());
                let error = ci.activate(&site()).await.expect_err("one call is broken");
                assert!(error.is_transient(), "{age:?} {broken} {fault:?}: {error:?}");
                between.heal();
                let id = ci.activate(&site()).await.expect("the next one ends it");
                assert_eq!(only(&server).id, id.0, "{age:?} {broken} {fault:?}");
            }
        }
    }
}

async fn a_conflict_is_success_only_when_the_look_up_agrees() {
    for age in [Age::Current, Age::Old] {
        let server = with_site(age);
        let ci = adapter(&server.url());
        let old = ci.activate(&site()).await.expect("it is activated");
        // Deleted on the forge, and made again with another id.
        server.remove_forge_repository(FORGE_ID);
        server.add_forge_repository(77, "team", "site");
        let before = server.repositories();
        let error = ci.activate(&named("site", 77)).await.expect_err("an old entry is in the way");
        assert!(matches!(error, PortError::Upstream { .. }), "{error:?}");
        let text = chain(&error);
        assert!(text.contains("team/site") && text.contains("delete it"), "{text}");
        assert_eq!(server.repositories(), before);
        ci.deactivate(old).await.expect("it is removed");
        let id = ci.activate(&named("site", 77)).await.expect("nothing is in the way");
        assert_eq!(server.repositories()[0].id, id.0);
    }
}

async fn a_conflict_with_an_entry_that_was_deactivated_meanwhile_is_tried_again_later() {
    let (server, _, id) = active().await;
    let between = Server::before(&server.url());
    let inactive = format!(
        r#"{{"id": {}, "forge_remote_id": "{FORGE_ID}", "active": false, "name": "site"}}"#,
        id.0
    );
    between.break_on("GET", "/lookup/", Fault::Body(200, "application/json", inactive));
    let ci = adapter(&between.url());
    let error = ci.activate(&site()).await.expect_err("it is not active");
    assert!(matches!(error, PortError::Conflict(Conflict::Contended)), "{error:?}");
    assert!(error.is_transient());
}

async fn a_conflict_with_a_repository_of_another_name_says_how_to_mend_it() {
    let (server, ci, _) = active().await;
    server.add_forge_repository(FORGE_ID, "team", "renamed");
    let error = ci.activate(&named("renamed", FORGE_ID)).await.expect_err("no such name there");
    assert!(matches!(error, PortError::Upstream { .. }), "{error:?}");
    assert!(chain(&error).contains("repair it"), "{}", chain(&error));
    assert_eq!(only(&server).full_name, "team/site");
}

async fn a_repository_that_the_server_cannot_see_yet_is_activated_later() {
    let server = WoodpeckerServer::start();
    let ci = adapter(&server.url());
    let error = ci.activate(&site()).await.expect_err("the forge has none");
    assert!(matches!(error, PortError::Unavailable { .. }), "{error:?}");
    assert!(chain(&error).contains("Could not fetch repository from forge"), "{}", chain(&error));
    assert!(server.repositories().is_empty());
    server.add_forge_repository(FORGE_ID, "team", "site");
    ci.activate(&site()).await.expect("now it has one");
    only(&server);
}

async fn an_activation_without_a_webhook_is_not_done() {
    for age in [Age::Current, Age::Old] {
        let server = with_site(age);
        let between = Server::before(&server.url());
        let ci = adapter(&between.url());
        server.break_next_hook();
        // So that the old one is left active, without its webhook.
        between.break_on("POST", "/repair", Fault::Status(500));
        let error = ci.activate(&site()).await.expect_err("there is no webhook");
        assert!(matches!(error, PortError::Unavailable { .. }), "{error:?}");
        assert!(server.repositories().iter().all(|one| !one.hooked));
        between.heal();
        ci.activate(&site()).await.expect("the webhook is made");
        only(&server);
    }
}

async fn a_repository_of_others_is_refused_in_the_servers_words() {
    let server = with_site(Age::Current);
    server.refuse_administration(FORGE_ID);
    let error = adapter(&server.url()).activate(&site()).await.expect_err("it is not ours");
    assert!(matches!(error, PortError::Denied { .. }), "{error:?}");
    assert!(chain(&error).contains("User has to be a admin"), "{}", chain(&error));
    assert!(server.repositories().is_empty());
}

async fn an_answer_about_another_repository_is_no_success() {
    let server = Server::start();
    let ci = adapter(&server.url());
    for body in [
        r#"{"id": 1, "forge_remote_id": "41", "active": true}"#,
        r#"{"id": 1, "forge_remote_id": "42", "active": false}"#,
        r#"{"forge_remote_id": "42", "active": true}"#,
        "[]",
        "null",
    ] {
        server.answer_with(Fault::Body(200, "application/json", body.to_owned()));
        let error = ci.activate(&site()).await.expect_err(body);
        assert!(matches!(error, PortError::Upstream { .. }), "{body}: {error:?}");
        let error = ci.deactivate(CiId(9)).await.expect_err(body);
        assert!(matches!(error, PortError::Upstream { .. }), "{body}: {error:?}");
    }
}

async fn a_repository_is_removed_once_and_its_name_is_free() {
    for age in [Age::Current, Age::Old] {
        let server = with_site(age);
        let ci = adapter(&server.url());
        let id = ci.activate(&site()).await.expect("it is activated");
        // Before 3.2 a removal failed when the forge's repository was gone, but was done.
        server.remove_forge_repository(FORGE_ID);
        ci.deactivate(id).await.expect("it is removed");
        assert!(server.repositories().is_empty(), "{age:?}");
        ci.deactivate(id).await.expect("it is gone");
        server.add_forge_repository(77, "team", "site");
        ci.activate(&named("site", 77)).await.expect("the name is free");
    }
}

async fn a_removal_whose_answer_is_lost_ends_the_same() {
    let (server, _, id) = active().await;
    let between = Server::before(&server.url());
    let ci = hasty(&between.url());
    between.break_on("DELETE", "/api/repos/", Fault::HoldAnswer);
    let error = ci.deactivate(id).await.expect_err("no answer");
    assert!(matches!(error, PortError::TimedOut { .. }), "{error:?}");
    between.heal();
    adapter(&between.url()).deactivate(id).await.expect("it is gone");
    assert!(server.repositories().is_empty());
}

async fn a_removal_is_done_when_a_second_look_finds_nothing() {
    let (server, _, id) = active().await;
    let between = Server::before(&server.url());
    let ci = adapter(&between.url());
    // The answer shows the repository as it was, active; it says nothing.
    ci.deactivate(id).await.expect("it is removed");
    let asked: Vec<(String, String)> =
        between.requests().into_iter().map(|it| (it.method, it.target)).collect();
    let path = format!("/api/repos/{}", id.0);
    let expected = [("DELETE", format!("{path}?remove=true")), ("GET", path)];
    let expected = expected.map(|(method, path)| (method.to_owned(), path));
    assert_eq!(asked, expected);
    assert!(server.repositories().is_empty());
}

async fn a_removal_of_what_is_still_there_is_not_done() {
    let (server, _, id) = active().await;
    let between = Server::before(&server.url());
    let ci = adapter(&between.url());
    let told = format!(r#"{{"id": {}, "forge_remote_id": "{FORGE_ID}", "active": true}}"#, id.0);
    between.break_on("DELETE", "/api/repos/", Fault::Body(200, "application/json", told));
    let error = ci.deactivate(id).await.expect_err("nothing was removed");
    assert!(matches!(error, PortError::Upstream { .. }), "{error:?}");
    assert!(chain(&error).contains("still has"), "{}", chain(&error));
    only(&server);
    between.heal();
    // A second look that fails is no end: the removal is tried again, and finds nothing.
    between.break_on("GET", "/api/repos/", Fault::Status(503));
    ci.deactivate(id).await.expect("it is gone");
    assert!(server.repositories().is_empty());
    let asked: Vec<String> = between.requests().into_iter().map(|it| it.method).collect();
    assert!(asked.ends_with(&["DELETE", "GET", "DELETE"].map(str::to_owned)), "{asked:?}");
}
