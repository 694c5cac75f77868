//! A project among the systems around it, from its creation to its end.

use std::process::Command;
use std::time::{Duration, Instant};

use rdev_testkit::servers::faults::Fault;
use rdev_testkit::servers::woodpecker::{HostRunner, Push};
use rdev_testkit::tools::trial::Outcome;
use serde_json::json;

use crate::platform::world::{
    HOOK_SECRET, OWNER, System, TARGET, World, ZONE, assert_problem, commits, wanted,
};
use crate::support::PATIENCE;

rdev_testkit::trials! {
    async a_project_gets_its_repository_its_ci_and_its_name_and_loses_them_with_it;
    async create_and_build_twice_with_one_key_is_one_project_one_task_one_commit;
    async a_step_that_failed_is_told_and_the_next_provision_does_the_rest;
    async a_repository_that_is_there_is_imported_and_nothing_is_made_on_the_forge;
    async a_repository_of_somebody_else_is_neither_used_nor_deleted;
    async a_template_may_be_a_repository_on_the_forge;
    async a_pull_request_that_was_squashed_while_rdev_was_down_is_a_delivery;
    async a_build_opens_its_pull_request_and_a_push_that_is_refused_shows_at_its_commit;
}

async fn a_project_gets_its_repository_its_ci_and_its_name_and_loses_them_with_it() -> Outcome {
    let world = World::new(10)?;
    let server = world.up().await;
    let answer = server.post("/project", wanted("site")).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    world.assert_whole(&server, "site").await;
    let repository = world.gitea.repositories().remove(0);
    assert!(repository.private, "nobody has asked for a public one: {repository:?}");
    let url = format!("{}/{OWNER}/site.git", world.forge.url());
    assert_eq!(answer.body["git_url"], url, "{answer:?}");
    assert!(!answer.body.to_string().contains("whsec"), "{answer:?}");
    let hook = world.gitea.hooks("acme/site").remove(0);
    assert_eq!(hook.url, format!("{}/hooks/gitea", server.url));
    assert_eq!(hook.secret, HOOK_SECRET);
    let found = world.powerdns.resolve("site.example.com", "A").answers;
    assert_eq!(found[0].content, TARGET, "{found:?}");

    let domain = server.get("/projects/site/domains").await.body["items"][0].clone();
    assert_eq!(domain["domain"], format!("site.{ZONE}"));
    assert_eq!((&domain["type"], &domain["target"]), (&json!("A"), &json!(TARGET)));

    let audit = server.get("/audit?project_id=site").await.body["items"].clone();
    let actions: Vec<_> = audit
        .as_array()
        .expect("a list")
        .iter()
        .map(|event| event["action"].as_str().expect("a text").to_owned())
        .collect();
    for action in ["project.created", "domain.reserved", "project.updated"] {
        assert!(actions.iter().any(|one| one == action), "{action}: {actions:?}");
    }

    assert_eq!(server.delete("/projects/site?delete_repository=true").await.status, 204);
    assert!(!repository.folder.exists());
    assert!(world.gitea.repositories().is_empty());
    assert!(world.woodpecker.repositories().iter().all(|one| !one.active));
    assert!(world.powerdns.resolve("site.example.com", "A").answers.is_empty());
    assert_problem(&server.get("/projects/site").await, 404, "not_found");
    Ok(())
}

