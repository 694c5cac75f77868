//! Each outcome of a build by its flags, with local bare repositories.

use std::time::{Duration, Instant};

use rdev_domain::git::OwnRef;
use rdev_domain::ids::TaskId;
use rdev_domain::result::Outcome;
use rdev_domain::spec::{CheckSpec, Work};
use rdev_domain::task::{Task, TaskState};

use crate::world::{World, git, now, person_commits, ulid};

#[tokio::test(flavor = "multi_thread")]
async fn a_build_ends_with_one_commit_on_the_branch_that_says_whose_it_is() {
    let world = World::new();
    let site = world.project("site", &[("index.html", "hello\n")]).await;
    let running = world.run();
    let id = world.build(&site, "echo changed > index.html; echo new > new.txt; echo done").await;
    let result = world.succeeded(id).await;
    assert_eq!(result.outcome, Outcome::Delivered);
    let repository = world.repository(&site);
    let commit = result.commit_sha.expect("a commit").to_string();
    assert_eq!(git(&repository, &["rev-parse", "main"]), commit);
    let message = git(&repository, &["log", "-1", "--format=%an <%ae>%n%B", "main"]);
    assert!(message.starts_with("Rdev Test <rdev@test.invalid>\necho changed"), "{message}");
    let committer = git(&repository, &["log", "-1", "--format=%cn <%ce>", "main"]);
    assert_eq!(committer, "Rdev Test <rdev@test.invalid>");
    for trailer in
        [format!("Rdev-Task: {id}"), "Rdev-Attempt: 1".into(), format!("Rdev-Lineage: {id}")]
    {
        assert!(
            git(&repository, &["log", "-1", "--format=%(trailers)", "main"]).contains(&trailer)
        );
    }
    assert_eq!(git(&repository, &["show", "main:index.html"]), "changed");
    assert_eq!(result.files_changed.len(), 2);
    assert_eq!(result.summary, "done");
    for phase in ["checkout", "agent", "commit", "push"] {
        assert!(result.durations_ms.contains_key(phase), "{phase}: {:?}", result.durations_ms);
    }
    let diff = world.store().diff(id).await.expect("the task is there").expect("a diff");
    assert!(diff.contains("+changed") && diff.contains("-hello"), "{diff}");
    running.stop().await;
    assert_eq!(std::fs::read_dir(world.folders().work).expect("work").count(), 0);
    assert_eq!(git(&repository, &["for-each-ref", "refs/rdev"]), "", "the wip ref goes afterwards");
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_decide_how_far_a_build_goes() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let before = git(&repository, &["rev-parse", "main"]);
    let running = world.run();

    let id = world.build_with(&site, "echo 2 > a", |spec| spec.auto_commit = false).await;
    let result = world.succeeded(id).await;
    assert_eq!((result.outcome, result.commit_sha), (Outcome::DiffOnly, None));
    let diff = world.store().diff(id).await.expect("there").expect("a diff");
    assert!(diff.contains("+2"), "{diff}");

    let id = world.build_with(&site, "echo 3 > a", |spec| spec.auto_push = false).await;
    let result = world.succeeded(id).await;
    assert_eq!(result.outcome, Outcome::CommittedNotPushed);
    let kept = format!("refs/{}", OwnRef::Kept(id).path());
    assert_eq!(
        git(&repository, &["rev-parse", &kept]),
        result.commit_sha.expect("a commit").to_string()
    );
    assert_eq!(git(&repository, &["show", &format!("{kept}:a")]), "3");

    let id = world.build(&site, "true").await;
    let result = world.succeeded(id).await;
    assert_eq!((result.outcome, result.commit_sha), (Outcome::NoChange, None));

    assert_eq!(git(&repository, &["rev-parse", "main"]), before, "none of them touched the branch");

    let id = world.build_with(&site, "echo 4 > a", |spec| spec.pull_request = Some(true)).await;
    let result = world.succeeded(id).await;
    assert_eq!(result.outcome, Outcome::Delivered);
    assert_eq!(result.branch.as_str(), format!("rdev/{id}"));
    assert_eq!(result.warnings[0].code, "pull_request_refused");
    assert_eq!(git(&repository, &["show", &format!("rdev/{id}:a")]), "4");
    assert_eq!(git(&repository, &["rev-parse", "main"]), before);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_repository_and_a_missing_branch_get_their_first_commit() {
    let world = World::new();
    let empty = world.project("empty", &[]).await;
    let site = world.project("site", &[("a", "1\n")]).await;
    let running = world.run();
    let first = world.build(&empty, "echo first > a").await;
    let branch = world
        .build_with(&site, "echo 2 > b", |spec| {
            spec.branch = Some("feature/x".parse().expect("a branch"))
        })
        .await;
    assert_eq!(world.succeeded(first).await.outcome, Outcome::Delivered);
    assert_eq!(git(&world.repository(&empty), &["show", "main:a"]), "first");
    assert_eq!(world.succeeded(branch).await.outcome, Outcome::Delivered);
    let repository = world.repository(&site);
    assert_eq!(git(&repository, &["show", "feature/x:b"]), "2");
    assert_eq!(
        git(&repository, &["rev-parse", "feature/x~1"]),
        git(&repository, &["rev-parse", "main"])
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_moves_meanwhile_gets_the_work_on_top() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n"), ("b", "1\n")]).await;
    let repository = world.repository(&site);
    let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
    let running = world.run();
    let script = wait_script("echo 2 > a", &begun, &go);
    let id = world.build(&site, &script).await;
    appears(&begun).await;
    let person = person_commits(&repository, "main", "b", "by a person\n");
    std::fs::write(&go, "").expect("go");
    let result = world.succeeded(id).await;
    assert_eq!(git(&repository, &["rev-parse", "main~1"]), person);
    assert_eq!(
        git(&repository, &["rev-parse", "main"]),
        result.commit_sha.expect("a commit").to_string()
    );
    assert_eq!(git(&repository, &["show", "main:a"]), "2");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_conflicts_with_the_new_tip_is_done_again_from_there() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
    let running = world.run();
    let script = wait_script("echo \"agent after $(cat a)\" > a", &begun, &go);
    let id = world.build(&site, &script).await;
    appears(&begun).await;
    person_commits(&repository, "main", "a", "person\n");
    std::fs::write(&go, "").expect("go");
    let result = world.succeeded(id).await;
    assert_eq!(result.outcome, Outcome::Delivered);
    assert_eq!(git(&repository, &["show", "main:a"]), "agent after person");
    let task = world.task(id).await.task;
    assert_eq!(task.attempt, 2);
    assert_eq!(
        task.attempts[0].failure.as_ref().map(|failure| failure.class.as_str()),
        Some("conflict")
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_force_pushed_branch_gets_the_work_on_its_new_history() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
    let running = world.run();
    let id = world.build(&site, &wait_script("echo 2 > new", &begun, &go)).await;
    appears(&begun).await;
    let tree = git(&repository, &["rev-parse", "main^{tree}"]);
    let other = git(&repository, &["commit-tree", &tree, "-m", "Another history"]);
    git(&repository, &["update-ref", "refs/heads/main", &other]);
    std::fs::write(&go, "").expect("go");
    world.succeeded(id).await;
    assert_eq!(git(&repository, &["rev-parse", "main~1"]), other);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_sends_its_complaint_back_to_the_agent_at_most_twice() {
    let world = World::new();
    let site = world.project("site", &[("a", "0")]).await;
    let running = world.run();
    // The complaint is appended to the prompt of an agent without sessions; this one ends before
    // it.
    let add_one = "printf %s $(( $(cat a) + 1 )) > a; exit 0";
    let passes = world
        .build_with(&site, add_one, |spec| spec.verify = vec!["test $(cat a) -ge 3".into()])
        .await;
    let result = world.succeeded(passes).await;
    assert_eq!(result.outcome, Outcome::Delivered);
    assert_eq!(git(&world.repository(&site), &["show", "main:a"]), "3");
    let fails = world
        .build_with(&site, add_one, |spec| {
            spec.verify = vec!["echo not enough; test $(cat a) -ge 30".into()]
        })
        .await;
    let (class, message) = world.failed(fails).await;
    assert_eq!(class, "verify_failed");
    assert!(message.contains("not enough"), "{message}");
    assert_eq!(git(&world.repository(&site), &["show", "main:a"]), "3");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_runs_commands_and_commits_nothing() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let before = git(&repository, &["for-each-ref"]);
    let running = world.run();
    let check = |commands: &[&str]| {
        let commands = commands.iter().map(|command| (*command).to_owned()).collect();
        let spec = CheckSpec { branch: None, commands, timeout_s: 60 };
        let task = Task::new(TaskId(ulid()), site.id.clone(), Work::Check(spec), now());
        Task { project_nonce: site.nonce, ..task }
    };
    let good = world.enqueue(check(&["cat a", "echo two"])).await;
    let bad = world.enqueue(check(&["echo broken; exit 3", "echo never"])).await;
    let task = world.ended(good).await;
    assert_eq!(task.state, TaskState::Succeeded);
    let Some(rdev_domain::result::TaskResult::Check(result)) = task.result else {
        panic!("a check has a check's result");
    };
    assert_eq!(result.commands[0].output, "1\n");
    assert_eq!(result.commands.len(), 2);
    let (class, message) = world.failed(bad).await;
    assert_eq!(class, "verify_failed");
    assert!(message.contains("status 3") && message.contains("broken"), "{message}");
    assert_eq!(git(&repository, &["for-each-ref"]), before);
    running.stop().await;
}

/// A script that creates the file `begun` and waits for the file `go`, the first time it runs.
pub(crate) fn wait_script(then: &str, begun: &std::path::Path, go: &std::path::Path) -> String {
    format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.02; done; {then}",
        begun.display(),
        go.display()
    )
}

/// Waits until a file is there.
pub(crate) async fn appears(path: &std::path::Path) {
    let end = Instant::now() + Duration::from_secs(600);
    while !path.exists() {
        assert!(Instant::now() < end, "{} never appeared", path.display());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
