//! Projects from creation to deletion.

use std::time::Duration;

use http::Method;
use rdev_domain::audit::Actor;
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{Forge, NewRepository, Record, Start};
use rdev_domain::project::Deletion;
use rdev_domain::result::{Outcome, TaskResult, Usage};
use rdev_domain::step::Event;
use rdev_domain::task::TaskState;
use rdev_functions::services::maintenance;
use serde_json::{Value, json};

use crate::builds::{failed, result};
use crate::support::{Fixture, ForgeBehaviour, Reply, TestForge, now, request, send, with_forge};

#[tokio::test]
async fn a_project_is_created_from_its_template_and_changed_and_deleted() {
    let fixture = Fixture::new().await;
    let body = json!({ "name": "site", "description": "Zwölf\nZeilen", "build_limit": 2 });
    let reply = fixture.post("/project", body).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(reply.header("location"), "/projects/site");
    let project = reply.json();
    assert_eq!(project["state"], "ready");
    assert_eq!(project["template"], "static");
    assert_eq!(project["default_branch"], "main");
    assert_eq!(project["build_limit"], 2);
    assert_eq!(project["description"], "Zwölf\nZeilen");
    let folder = fixture.embedded.forge.folder().join("site.git");
    let url = project["git_url"].as_str().expect("a URL");
    assert_eq!(url, format!("file://{}", folder.display()));
    let git = git2::Repository::open_bare(&folder).expect("a repository");
    let tip = git.revparse_single("refs/heads/main").expect("a branch");
    let page = git.revparse_single("refs/heads/main:index.html").expect("a page");
    assert!(!page.as_blob().expect("a file").content().is_empty());
    assert_eq!(tip.as_commit().expect("a commit").parent_count(), 0);

    assert_eq!(fixture.get("/projects/site").await.json(), project);
    let body = json!({ "description": "new", "build_limit": 3, "default_branch": "trunk" });
    let changed = fixture.patch("/projects/site", body).await.json();
    assert_eq!(changed["description"], "new");
    assert_eq!(changed["build_limit"], 3);
    assert_eq!(changed["default_branch"], "trunk");
    assert_eq!(fixture.get("/projects/site").await.json(), changed);
    let unchanged = fixture.patch("/projects/site", json!({})).await.json();
    assert_eq!(unchanged["description"], "new");

    let again = fixture.post("/projects", json!({ "name": "site" })).await;
    again.assert_problem(409, "project_exists");

    assert_eq!(fixture.delete("/projects/site").await.status, 204);
    assert!(folder.exists(), "the repository stays unless it is named");
    fixture.get("/projects/site").await.assert_problem(404, "not_found");
    // It is that of another project, though it has the same name.
    let again = fixture.post("/projects", json!({ "name": "site" })).await;
    again.assert_problem(409, "repository_not_ours");
    fixture.get("/projects/site").await.assert_problem(404, "not_found");
    std::fs::remove_dir_all(&folder).expect("removed by hand");
    fixture.project("site").await;
    assert_eq!(fixture.delete("/projects/site?delete_repository=true").await.status, 204);
    assert!(!folder.exists());
}

#[tokio::test]
async fn a_project_may_start_empty_or_use_an_existing_repository() {
    let fixture = Fixture::new().await;
    let reply = fixture.post("/projects", json!({ "name": "blank", "template": "empty" })).await;
    assert_eq!(reply.json()["template"], "empty", "{}", reply.text());
    let git = git2::Repository::open_bare(fixture.embedded.forge.folder().join("blank.git"));
    assert_eq!(git.expect("a repository").references().expect("readable").count(), 0);

    let url = "https://git.example.com/team/site.git";
    let body = json!({ "name": "imported", "git_url": url, "default_branch": "trunk" });
    let imported = fixture.post("/projects", body).await.json();
    assert_eq!(imported["git_url"], url);
    assert_eq!(imported["state"], "ready");
    assert_eq!(imported["template"], Value::Null);
    assert!(!fixture.embedded.forge.folder().join("imported.git").exists());

    let body = json!({ "name": "open", "repository": false });
    let open = fixture.post("/projects", body).await.json();
    assert_eq!((&open["git_url"], &open["state"]), (&Value::Null, &json!("ready")));
    let body = json!({ "prompt": "x", "git_url": url });
    let build = fixture.post("/projects/open/builds", body).await;
    assert_eq!(build.json()["spec"]["git_url"], url, "{}", build.text());
}

