//! One attempt: the state that all its phases share.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdev_domain::event::EventKind;
use rdev_domain::failure::FailureClass;
use rdev_domain::git::{Branch, RecordedRef};
use rdev_domain::git_url::GitUrl;
use rdev_domain::project::Project;
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;
use serde_json::json;
use tokio::time::Instant;

use crate::git::{Author, Caps, Remote};
use crate::machine::Machine;
use crate::runner::context::RunnerContext;

pub(crate) mod event_log;
mod folder;
pub(crate) mod interrupt;
pub(crate) mod lease;
pub(crate) mod own_refs;
pub(crate) mod session;
pub(crate) mod settle;
pub(crate) mod statuses;
pub(crate) mod stop;
pub(crate) mod trash;
pub(crate) mod unpushed;
pub(crate) mod workspace;

use interrupt::Interrupt;
use lease::ActiveLease;
use own_refs::OwnRefs;
use statuses::Statuses;
use workspace::Workspace;

/// One attempt at a task. Every phase gets it.
pub(crate) struct Attempt {
    pub(crate) context: Arc<RunnerContext>,
    pub(crate) task: Task,
    pub(crate) project: Project,
    pub(crate) lease: Arc<ActiveLease>,
    /// When the attempt must have ended.
    pub(crate) deadline: Instant,
    /// Whether its work is committed: from then on the deadline does not stop it.
    pub(crate) committed: AtomicBool,
    /// Whether its push is prepared: the task is `pushing`.
    pub(crate) prepared: AtomicBool,
    pub(crate) statuses: Statuses,
    pub(crate) own_refs: OwnRefs,
    durations: Mutex<BTreeMap<String, u64>>,
}

impl Attempt {
    pub(crate) fn new(
        context: Arc<RunnerContext>,
        task: Task,
        project: Project,
        lease: Arc<ActiveLease>,
        deadline: Instant,
    ) -> Self {
        let statuses = Statuses::of(&task);
        Self {
            context,
            task,
            project,
            lease,
            deadline,
            committed: AtomicBool::new(false),
            prepared: AtomicBool::new(false),
            statuses,
            own_refs: OwnRefs::default(),
            durations: Mutex::default(),
        }
    }

    /// The machine that it runs on.
    pub(crate) fn machine(&self) -> &dyn Machine {
        &*self.context.machine
    }

    /// The wall clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.context.machine.now()
    }

    /// Runs a phase and records its events, its metric and its duration. The durations of a
    /// phase that runs twice add up.
    pub(crate) async fn phase<T>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, Interrupt>>,
    ) -> Result<T, Interrupt> {
        let log = |data| self.lease.events.add(EventKind::Phase, data, self.now());
        log(json!({"phase": name, "status": "started"}));
        let begun = Instant::now();
        let outcome = work.await;
        let elapsed = begun.elapsed();
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let status = if outcome.is_ok() { "finished" } else { "failed" };
        log(json!({"phase": name, "status": status, "duration_ms": millis}));
        metrics::histogram!("rdev_phase_seconds", "phase" => name).record(elapsed.as_secs_f64());
        let mut durations = self.durations.lock().unwrap_or_else(PoisonError::into_inner);
        *durations.entry(name.to_owned()).or_default() += millis;
        outcome
    }

    /// The milliseconds per phase so far.
    pub(crate) fn durations(&self) -> BTreeMap<String, u64> {
        self.durations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the task is `pushing`.
    pub(crate) fn is_prepared(&self) -> bool {
        self.prepared.load(Ordering::Relaxed)
    }

    /// Tells the store which refs of rdev's own may exist, before one of them is written.
    pub(crate) async fn record_refs(&self, own_refs: Vec<RecordedRef>) -> Result<(), Interrupt> {
        if lease::record_refs(&self.lease, &self.context, own_refs).await {
            Ok(())
        } else {
            Err(Interrupt::Stopped)
        }
    }

    /// Adds a line for people to the build's log.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        self.lease.events.note(&self.context.redactor.redact(text.as_ref()), self.now());
    }

    /// An empty folder to work in. Waits until no other attempt uses it.
    pub(crate) async fn workspace(&self, key: &str) -> Result<Workspace, Interrupt> {
        let context = &self.context;
        let (machine, root) = (Arc::clone(&context.machine), context.folders.work.join(key));
        Workspace::create(machine, root, &context.in_use, self.lease.stop.token()).await
    }

    /// The repository of the task.
    pub(crate) fn remote(&self, of_spec: Option<&GitUrl>) -> Result<Remote, Interrupt> {
        let url = self.project.git_url.as_ref().or(of_spec).cloned().ok_or_else(|| {
            Interrupt::failed(
                FailureClass::Invalid,
                "neither the project nor the build names a repository",
            )
        })?;
        self.remote_at(url)
    }

    /// The repository at this URL, if it is allowed.
    pub(crate) fn remote_at(&self, url: GitUrl) -> Result<Remote, Interrupt> {
        let remote = self.context.remote(url);
        remote.map_err(|error| Interrupt::failed(FailureClass::Invalid, error.to_string()))
    }

    /// The branch that a build or check starts from.
    pub(crate) fn branch(&self, of_spec: Option<&Branch>) -> Branch {
        of_spec.unwrap_or(&self.project.default_branch).clone()
    }

    /// The author of its commits.
    pub(crate) fn author(&self) -> Author {
        let git = &self.context.config.git;
        Author { name: git.name.clone(), email: git.email.clone() }
    }

    /// The limits on what one build may change.
    pub(crate) fn caps(&self) -> Caps {
        let settings = &self.context.config.runner;
        Caps {
            files: settings.max_changed_files,
            bytes: settings.max_changed_bytes,
            diff_bytes: settings.max_diff_bytes,
        }
    }
}
