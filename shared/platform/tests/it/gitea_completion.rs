//! What a pull request has beside its text, at a stateful Gitea: draft, labels, reviewers.

use rdev_domain::ports::{Forge, Lack, Lacked, OpenedPullRequest, PullRequest};
use rdev_domain::pull_request::{Label, Reviewer};
use rdev_testkit::servers::faults::{Fault, Server};
use rdev_testkit::servers::gitea::{Gitea, TOKEN, USER};
use reqwest::Method;
use serde_json::{Value, json};

use crate::gitea::{acme, adapter, hasty, settings};
use crate::gitea_around::pull_of;

rdev_testkit::trials! {
    async a_pull_request_gets_its_labels_its_reviewers_and_its_draft;
    async a_draft_is_one_by_its_title_and_only_when_it_is_opened;
    async what_cannot_be_set_is_told_by_name_and_the_rest_is_set;
    async a_team_is_one_of_the_repositorys_owner;
    async an_attempt_that_died_before_the_labels_is_completed;
    async what_a_person_did_is_left_to_them;
    async a_token_without_the_scope_for_labels_is_told_which_one_it_needs;
    async a_server_that_is_busy_for_a_moment_is_asked_again;
    async a_server_that_fails_is_told_and_no_error;
}

fn label(name: &str) -> Label {
    name.parse().expect("a label")
}

fn reviewer(name: &str) -> Reviewer {
    name.parse().expect("a reviewer")
}

/// A forge with a repository, labels, people and a team, and a request.
fn scene() -> (Gitea, PullRequest) {
    let gitea = Gitea::start(&["acme", "other"]);
    gitea.create("acme/site", "", &[("a", b"a")]);
    for name in ["by rdev", "Größe"] {
        gitea.label("acme/site", name);
    }
    gitea.user("ann");
    gitea.user("bob");
    gitea.team("acme", "Reviewers");
    let request = pull_of(&gitea, &gitea.url(), "rdev/work");
    (gitea, request)
}

fn with(request: &PullRequest, labels: &[&str], reviewers: &[&str]) -> PullRequest {
    PullRequest {
        labels: labels.iter().map(|name| label(name)).collect(),
        reviewers: reviewers.iter().map(|name| reviewer(name)).collect(),
        ..request.clone()
    }
}

/// What it lacks, by names.
fn names(opened: &OpenedPullRequest) -> Vec<&str> {
    fn name(lack: &Lack) -> &str {
        match &lack.what {
            Lacked::Draft => "draft",
            Lacked::Label(label) => label.as_str(),
            Lacked::Reviewer(reviewer) => reviewer.as_str(),
        }
    }
    opened.lacks.iter().map(name).collect()
}

/// Calls that change something.
fn changes(gitea: &Gitea) -> Vec<String> {
    let seen = gitea.seen().into_iter().filter(|seen| seen.method != "GET");
    seen.map(|seen| format!("{} {} {}", seen.method, seen.path, seen.status)).collect()
}

async fn a_pull_request_gets_its_labels_its_reviewers_and_its_draft() {
    let (gitea, request) = scene();
    let wanted = with(&request, &["by rdev", "Größe"], &["ann", "acme/reviewers"]);
    let opened = acme(&gitea.url()).pull_request(&wanted).await.expect("a pull request");
    assert_eq!(opened, OpenedPullRequest::at(format!("{}/acme/site/pulls/1", gitea.url())));
    assert_eq!(gitea.labels_of("acme/site", 1), ["by rdev", "Größe"]);
    assert_eq!(gitea.asked_of("acme/site", 1), ["ann", "/Reviewers"]);

    // Once more, all is there.
    gitea.forget_seen();
    let again = acme(&gitea.url()).pull_request(&wanted).await.expect("the pull request");
    assert_eq!(again, opened);
    assert_eq!(changes(&gitea), ["POST repos/acme/site/issues/1/labels 200"]);
    assert_eq!(gitea.asked_of("acme/site", 1).len(), 2);

    // Without options nothing more is asked.
    gitea.forget_seen();
    acme(&gitea.url()).pull_request(&request).await.expect("the pull request");
    assert_eq!(gitea.seen().len(), 1);
}