async fn create_and_build_twice_with_one_key_is_one_project_one_task_one_commit() -> Outcome {
    let world = World::new(10)?;
    world.woodpecker.allow_image("node:", HostRunner::default());
    let server = world.up().await;
    let mut pushes = world.gitea.pushes();
    let mut body = wanted("shop");
    // With a pipeline: without a registry the template brings none.
    body["prompt"] = json!(
        "echo '<h1>Open</h1>' > index.html
         printf 'steps:\\n  test:\\n    image: node:22\\n    commands: [test -s index.html]\\n' \
            > .woodpecker.yaml"
    );
    let once = || async {
        let path = "/project/create-and-build";
        let made = server.try_request("POST", path, Some(body.clone()), Some("once")).await;
        made.expect("an answer")
    };
    let (first, second) = (once().await, once().await);
    assert_eq!(first.status, 202, "{first:?}");
    assert_eq!(first.body, second.body, "the same answer again");
    let task = first.body["task"]["id"].as_str().expect("a task").to_owned();
    let record = server.ended("shop", &task).await;
    assert_eq!(record["result"]["outcome"], "delivered", "{record:#}");
    let commit = record["result"]["commit_sha"].as_str().expect("a commit").to_owned();

    let listed = server.get("/projects/shop/builds").await.body["items"].clone();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed:#}");
    let repository = world.gitea.repositories().remove(0);
    assert_eq!(commits(&repository.folder), 2, "the template and the build");

    // As people see it on the forge.
    let statuses = world.gitea.statuses("acme/shop", &commit);
    let states: Vec<_> = statuses.iter().rev().map(|status| status.state.as_str()).collect();
    assert_eq!(states, ["pending", "success"], "{statuses:?}");
    assert!(statuses.iter().all(|status| status.context == "rdev/build"), "{statuses:?}");
    let there = format!("{}/projects/shop/builds/{task}", server.url);
    assert_eq!(statuses[0].target_url, there);

    // The push reaches the CI, and its pipeline the build's record.
    let push = loop {
        let push = pushes.recv().await.expect("a push");
        if push.branch == "main" && push.commit == commit {
            break push;
        }
    };
    let known = world.woodpecker.repositories().remove(0);
    let mut run = world
        .woodpecker
        .push(
            known.forge_id,
            Push {
                branch: push.branch,
                commit: push.commit,
                message: push.message,
                author: "rdev".to_owned(),
                git_dir: push.repository,
            },
        )
        .expect("a pipeline");
    assert_eq!(run.ended(PATIENCE).await, "success");
    let status = "success";
    let record = server.get(&format!("/projects/shop/builds/{task}")).await.body;
    assert_eq!(record["pipeline"]["status"], status, "{record:#}");
    assert_eq!(record["pipeline"]["number"], run.number, "{record:#}");
    let list = server.get("/projects/shop/ci/pipelines").await.body;
    assert_eq!(list["items"][0]["commit"], commit, "{list:#}");
    let shown = server.get(&format!("/projects/shop/ci/pipelines/{}", run.number)).await;
    assert_eq!(shown.body["status"], status, "{shown:?}");
    let again = format!("/projects/shop/ci/pipelines/{}/cancel", run.number);
    let answer = server.post(&again, json!({})).await;
    assert_problem(&answer, 409, "pipeline_not_running");
    Ok(())
}

async fn a_step_that_failed_is_told_and_the_next_provision_does_the_rest() -> Outcome {
    let world = World::new(10)?;
    let server = world.up().await;
    for (system, step) in
        [(System::Forge, "repository"), (System::Ci, "ci"), (System::Dns, "domain")]
    {
        let name = format!("late-{step}");
        world.system(system).answer_with(Fault::Status(500));
        let answer = server.post("/project", wanted(&name)).await;
        assert_problem(&answer, 503, "unavailable");
        let project = server.get(&format!("/projects/{name}")).await.body;
        assert_eq!(project["state"], "provisioning_failed", "{project:#}");
        let steps = project["provisioning"]["steps"].as_array().expect("steps").clone();
        let failed: Vec<_> = steps.iter().filter(|step| step["state"] == "failed").collect();
        assert_eq!(failed.len(), 1, "{steps:?}");
        assert_eq!(failed[0]["name"], step);
        assert!(failed[0]["error"].as_str().is_some_and(|text| text.contains("500")), "{steps:?}");
        let shown = Command::new(env!("CARGO_BIN_EXE_rdev"))
            .args(["project", "show", &name, "--data-dir"])
            .arg(world.data.path())
            .current_dir(world.data.path())
            .output()
            .expect("rdev starts");
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let line = format!("step         {step} failed: ");
        assert!(shown.lines().any(|one| one.starts_with(&line)), "{shown}");
        let build = json!({ "prompt": "true" });
        let refused = server.post(&format!("/projects/{name}/builds"), build).await;
        assert_problem(&refused, 409, "project_not_ready");
        let again = server.post(&format!("/projects/{name}/provision"), json!({})).await;
        assert_problem(&again, 503, "unavailable");

        world.heal();
        let done = server.post(&format!("/projects/{name}/provision"), json!({})).await;
        assert_eq!(done.status, 200, "{done:?}");
        world.assert_whole(&server, &name).await;
        // Once more changes nothing.
        let done = server.post(&format!("/projects/{name}/provision"), json!({})).await;
        assert_eq!(done.status, 200, "{done:?}");
        world.assert_whole(&server, &name).await;
    }
    Ok(())
}

async fn a_repository_that_is_there_is_imported_and_nothing_is_made_on_the_forge() -> Outcome {
    let world = World::with(10, "\n[api]\ngit_hosts = [\"127.0.0.1\"]\n")?;
    let server = world.up().await;
    let url = format!("{}/acme/theirs.git", world.gitea.url());
    let answer = server.post("/project", json!({ "name": "theirs", "git_url": url })).await;
    assert_eq!((answer.status, &answer.body["state"]), (201, &json!("ready")), "{answer:?}");
    assert!(world.forge.requests().is_empty() && world.gitea.repositories().is_empty());
    let body = json!({ "name": "others", "git_url": "https://git.example.org/a/b.git" });
    let refused = server.post("/project", body).await;
    assert_problem(&refused, 422, "invalid_request");
    assert_eq!(refused.body["errors"][0]["field"], "git_url", "{refused:?}");
    Ok(())
}

