//! The messages that a real Gitea sent, each as it came: what it becomes here.

use axum::body::Body;
use hmac::{Hmac, KeyInit, Mac};
use http::Request;
use rdev_domain::audit::Actor;
use rdev_domain::ids::ProjectId;
use rdev_domain::project::ProjectPatch;
use rdev_domain::secret::Secret;
use rdev_domain::token::Token;
use rdev_testkit::captures::{self, Message};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::{Fixture, now};

const SECRET: &str = "a-secret-of-the-forge";

/// The projects of the record, and their repositories' ids at the forge.
const PROJECTS: [(&str, u64); 2] = [("rec1", 15), ("events", 17)];

/// What a message becomes.
#[derive(Debug, PartialEq, Eq)]
enum Becomes {
    /// A branch of that project is at that commit.
    Push(&'static str, &'static str, &'static str),
    /// The pipeline of a commit of that project has that number and status.
    Pipeline(&'static str, &'static str, u64, &'static str),
    Nothing,
}

/// The kinds of the messages (`X-Gitea-Event-Type`), in their order, and what each becomes.
const MESSAGES: [(&str, Becomes); 26] = [
    // Of our own status.
    ("status", Becomes::Nothing),
    ("status", Becomes::Nothing),
    ("push", Becomes::Push("rec1", "main", "f5657dc8ddfc1d7df091aec414342197db1dc6bb")),
    (
        "push",
        Becomes::Push(
            "rec1",
            "rdev/01M8HS8ZP2DH78BN0TPHS75EK2",
            "60c4d7427dd9f4a9dfd7b810448fa9bf78a07da6",
        ),
    ),
    ("status", Becomes::Pipeline("rec1", "60c4d7427dd9f4a9dfd7b810448fa9bf78a07da6", 3, "failure")),
    ("issues", Becomes::Nothing),
    ("issue_label", Becomes::Nothing),
    ("issue_assign", Becomes::Nothing),
    ("issue_comment", Becomes::Nothing),
    ("issue_comment", Becomes::Nothing),
    ("issues", Becomes::Nothing),
    ("issue_comment", Becomes::Nothing),
    ("pull_request", Becomes::Nothing),
    ("pull_request_comment", Becomes::Nothing),
    ("create", Becomes::Nothing),
    ("push", Becomes::Push("events", "feat", "6a84073f9817d43e7aa60109f34d99d2b6d0ebdc")),
    ("pull_request_review_rejected", Becomes::Nothing),
    ("pull_request_review_comment", Becomes::Nothing),
    ("pull_request", Becomes::Nothing),
    ("pull_request_review_request", Becomes::Nothing),
    ("pull_request_review_approved", Becomes::Nothing),
    ("pull_request_sync", Becomes::Nothing),
    ("pull_request", Becomes::Nothing),
    ("issues", Becomes::Nothing),
    ("delete", Becomes::Nothing),
    ("release", Becomes::Nothing),
];

/// The message as it was sent, but signed with our secret.
fn request(message: &Message, secret: &str) -> Request<Body> {
    let body = message.body.to_string();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key");
    mac.update(body.as_bytes());
    let signature: String =
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut request = Request::post("/hooks/gitea");
    for (name, value) in &message.headers {
        let signed = name == "x-gitea-signature";
        request = request.header(name, if signed { &signature } else { value });
    }
    request.body(Body::from(body)).expect("a request")
}

/// Everything that messages change: where the projects' branches are, and the pipelines of the
/// commits that messages name.
async fn known(fixture: &Fixture, commits: &[String]) -> Value {
    let mut known = json!({});
    for (name, _) in PROJECTS {
        let id: ProjectId = name.parse().expect("a project's name");
        let pushed = fixture.store().project(&id).await.expect("a project").pushed;
        known[name] = json!({
            "pushed": pushed.map(|pushed| json!([pushed.branch, pushed.commit])),
            "pipelines": {},
        });
        for commit in commits {
            let parsed = commit.parse().expect("a commit");
            let pipeline = fixture.store().pipeline(&id, &parsed).await.expect("an answer");
            let Some(pipeline) = pipeline else { continue };
            known[name]["pipelines"][commit] = json!([pipeline.number, pipeline.status]);
        }
    }
    known
}

#[tokio::test]
async fn each_recorded_message_of_gitea_becomes_what_it_should() {
    let messages = captures::messages();
    assert_eq!(messages.len(), MESSAGES.len());
    let secret = Token::known(Secret::new(SECRET));
    let fixture = Fixture::with(|context| context.settings.hooks.gitea = Some(secret)).await;
    for (name, forge_id) in PROJECTS {
        let id = fixture.project(name).await;
        let patch = ProjectPatch { forge_id: Some(forge_id), ..ProjectPatch::default() };
        let by = Actor::maintenance();
        fixture.store().update_project(&id, &patch, &by, now()).await.expect("a project");
    }
    let commits: Vec<String> = messages
        .iter()
        .flat_map(|message| [&message.body["after"], &message.body["sha"]])
        .filter_map(|commit| commit.as_str().map(str::to_owned))
        .collect();
    let mut expected = known(&fixture, &commits).await;
    for (index, (message, (kind, becomes))) in messages.iter().zip(MESSAGES).enumerate() {
        assert_eq!(message.kind, kind, "{index}");
        let what = format!("message {index}, {kind}: {becomes:?}");
        let forged = fixture.send(request(message, "another secret")).await;
        assert_eq!(forged.status, 401, "{what}");
        assert_eq!(known(&fixture, &commits).await, expected, "{what}");
        match becomes {
            Becomes::Push(project, branch, commit) => {
                expected[project]["pushed"] = json!([branch, commit]);
            }
            Becomes::Pipeline(project, commit, number, status) => {
                expected[project]["pipelines"][commit] = json!([number, status]);
            }
            Becomes::Nothing => {}
        }
        // The second time it was there already.
        for _ in 0..2 {
            let reply = fixture.send(request(message, SECRET)).await;
            assert_eq!(reply.status, 204, "{what}: {}", reply.text());
            assert_eq!(known(&fixture, &commits).await, expected, "{what}");
        }
    }
}
