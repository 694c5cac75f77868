//! Commit statuses that the forge does not take at once.

use std::time::{Duration, Instant, SystemTime};

use rdev_domain::audit::Actor;
use rdev_domain::commit_status::send::{self, send_due};
use rdev_domain::commit_status::{LONGEST_TRY, Shown};
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::{Branch, CommitId, Tip};
use rdev_domain::ids::{Owner, TaskId, WorkerId};
use rdev_domain::lease::Holder;
use rdev_domain::ports::{Capabilities, Claim, Record, Store};
use rdev_domain::project::Project;
use rdev_domain::result::{BuildResult, Outcome, Usage};
use rdev_domain::secret::Secret;
use rdev_domain::spec::{AgentName, BuildSpec, Work};
use rdev_domain::step::{self, Event};
use rdev_domain::task::{Prepared, Task, WipRef};
use rdev_domain::time::Timestamp;
use rdev_domain::token::Token;
use rdev_platform::gitea::{Gitea, Settings};
use rdev_testkit::servers::faults::{self, Fault};
use rdev_testkit::servers::gitea::{self, Gitea as TestGitea};
use rdev_testkit::tools::trial::Outcome as Trial;
use serde_json::{Value, json};
use ulid::Ulid;

use crate::platform::world::{World, wanted};
use crate::support::{PATIENCE, Server, rdev};

rdev_testkit::trials! {
    async a_final_status_is_sent_until_the_forge_takes_it_and_the_record_says_so;
    async a_status_that_the_forge_refuses_for_good_is_given_up;
    async a_server_that_dies_between_the_end_of_a_build_and_its_status_sends_it_later;
    async a_status_follows_a_repository_that_was_moved;
    async an_older_word_of_a_chain_never_stands_above_a_later_one;
    async a_forge_that_is_away_is_asked_once_a_round;
}

const STATUSES: &str = "/statuses/";

async fn begun() -> Result<(World, Server), rdev_testkit::tools::needs::NotRun> {
    let world = World::new(2)?;
    let server = world.up().await;
    assert_eq!(server.post("/project", wanted("site")).await.status, 201);
    Ok((world, server))
}

