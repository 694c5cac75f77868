//! A runner: it is started, it runs until it is drained, and a handle reaches it meanwhile.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use rdev_domain::ids::{Owner, TaskId, WorkerId};
use rdev_domain::ports::Capabilities;
use rdev_domain::secret::Secret;
use rdev_domain::worker::{HEARTBEAT_EVERY, WorkerStatus};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::attempt::session;
use crate::attempt::stop::Why;
use crate::attempt::workspace::{self, InUse};
use crate::config::{Folders, RunnerConfig};
use crate::redact::Redactor;
use crate::{agent, cleanup, git, now, process};

mod claim;
pub(crate) mod context;
mod heartbeat;
pub(crate) mod protection;

use context::{Ports, Shared};
use protection::{Guard, Protection};

/// A runner that is ready to run.
pub struct Runner {
    shared: Arc<Shared>,
}

/// Reaches a runner while it runs.
#[derive(Clone)]
pub struct RunnerHandle {
    shared: Arc<Shared>,
}

/// How a runner is doing.
#[derive(Debug, Clone)]
pub struct Health {
    /// Its id.
    pub worker_id: WorkerId,
    /// What it reports as its status.
    pub status: WorkerStatus,
    /// Builds at once.
    pub slots: u32,
    /// Tasks it works on.
    pub running: Vec<TaskId>,
    /// How long ago the store last took a heartbeat.
    pub store_ok_age: Duration,
}

impl Health {
    /// The store has answered within three heartbeats.
    pub fn is_well(&self) -> bool {
        self.store_ok_age < 3 * HEARTBEAT_EVERY
    }
}

/// Makes a runner. Kills what an earlier process of it has left running,
/// saves that one's unpushed work and empties its work folder.
///
/// # Errors
/// When a folder cannot be made, or the worker's id is none.
pub fn start(
    ports: Ports,
    config: RunnerConfig,
    folders: Folders,
    protection: Protection,
    version: &str,
) -> Result<Runner> {
    process::init_process().context("cannot become the parent of escaped processes")?;
    git::init_process();
    workspace::clean_start(&folders)?;
    session::expire_sessions(&folders, Duration::from_secs(config.runner.keep_sessions_s));
    let worker_id = match &config.runner.worker_id {
        Some(id) => id.clone(),
        None => heartbeat::hostname()
            .parse()
            .context("the host's name is no worker id; set runner.worker_id")?,
    };
    let process: String = (0..8).map(|_| char::from(rand::random_range(b'a'..=b'z'))).collect();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let slots = config.runner.slots.unwrap_or_else(|| u32::try_from(cores).unwrap_or(1)).max(1);
    let can =
        Capabilities { worker_id: worker_id.clone(), agents: agent::available(&config.agents) };
    let tokens = config.git.credentials.iter().map(|entry| entry.token.clone());
    let shared = Shared {
        redactor: Redactor::new(tokens.chain(agent::secrets(&config.agents))),
        owner: Owner::new(&worker_id, &process),
        heads_only: git::HeadsOnly::new(folders.cache.join("heads-only")),
        worker_id,
        can,
        slots,
        version: version.to_owned(),
        started_at: now(),
        running: Mutex::default(),
        changed: Notify::new(),
        in_use: InUse::default(),
        background: TaskTracker::new(),
        drain: CancellationToken::new(),
        release: CancellationToken::new(),
        ordered_drain: watch::Sender::new(false),
        protection: Guard::new(protection).context("cannot set up the client of the ECS agent")?,
        store_ok: watch::Sender::new(Instant::now()),
        ports,
        config,
        folders,
    };
    Ok(Runner { shared: Arc::new(shared) })
}

impl Runner {
    /// Keeps one more secret out of every log and record, beside those of the configuration.
    pub fn redact(&self, secret: Secret) {
        self.shared.redactor.add([secret]);
    }

    /// Reaches this runner from elsewhere.
    pub fn handle(&self) -> RunnerHandle {
        RunnerHandle { shared: Arc::clone(&self.shared) }
    }

    /// Runs until a drain is over: every build has ended or was given back.
    ///
    /// # Errors
    /// Never for what one build does; only for a defect of the runner itself.
    pub async fn run(self) -> Result<()> {
        let shared = self.shared;
        info!(worker = %shared.worker_id, slots = shared.slots, agents = ?shared.can.agents, "the runner takes work");
        cleanup::unpushed(&shared).await;
        let heartbeats = tokio::spawn(heartbeat::heartbeats(Arc::clone(&shared)));
        let protected = Arc::clone(&shared);
        let protection = tokio::spawn(async move { protected.protection.keep().await });
        let slots = Arc::new(Semaphore::new(shared.slots as usize));
        let jobs = TaskTracker::new();
        claim::take_work(&shared, &slots, &jobs).await;

        jobs.close();
        shared.changed.notify_one();
        let patience = Duration::from_secs(shared.config.runner.drain_s);
        tokio::select! {
            () = jobs.wait() => {}
            () = tokio::time::sleep(patience) => shared.release_all(),
            () = shared.release.cancelled() => shared.release_all(),
        }
        jobs.wait().await;
        shared.background.close();
        shared.background.wait().await;
        heartbeats.abort();
        protection.abort();
        heartbeat::report(&shared, WorkerStatus::Offline).await;
        info!(worker = %shared.worker_id, "the runner has ended");
        Ok(())
    }
}

impl RunnerHandle {
    /// Learns at once, not at the next renewal, that a task is to be cancelled.
    pub fn cancel(&self, task: TaskId) {
        if let Some(held) = self.shared.running().get(&task) {
            held.stop.now(Why::Cancelled);
        }
    }

    /// How the runner is doing.
    pub fn health(&self) -> Health {
        let shared = &self.shared;
        let mut running: Vec<TaskId> = shared.running().keys().copied().collect();
        running.sort_unstable();
        Health {
            worker_id: shared.worker_id.clone(),
            status: shared.status(),
            slots: shared.slots,
            running,
            store_ok_age: shared.store_ok.borrow().elapsed(),
        }
    }

    /// Takes no more work; builds that run may end within `runner.drain_s`.
    pub fn drain(&self) {
        self.shared.drain.cancel();
    }

    /// Takes no more work and gives back what runs.
    pub fn drain_now(&self) {
        self.shared.drain.cancel();
        self.shared.release.cancel();
    }
}
