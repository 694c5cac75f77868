//! Pull requests of whole builds, as people see them on the forge.

use std::time::{Duration, Instant};

use rdev_testkit::servers::faults::Fault;
use rdev_testkit::tools::trial::Outcome;
use serde_json::{Value, json};

use crate::platform::world::{World, wanted};
use crate::support::{PATIENCE, Server, rdev};

rdev_testkit::trials! {
    async a_pull_request_tells_what_was_asked_made_verified_and_spent;
    async a_prompt_does_nothing_on_the_forge;
    async a_project_that_delivers_by_pull_requests_may_have_a_protected_branch;
    async what_the_forge_does_not_set_is_a_warning_of_a_delivered_build;
    async a_build_whose_worker_dies_before_the_labels_has_them_in_the_end;
}

async fn begun(world: &World, more: Value) -> Server {
    world.gitea.user("ann");
    let server = world.up().await;
    let mut project = wanted("site");
    project.as_object_mut().expect("an object").extend(more.as_object().expect("too").clone());
    let answer = server.post("/project", project).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    world.gitea.reader("acme/site", "ann");
    world.gitea.label("acme/site", "by rdev");
    server
}

fn codes(record: &Value) -> Vec<&str> {
    let warnings = record["result"]["warnings"].as_array().map_or(&[][..], Vec::as_slice);
    warnings.iter().filter_map(|warning| warning["code"].as_str()).collect()
}

async fn a_pull_request_tells_what_was_asked_made_verified_and_spent() -> Outcome {
    let world = World::new(10)?;
    let server = begun(&world, json!({})).await;
    let spec = json!({
        "prompt": "# Add a page\necho 1 > more.html; echo more >> index.html",
        "verify": ["test -s more.html", "true # again"],
        "pull_request": true,
        "pull_request_options": {
            "labels": ["by rdev"], "draft": true, "reviewers": ["ann"],
        },
    });
    let task = server.build("site", spec).await;
    let record = server.ended("site", &task).await;
    assert_eq!((record["state"].as_str(), codes(&record)), (Some("succeeded"), vec![]));
    let verify = record["result"]["verify"].as_array().expect("a list");
    assert_eq!(verify.len(), 2, "{record:#}");
    assert_eq!(
        (&verify[0]["command"], &verify[0]["exit_code"]),
        (&json!("test -s more.html"), &json!(0))
    );
    assert_eq!(verify[1]["passed"], true, "{record:#}");
    let shown = rdev(&server, &["build", "show", &task]).await.stdout;
    assert!(shown.contains("verified  test -s more.html: status 0"), "{shown}");

    let [pull] = &world.gitea.pulls("acme/site")[..] else { panic!("one pull request") };
    assert_eq!(pull.title, "WIP: Add a page");
    assert_eq!(world.gitea.labels_of("acme/site", pull.number), ["by rdev"]);
    assert_eq!(world.gitea.asked_of("acme/site", pull.number), ["ann"]);
    let page = format!("[build {task}](<{}/projects/site/builds/{task}>)", server.url);
    for says in [
        page.as_str(),
        "- Agent: `command`",
        "- `test -s more.html`: passed, exit status 0, ",
        "- `true # again`: passed",
        "**Changed files**: 2",
        "- `index.html` +1 −0",
        "- `more.html` +1 −0 (new)",
        "```text\n# Add a page\necho 1 > more.html; echo more >> index.html\n```",
        "- Attempt: 1",
    ] {
        assert!(pull.body.contains(says), "{says}: {}", pull.body);
    }
    Ok(())
}

async fn a_prompt_does_nothing_on_the_forge() -> Outcome {
    let world = World::new(10)?;
    let server = begun(&world, json!({})).await;
    let prompt = "# WIP: closes #1, thanks @ann [skip ci]\n\
                  # ```\n# </details> fixes acme/site#1 http://x.example/acme/site/issues/1\n\
                  echo more >> '@ann closes #1.html'";
    let spec = json!({ "prompt": prompt, "pull_request": true, "verify": ["true # closes #1"] });
    let task = server.build("site", spec).await;
    let record = server.ended("site", &task).await;
    assert_eq!(record["result"]["outcome"], "delivered", "{record:#}");
    let [pull] = &world.gitea.pulls("acme/site")[..] else { panic!("one pull request") };
    let head = record["result"]["commit_sha"].as_str().expect("a commit");
    let message = world.gitea.git("acme/site", &["log", "-1", "--format=%B", head]);
    for text in [&pull.title, &pull.body, &message] {
        for acts in ["#1", "@ann", "[skip ci]", "http://x"] {
            assert!(!text.contains(acts), "{acts}: {text}");
        }
    }
    let read = pull.title.replace('\u{2060}', "");
    assert_eq!(read, "WIP: closes #1, thanks @ann [skip ci]", "it reads as it was written");
    assert!(!pull.title.starts_with("WIP:"), "it is no draft");
    Ok(())
}