async fn a_draft_is_one_by_its_title_and_only_when_it_is_opened() {
    let (gitea, request) = scene();
    let draft = PullRequest { draft: true, ..request.clone() };
    let opened = acme(&gitea.url()).pull_request(&draft).await.expect("a pull request");
    assert_eq!(opened.lacks, []);
    assert_eq!(gitea.pulls("acme/site")[0].title, "WIP: Add b");
    // Somebody says that it is ready.
    let path = "repos/acme/site/pulls/1";
    edit(&gitea, path, json!({ "title": "Add b" })).await;
    let again = acme(&gitea.url()).pull_request(&draft).await.expect("the pull request");
    assert_eq!(again.lacks, []);
    assert_eq!(gitea.pulls("acme/site")[0].title, "Add b");

    // A server that has other marks takes it for none.
    let server = Server::before(&gitea.url());
    let seen = gitea.seen();
    let made = seen.iter().find(|seen| seen.method == "POST").and_then(|seen| seen.answer.clone());
    let mut made = made.expect("an answer");
    made["draft"] = json!(false);
    server.break_on("POST", "/pulls", Fault::Body(201, "application/json", made.to_string()));
    let other = PullRequest { draft: true, ..pull_of(&gitea, &server.url(), "rdev/other") };
    let opened = acme(&server.url()).pull_request(&other).await.expect("a pull request");
    assert_eq!(names(&opened), ["draft"]);
}

async fn edit(gitea: &Gitea, path: &str, body: Value) {
    let http = reqwest::Client::new();
    let url = format!("{}/api/v1/{path}", gitea.url());
    let call = http.request(Method::PATCH, url).bearer_auth(TOKEN).json(&body);
    let status = call.send().await.expect("an answer").status();
    assert!(status.is_success(), "{status}");
}

async fn what_cannot_be_set_is_told_by_name_and_the_rest_is_set() {
    let (gitea, request) = scene();
    let reviewers = ["nobody", "ann", USER, "acme/nobodies", "acme", "bob"];
    let wanted = with(&request, &["none", "by rdev", "by RDEV?"], &reviewers);
    let opened = acme(&gitea.url()).pull_request(&wanted).await.expect("a pull request");
    let lacking = ["none", "by RDEV?", "nobody", USER, "acme/nobodies", "acme"];
    assert_eq!(names(&opened), lacking);
    for (lack, says) in opened.lacks.iter().zip([
        "make it there",
        "make it there",
        "knows nobody of that name",
        "poster of pr can't be reviewer",
        "knows nobody of that name",
        "can't be added as reviewer",
    ]) {
        assert!(lack.why.contains(says), "{lack:?}");
        assert!(!lack.why.contains(TOKEN), "{lack:?}");
    }
    assert_eq!(gitea.labels_of("acme/site", 1), ["by rdev"]);
    assert_eq!(gitea.asked_of("acme/site", 1), ["ann", "bob"]);
}

async fn a_team_is_one_of_the_repositorys_owner() {
    let (gitea, request) = scene();
    gitea.team("other", "Reviewers");
    let wanted = with(&request, &[], &["other/Reviewers"]);
    let opened = acme(&gitea.url()).pull_request(&wanted).await.expect("a pull request");
    assert_eq!(names(&opened), ["other/Reviewers"]);
    assert!(opened.lacks[0].why.contains("no team of acme"), "{opened:?}");

    // In the repository of a user the server says 201, and asks nobody.
    let full_name = format!("{USER}/site");
    gitea.create(&full_name, "", &[("a", b"a")]);
    gitea.branch(&full_name, "rdev/work", "main");
    gitea.commit(&full_name, "rdev/work", &[("b", b"b")], "Add b");
    let mut wanted = with(&request, &[], &[&format!("{USER}/team")]);
    wanted.branches.git_url = gitea.clone_url(&full_name).parse().expect("a URL");
    let opened = acme(&gitea.url()).pull_request(&wanted).await.expect("a pull request");
    assert!(opened.lacks[0].why.contains("did not take the request"), "{opened:?}");
}

async fn an_attempt_that_died_before_the_labels_is_completed() {
    let (gitea, request) = scene();
    let wanted = with(&request, &["by rdev"], &["ann"]);
    let server = Server::before(&gitea.url());
    let mut through = wanted.clone();
    through.branches.git_url = format!("{}/acme/site.git", server.url()).parse().expect("a URL");
    server.break_on("POST", "/pulls", Fault::HoldAnswer);
    hasty(&server.url()).pull_request(&through).await.expect_err("its answer is lost");
    assert_eq!(gitea.labels_of("acme/site", 1), [""; 0]);
    let opened = acme(&gitea.url()).pull_request(&wanted).await.expect("the pull request");
    assert_eq!(opened.lacks, []);
    assert_eq!(gitea.labels_of("acme/site", 1), ["by rdev"]);
    assert_eq!(gitea.asked_of("acme/site", 1), ["ann"]);
    assert_eq!(gitea.pulls("acme/site").len(), 1);
}