async fn a_repository_of_somebody_else_is_neither_used_nor_deleted() -> Outcome {
    let world = World::new(10)?;
    let server = world.up().await;
    assert_eq!(server.post("/project", wanted("site")).await.status, 201);
    assert_eq!(server.delete("/projects/site").await.status, 204, "its repository stays");
    let folder = world.gitea.repositories().remove(0).folder;
    let answer = server.post("/project", wanted("site")).await;
    assert_problem(&answer, 409, "repository_not_ours");
    assert_problem(&server.get("/projects/site").await, 404, "not_found");
    assert!(folder.exists());
    Ok(())
}

async fn a_template_may_be_a_repository_on_the_forge() -> Outcome {
    let templates = "\n[api.template_repositories]\nshop = \"acme/shop-template\"\n";
    let world = World::with(10, templates)?;
    let server = world.up().await;
    world.gitea.create("acme/shop-template", "A shop", &[("README.md", b"a shop")]);
    world.gitea.set_template("acme/shop-template", true);
    let listed = server.get("/templates").await.body;
    assert!(listed["items"].as_array().expect("a list").iter().any(|one| one["name"] == "shop"));
    let body = json!({ "name": "corner", "template": "shop", "domain": {} });
    let made = server.post("/project", body).await;
    assert_eq!((made.status, &made.body["template"]), (201, &json!("shop")), "{made:?}");
    world.assert_whole(&server, "corner").await;
    Ok(())
}

async fn a_build_opens_its_pull_request_and_a_push_that_is_refused_shows_at_its_commit() -> Outcome
{
    let world = World::new(10)?;
    let server = world.up().await;
    assert_eq!(server.post("/project", wanted("site")).await.status, 201);
    let spec = json!({ "prompt": "echo more >> index.html", "pull_request": true });
    let task = server.build("site", spec).await;
    let record = server.ended("site", &task).await;
    let pulls = world.gitea.pulls("acme/site");
    assert_eq!(pulls.len(), 1, "{pulls:?}");
    let url = record["result"]["pull_request_url"].as_str().expect("a pull request");
    assert!(url.ends_with("/acme/site/pulls/1"), "{url}");

    // Somebody protects the branch.
    let hook = world.gitea.repositories().remove(0).folder.join("hooks/pre-receive");
    let script = "#!/bin/sh\nwhile read old new name; do\n\
                  [ \"$name\" = refs/heads/main ] && { echo protected; exit 1; }\ndone\nexit 0\n";
    std::fs::create_dir_all(hook.parent().expect("a folder")).expect("a folder");
    std::fs::write(&hook, script).expect("a hook");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&hook, executable).expect("an executable hook");
    let spec = json!({ "prompt": "echo refused >> index.html", "max_attempts": 1 });
    let task = server.build("site", spec).await;
    let record = server.ended("site", &task).await;
    assert_eq!(record["failure"]["class"], "push_rejected", "{record:#}");
    let commit = record["prepared"]["commit"].as_str().expect("a commit");
    let statuses = world.gitea.statuses("acme/site", commit);
    let states: Vec<_> = statuses.iter().rev().map(|status| status.state.as_str()).collect();
    assert_eq!(states, ["pending", "failure"], "{statuses:?}");
    Ok(())
}

async fn a_pull_request_that_was_squashed_while_rdev_was_down_is_a_delivery() -> Outcome {
    // Longer than anything here takes: nothing times out, the process dies.
    let world = World::new(120)?;
    let server = world.up().await;
    assert_eq!(server.post("/project", wanted("site")).await.status, 201);
    world.forge.break_on("POST", "/pulls", Fault::HoldAnswer);
    let ran = world.data.path().join("ran");
    let prompt = format!("echo x >> {}; echo more >> index.html", ran.display());
    let task = server.build("site", json!({ "prompt": prompt, "pull_request": true })).await;
    let end = Instant::now() + PATIENCE;
    while world.forge.held() == 0 {
        assert!(Instant::now() < end, "no pull request is opened");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    server.kill();
    world.heal();
    let squashed = world.gitea.squash("acme/site", 1);

    let server = world.up().await;
    let record = server.ended("site", &task).await;
    assert_eq!(record["state"], "succeeded", "{record:#}");
    let url = record["result"]["pull_request_url"].as_str().expect("a pull request");
    assert!(url.ends_with("/acme/site/pulls/1"), "{url}");
    assert_eq!(record["result"]["warnings"][0]["code"], "branch_rewritten", "{record:#}");
    let branches = world.gitea.git("acme/site", &["for-each-ref", "refs/heads", "refs/rdev"]);
    assert_eq!(branches, format!("{squashed} commit\trefs/heads/main"), "nothing came back");
    assert_eq!(world.gitea.pulls("acme/site").len(), 1);
    assert_eq!(std::fs::read_to_string(ran).expect("it ran"), "x\n", "the agent ran once");
    Ok(())
}