async fn a_project_that_delivers_by_pull_requests_may_have_a_protected_branch() -> Outcome {
    let world = World::new(10)?;
    let options = json!({ "labels": ["by rdev"] });
    let more = json!({ "deliver": "pull_request", "pull_request_options": options });
    let server = begun(&world, more).await;
    world.gitea.protect("acme/site", "main");
    let task = server.build("site", json!({ "prompt": "echo 1 > a.txt" })).await;
    let record = server.ended("site", &task).await;
    assert_eq!(record["result"]["outcome"], "delivered", "{record:#}");
    assert_eq!(record["result"]["branch"], format!("rdev/{task}"), "{record:#}");
    assert_eq!(world.gitea.labels_of("acme/site", 1), ["by rdev"]);
    let shown = rdev(&server, &["project", "show", "site"]).await.stdout;
    assert!(!shown.contains("protected"), "{shown}");
    // A build that wants the branch itself is told before its agent runs.
    let spec = json!({ "prompt": "echo 2 > a.txt", "pull_request": false, "max_attempts": 1 });
    let task = server.build("site", spec).await;
    let record = server.ended("site", &task).await;
    assert_eq!(record["failure"]["class"], "invalid", "{record:#}");
    assert!(
        record["failure"]["message"].to_string().contains("deliver: pull_request"),
        "{record:#}"
    );
    Ok(())
}

async fn what_the_forge_does_not_set_is_a_warning_of_a_delivered_build() -> Outcome {
    let world = World::new(10)?;
    let server = begun(&world, json!({})).await;
    let spec = json!({
        "prompt": "echo 1 > a.txt",
        "pull_request": true,
        "pull_request_options": { "labels": ["none", "by rdev"], "reviewers": ["nobody", "ann"] },
    });
    let task = server.build("site", spec).await;
    let record = server.ended("site", &task).await;
    assert_eq!(record["result"]["outcome"], "delivered", "{record:#}");
    assert_eq!(codes(&record), ["label_not_set", "reviewer_not_asked"], "{record:#}");
    let warnings = record["result"]["warnings"].to_string();
    assert!(warnings.contains("none") && warnings.contains("nobody was not asked"), "{warnings}");
    assert_eq!(world.gitea.labels_of("acme/site", 1), ["by rdev"]);
    assert_eq!(world.gitea.asked_of("acme/site", 1), ["ann"]);
    Ok(())
}

async fn a_build_whose_worker_dies_before_the_labels_has_them_in_the_end() -> Outcome {
    // Longer than anything here takes: nothing times out, the process dies.
    let world = World::new(120)?;
    let server = begun(&world, json!({})).await;
    world.forge.break_on("POST", "/issues/1/labels", Fault::Hang);
    let spec = json!({
        "prompt": "echo 1 > a.txt",
        "pull_request": true,
        "pull_request_options": { "labels": ["by rdev"], "reviewers": ["ann"] },
    });
    let task = server.build("site", spec).await;
    let asked = || world.forge.requests().iter().any(|one| one.path().ends_with("/labels"));
    let end = Instant::now() + PATIENCE;
    while !asked() {
        assert!(Instant::now() < end, "no label is set");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    server.kill();
    world.heal();
    assert_eq!(world.gitea.labels_of("acme/site", 1), [""; 0]);
    let server = world.up().await;
    let record = server.ended("site", &task).await;
    assert_eq!((record["state"].as_str(), codes(&record)), (Some("succeeded"), vec![]));
    assert_eq!(world.gitea.labels_of("acme/site", 1), ["by rdev"]);
    assert_eq!(world.gitea.asked_of("acme/site", 1), ["ann"]);
    assert_eq!(world.gitea.pulls("acme/site").len(), 1);
    Ok(())
}
