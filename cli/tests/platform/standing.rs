//! Repositories that people rename, archive, protect or delete on the forge.

use std::time::Duration;

use rdev_testkit::servers::faults::Fault;
use rdev_testkit::tools::trial::Outcome;
use serde_json::json;

use crate::platform::doctor::doctor;
use crate::platform::world::{World, wanted};
use crate::support::{Server, rdev};

rdev_testkit::trials! {
    async a_repository_that_was_renamed_or_moved_is_followed;
    async what_nobody_would_take_fails_before_its_agent_runs;
    async what_the_forge_tells_after_the_files_are_written_counts;
    async a_build_that_does_not_wait_for_the_forge_writes_nothing_before_the_forge_has_answered;
    async a_repository_that_is_gone_is_told_by_its_builds_by_show_and_by_doctor;
    async a_forge_that_does_not_tell_how_a_repository_stands_stops_no_build;
    async what_the_forge_tells_of_another_user_than_gits_stops_no_build;
}

/// A server with the project `site`, whose agent says that it ran.
async fn begun(world: &World) -> Server {
    let server = world.up().await;
    let answer = server.post("/project", wanted("site")).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    server
}

/// A prompt for an agent that leaves a trace outside of its workspace.
fn traced(world: &World) -> String {
    format!("touch {}; date +%N >> a.txt", world.data.path().join("ran").display())
}

fn ran(world: &World) -> bool {
    world.data.path().join("ran").exists()
}

async fn a_repository_that_was_renamed_or_moved_is_followed() -> Outcome {
    let world = World::new(10)?;
    let server = begun(&world).await;
    let task = server.build("site", json!({ "prompt": "echo 1 > a.txt" })).await;
    assert_eq!(server.ended("site", &task).await["state"], "succeeded");
    let mut old = "acme/site".to_owned();
    for (number, new) in ["acme/page", "other/page"].into_iter().enumerate() {
        world.gitea.rename(&old, new);
        old = new.to_owned();
        let shown = rdev(&server, &["project", "show", "site"]).await.stdout;
        assert!(shown.contains(&format!("{new}.git now; the next build follows it")), "{shown}");
        let text = format!("echo {number} > b.txt");
        let task = server.build("site", json!({ "prompt": text })).await;
        let record = server.ended("site", &task).await;
        assert_eq!(record["result"]["outcome"], "delivered", "{record:#}");
        let commit = record["result"]["commit_sha"].as_str().expect("a commit");
        assert_eq!(world.gitea.git(new, &["rev-parse", "main"]), commit);
        let project = server.get("/projects/site").await.body;
        let url = format!("{}/{new}.git", world.forge.url());
        assert_eq!(
            (&project["git_url"], project["repository"]["moved_to"].as_str()),
            (&json!(url), None)
        );
    }
    let audit = server.get("/audit?project_id=site").await.body["items"].clone();
    let by_worker = audit.as_array().expect("a list").iter().filter(|event| {
        event["action"] == "project.updated" && event["actor"].to_string().contains("worker")
    });
    assert_eq!(by_worker.count(), 2, "{audit:#}");
    Ok(())
}

async fn what_nobody_would_take_fails_before_its_agent_runs() -> Outcome {
    let world = World::new(10)?;
    let server = begun(&world).await;
    let build = async |more: serde_json::Value| {
        let mut spec = json!({ "prompt": traced(&world), "max_attempts": 1 });
        spec.as_object_mut().expect("an object").extend(more.as_object().expect("too").clone());
        let task = server.build("site", spec).await;
        server.ended("site", &task).await
    };
    world.gitea.archive("acme/site", true);
    let record = build(json!({})).await;
    assert_eq!(record["failure"]["class"], "invalid", "{record:#}");
    assert!(record["failure"]["message"].to_string().contains("is archived"), "{record:#}");
    world.gitea.archive("acme/site", false);

    world.gitea.protect("acme/site", "main");
    let record = build(json!({})).await;
    assert_eq!(record["failure"]["class"], "invalid", "{record:#}");
    assert!(record["failure"]["message"].to_string().contains("--pull-request"), "{record:#}");
    assert!(!ran(&world), "no agent was paid");
    // What is not pushed to the branch is done.
    for (more, outcome) in [
        (json!({ "pull_request": true }), "delivered"),
        (json!({ "auto_push": false }), "committed_not_pushed"),
        (json!({ "auto_commit": false }), "diff_only"),
    ] {
        let record = build(more).await;
        assert_eq!(record["result"]["outcome"], outcome, "{record:#}");
    }
    assert!(ran(&world));
    Ok(())
}

async fn what_the_forge_tells_after_the_files_are_written_counts() -> Outcome {
    let world = World::new(10)?;
    let server = begun(&world).await;
    let build = async || {
        let task = server.build("site", json!({ "prompt": traced(&world), "max_attempts": 1 }));
        server.ended("site", &task.await).await
    };
    // A checkout of one file takes a hundredth of that.
    world.gitea.slow_api(Duration::from_millis(800));
    world.gitea.archive("acme/site", true);
    let record = build().await;
    assert_eq!(record["failure"]["class"], "invalid", "{record:#}");
    assert!(!ran(&world), "no agent was paid");
    world.gitea.archive("acme/site", false);

    // Whoever fetches at its old place finds another repository there.
    world.gitea.rename("acme/site", "acme/page");
    world.gitea.create("acme/site", "", &[("other.txt", b"other")]);
    let record = build().await;
    assert_eq!(record["result"]["outcome"], "delivered", "{record:#}");
    let commit = record["result"]["commit_sha"].as_str().expect("a commit");
    assert_eq!(world.gitea.git("acme/page", &["rev-parse", "main"]), commit);
    assert_eq!(world.gitea.git("acme/page", &["diff", "--name-only", "main~", "main"]), "a.txt");
    let files = world.gitea.git("acme/page", &["ls-tree", "--name-only", "main"]);
    assert!(!files.contains("other.txt"), "{files}");
    assert_eq!(world.gitea.git("acme/site", &["rev-list", "--count", "main"]), "1");
    Ok(())
}