#[tokio::test]
async fn a_repository_that_rdev_did_not_create_is_never_deleted() {
    let fixture = Fixture::new().await;
    // Left from a project that was deleted without its repository.
    fixture.project("site").await;
    assert_eq!(fixture.delete("/projects/site").await.status, 204);
    let body = json!({ "name": "site", "git_url": "https://git.example.com/a.git" });
    assert_eq!(fixture.post("/projects", body).await.status, 201);
    let refused = fixture.delete("/projects/site?delete_repository=true").await;
    refused.assert_problem(409, "repository_not_ours");
    assert_eq!(fixture.get("/projects/site").await.json()["state"], "ready");
    assert!(fixture.embedded.forge.folder().join("site.git").exists());
    assert_eq!(fixture.delete("/projects/site?delete_repository=false").await.status, 204);
}

#[tokio::test]
async fn private_addresses_and_folders_are_accepted_where_the_policy_allows_them() {
    let fixture = Fixture::with(|context| {
        context.settings.url_policy.allow_private = true;
        context.settings.url_policy.file_root = Some("/srv/repos".into());
    })
    .await;
    for (name, url) in [("a", "http://127.0.0.1:3000/a.git"), ("b", "file:///srv/repos/b.git")] {
        let reply = fixture.post("/projects", json!({ "name": name, "git_url": url })).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
    for url in [
        "http://169.254.169.254/a",
        "file:///srv/other/b.git",
        "file:///srv/repos/../x",
        "file:///srv/repos/b.git%2f..%2f..%2fx",
    ] {
        let reply = fixture.post("/projects", json!({ "name": "c", "git_url": url })).await;
        reply.assert_fields(&["git_url"]);
    }
}

#[tokio::test]
async fn a_project_is_not_deleted_while_a_task_runs() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let running = fixture.build(&project).await;
    let queued = fixture.build(&project).await;
    let (claimed, holder) = fixture.claim(&project).await;
    assert_eq!(claimed.task.id, running);
    fixture.delete("/projects/site").await.assert_problem(409, "tasks_running");
    assert_eq!(fixture.get("/projects/site").await.json()["state"], "ready");
    let event = Event::Release { holder };
    fixture.advance(running, event, Default::default()).await;
    assert_eq!(fixture.delete("/projects/site").await.status, 204);
    for task in [running, queued] {
        let record = fixture.store().task(task).await.expect("the record stays");
        assert_eq!(record.task.state, TaskState::Cancelled);
    }
    let build = fixture.post("/projects/site/builds", json!({ "prompt": "x" })).await;
    build.assert_problem(404, "not_found");
}

#[tokio::test]
async fn create_and_build_answers_with_both() {
    let fixture = Fixture::new().await;
    let body = json!({
        "name": "landing", "description": "A page", "template": "static",
        "prompt": "make it blue", "auto_push": false,
    });
    let reply = fixture.post("/project/create-and-build", body.clone()).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    let created = reply.json();
    assert_eq!(created["project"]["id"], "landing");
    assert_eq!(created["project"]["state"], "ready");
    let task = &created["task"];
    assert_eq!(task["state"], "queued");
    assert_eq!(task["type"], "build");
    assert_eq!(task["spec"]["prompt"], "make it blue");
    assert_eq!(task["spec"]["auto_push"], false);
    let location = reply.header("location");
    assert_eq!(location, format!("/projects/landing/builds/{}", task["id"].as_str().expect("id")));
    assert_eq!(fixture.get(location).await.json(), *task);
    let again = fixture.post("/project/create-and-build", body).await;
    again.assert_problem(409, "project_exists");
}

