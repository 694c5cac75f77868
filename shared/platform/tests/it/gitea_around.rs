//! The Gitea adapter against a stateful Gitea: pull requests, statuses, self-check.

use std::time::{Duration, SystemTime};

use rdev_domain::git::CommitId;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ports::{
    CommitState, CommitStatus, Forge, PortError, PullRequest, PullRequestBranches,
};
use rdev_domain::secret::Secret;
use rdev_domain::token::Token;
use rdev_platform::Finding;
use rdev_platform::gitea::Settings;
use rdev_platform::http::{Auth, Http};
use rdev_testkit::servers::faults::{Fault, Server};
use rdev_testkit::servers::gitea::{self, TOKEN, USER};
use reqwest::Method;

use crate::gitea::{acme, adapter, hasty, settings};

rdev_testkit::trials! {
    async a_pull_request_is_opened_once_and_found_then;
    async a_pull_request_is_found_after_it_was_merged_and_its_branch_deleted;
    async a_pull_request_is_found_behind_pages_of_others;
    async a_pull_request_whose_answer_was_lost_is_found;
    async a_pull_request_that_somebody_opens_meanwhile_is_found;
    async what_is_wrong_with_a_pull_request_has_its_kind;
    async nothing_is_sent_for_a_repository_that_is_elsewhere;
    async a_commit_shows_how_its_build_is;
    async a_check_finds_what_is_wrong_and_changes_nothing;
    async a_clock_that_is_more_than_a_minute_off_is_found;
}

/// A repository with two branches, and the request to merge one into the other.
fn pull(gitea: &gitea::Gitea, origin: &str) -> PullRequest {
    gitea.create("acme/site", "", &[("a", b"a")]);
    pull_of(gitea, origin, "rdev/work")
}

/// The request to merge a new branch of `acme/site` into `main`.
pub(crate) fn pull_of(gitea: &gitea::Gitea, origin: &str, branch: &str) -> PullRequest {
    gitea.branch("acme/site", branch, "main");
    let commit = gitea.commit("acme/site", branch, &[("b", b"b")], "Add b");
    PullRequest {
        branches: PullRequestBranches {
            git_url: format!("{origin}/acme/site.git").parse().expect("a URL"),
            head: branch.parse().expect("a branch"),
            base: "main".parse().expect("a branch"),
            since: SystemTime::now().into(),
        },
        commit: commit.parse().expect("a commit"),
        title: "Add b".to_owned(),
        body: "It was wanted.".to_owned(),
        draft: false,
        labels: Vec::new(),
        reviewers: Vec::new(),
    }
}

pub(crate) fn status(request: &PullRequest) -> CommitStatus {
    CommitStatus {
        git_url: request.branches.git_url.clone(),
        commit: request.commit.clone(),
        state: CommitState::Pending,
        description: "The build runs".to_owned(),
        url: Some("https://rdev.example.com/builds/1".to_owned()),
    }
}

async fn a_pull_request_is_opened_once_and_found_then() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let request = pull(&gitea, &gitea.url());
    let forge = acme(&gitea.url());
    let opened = forge.pull_request(&request).await.expect("a pull request");
    assert_eq!(opened.url, format!("{}/acme/site/pulls/1", gitea.url()));
    assert_eq!(forge.pull_request(&request).await.expect("a pull request"), opened);
    let [pull] = &gitea.pulls("acme/site")[..] else { panic!("one pull request") };
    assert_eq!((pull.head.as_str(), pull.base.as_str()), ("rdev/work", "main"));
    assert_eq!((pull.title.as_str(), pull.body.as_str()), ("Add b", "It was wanted."));

    // A closed one is the one that was wanted.
    gitea.close_pulls("acme/site");
    assert_eq!(forge.pull_request(&request).await.expect("a pull request"), opened);
    // But not for what is asked for long after it.
    let since = request.branches.since.plus(Duration::from_secs(2 * 60 * 60));
    let branches = PullRequestBranches { since, ..request.branches.clone() };
    assert_eq!(forge.find_pull_request(&branches).await.expect("an answer"), None);
    let later = PullRequest { branches, ..request.clone() };
    let second = forge.pull_request(&later).await.expect("a pull request");
    assert_eq!(second.url, format!("{}/acme/site/pulls/2", gitea.url()));
}

async fn a_pull_request_is_found_after_it_was_merged_and_its_branch_deleted() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let request = pull(&gitea, &gitea.url());
    let forge = acme(&gitea.url());
    let branches = &request.branches;
    assert_eq!(forge.find_pull_request(branches).await.expect("an answer"), None);
    let opened = forge.pull_request(&request).await.expect("a pull request");
    gitea.squash("acme/site", 1);
    let found = forge.find_pull_request(branches).await.expect("an answer").expect("the one");
    assert_eq!((&found.url, &found.commit), (&opened.url, &request.commit));
    assert_eq!(forge.pull_request(&request).await.expect("a pull request"), opened);
    // Another build's branch has none.
    let head = "rdev/other".parse().expect("a branch");
    let other = PullRequestBranches { head, ..branches.clone() };
    assert_eq!(forge.find_pull_request(&other).await.expect("an answer"), None);
}