async fn a_build_that_does_not_wait_for_the_forge_writes_nothing_before_the_forge_has_answered()
-> Outcome {
    let world = World::new(10)?;
    let server = begun(&world).await;
    let build = async |more: &str, timeout_s: u32| {
        let prompt = format!("{}{more}", traced(&world));
        let spec = json!({ "prompt": prompt, "max_attempts": 1, "timeout_s": timeout_s });
        let task = server.build("site", spec).await;
        server.ended("site", &task).await
    };
    assert_eq!(build("", 60).await["result"]["outcome"], "delivered");
    std::fs::remove_file(world.data.path().join("ran")).expect("it ran");
    // The forge has just told that all is well, so the agent begins before it tells it again.
    world.gitea.slow_api(Duration::from_millis(800));
    world.gitea.rename("acme/site", "acme/page");
    world.gitea.create("acme/site", "", &[("other.txt", b"other")]);
    let record = build("", 60).await;
    assert_eq!(record["failure"]["class"], "infra", "{record:#}");
    assert!(record["failure"]["message"].to_string().contains("was moved"), "{record:#}");
    assert!(ran(&world));
    let refs = world.gitea.git("acme/site", &["for-each-ref", "--format=%(refname)"]);
    assert_eq!(refs, "refs/heads/main");
    assert_eq!(world.gitea.git("acme/site", &["rev-list", "--count", "main"]), "1");

    let record = build("", 60).await;
    assert_eq!(record["result"]["outcome"], "delivered", "{record:#}");
    let commit = record["result"]["commit_sha"].as_str().expect("a commit");
    assert_eq!(world.gitea.git("acme/page", &["rev-parse", "main"]), commit);

    // Work that is not finished goes nowhere, either. (The first build there waits.)
    assert_eq!(build("", 60).await["result"]["outcome"], "delivered");
    world.gitea.rename("acme/page", "acme/leaf");
    world.gitea.create("acme/page", "", &[("other.txt", b"other")]);
    let record = build("; sleep 60", 1).await;
    assert_eq!(record["failure"]["class"], "timeout", "{record:#}");
    let refs = world.gitea.git("acme/page", &["for-each-ref", "--format=%(refname)"]);
    assert_eq!(refs, "refs/heads/main");
    Ok(())
}

async fn a_repository_that_is_gone_is_told_by_its_builds_by_show_and_by_doctor() -> Outcome {
    let world = World::new(10)?;
    let server = begun(&world).await;
    world.gitea.remove("acme/site");
    let spec = json!({ "prompt": traced(&world), "max_attempts": 1 });
    let task = server.build("site", spec).await;
    let record = server.ended("site", &task).await;
    assert_eq!(record["failure"]["class"], "invalid", "{record:#}");
    assert!(record["failure"]["message"].to_string().contains("was it deleted?"), "{record:#}");
    assert!(!ran(&world));
    let shown = rdev(&server, &["project", "show", "site"]).await.stdout;
    assert!(shown.contains("the repository is gone"), "{shown}");
    let (status, told) = doctor(&world);
    assert_eq!(status, 1, "{told:#}");
    assert!(told.to_string().contains("the project site"), "{told:#}");
    Ok(())
}

async fn a_forge_that_does_not_tell_how_a_repository_stands_stops_no_build() -> Outcome {
    let world = World::new(10)?;
    let server = begun(&world).await;
    for fault in [Fault::Hang, Fault::Status(500), Fault::Status(403), Fault::Html] {
        world.forge.break_on("GET", "/branches/", fault.clone());
        let task = server.build("site", json!({ "prompt": traced(&world) })).await;
        let record = server.ended("site", &task).await;
        assert_eq!(record["result"]["outcome"], "delivered", "{fault:?}: {record:#}");
        world.heal();
    }
    Ok(())
}

async fn what_the_forge_tells_of_another_user_than_gits_stops_no_build() -> Outcome {
    let world = World::new(10)?;
    let token = world.gitea.token(&["write:repository"]);
    let toml = world.data.path().join("rdev.toml");
    let text = std::fs::read_to_string(&toml).expect("the configuration");
    let login = format!(
        "\n[[git.credentials]]\norigin = \"{}\"\nusername = \"oauth2\"\ntoken = \"{token}\"\n",
        world.forge.url()
    );
    std::fs::write(&toml, text + &login).expect("the configuration");
    let server = begun(&world).await;
    world.gitea.protect("acme/site", "main");
    // Nor is anybody told that builds fail: of git's user the forge says nothing.
    let project = server.get("/projects/site").await.body;
    assert_eq!(project["repository"], json!({ "state": "writable", "certain": true }));
    let shown = rdev(&server, &["project", "show", "site"]).await.stdout;
    assert!(!shown.contains("at the forge"), "{shown}");
    let (_, told) = doctor(&world);
    assert!(!told.to_string().contains("the project site"), "{told:#}");
    let spec = json!({ "prompt": traced(&world), "max_attempts": 1 });
    let task = server.build("site", spec).await;
    let record = server.ended("site", &task).await;
    assert!(ran(&world), "the git server decides: {record:#}");
    assert_eq!(record["failure"]["class"], "push_rejected", "{record:#}");
    let message = record["failure"]["message"].as_str().expect("a text");
    assert!(message.contains("Not allowed to push to protected branch main"), "{message}");
    assert!(!message.contains("error:"), "{message}");
    Ok(())
}
