//! The adapter's parsers over each recorded answer of a real Gitea.

use rdev_testkit::captures::{self, Exchange};
use reqwest::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    SYSTEM, absent, check, completion, found, hook, message, pull_request, seed, status, total,
};
use crate::http::Answer;

/// How many of the recorded calls the adapter makes, too. The others are people's and the CI's.
const OURS: usize = 38;

fn parsed<T: DeserializeOwned>(answer: &Answer, of: &Exchange) -> T {
    answer.json().unwrap_or_else(|error| panic!("{}: {error:?}", of.name()))
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().expect("a list").iter()
}

/// Reads an answer as the adapter reads that call's; false when it makes no such call.
fn is_read(answer: &Answer, of: &Exchange) -> bool {
    let path = of.path.split('?').next().unwrap_or_default();
    let path: Vec<&str> = path.trim_start_matches("/api/v1/").split('/').collect();
    let recorded = &of.answer;
    match (of.method.as_str(), path.as_slice()) {
        ("GET", ["version"]) => {
            assert_eq!(parsed::<check::Version>(answer, of).version, recorded["version"]);
        }
        ("GET", ["user"]) => {
            assert_eq!(parsed::<check::User>(answer, of).login, recorded["login"]);
        }
        ("GET", ["users", _, "orgs", _, "permissions"]) => {
            let rights = parsed::<check::Rights>(answer, of);
            assert_eq!(rights.can_create_repository, recorded["can_create_repository"]);
        }
        ("POST", ["orgs", _, "repos"]) | ("GET", ["repos", _, _]) => {
            let name = recorded["name"].as_str().expect("a name").parse().expect("a project");
            let found = found::read(answer, &name).expect("the repository");
            assert_eq!(found.id, recorded["id"]);
            assert_eq!(found.description, recorded["description"]);
            assert_eq!(found.empty, recorded["empty"]);
            assert_eq!(found.branch().expect("a branch").as_str(), recorded["default_branch"]);
        }
        ("POST", ["repos", _, _, "contents"]) => drop(parsed::<seed::Changed>(answer, of)),
        ("GET", ["repos", _, _, "hooks"]) => {
            let listed = parsed::<Vec<hook::Listed>>(answer, of);
            let urls: Vec<&str> = listed.iter().map(|hook| hook.config.url.as_str()).collect();
            let hooks = recorded.as_array().expect("a list");
            let expected: Vec<_> = hooks.iter().map(|hook| &hook["config"]["url"]).collect();
            assert_eq!(urls, expected);
            assert!(total(answer).is_some_and(|total| total >= hooks.len()), "{}", of.name());
        }
        ("POST", ["repos", _, _, "hooks"]) => drop(parsed::<hook::Created>(answer, of)),
        ("GET", ["repos", _, _, "pulls"]) => {
            let listed = parsed::<Vec<pull_request::Found>>(answer, of);
            assert_eq!(total(answer), Some(listed.len()));
        }
        ("POST", ["repos", _, _, "pulls"]) => {
            let found = parsed::<pull_request::Found>(answer, of);
            assert_eq!(found.html_url, recorded["html_url"]);
            assert_eq!(
                (found.number, found.is_open()),
                (recorded["number"].as_u64().expect("a number"), true)
            );
            assert_eq!(json!(found.draft), recorded["draft"]);
            assert_eq!(found.head.label, recorded["head"]["label"]);
            assert_eq!(found.head.sha.as_str(), recorded["head"]["sha"]);
        }
        ("POST", ["repos", _, _, "issues", _, "labels"]) => {
            let listed = parsed::<Vec<completion::Label>>(answer, of);
            let names: Vec<&str> = listed.iter().map(|label| label.name.as_str()).collect();
            let expected: Vec<_> = items(recorded).map(|label| &label["name"]).collect();
            assert_eq!(names, expected);
        }
        ("GET", ["repos", _, _, "pulls", _, "reviews"])
        | ("POST", ["repos", _, _, "pulls", _, "requested_reviewers"]) => {
            let listed = parsed::<Vec<completion::Review>>(answer, of);
            let logins: Vec<_> = listed
                .iter()
                .map(|one| one.user.as_ref().map(|user| user.login.as_str()))
                .collect();
            let expected: Vec<_> =
                items(recorded).map(|review| review["user"]["login"].as_str()).collect();
            assert_eq!(logins, expected);
            assert!(listed.iter().all(|review| review.team.is_none()));
        }
        // The list of a pull request's commits has the shape of that of a branch.
        ("GET", ["repos", _, _, "pulls", _, "commits"]) => {
            let listed = parsed::<Vec<seed::Listed>>(answer, of);
            assert_eq!(total(answer), Some(listed.len()));
        }
        ("POST", ["repos", _, _, "statuses", _]) => drop(parsed::<status::Created>(answer, of)),
        ("DELETE", ["repos", _, _]) => {
            assert_eq!((answer.status, answer.body.len()), (StatusCode::NO_CONTENT, 0));
        }
        _ => return false,
    }
    true
}

#[test]
fn each_recorded_answer_is_read_and_each_refusal_says_why() {
    let (mut read, mut refusals) = (0, 0);
    let recorded = captures::gitea();
    for exchange in &recorded {
        let answer = Answer::recorded(SYSTEM, exchange);
        if answer.status.is_success() {
            read += usize::from(is_read(&answer, exchange));
        } else {
            refusals += 1;
            assert_eq!(message(&answer), exchange.answer["message"], "{}", exchange.name());
            let missing = answer.status == StatusCode::NOT_FOUND;
            assert_eq!(absent(&answer), missing, "{}", exchange.name());
        }
    }
    assert_eq!(recorded.len(), 92);
    assert_eq!((read, refusals), (OURS, 18));
}