async fn a_pull_request_is_found_behind_pages_of_others() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let request = pull(&gitea, &gitea.url());
    let forge = acme(&gitea.url());
    let opened = forge.pull_request(&request).await.expect("a pull request");
    gitea.shorten_pages(3);
    for number in 0..7 {
        let branch = format!("other/{number}");
        gitea.branch("acme/site", &branch, "main");
        let head = branch.parse().expect("a branch");
        let branches = PullRequestBranches { head, ..request.branches.clone() };
        let other = PullRequest { branches, ..request.clone() };
        assert_ne!(forge.pull_request(&other).await.expect("a pull request"), opened);
    }
    assert_eq!(forge.pull_request(&request).await.expect("a pull request"), opened);
    assert_eq!(gitea.pulls("acme/site").len(), 8);
}

async fn a_pull_request_whose_answer_was_lost_is_found() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let server = Server::before(&gitea.url());
    let request = pull(&gitea, &server.url());
    server.break_on("POST", "/pulls", Fault::HoldAnswer);
    let lost = hasty(&server.url()).pull_request(&request).await;
    assert!(matches!(lost, Err(PortError::TimedOut { .. })), "{lost:?}");
    server.heal();
    acme(&server.url()).pull_request(&request).await.expect("a pull request");
    assert_eq!(gitea.pulls("acme/site").len(), 1);
}

async fn a_pull_request_that_somebody_opens_meanwhile_is_found() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let server = Server::before(&gitea.url());
    let request = pull(&gitea, &server.url());
    let url = acme(&server.url()).pull_request(&request).await.expect("a pull request");
    // The first look does not see it yet.
    server.break_nth(0, Fault::Body(200, "application/json", "[]".to_owned()));
    assert_eq!(acme(&server.url()).pull_request(&request).await.expect("a pull request"), url);
    assert_eq!(gitea.pulls("acme/site").len(), 1);
}

async fn what_is_wrong_with_a_pull_request_has_its_kind() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let request = pull(&gitea, &gitea.url());
    let forge = acme(&gitea.url());
    let of = |branches| PullRequest { branches, ..request.clone() };
    let branches = &request.branches;
    let same = PullRequestBranches { head: branches.base.clone(), ..branches.clone() };
    let refused = forge.pull_request(&of(same)).await;
    assert!(matches!(refused, Err(PortError::Invalid(_))), "{refused:?}");
    let head = "gone".parse().expect("a branch");
    let refused = forge.pull_request(&of(PullRequestBranches { head, ..branches.clone() })).await;
    assert!(matches!(refused, Err(PortError::NotFound { .. })), "{refused:?}");
    let git_url = format!("{}/acme/gone.git", gitea.url()).parse().expect("a URL");
    let elsewhere = PullRequestBranches { git_url, ..branches.clone() };
    let refused = forge.pull_request(&of(elsewhere)).await;
    assert!(matches!(refused, Err(PortError::NotFound { .. })), "{refused:?}");
    let mallory = adapter(settings(&gitea.url(), "acme"), &gitea.user("mallory"));
    for refused in [
        mallory.pull_request(&request).await.map(drop),
        mallory.set_status(&status(&request)).await,
        adapter(settings(&gitea.url(), "acme"), "wrong").set_status(&status(&request)).await,
    ] {
        assert!(matches!(refused, Err(PortError::Denied { .. })), "{refused:?}");
    }
    assert_eq!(gitea.pulls("acme/site"), []);
}

async fn nothing_is_sent_for_a_repository_that_is_elsewhere() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let server = Server::before(&gitea.url());
    let request = pull(&gitea, &server.url());
    let forge = acme(&server.url());
    let deep = acme(&format!("{}/forge", server.url()));
    let url = server.url();
    for (forge, elsewhere) in [
        (&forge, "https://git.example.com/acme/site.git".to_owned()),
        (&forge, format!("{}/acme/site.git", gitea.url())),
        (&forge, url.replace("http:", "https:") + "/acme/site.git"),
        (&forge, format!("{url}/site.git")),
        (&forge, format!("{url}/acme/site/more.git")),
        (&forge, format!("{url}/acme/%2e%2e%2fsite")),
        (&forge, "file:///srv/acme/site.git".to_owned()),
        (&deep, format!("{url}/acme/site.git")),
        (&deep, format!("{url}/forgery/acme/site.git")),
    ] {
        let git_url: GitUrl = elsewhere.parse().expect("a URL");
        let branches = PullRequestBranches { git_url, ..request.branches.clone() };
        let outcome = forge.find_pull_request(&branches).await;
        assert!(matches!(outcome, Err(PortError::NotSupported { .. })), "{elsewhere}");
        let request = PullRequest { branches, ..request.clone() };
        let outcome = forge.pull_request(&request).await;
        assert!(matches!(outcome, Err(PortError::NotSupported { .. })), "{elsewhere}");
        let outcome = forge.set_status(&status(&request)).await;
        assert!(matches!(outcome, Err(PortError::NotSupported { .. })), "{elsewhere}");
    }
    assert_eq!(server.requests(), []);
    for here in [format!("{url}/acme/site"), format!("{url}/Acme/site.git/")] {
        let git_url = here.parse().expect("a URL");
        let status = CommitStatus { git_url, ..status(&request) };
        forge.set_status(&status).await.expect(&here);
    }
}