async fn what_a_person_did_is_left_to_them() {
    let (gitea, request) = scene();
    let ann = gitea.administrator("ann");
    let wanted = with(&request, &["by rdev"], &["ann"]);
    let forge = acme(&gitea.url());
    forge.pull_request(&wanted).await.expect("a pull request");
    let text = json!({ "title": "Better", "body": "Words of a person" });
    edit(&gitea, "repos/acme/site/pulls/1", text).await;
    // She has answered: she is not asked again.
    let review = json!({ "event": "APPROVED", "body": "good" });
    let url = format!("{}/api/v1/repos/acme/site/pulls/1/reviews", gitea.url());
    let given = reqwest::Client::new().post(url).bearer_auth(&ann).json(&review).send().await;
    assert_eq!(given.expect("an answer").status(), 200);
    assert_eq!(forge.pull_request(&wanted).await.expect("the pull request").lacks, []);
    assert_eq!(gitea.asked_of("acme/site", 1), [""; 0]);
    let [pull] = &gitea.pulls("acme/site")[..] else { panic!("one pull request") };
    assert_eq!((pull.title.as_str(), pull.body.as_str()), ("Better", "Words of a person"));
    // A closed one gets nothing more.
    gitea.close_pulls("acme/site");
    gitea.forget_seen();
    let closed = with(&request, &["Größe"], &["bob"]);
    assert_eq!(forge.pull_request(&closed).await.expect("the pull request").lacks, []);
    assert_eq!(changes(&gitea), [""; 0]);
}

async fn a_token_without_the_scope_for_labels_is_told_which_one_it_needs() {
    let (gitea, request) = scene();
    let wanted = with(&request, &["by rdev", "Größe"], &["ann"]);
    let small = gitea.token(&["write:repository", "write:organization"]);
    let forge = adapter(settings(&gitea.url(), "acme"), &small);
    let opened = forge.pull_request(&wanted).await.expect("a pull request");
    assert_eq!(names(&opened), ["by rdev", "Größe"]);
    assert!(opened.lacks[0].why.contains("the token needs the scope write:issue"), "{opened:?}");
    assert_eq!(gitea.asked_of("acme/site", 1), ["ann"]);
}

async fn a_server_that_is_busy_for_a_moment_is_asked_again() {
    let (gitea, request) = scene();
    let server = Server::before(&gitea.url());
    let mut wanted = with(&request, &["by rdev"], &[]);
    wanted.branches.git_url = format!("{}/acme/site.git", server.url()).parse().expect("a URL");
    // The list, the new one, the labels.
    server.break_nth(2, Fault::Status(503));
    let opened = acme(&server.url()).pull_request(&wanted).await.expect("a pull request");
    assert_eq!(opened.lacks, []);
    assert_eq!(gitea.labels_of("acme/site", 1), ["by rdev"]);
}

async fn a_server_that_fails_is_told_and_no_error() {
    let elsewhere = Server::start();
    let table = Fault::table(&elsewhere.url());
    // A connection that is refused has no path; the others break one call only.
    for fault in table.into_iter().filter(|fault| *fault != Fault::Refused) {
        let (gitea, request) = scene();
        let server = Server::before(&gitea.url());
        let mut wanted = with(&request, &["by rdev"], &["ann"]);
        wanted.branches.git_url = format!("{}/acme/site.git", server.url()).parse().expect("a URL");
        server.break_on("POST", "/issues/1/labels", fault.clone());
        let opened = hasty(&server.url()).pull_request(&wanted).await;
        let opened = opened.unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
        assert!(names(&opened).contains(&"by rdev"), "{fault:?}: {opened:?}");
        assert!(opened.lacks.iter().all(|lack| !lack.why.contains(TOKEN)), "{fault:?}");
        assert_eq!(gitea.pulls("acme/site").len(), 1, "{fault:?}");
        // What was told is true.
        let asked = gitea.asked_of("acme/site", 1) == ["ann"];
        assert_eq!(asked, !names(&opened).contains(&"ann"), "{fault:?}: {opened:?}");
    }
    assert_eq!(elsewhere.requests(), [], "the token went nowhere else");
}