#[tokio::test]
async fn a_failed_repository_is_reported_and_a_repeated_request_resumes() {
    let (fixture, forge) = with_forge(ForgeBehaviour::Fails).await;
    let reply = fixture.post_once("/project", "one", json!({ "name": "site" })).await;
    let problem = reply.assert_problem(502, "upstream_failed");
    assert!(!problem.to_string().contains("hunter2"), "{problem}");
    assert_eq!(fixture.get("/projects/site").await.json()["state"], "provisioning_failed");
    let build = fixture.post("/projects/site/builds", json!({ "prompt": "x" })).await;
    build.assert_problem(409, "project_not_ready");

    forge.set(ForgeBehaviour::Unavailable);
    let reply = fixture.post_once("/project", "one", json!({ "name": "site" })).await;
    reply.assert_problem(503, "unavailable");
    assert_eq!(reply.header("retry-after"), "5");

    forge.set(ForgeBehaviour::Works);
    let other = fixture.post_once("/project", "two", json!({ "name": "site" })).await;
    other.assert_problem(409, "project_exists");
    let reply = fixture.post_once("/project", "one", json!({ "name": "site" })).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(fixture.get("/projects/site").await.json()["state"], "ready");
}

#[tokio::test]
async fn a_project_whose_creation_failed_can_be_deleted_and_created_again() {
    let (fixture, forge) = with_forge(ForgeBehaviour::Fails).await;
    fixture.post("/project", json!({ "name": "site" })).await;
    forge.set(ForgeBehaviour::Works);
    assert_eq!(fixture.delete("/projects/site?delete_repository=true").await.status, 204);
    fixture.project("site").await;
}

#[tokio::test]
async fn a_repository_without_a_nonce_is_adopted_as_it_is() {
    let fixture = Fixture::new().await;
    let new = NewRepository {
        project: "kept".parse().expect("a name"),
        nonce: ulid::Ulid::generate(),
        description: String::new(),
        branch: "trunk".parse().expect("a branch"),
        start: Start::Seed(Vec::new()),
    };
    fixture.embedded.forge.create_repository(&new).await.expect("made");
    // Repositories of earlier versions do not say which request made them.
    let config = fixture.embedded.forge.folder().join("kept.git/config");
    let text = std::fs::read_to_string(&config).expect("its configuration");
    let (before, of_ours) = text.split_once("[rdev]").expect("a section of ours");
    assert!(of_ours.contains("nonce"), "{text}");
    std::fs::write(&config, before).expect("its configuration");
    let reply = fixture.post("/projects", json!({ "name": "kept" })).await;
    assert_eq!(reply.json()["default_branch"], "trunk", "{}", reply.text());
}

#[tokio::test]
async fn domains_and_ci_say_that_they_are_not_configured() {
    let fixture = Fixture::new().await;
    fixture.project("site").await;
    let dns = "dns_not_configured";
    fixture.get("/projects/site/domains").await.assert_problem(409, dns);
    fixture.post("/projects/site/domains", json!({})).await.assert_problem(409, dns);
    fixture.delete("/projects/site/domains/a.example.com").await.assert_problem(409, dns);
    let ci = "ci_not_configured";
    fixture.get("/projects/site/ci/pipelines").await.assert_problem(409, ci);
    fixture.get("/projects/site/ci/pipelines/7").await.assert_problem(409, ci);
}

#[tokio::test]
async fn what_an_earlier_project_of_the_name_has_left_is_not_the_later_ones() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let old = fixture.build(&project).await;
    let (_, holder) = fixture.claim(&project).await;
    let result = TaskResult::Build(result(Outcome::NoChange, Some("session-1")));
    let event = Event::Finish { holder, result, usage: Usage::default() };
    fixture.advance(old, event, Record::default()).await;
    let failed_one = fixture.build(&project).await;
    let (_, holder) = fixture.claim(&project).await;
    fixture.advance(failed_one, failed(holder), Record::default()).await;
    let gone = fixture.delete("/projects/site?delete_repository=true").await;
    assert_eq!(gone.status, 204, "{}", gone.text());

    // While no project has the name, the record is there for whoever looks for it.
    assert_eq!(fixture.get(&format!("/projects/site/builds/{old}")).await.status, 200);
    fixture.project("site").await;
    for path in ["", "/events", "/diff"] {
        let path = format!("/projects/site/builds/{old}{path}");
        fixture.get(&path).await.assert_problem(404, "not_found");
    }
    for act in ["cancel", "retry"] {
        let path = format!("/projects/site/builds/{failed_one}/{act}");
        fixture.post(&path, json!({})).await.assert_problem(404, "not_found");
    }
    for list in ["/projects/site/builds", "/work?project_id=site"] {
        let listed = fixture.get(list).await.json();
        assert_eq!(listed["items"], json!([]), "{list}: {listed}");
    }
    for body in [json!({ "task_ids": [failed_one] }), json!({})] {
        let redriven = fixture.post("/work/dead/redrive", body).await.json();
        let left = (&redriven["retried"], &redriven["left"]);
        assert_eq!(left, (&json!([]), &json!(1)), "{redriven}");
    }
    let body = json!({ "prompt": "more", "continue_from": old });
    fixture.post("/projects/site/builds", body).await.assert_fields(&["continue_from"]);
    assert_eq!(fixture.get(&format!("/work/{old}")).await.json()["state"], "succeeded");
}