async fn a_commit_shows_how_its_build_is() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let request = pull(&gitea, &gitea.url());
    let forge = acme(&gitea.url());
    let pending = status(&request);
    for (state, text) in [
        (CommitState::Pending, "pending"),
        (CommitState::Success, "success"),
        (CommitState::Failure, "failure"),
    ] {
        forge.set_status(&CommitStatus { state, ..pending.clone() }).await.expect("a status");
        let newest = gitea.statuses("acme/site", request.commit.as_str()).remove(0);
        assert_eq!((newest.context.as_str(), newest.state.as_str()), ("rdev/build", text));
        assert_eq!(newest.description, "The build runs");
        assert_eq!(newest.target_url, "https://rdev.example.com/builds/1");
    }
    let plain = CommitStatus { url: None, ..pending.clone() };
    forge.set_status(&plain).await.expect("a status");
    // The server answers this one with a 500 without a word.
    let commit: CommitId = "0".repeat(40).parse().expect("an id");
    let outcome = forge.set_status(&CommitStatus { commit, ..pending }).await;
    assert!(matches!(outcome, Err(PortError::Unavailable { .. })), "{outcome:?}");
}

/// What is wrong.
fn problems(findings: &[Finding]) -> Vec<String> {
    let problem = |finding: &Finding| {
        finding.problem.as_ref().map(|problem| format!("{}: {problem}", finding.what))
    };
    findings.iter().filter_map(problem).collect()
}

async fn a_check_finds_what_is_wrong_and_changes_nothing() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let url = gitea.url();
    let checked = async |url: &str, owner: &str, token: &str| {
        let forge = adapter(Settings { timeout_s: 2, ..settings(url, owner) }, token);
        problems(&forge.check().await)
    };
    let only_organisation = gitea.token(&["write:repository", "write:organization"]);
    for (owner, token) in [("acme", TOKEN), (USER, TOKEN), ("acme", &only_organisation)] {
        assert_eq!(checked(&url, owner, token).await, Vec::<String>::new(), "{owner}");
    }
    let no_repository = gitea.token(&["write:organization", "read:user"]);
    let no_owner = gitea.token(&["write:repository", "read:user"]);
    let mallory = gitea.user("mallory");
    for (url, owner, token, count, says) in [
        (url.as_str(), "acme", "n0-such-token", 1, "make a new one there"),
        (&url, "acme", &no_repository, 1, "write:repository"),
        (&url, "acme", &no_owner, 1, "write:organization"),
        (&url, "nobody", TOKEN, 1, "sees no organisation \"nobody\""),
        (&url, "acme", &mallory, 1, "may not create repositories there"),
        (&format!("{url}/api/v1"), "acme", TOKEN, 1, "without /api/v1"),
        ("http://127.0.0.1:9", "acme", TOKEN, 1, "check its URL"),
    ] {
        let found = checked(url, owner, token).await;
        assert_eq!(found.len(), count, "{says}: {found:?}");
        assert!(found[0].contains(says), "{says}: {found:?}");
        assert!(found.iter().all(|problem| !problem.contains(token)), "{found:?}");
    }
    assert_eq!(gitea.repositories(), []);
}

async fn a_clock_that_is_more_than_a_minute_off_is_found() {
    let gitea = gitea::Gitea::start(&[]);
    let token = Token::known(Secret::new(TOKEN));
    let base = format!("{}/api/v1", gitea.url());
    let http = Http::new("the forge", &base, Auth::Token, token, Duration::from_secs(10));
    let http = http.expect("a client");
    let answer = http.send(Method::GET, &["version"], &[], None).await.expect("an answer");
    let now = SystemTime::now();
    let at = |now| Finding::clock("the forge", &answer, now).problem;
    assert_eq!(at(now), None);
    assert_eq!(at(now + Duration::from_secs(50)), None);
    let behind = at(now + Duration::from_secs(120)).expect("a problem");
    assert!(behind.contains("behind this machine's"), "{behind}");
    let ahead = at(now - Duration::from_secs(120)).expect("a problem");
    assert!(ahead.contains("ahead of this machine's"), "{ahead}");
}
