//! What all phases of one attempt share, and how they end early.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdev_domain::event::EventKind;
use rdev_domain::failure::FailureClass;
use rdev_domain::git::Branch;
use rdev_domain::git_url::GitUrl;
use rdev_domain::project::Project;
use rdev_domain::task::Task;
use serde_json::json;

use crate::git::{Author, Caps, Credentials, Remote};
use crate::now;
use crate::runner::context::Shared;

pub(crate) mod event_log;
mod folder;
pub(crate) mod interrupt;
pub(crate) mod lease;
pub(crate) mod session;
pub(crate) mod settle;
pub(crate) mod stop;
pub(crate) mod unpushed;
pub(crate) mod workspace;

use interrupt::Interrupt;
use lease::Held;
use workspace::Workspace;

/// One claim of a task, on its way through the phases.
pub(crate) struct Attempt {
    pub(crate) shared: Arc<Shared>,
    pub(crate) task: Task,
    pub(crate) project: Project,
    pub(crate) held: Arc<Held>,
    /// When the attempt must be over.
    pub(crate) deadline: Instant,
    /// Whether its work is committed: from then on no clock stops it.
    pub(crate) committed: AtomicBool,
    /// Whether its work is prepared.
    pub(crate) prepared: AtomicBool,
    durations: Mutex<BTreeMap<String, u64>>,
    pushed: Mutex<Option<(Remote, Vec<String>)>>,
}

impl Attempt {
    pub(crate) fn new(
        shared: Arc<Shared>,
        task: Task,
        project: Project,
        held: Arc<Held>,
        deadline: Instant,
    ) -> Self {
        Self {
            shared,
            task,
            project,
            held,
            deadline,
            committed: AtomicBool::new(false),
            prepared: AtomicBool::new(false),
            durations: Mutex::default(),
            pushed: Mutex::default(),
        }
    }

    /// Runs a phase: its events, its metric and its duration. A phase that
    /// runs twice has the sum of both.
    pub(crate) async fn phase<T>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, Interrupt>>,
    ) -> Result<T, Interrupt> {
        let log = |data| self.held.events.add(EventKind::Phase, data, now());
        log(json!({"phase": name, "status": "started"}));
        let begun = Instant::now();
        let outcome = work.await;
        let took = begun.elapsed();
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let status = if outcome.is_ok() { "finished" } else { "failed" };
        log(json!({"phase": name, "status": status, "duration_ms": millis}));
        metrics::histogram!("rdev_phase_seconds", "phase" => name).record(took.as_secs_f64());
        let mut durations = self.durations.lock().unwrap_or_else(PoisonError::into_inner);
        *durations.entry(name.to_owned()).or_default() += millis;
        outcome
    }

    /// Milliseconds per phase so far.
    pub(crate) fn durations(&self) -> BTreeMap<String, u64> {
        self.durations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that the attempt is about to push this ref of rdev's own.
    pub(crate) fn remember_ref(&self, remote: &Remote, name: &str) {
        let mut pushed = self.pushed.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, names) = pushed.get_or_insert_with(|| (remote.clone(), Vec::new()));
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }

    /// The refs of rdev's own that the attempt has pushed (or tried to).
    pub(crate) fn pushed_refs(&self) -> Option<(Remote, Vec<String>)> {
        self.pushed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A line for people in the build's log.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        self.held.events.note(&self.shared.redactor.redact(text.as_ref()), now());
    }

    /// An empty folder to work in, as soon as nobody else works in it.
    pub(crate) async fn workspace(&self, key: &str) -> Result<Workspace, Interrupt> {
        let shared = &self.shared;
        Workspace::create(&shared.folders, &shared.in_use, key, self.held.stop.token()).await
    }

    /// The repository that the task is about.
    pub(crate) fn remote(&self, of_spec: Option<&GitUrl>) -> Result<Remote, Interrupt> {
        let url = self.project.git_url.as_ref().or(of_spec).cloned().ok_or_else(|| {
            Interrupt::failed(
                FailureClass::Invalid,
                "neither the project nor the build names a repository",
            )
        })?;
        let config = &self.shared.config;
        let policy = config.url_policy(&self.shared.folders);
        if let Err(error) = url.check(&policy) {
            return Err(Interrupt::failed(FailureClass::Invalid, error.to_string()));
        }
        let credentials = url.origin().and_then(|origin| {
            let found = config.git.credentials.iter().find(|entry| entry.origin == origin)?;
            Some(Credentials { username: found.username.clone(), token: found.token.clone() })
        });
        Ok(Remote { url, credentials, policy, timeout: Duration::from_secs(config.git.timeout_s) })
    }

    /// The branch a build (or check) begins from.
    pub(crate) fn branch(&self, of_spec: Option<&Branch>) -> Branch {
        of_spec.unwrap_or(&self.project.default_branch).clone()
    }

    /// Who commits.
    pub(crate) fn author(&self) -> Author {
        let git = &self.shared.config.git;
        Author { name: git.name.clone(), email: git.email.clone() }
    }

    /// What one build may change.
    pub(crate) fn caps(&self) -> Caps {
        let settings = &self.shared.config.runner;
        Caps {
            files: settings.max_changed_files,
            bytes: settings.max_changed_bytes,
            diff_bytes: settings.max_diff_bytes,
        }
    }
}