/// A request that begins to delete a project and dies, an hour ago.
async fn begin_to_delete(fixture: &Fixture, project: &ProjectId, deletion: Deletion) {
    let (by, then) = (Actor::maintenance(), now().minus(Duration::from_secs(3600)));
    let begun = fixture.store().begin_delete_project(project, deletion, None, &by, then).await;
    begun.expect("nothing runs");
}

#[tokio::test]
async fn a_deletion_that_was_cut_short_is_ended_by_the_sweep_as_it_was_requested() {
    let fixture = Fixture::new().await;
    let (kept, deleted) = (fixture.project("kept").await, fixture.project("deleted").await);
    fixture.project("other").await;
    let queued = fixture.build(&deleted).await;
    begin_to_delete(&fixture, &kept, Deletion::KeepRepository).await;
    begin_to_delete(&fixture, &deleted, Deletion::DeleteRepository).await;
    let shown = fixture.get("/projects/deleted").await.json();
    assert_eq!(
        (&shown["state"], &shown["deletion"]),
        (&json!("deleting"), &json!("delete_repository"))
    );
    maintenance::sweep(&fixture.context, now).await.expect("a sweep");
    for project in ["kept", "deleted"] {
        fixture.get(&format!("/projects/{project}")).await.assert_problem(404, "not_found");
    }
    assert_eq!(fixture.get("/projects/other").await.json()["state"], "ready");
    let repositories = fixture.embedded.forge.folder();
    assert!(repositories.join("kept.git").exists(), "nobody asked to delete it");
    assert!(!repositories.join("deleted.git").exists());
    let record = fixture.store().task(queued).await.expect("the record stays");
    assert_eq!(record.task.state, TaskState::Cancelled);
}

#[tokio::test]
async fn a_deletion_that_cannot_be_ended_stops_no_other_and_is_tried_again() {
    let (fixture, forge) = with_forge(ForgeBehaviour::Works).await;
    let (first, second) = (fixture.project("first").await, fixture.project("second").await);
    begin_to_delete(&fixture, &first, Deletion::DeleteRepository).await;
    begin_to_delete(&fixture, &second, Deletion::KeepRepository).await;
    forge.set(ForgeBehaviour::Unavailable);
    maintenance::sweep(&fixture.context, now).await.expect("a sweep");
    fixture.get("/projects/second").await.assert_problem(404, "not_found");
    assert_eq!(fixture.get("/projects/first").await.json()["state"], "deleting");
    forge.set(ForgeBehaviour::Works);
    // A person need not wait for the sweep.
    assert_eq!(fixture.delete("/projects/first?delete_repository=true").await.status, 204);
    assert!(!fixture.embedded.forge.folder().join("first.git").exists());
}

/// What the audit says of a project that is gone.
async fn audited(fixture: &Fixture, project: &str) -> Value {
    let log = fixture.get(&format!("/audit?project_id={project}")).await.json();
    assert_eq!(log["items"][0]["action"], "project.deleted", "{log:#}");
    log["items"][0]["detail"].clone()
}

