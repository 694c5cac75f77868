//! A world in which whole builds run: a store, a queue and repositories in a
//! temporary folder, a runner in this process, and agents that are shell scripts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rdev_domain::audit::Actor;
use rdev_domain::event::BuildEvent;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::TaskId;
use rdev_domain::outbox;
use rdev_domain::ports::{
    Enqueued, Forge, NewRepository, Queue, SeedFile, Start, Store, TaskRecord,
};
use rdev_domain::project::Project;
use rdev_domain::record::Format;
use rdev_domain::result::BuildResult;
use rdev_domain::spec::{AgentName, BuildSpec, Work};
use rdev_domain::step::Event;
use rdev_domain::task::{Task, TaskState};
use rdev_domain::time::Timestamp;
use rdev_embedded::Embedded;
use rdev_runner::config::AgentSettings;
use rdev_runner::machine::LocalMachine;
use rdev_runner::{Folders, Ports, Protection, RunnerConfig, RunnerHandle};
pub(crate) use rdev_testkit::servers::git_http::git;
use tokio::task::JoinHandle;

/// How long anything may take before a test gives up: only what hangs takes so long, on a busy
/// machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) struct World {
    pub(crate) data: tempfile::TempDir,
    /// Where the runner's folders are, if not in `data`.
    pub(crate) elsewhere: Option<PathBuf>,
    pub(crate) embedded: Embedded,
    pub(crate) config: RunnerConfig,
    pub(crate) protection: Protection,
}

pub(crate) struct Running {
    pub(crate) handle: RunnerHandle,
    task: JoinHandle<anyhow::Result<()>>,
}

impl World {
    /// An empty world. Its `command` agent runs a build's prompt as a shell script.
    pub(crate) fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// The same, in a folder that is there already.
    pub(crate) fn below(folder: &Path) -> Self {
        let data = tempfile::tempdir_in(folder).expect("a temporary folder");
        let embedded = rdev_embedded::open(data.path(), rdev_embedded::Options::default())
            .expect("an empty data folder opens");
        let mut config = RunnerConfig::default();
        config.runner.slots = Some(4);
        config.runner.event_flush_ms = 20;
        config.runner.term_grace_s = 1;
        config.git.allow_private_addresses = true;
        config.git.name = "Rdev Test".to_owned();
        config.git.email = "rdev@test.invalid".to_owned();
        let shell = AgentSettings {
            program: Some("/bin/sh".into()),
            args: vec!["-c".into(), "eval \"$RDEV_PROMPT\"".into()],
            ..AgentSettings::default()
        };
        config.agents.insert(AgentName::Command, shell);
        Self { data, elsewhere: None, embedded, config, protection: Protection::None }
    }

    pub(crate) fn queue(&self) -> Arc<dyn Queue> {
        self.embedded.queue.clone()
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        self.embedded.store.clone()
    }

    /// Where the runner's folders are.
    pub(crate) fn place(&self) -> &Path {
        self.elsewhere.as_deref().unwrap_or(self.data.path())
    }

    pub(crate) fn folders(&self) -> Folders {
        let place = self.place();
        Folders {
            work: place.join("work"),
            cache: place.join("cache"),
            sessions: place.join("sessions"),
            repositories: Some(self.data.path().join("repos")),
        }
    }

    /// Starts a runner.
    pub(crate) fn run(&self) -> Running {
        self.run_on(Arc::new(LocalMachine::new(&self.folders(), &self.config)))
    }

    /// Starts a runner on this machine, which the test may ask.
    pub(crate) fn run_on(&self, machine: Arc<LocalMachine>) -> Running {
        self.start(machine, self.store(), self.config.clone(), self.folders())
    }

    /// Starts a runner of a name and with folders of its own, of a version that has this format.
    pub(crate) fn run_as(&self, name: &str, format: Format) -> Running {
        let mut config = self.config.clone();
        config.runner.worker_id = Some(name.parse().expect("a worker id"));
        config.runner.look_interval_s = 1;
        let own = self.data.path().join(name);
        let folders = Folders {
            work: own.join("work"),
            cache: own.join("cache"),
            sessions: own.join("sessions"),
            repositories: self.folders().repositories,
        };
        let machine = Arc::new(LocalMachine::new(&folders, &config));
        self.start(machine, Arc::new(self.embedded.store.with_format(format)), config, folders)
    }

    fn start(
        &self,
        machine: Arc<LocalMachine>,
        store: Arc<dyn Store>,
        config: RunnerConfig,
        folders: Folders,
    ) -> Running {
        rdev_runner::process::init_process().expect("it becomes the parent of escaped processes");
        rdev_runner::git::init_process();
        let (queue, forge) = (self.embedded.queue.clone(), self.embedded.forge.clone());
        let ports = Ports { store, queue, forge };
        let protection = self.protection.clone();
        let runner = rdev_runner::start_on(machine, ports, config, folders, protection, "test");
        let runner = runner.expect("a runner starts");
        let handle = runner.handle();
        Running { handle, task: tokio::spawn(runner.run()) }
    }

    /// A project with a local repository that has these files; none: an empty repository.
    pub(crate) async fn project(&self, name: &str, files: &[(&str, &str)]) -> Project {
        let seed: Vec<SeedFile> = files
            .iter()
            .map(|(path, text)| SeedFile {
                path: (*path).to_owned(),
                content: text.as_bytes().to_vec(),
            })
            .collect();
        let new = NewRepository {
            project: name.parse().expect("a project id"),
            nonce: ulid::Ulid::generate(),
            description: String::new(),
            branch: "main".parse().expect("a branch"),
            start: Start::Seed(seed),
        };
        let repository = self.embedded.forge.create_repository(&new).await.expect("a repository");
        self.project_at(name, repository.git_url).await
    }

