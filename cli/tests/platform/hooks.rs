//! Webhooks that come in.

use rdev_testkit::servers::woodpecker::{Change, post};
use rdev_testkit::tools::trial::Outcome;
use serde_json::{Value, json};
use ulid::Ulid;

use crate::platform::world::{HOOK_SECRET, World, wanted};
use crate::support::{Server, http_client};

rdev_testkit::trials! {
    async pushes_and_statuses_of_the_forge_keep_the_project_and_its_builds_current;
    async the_end_of_a_pipeline_is_taken_once_and_only_with_the_right_signature;
}

fn change(forge_id: u64, status: &str, commit: &str, finished_at: i64) -> Change {
    Change {
        repository: "acme/site".to_owned(),
        forge_id,
        number: 7,
        status: status.to_owned(),
        commit: commit.to_owned(),
        branch: "main".to_owned(),
        url: "https://ci.example.com/repos/1/pipeline/7".to_owned(),
        finished_at: Some(finished_at),
    }
}

async fn built(server: &Server) -> (String, String) {
    let prompt = json!({ "prompt": "echo '<h1>Built</h1>' > index.html" });
    let task = server.build("site", prompt).await;
    let record = server.ended("site", &task).await;
    let commit = record["result"]["commit_sha"].as_str().expect("a commit").to_owned();
    (task, commit)
}

async fn pushes_and_statuses_of_the_forge_keep_the_project_and_its_builds_current() -> Outcome {
    let world = World::new(10)?;
    let server = world.up().await;
    assert_eq!(server.post("/project", wanted("site")).await.status, 201);
    let (task, commit) = built(&server).await;
    world.gitea.settled().await;
    let pushes: Vec<_> = world.gitea.deliveries();
    assert!(pushes.iter().any(|one| one.event == "push"), "{pushes:?}");
    assert!(pushes.iter().all(|one| one.status == Some(204)), "{pushes:?}");
    let project = server.get("/projects/site").await.body;
    assert_eq!(project["pushed"]["commit"], commit, "{project:#}");
    assert_eq!(project["pushed"]["branch"], "main");
    let actors = server.get("/audit?project_id=site").await.body["items"].to_string();
    assert!(actors.contains("hook:gitea"), "{actors}");

    // The CI sets a status at the forge, and the forge tells of it.
    for state in ["pending", "failure"] {
        let body = json!({
            "state": state, "context": "ci/woodpecker/push/woodpecker",
            "target_url": "https://ci.example.com/repos/1/pipeline/3",
        });
        let url = format!("{}/api/v1/repos/acme/site/statuses/{commit}", world.gitea.url());
        let request = http_client().post(url).json(&body);
        let token = format!("token {}", rdev_testkit::servers::gitea::TOKEN);
        let set = request.header("authorization", token).send().await.expect("an answer");
        assert_eq!(set.status(), 201);
        world.gitea.settled().await;
        let record = server.get(&format!("/projects/site/builds/{task}")).await.body;
        let told = (&record["pipeline"]["status"], &record["pipeline"]["number"]);
        assert_eq!(told, (&json!(state), &json!(3)), "{record:#}");
    }
    Ok(())
}

async fn the_end_of_a_pipeline_is_taken_once_and_only_with_the_right_signature() -> Outcome {
    let world = World::new(10)?;
    let server = world.up().await;
    assert_eq!(server.post("/project", wanted("site")).await.status, 201);
    let (task, commit) = built(&server).await;
    let forge_id = world.gitea.repositories().remove(0).id;
    let url = format!("{}/hooks/woodpecker", server.url);
    let pipeline = || async {
        server.get(&format!("/projects/site/builds/{task}")).await.body["pipeline"].clone()
    };
    let secret = HOOK_SECRET.as_bytes();
    let (first, second) = (Ulid::generate(), Ulid::generate());
    let running = change(forge_id, "running", &commit, 1_000);
    let success = change(forge_id, "success", &commit, 2_000);

    let forged = post(&url, b"another secret", first, &success).await.expect("an answer");
    assert_eq!(forged, 401);
    assert_eq!(pipeline().await, Value::Null);
    assert_eq!(post(&url, secret, first, &running).await.expect("an answer"), 204);
    assert_eq!(pipeline().await["status"], "running");
    assert_eq!(post(&url, secret, second, &success).await.expect("an answer"), 204);
    assert_eq!(pipeline().await["status"], "success");
    // The first again: known. And what is older than what is known changes nothing either.
    assert_eq!(post(&url, secret, first, &running).await.expect("an answer"), 204);
    let late = post(&url, secret, Ulid::generate(), &running).await.expect("an answer");
    assert_eq!((late, &pipeline().await["status"]), (204, &json!("success")));
    // Of a repository that no project has.
    let other = change(forge_id + 1, "failure", &commit, 3_000);
    let other = post(&url, secret, Ulid::generate(), &other).await.expect("an answer");
    assert_eq!((other, &pipeline().await["status"]), (204, &json!("success")));

    for (name, value) in [
        ("x-rdev-signature", ""),
        ("x-rdev-signature", "sha256="),
        ("x-rdev-signature", "sha256=zz"),
        ("x-gitea-signature", "00"),
    ] {
        for path in ["/hooks/woodpecker", "/hooks/gitea"] {
            let request = http_client().post(format!("{}{path}", server.url));
            let request = request.header(name, value).body("{}");
            assert_eq!(request.send().await.expect("an answer").status(), 401, "{name} {value}");
        }
    }
    Ok(())
}