#[tokio::test]
async fn a_deletion_ends_where_the_forge_refuses_and_says_what_stays() {
    let (fixture, forge) = with_forge(ForgeBehaviour::Works).await;
    for project in ["asked", "swept"] {
        fixture.project(project).await;
    }
    let swept = "swept".parse().expect("a project");
    begin_to_delete(&fixture, &swept, Deletion::DeleteRepository).await;
    forge.set(ForgeBehaviour::MayNotDelete);
    let url = fixture.get("/projects/asked").await.json()["git_url"].clone();
    let url = url.as_str().expect("a URL");
    let sentence = format!(
        "the repository {url} stays: the forge (status 403: not the owner) refused the \
         credentials; remove it there if nobody needs it"
    );

    let deleted = fixture.delete("/projects/asked?delete_repository=true").await;
    assert_eq!(deleted.status, 200, "{}", deleted.text());
    let stays = json!([{ "what": "repository", "name": url, "detail": sentence }]);
    assert_eq!(deleted.json(), json!({ "id": "asked", "stays": stays }));
    maintenance::sweep(&fixture.context, now).await.expect("a sweep");
    for project in ["asked", "swept"] {
        fixture.get(&format!("/projects/{project}")).await.assert_problem(404, "not_found");
    }
    assert_eq!(audited(&fixture, "asked").await, sentence);
    assert_eq!(audited(&fixture, "swept").await, sentence.replace("asked", "swept"));
    assert!(fixture.embedded.forge.folder().join("asked.git").exists());

    // What nobody asked to delete is no remainder, and who deletes nothing says nothing.
    fixture.project("kept").await;
    assert_eq!(fixture.delete("/projects/kept").await.status, 204);
    assert_eq!(audited(&fixture, "kept").await, Value::Null);
}

/// Begins to create a project, whose repository is not made before `resume`.
async fn begin_to_create(
    fixture: &Fixture,
    forge: &TestForge,
    name: &str,
) -> tokio::task::JoinHandle<Reply> {
    begin(fixture, forge, "/projects", json!({ "name": name })).await
}

/// Begins a request that makes a repository, which is not made before `resume`.
async fn begin(
    fixture: &Fixture,
    forge: &TestForge,
    path: &str,
    body: Value,
) -> tokio::task::JoinHandle<Reply> {
    forge.set(ForgeBehaviour::Waits);
    let request = request(Method::POST, path, Some(&fixture.admin), Some(body));
    let app = fixture.app.clone();
    let creating = tokio::spawn(async move { send(&app, request).await });
    forge.entered.notified().await;
    forge.set(ForgeBehaviour::Works);
    creating
}

#[tokio::test]
async fn a_late_provision_records_nothing_over_one_that_was_faster() {
    for late in [ForgeBehaviour::Works, ForgeBehaviour::Fails, ForgeBehaviour::NotSupported] {
        let (fixture, forge) = with_forge(ForgeBehaviour::Works).await;
        let creating = begin_to_create(&fixture, &forge, "site").await;
        let faster = fixture.post("/projects/site/provision", json!({})).await;
        assert_eq!(faster.status, 200, "{}", faster.text());
        let ready = fixture.get("/projects/site").await.json();
        assert_eq!(ready["state"], "ready");
        forge.set(late);
        forge.resume.notify_one();
        let created = creating.await.expect("no panic");
        assert_eq!(created.status, 201, "{late:?}: {}", created.text());
        assert_eq!(created.json(), ready, "{late:?}");
        assert_eq!(fixture.get("/projects/site").await.json(), ready, "{late:?}");
    }
}

#[tokio::test]
async fn a_late_success_is_recorded_over_a_failure_and_not_lost() {
    let (fixture, forge) = with_forge(ForgeBehaviour::Works).await;
    let creating = begin_to_create(&fixture, &forge, "site").await;
    forge.set(ForgeBehaviour::Fails);
    let failed = fixture.post("/projects/site/provision", json!({})).await;
    failed.assert_problem(502, "upstream_failed");
    assert_eq!(fixture.get("/projects/site").await.json()["state"], "provisioning_failed");
    forge.set(ForgeBehaviour::Works);
    forge.resume.notify_one();
    assert_eq!(creating.await.expect("no panic").status, 201);
    assert_eq!(fixture.get("/projects/site").await.json()["state"], "ready");
}

/// Sweeps as if `ahead` had passed.
async fn sweep(fixture: &Fixture, ahead: Duration) {
    maintenance::sweep(&fixture.context, || now().plus(ahead)).await.expect("a sweep");
}

fn repository(fixture: &Fixture) -> std::path::PathBuf {
    fixture.embedded.forge.folder().join("site.git")
}