    /// A project whose repository is there already.
    pub(crate) async fn project_at(&self, name: &str, url: GitUrl) -> Project {
        let now = now();
        let project = Project {
            git_url: Some(url),
            ..Project::new(name.parse().expect("a project id"), ulid(), now)
        };
        self.store()
            .create_project(&project, &Actor::maintenance(), now)
            .await
            .expect("a new project")
    }

    /// Enqueues a build whose agent runs `script`.
    pub(crate) async fn build(&self, project: &Project, script: &str) -> TaskId {
        self.build_with(project, script, |_| {}).await
    }

    /// The same, with other settings.
    pub(crate) async fn build_with(
        &self,
        project: &Project,
        script: &str,
        change: impl FnOnce(&mut BuildSpec),
    ) -> TaskId {
        let mut spec = BuildSpec::of(script);
        change(&mut spec);
        let task = Task::new(TaskId(ulid()), project.id.clone(), Work::Build(spec), now());
        self.enqueue(Task { project_nonce: project.nonce, ..task }).await
    }

    /// Enqueues a task and sends its wake-up.
    pub(crate) async fn enqueue(&self, task: Task) -> TaskId {
        let Enqueued { task, outbox } = self
            .store()
            .enqueue(&task, &Actor::maintenance(), now())
            .await
            .expect("the task is accepted");
        outbox::send(&*self.store(), &*self.embedded.queue, &outbox, now())
            .await
            .expect("the wake-up is sent");
        task.id
    }

    /// Retries a task as `POST …/retry` does.
    pub(crate) async fn retry(&self, id: TaskId) -> TaskId {
        let old = self.task(id).await.task;
        self.enqueue(
            rdev_domain::step::retry(&old, TaskId(ulid()), now()).expect("it can be retried"),
        )
        .await
    }

    /// Cancels a task as `POST …/cancel` does.
    pub(crate) async fn cancel(&self, id: TaskId, running: &Running) {
        let advanced = self
            .store()
            .advance(id, Event::Cancel, Default::default(), &Actor::maintenance(), now())
            .await;
        let advanced = advanced.expect("it can be cancelled");
        outbox::send(&*self.store(), &*self.embedded.queue, &advanced.outbox, now())
            .await
            .expect("sent");
        running.handle.cancel(id);
    }

    pub(crate) async fn task(&self, id: TaskId) -> TaskRecord {
        self.store().task(id).await.expect("the task is there")
    }

    /// Waits until `condition` holds for the task.
    pub(crate) async fn until(
        &self,
        id: TaskId,
        what: &str,
        condition: impl Fn(&TaskRecord) -> bool,
    ) -> Task {
        let end = Instant::now() + PATIENCE;
        loop {
            let record = self.task(id).await;
            if condition(&record) {
                return record.task;
            }
            assert!(
                Instant::now() < end,
                "{id} was never {what}; its log:\n{}",
                self.log(id).await
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the task has ended.
    pub(crate) async fn ended(&self, id: TaskId) -> Task {
        self.until(id, "ended", |record| record.task.state.is_terminal()).await
    }

    /// Waits until the task has succeeded; its build's result.
    pub(crate) async fn succeeded(&self, id: TaskId) -> BuildResult {
        let task = self.ended(id).await;
        assert_eq!(task.state, TaskState::Succeeded, "{:?}\n{}", task.failure, self.log(id).await);
        task.result.as_ref().and_then(|result| result.as_build()).expect("a build's result").clone()
    }

    /// Waits until the task has failed; its class and message.
    pub(crate) async fn failed(&self, id: TaskId) -> (&'static str, String) {
        let task = self.ended(id).await;
        assert_eq!(task.state, TaskState::Failed, "{}", self.log(id).await);
        let failure = task.failure.expect("a failed task says why");
        (failure.class.as_str(), failure.message)
    }

    pub(crate) async fn events(&self, id: TaskId) -> Vec<BuildEvent> {
        self.store().events(id, 0, 10_000).await.expect("the task is there").events
    }

    pub(crate) async fn log(&self, id: TaskId) -> String {
        self.events(id)
            .await
            .iter()
            .map(|event| format!("{} {}\n", event.kind.as_str(), event.data))
            .collect()
    }

    pub(crate) fn repository(&self, project: &Project) -> PathBuf {
        project.git_url.as_ref().and_then(GitUrl::to_folder).expect("a local repository")
    }
}

impl Running {
    /// Drains and waits until the runner has ended.
    pub(crate) async fn stop(self) {
        self.handle.drain();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("the runner ends in time")
            .expect("the runner does not panic")
            .expect("the runner ends well");
    }
}

pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}

/// A new ULID; those of one process grow.
pub(crate) fn ulid() -> ulid::Ulid {
    static LAST: std::sync::Mutex<Option<ulid::Ulid>> = std::sync::Mutex::new(None);
    let mut last = LAST.lock().expect("no test panics here");
    let mut new = ulid::Ulid::generate();
    if let Some(last) = *last
        && new <= last
    {
        new = ulid::Ulid(last.0 + 1);
    }
    *last = Some(new);
    new
}

/// Commits a file to a branch of a bare repository, as a person does.
pub(crate) fn person_commits(repository: &Path, branch: &str, path: &str, text: &str) -> String {
    let clone = tempfile::tempdir().expect("a folder");
    let at = clone.path();
    git(at, &["clone", "-q", "--branch", branch, &repository.display().to_string(), "."]);
    std::fs::write(at.join(path), text).expect("a file");
    git(at, &["add", "-A"]);
    git(at, &["commit", "-q", "-m", &format!("A person changes {path}")]);
    git(at, &["push", "-q", "origin", branch]);
    git(at, &["rev-parse", "HEAD"])
}
