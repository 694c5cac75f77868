//! An open data folder in a temporary place, and the values that tests need.

use std::path::PathBuf;

use rdev_domain::audit::Actor;
use rdev_domain::ids::{Owner, ProjectId, TaskId, WorkerId};
use rdev_domain::ports::{Capabilities, Claim, Claimed, Store};
use rdev_domain::project::Project;
use rdev_domain::spec::{AgentName, BuildSpec, Work};
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;
use rdev_embedded::{Embedded, Options, open};
use tempfile::TempDir;
use ulid::Ulid;

/// A data folder that is deleted when this is dropped.
pub(crate) struct Scene {
    pub(crate) data: Embedded,
    folder: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = open(&folder.path().join("data"), options).expect("a data folder");
        Self { data, folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.data.folder.join(name)
    }

    /// Closes the folder. Its files remain until the result is dropped.
    pub(crate) fn into_files(self) -> TempDir {
        self.folder
    }

    /// Closes the folder and opens it again.
    pub(crate) fn reopened(self) -> Self {
        let Self { data, folder } = self;
        let path = data.folder.clone();
        drop(data);
        let data = open(&path, Options::default()).expect("the folder is free again");
        Self { data, folder }
    }
}

pub(crate) const NOW: Timestamp = Timestamp::from_millis(2_000_000_000_000);

pub(crate) fn project(id: &str) -> Project {
    // Older than every task, of those too that name no nonce.
    let nonce = Ulid::from_parts(1, Ulid::generate().random());
    Project::new(id.parse().expect("a slug"), nonce, NOW)
}

pub(crate) async fn create(store: &dyn Store, id: &str) -> ProjectId {
    let project = project(id);
    store.create_project(&project, &Actor::maintenance(), NOW).await.expect("a new name");
    project.id
}

pub(crate) fn task(project: &ProjectId) -> Task {
    let work = Work::Build(BuildSpec::of("make the header blue"));
    Task::new(TaskId(Ulid::generate()), project.clone(), work, NOW)
}

pub(crate) async fn enqueue(store: &dyn Store, project: &ProjectId) -> Task {
    let task = task(project);
    store.enqueue(&task, &Actor::maintenance(), NOW).await.expect("a queued task").task
}

pub(crate) async fn claim(store: &dyn Store, project: &ProjectId) -> Claimed {
    let worker_id: WorkerId = "w1".parse().expect("a worker id");
    let owner = Owner::new(&worker_id, "first");
    let can = Capabilities { worker_id, agents: AgentName::ALL.to_vec() };
    match store.claim_next(project, &owner, &can, NOW).await.expect("an answer") {
        Claim::Claimed(claimed) => *claimed,
        other => panic!("there is a task to claim, not {other:?}"),
    }
}