#[tokio::test]
async fn a_provision_beside_a_deletion_undoes_what_it_has_made() {
    // Whatever the deletion was asked to do with the repository: nobody was told of this one.
    for path in ["/projects/site", "/projects/site?delete_repository=true"] {
        for resumed in [false, true] {
            let (fixture, forge) = with_forge(ForgeBehaviour::Fails).await;
            let creating = if resumed {
                fixture.post("/projects", json!({ "name": "site" })).await;
                begin(&fixture, &forge, "/projects/site/provision", json!({})).await
            } else {
                begin_to_create(&fixture, &forge, "site").await
            };
            let deleted = fixture.delete(path).await;
            assert_eq!(deleted.status, 202, "{}", deleted.text());
            assert_eq!(deleted.json()["state"], "deleting");
            let other = json!({ "name": "site", "repository": false });
            fixture.post("/projects", other.clone()).await.assert_problem(409, "project_exists");
            forge.resume.notify_one();
            creating.await.expect("no panic").assert_problem(409, "project_not_ready");
            assert!(!repository(&fixture).exists(), "it is nobody's");
            sweep(&fixture, Duration::from_secs(60)).await;
            assert_eq!(fixture.get("/projects/site").await.json()["state"], "deleting");
            sweep(&fixture, Duration::from_secs(121)).await;
            fixture.get("/projects/site").await.assert_problem(404, "not_found");
            assert_eq!(fixture.post("/projects", other).await.status, 201);
        }
    }
}

#[tokio::test]
async fn what_a_provision_has_made_that_died_beside_a_deletion_is_removed_by_the_sweep() {
    let (fixture, forge) = with_forge(ForgeBehaviour::Works).await;
    let creating = begin_to_create(&fixture, &forge, "site").await;
    assert_eq!(fixture.delete("/projects/site").await.status, 202);
    // Again, while nothing has changed.
    assert_eq!(fixture.delete("/projects/site").await.status, 202);
    let project = fixture.store().project(&"site".parse().expect("a slug")).await;
    let project = project.expect("it is there until then");
    creating.abort();
    // The request that the forge has got takes effect all the same.
    let new = NewRepository {
        project: project.id.clone(),
        nonce: project.nonce,
        description: String::new(),
        branch: project.default_branch.clone(),
        start: Start::Seed(vec![]),
    };
    fixture.embedded.forge.create_repository(&new).await.expect("a repository");
    forge.set(ForgeBehaviour::Unavailable);
    sweep(&fixture, Duration::from_secs(121)).await;
    assert_eq!(fixture.get("/projects/site").await.json()["state"], "deleting");
    forge.set(ForgeBehaviour::Works);
    sweep(&fixture, Duration::from_secs(300)).await;
    fixture.get("/projects/site").await.assert_problem(404, "not_found");
    assert!(!repository(&fixture).exists(), "it is nobody's");
}

#[tokio::test]
async fn a_late_provision_leaves_the_repository_of_a_faster_one_to_the_deletion() {
    let (fixture, forge) = with_forge(ForgeBehaviour::Works).await;
    let creating = begin_to_create(&fixture, &forge, "site").await;
    let faster = fixture.post("/projects/site/provision", json!({})).await;
    assert_eq!(faster.json()["state"], "ready", "{}", faster.text());
    // Somebody may have pushed to it by now, and wants to keep it.
    assert_eq!(fixture.delete("/projects/site").await.status, 204);
    let other = json!({ "name": "site", "repository": false, "description": "another one" });
    let other = fixture.post("/projects", other).await.json();
    forge.resume.notify_one();
    creating.await.expect("no panic").assert_problem(404, "not_found");
    assert!(repository(&fixture).exists());
    assert_eq!(fixture.get("/projects/site").await.json(), other);
}

#[tokio::test]
async fn the_repository_of_another_project_is_no_obstacle_to_the_deletion_of_a_half_made_one() {
    let (fixture, forge) = with_forge(ForgeBehaviour::Works).await;
    fixture.project("site").await;
    assert_eq!(fixture.delete("/projects/site").await.status, 204);
    let creating = begin_to_create(&fixture, &forge, "site").await;
    assert_eq!(fixture.delete("/projects/site").await.status, 202);
    forge.resume.notify_one();
    creating.await.expect("no panic");
    sweep(&fixture, Duration::from_secs(121)).await;
    fixture.get("/projects/site").await.assert_problem(404, "not_found");
    assert!(repository(&fixture).exists(), "the earlier project's was to be kept");
}