/// The build's record once its commit status is as `is` wants it.
async fn until(server: &Server, task: &str, is: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + PATIENCE + LONGEST_TRY;
    loop {
        let record = server.get(&format!("/projects/site/builds/{task}")).await.body;
        if is(&record["commit_status"]) {
            return record;
        }
        assert!(Instant::now() < end, "{record:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What the forge shows at a commit, newest first.
fn at_forge(gitea: &TestGitea, repository: &str, commit: &str) -> Vec<String> {
    gitea.statuses(repository, commit).into_iter().map(|status| status.state).collect()
}

async fn a_final_status_is_sent_until_the_forge_takes_it_and_the_record_says_so() -> Trial {
    let (world, server) = begun().await?;
    // The first one says that the commit is being pushed.
    world.forge.break_first(2, "POST", STATUSES, Fault::Status(500));
    let task = server.build("site", json!({ "prompt": "echo 1 > a.txt" })).await;
    let record = server.ended("site", &task).await;
    assert_eq!(record["result"]["outcome"], "delivered", "{record:#}");
    let refused = until(&server, &task, |status| status["error"].is_string()).await;
    let status = &refused["commit_status"];
    assert_eq!((&status["state"], &status["shown"]), (&json!("success"), &json!("pending")));
    assert_eq!((&status["tries"], &status["commit"]), (&json!(1), &record["result"]["commit_sha"]));
    assert!(status["error"].to_string().contains("500"), "{status:#}");
    let shown = rdev(&server, &["build", "show", &task]).await.stdout;
    assert!(shown.contains("success, not taken yet after 1 tries: "), "{shown}");
    let commit = record["result"]["commit_sha"].as_str().expect("a commit");
    assert_eq!(at_forge(&world.gitea, "acme/site", commit), [""; 0]);

    let taken = until(&server, &task, |status| status["shown"] == "taken").await;
    let status = &taken["commit_status"];
    assert_eq!((&status["tries"], &status["error"]), (&json!(2), &Value::Null), "{status:#}");
    assert_eq!(at_forge(&world.gitea, "acme/site", commit), ["success"]);
    let shown = rdev(&server, &["build", "show", &task]).await.stdout;
    assert!(shown.contains("success, taken by the forge"), "{shown}");
    assert_eq!(server.get("/projects/site/deliveries").await.body["items"], json!([]));
    Ok(())
}

async fn a_status_that_the_forge_refuses_for_good_is_given_up() -> Trial {
    let (world, server) = begun().await?;
    world.forge.break_on("POST", STATUSES, Fault::Status(403));
    let task = server.build("site", json!({ "prompt": "echo 1 > a.txt" })).await;
    assert_eq!(server.ended("site", &task).await["result"]["outcome"], "delivered");
    let record = until(&server, &task, |status| status["shown"] == "given_up").await;
    let status = &record["commit_status"];
    assert_eq!((&status["tries"], &status["next_at"]), (&json!(1), &Value::Null), "{status:#}");
    assert!(status["error"].to_string().contains("refused the credentials"), "{status:#}");
    Ok(())
}

async fn a_server_that_dies_between_the_end_of_a_build_and_its_status_sends_it_later() -> Trial {
    let (world, server) = begun().await?;
    // Not answered and not done: that is as if it had never been sent.
    world.forge.break_on("POST", STATUSES, Fault::Gone);
    world.forge.break_on("POST", STATUSES, Fault::Hang);
    let task = server.build("site", json!({ "prompt": "echo 1 > a.txt" })).await;
    let record = server.ended("site", &task).await;
    server.kill();
    world.heal();
    let commit = record["result"]["commit_sha"].as_str().expect("a commit");
    assert_eq!(at_forge(&world.gitea, "acme/site", commit), [""; 0]);
    let id: TaskId = task.parse().expect("a task's id");
    {
        let options = rdev_embedded::Options::default();
        let data = rdev_embedded::open(world.data.path(), options).expect("nobody has it open");
        let (store, now) = (&*data.store, now());
        assert_eq!(store.due_statuses(now, 10).await.expect("an answer"), [], "it may be at it");
        let due = store.due_statuses(now.plus(LONGEST_TRY), 10).await.expect("an answer");
        assert_eq!(due.iter().map(|task| task.id).collect::<Vec<_>>(), [id]);
        let status = due[0].commit_status.as_ref().expect("a status");
        assert_eq!((status.shown, status.tries), (Shown::Pending, 1));
        // The time until then is not waited for here.
        let updated = store.update_status(&due[0], &status.again(now)).await;
        assert!(updated.expect("an answer").is_some());
    }
    let server = world.up().await;
    let record = until(&server, &task, |status| status["shown"] == "taken").await;
    assert_eq!(record["commit_status"]["tries"], 2, "{record:#}");
    let statuses = world.gitea.statuses("acme/site", commit);
    assert_eq!(statuses.len(), 1, "{statuses:?}");
    assert_eq!(statuses[0].state, "success");
    let page = format!("/projects/site/builds/{task}");
    assert!(statuses[0].target_url.ends_with(&page), "{statuses:?}");
    Ok(())
}

async fn a_status_follows_a_repository_that_was_moved() -> Trial {
    let (world, server) = begun().await?;
    world.forge.break_first(2, "POST", STATUSES, Fault::Status(500));
    let task = server.build("site", json!({ "prompt": "echo 1 > a.txt" })).await;
    let record = server.ended("site", &task).await;
    world.gitea.rename("acme/site", "other/page");
    until(&server, &task, |status| status["shown"] == "taken").await;
    let commit = record["result"]["commit_sha"].as_str().expect("a commit");
    assert_eq!(at_forge(&world.gitea, "other/page", commit), ["success"]);
    Ok(())
}

/// A store with a project whose repository is on the forge, and the adapter of that forge.
struct Scene {
    _folder: tempfile::TempDir,
    data: rdev_embedded::Embedded,
    gitea: TestGitea,
    before: faults::Server,
    forge: Gitea,
    project: Project,
    commit: CommitId,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = rdev_embedded::Options::default();
        let data = rdev_embedded::open(folder.path(), options).expect("a new folder");
        let gitea = TestGitea::start(&["acme"]);
        let before = faults::Server::before(&gitea.url());
        let settings = Settings {
            url: before.url(),
            owner: "acme".to_owned(),
            private: true,
            timeout_s: 2,
            hook: None,
        };
        let forge =
            Gitea::new(settings, Token::known(Secret::new(gitea::TOKEN))).expect("an adapter");
        let new = rdev_domain::ports::NewRepository {
            project: "site".parse().expect("a slug"),
            nonce: Ulid::generate(),
            description: String::new(),
            branch: Branch::main(),
            start: rdev_domain::ports::Start::Seed(vec![rdev_domain::ports::SeedFile {
                path: "a.txt".to_owned(),
                content: b"a".to_vec(),
            }]),
        };
        let made = rdev_domain::ports::Forge::create_repository(&forge, &new).await.expect("made");
        let commit = gitea.git("acme/site", &["rev-parse", "main"]).parse().expect("a commit");
        let project = Project {
            git_url: Some(made.git_url),
            forge_id: made.forge_id,
            ..Project::new(new.project, new.nonce, now())
        };
        let by = Actor::maintenance();
        data.store.create_project(&project, &by, now()).await.expect("the name is free");
        Self { _folder: folder, data, gitea, before, forge, project, commit }
    }

    fn store(&self) -> &dyn Store {
        &*self.data.store
    }

    fn new_task(&self) -> Task {
        let (id, project) = (TaskId(Ulid::generate()), self.project.id.clone());
        let task = Task::new(id, project, Work::Build(BuildSpec::of("do it")), now());
        Task { project_nonce: self.project.nonce, ..task }
    }

    /// A task that pushes, and its holder.
    async fn pushing(&self, task: &Task) -> (Task, Holder) {
        let by = Actor::maintenance();
        self.store().enqueue(task, &by, now()).await.expect("it is queued");
        let worker_id: WorkerId = "w1".parse().expect("a worker");
        let owner = Owner::new(&worker_id, "first");
        let can = Capabilities { worker_id, agents: AgentName::ALL.to_vec() };
        let claim = self.store().claim_next(&self.project.id, &owner, &can, now()).await;
        let Ok(Claim::Claimed(claimed)) = claim else { panic!("{claim:?}") };
        let holder = Holder { fence: claimed.lease.fence, owner };
        let prepared = Prepared {
            commit: self.commit.clone(),
            base: Tip::Absent,
            branch: Branch::main(),
            wip: WipRef { task: task.id, fence: holder.fence },
            atomic: true,
            at: now(),
        };
        let (result, usage) = (self.result(), Usage::default());
        let event = Event::Prepare { holder: holder.clone(), prepared, result, usage };
        (self.report(task.id, event).await, holder)
    }

    async fn report(&self, id: TaskId, event: Event) -> Task {
        let record = Record { shows_status: true, ..Record::default() };
        let by = Actor::maintenance();
        self.store().advance(id, event, record, &by, now()).await.expect("it is held").task
    }

    async fn failed(&self, task: &Task) -> Task {
        let (task, holder) = self.pushing(task).await;
        let failure = Failure::new(FailureClass::PushRejected, "a hook said no");
        let event = Event::Fail { holder, failure, usage: None, revoked: false, left: None };
        self.report(task.id, event).await
    }

    async fn completed(&self, task: &Task) -> Task {
        let (task, holder) = self.pushing(task).await;
        self.report(task.id, Event::Complete { holder, result: self.result() }).await
    }

    fn result(&self) -> BuildResult {
        BuildResult {
            outcome: Outcome::Delivered,
            commit_sha: Some(self.commit.clone()),
            branch: Branch::main(),
            pull_request_url: None,
            verify: vec![],
            kept_ref: None,
            files_changed: vec![],
            files_changed_total: 0,
            agent: None,
            usage: Usage::default(),
            durations_ms: Default::default(),
            summary: String::new(),
            warnings: vec![],
        }
    }

    fn retry(&self, task: &Task) -> Task {
        step::retry(task, TaskId(Ulid::generate()), now()).expect("it may be retried")
    }

    /// Sends what is due `after` from now on.
    async fn send(&self, after: Duration) -> usize {
        let at = now().plus(after);
        send_due(self.store(), &self.forge, None, || at).await.expect("an answer")
    }

    async fn word(&self, task: &Task) -> (Shown, u32, Option<String>) {
        let there = self.store().task(task.id).await.expect("it is there").task;
        let status = there.commit_status.expect("a status");
        (status.shown, status.tries, status.error)
    }

    fn shown(&self) -> Vec<String> {
        at_forge(&self.gitea, "acme/site", self.commit.as_str())
    }
}

async fn an_older_word_of_a_chain_never_stands_above_a_later_one() -> Trial {
    // A retry has said something before the older word was sent again.
    let scene = Scene::new().await;
    let first = scene.failed(&scene.new_task()).await;
    let retry = scene.retry(&first);
    scene.store().enqueue(&retry, &Actor::maintenance(), now()).await.expect("it is queued");
    scene.pushing(&retry).await;
    assert_eq!(scene.send(LONGEST_TRY * 2).await, 0);
    let (shown, tries, error) = scene.word(&first).await;
    assert_eq!((shown, tries), (Shown::GivenUp, 1));
    assert_eq!(error.as_deref(), Some("a retry of the build has set a newer status"));
    assert_eq!(scene.shown(), [""; 0]);

    // A retry that has said nothing yet: the word is still the newest.
    let scene = Scene::new().await;
    let first = scene.failed(&scene.new_task()).await;
    let retry = scene.retry(&first);
    scene.store().enqueue(&retry, &Actor::maintenance(), now()).await.expect("it is queued");
    assert_eq!(scene.send(LONGEST_TRY * 2).await, 1);
    assert_eq!(
        (scene.word(&first).await, scene.shown()),
        ((Shown::Taken, 2, None), vec!["failure".to_owned()])
    );

    // The older word was on its way while a retry of a retry has said the last one: that is sent
    // once more.
    let scene = Scene::new().await;
    let place = send::Place::of(&scene.project, &scene.new_task()).expect("a repository");
    let first = scene.failed(&scene.new_task()).await;
    let second = scene.failed(&scene.retry(&first)).await;
    let third = scene.completed(&scene.retry(&second)).await;
    for task in [&third, &first] {
        let sent = send::send_final(&scene.forge, task, &place, None).await;
        send::record(scene.store(), task, &sent, now()).await.expect("recorded");
    }
    assert_eq!(scene.shown(), ["failure", "success"], "newest first");
    assert_eq!(scene.word(&third).await, (Shown::Pending, 1, None), "it is due again");
    assert_eq!(scene.send(Duration::from_secs(1)).await, 1);
    assert_eq!(scene.shown(), ["success", "failure", "success"]);
    assert_eq!(scene.word(&third).await, (Shown::Taken, 2, None));
    assert_eq!(scene.send(LONGEST_TRY * 2).await, 0, "the second one's word is out of date");
    assert_eq!(scene.word(&second).await.0, Shown::GivenUp);
    Ok(())
}

async fn a_forge_that_is_away_is_asked_once_a_round() -> Trial {
    let scene = Scene::new().await;
    let mut tasks = Vec::new();
    for _ in 0..3 {
        tasks.push(scene.completed(&scene.new_task()).await);
    }
    scene.before.answer_with(Fault::Status(500));
    scene.before.forget();
    assert_eq!(scene.send(LONGEST_TRY * 2).await, 1);
    assert_eq!(scene.before.requests().len(), 1);
    scene.before.heal();
    assert_eq!(scene.send(LONGEST_TRY * 2).await, 2, "the others, and not yet the first again");
    assert_eq!(scene.word(&tasks[0]).await.0, Shown::Pending);
    assert_eq!(scene.send(LONGEST_TRY * 3).await, 1);
    for task in &tasks {
        assert_eq!(scene.word(task).await.0, Shown::Taken);
    }
    Ok(())
}

fn now() -> Timestamp {
    SystemTime::now().into()
}
