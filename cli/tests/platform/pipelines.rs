//! Pipelines, as people see them: through the API and with the client.

use rdev_testkit::servers::faults::Fault;
use rdev_testkit::servers::woodpecker::Seed;
use rdev_testkit::tools::trial::Outcome;
use serde_json::{Value, json};

use crate::platform::world::{World, assert_problem, wanted};
use crate::support::{Server, rdev};

rdev_testkit::trials! {
    async a_step_that_never_ran_says_why_wherever_somebody_looks;
    async a_list_has_subjects_and_the_build_of_each_commit_and_latest_is_its_first;
    async a_build_shows_every_pipeline_of_its_commit;
}

const DENIED: &str = "Error response from daemon: pull access denied for nothing/here";

/// A project in a world, and its repository at the CI server.
async fn begun(world: &World) -> (Server, u64) {
    let server = world.up().await;
    assert_eq!(server.post("/project", wanted("site")).await.status, 201);
    let ci = world.woodpecker.repositories().remove(0).id;
    (server, ci)
}

/// A build; its task and its commit.
async fn built(server: &Server, prompt: &str) -> (String, String) {
    let task = server.build("site", json!({ "prompt": prompt })).await;
    let record = server.ended("site", &task).await;
    let commit = record["result"]["commit_sha"].as_str().expect("a commit").to_owned();
    (task, commit)
}

/// What the client prints.
async fn printed(server: &Server, args: &[&str]) -> String {
    let said = rdev(server, args).await;
    assert_eq!(said.status, 0, "{}", said.stderr);
    said.stdout
}

async fn a_step_that_never_ran_says_why_wherever_somebody_looks() -> Outcome {
    let world = World::new(10)?;
    let (server, ci) = begun(&world).await;
    let number = world.woodpecker.add_pipeline(ci, Seed::default());
    world.woodpecker.fail_before_command(ci, number, DENIED);

    let path = format!("/projects/site/ci/pipelines/{number}");
    let shown = server.get(&path).await.body;
    let workflow = &shown["workflows"][0];
    assert_eq!(workflow["error"], DENIED, "{shown:#}");
    let (ran, failed) = (&workflow["steps"][0], &workflow["steps"][1]);
    assert_eq!((&ran["exit_code"], &ran["error"]), (&json!(0), &Value::Null));
    assert_eq!((&failed["exit_code"], &failed["error"]), (&Value::Null, &json!(DENIED)));
    let log = server.get(&format!("{path}/log?step={}", failed["id"])).await.body;
    assert_eq!(log, json!({ "lines": [], "error": DENIED }));

    let text = printed(&server, &["pipeline", "show", "site", "latest"]).await;
    assert!(text.ends_with(&format!("\nerror of step build: {DENIED}\n")), "{text}");
    let text = printed(&server, &["pipeline", "logs", "site", "--step", "build"]).await;
    assert_eq!(text, format!("== build (failure)\nerror: {DENIED}\n"));
    let text = printed(&server, &["--json", "pipeline", "logs", "site", "--step", "build"]).await;
    let read: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&read["error"], &read["lines"]), (&json!(DENIED), &json!([])));

    // A step with a log has no more to say.
    let id = world.woodpecker.add_log(ci, number, &[b"a line"]);
    let log = server.get(&format!("{path}/log?step={id}")).await.body;
    assert_eq!((log["lines"][0]["text"].as_str(), log.get("error")), (Some("a line"), None));
    Ok(())
}

async fn a_list_has_subjects_and_the_build_of_each_commit_and_latest_is_its_first() -> Outcome {
    let world = World::new(10)?;
    let (server, ci) = begun(&world).await;
    assert_problem(&server.get("/projects/site/ci/pipelines/latest").await, 404, "not_found");
    let (task, commit) = built(&server, "echo a > a.txt\n# and much more").await;
    let message = world.gitea.git("acme/site", &["log", "-1", "--format=%B", &commit]);
    assert!(message.contains(&task) && message.lines().count() > 4, "{message}");
    let first = world.woodpecker.add_pipeline(ci, Seed { commit, ..Seed::default() });
    world.woodpecker.set_message(ci, first, &message);
    let branch = "other".to_owned();
    let second = world.woodpecker.add_pipeline(ci, Seed { branch, ..Seed::default() });

    let list = server.get("/projects/site/ci/pipelines").await.body["items"].clone();
    let told = |at: usize| (&list[at]["number"], &list[at]["message"], &list[at]["task_id"]);
    assert_eq!(told(0), (&json!(second), &json!("a pipeline"), &Value::Null), "{list:#}");
    assert_eq!(told(1), (&json!(first), &json!("echo a > a.txt"), &json!(task)), "{list:#}");
    let path = "/projects/site/ci/pipelines";
    assert_eq!(server.get(&format!("{path}/{first}")).await.body["message"], message);
    assert_eq!(server.get(&format!("{path}/latest")).await.body["number"], second);
    let again = server.post(&format!("{path}/latest/restart"), json!({})).await;
    assert_eq!((again.status, again.body["number"].as_u64()), (200, Some(second + 1)), "{again:?}");
    assert_problem(&server.get(&format!("{path}/last")).await, 404, "not_found");

    let table = printed(&server, &["pipeline", "list", "site"]).await;
    let row = table.lines().find(|line| line.contains(&task)).expect("the build's pipeline");
    assert!(row.ends_with("echo a > a.txt"), "{table}");
    let shown = printed(&server, &["pipeline", "show", "site", &first.to_string()]).await;
    assert!(shown.contains(&format!("\nbuild    {task}\n")), "{shown}");
    Ok(())
}

async fn a_build_shows_every_pipeline_of_its_commit() -> Outcome {
    let world = World::new(2)?;
    let (server, ci) = begun(&world).await;
    let (task, commit) = built(&server, "echo a > a.txt").await;
    let path = format!("/projects/site/builds/{task}");
    let record = server.get(&path).await.body;
    assert_eq!((record.get("pipeline"), record.get("pipelines")), (None, None), "{record:#}");

    let of = |event: &str, branch: &str, status: &str| Seed {
        commit: commit.clone(),
        event: event.to_owned(),
        branch: branch.to_owned(),
        status: status.to_owned(),
        ..Seed::default()
    };
    let push = world.woodpecker.add_pipeline(ci, of("push", "main", "success"));
    world.woodpecker.add_pipeline(ci, Seed::default());
    let other = world.woodpecker.add_pipeline(ci, of("manual", "other", "running"));
    let record = server.get(&path).await.body;
    let all = record["pipelines"].as_array().expect("a list");
    let told: Vec<_> =
        all.iter().map(|one| (&one["number"], &one["event"], &one["status"])).collect();
    let (first, last) = (json!(other), json!(push));
    let manual = (&first, &json!("manual"), &json!("running"));
    assert_eq!(told, [manual, (&last, &json!("push"), &json!("success"))], "{record:#}");
    assert_eq!(record["pipeline"], all[0]);

    let shown = printed(&server, &["build", "show", "site", &task]).await;
    let lines: Vec<_> = shown.lines().filter(|line| line.starts_with("pipeline")).collect();
    let manual = format!("pipeline  running, number {other} (manual)");
    assert_eq!(lines, [manual, format!("pipeline  success, number {push} (push)")], "{shown}");

    // The record of a build is there also while the CI server is not.
    world.ci.answer_with(Fault::Hang);
    let record = server.get(&path).await;
    assert_eq!((record.status, record.body.get("pipelines")), (200, None), "{record:?}");
    world.heal();
    Ok(())
}
