//! A runner: `start` prepares it, `run` works until it is drained, a handle controls it meanwhile.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::FutureExt;
use rdev_domain::ids::{Owner, TaskId, WorkerId};
use rdev_domain::ports::{Capabilities, PortResult};
use rdev_domain::secret::Secret;
use rdev_domain::worker::{HEARTBEAT_EVERY, WorkerStatus};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::attempt::stop::StopReason;
use crate::attempt::workspace::InUse;
use crate::config::{Folders, RunnerConfig};
use crate::machine::{LocalMachine, Machine};
use crate::redact::Redactor;
use crate::{agent, cleanup, git, process};

mod claim;
pub(crate) mod context;
mod heartbeat;
pub(crate) mod own_queue;
pub(crate) mod protection;

use context::{Ports, RunnerContext};
use protection::{Protection, ScaleInGuard};

/// How long the end of a runner waits for hooks of git servers that its last pushes have started.
const HOOKS_LIMIT: Duration = Duration::from_secs(30);

/// A runner that has been prepared and can run.
pub struct Runner {
    context: Arc<RunnerContext>,
}

/// Controls a runner while it runs.
#[derive(Clone)]
pub struct RunnerHandle {
    context: Arc<RunnerContext>,
}

/// The health of a runner.
#[derive(Debug, Clone)]
pub struct Health {
    pub worker_id: WorkerId,
    /// The status that it reports.
    pub status: WorkerStatus,
    /// The number of builds at once.
    pub slots: u32,
    /// The tasks that it works on.
    pub running: Vec<TaskId>,
    /// The time since the store last accepted a heartbeat.
    pub store_ok_age: Duration,
}

impl Health {
    /// Whether the store has accepted a heartbeat within the last three intervals.
    pub fn is_well(&self) -> bool {
        self.store_ok_age < 3 * HEARTBEAT_EVERY
    }
}

/// Prepares a runner. Kills processes that an earlier process of this runner has left, saves
/// its unpushed work, and empties its work folder.
///
/// # Errors
/// When a folder cannot be made, the host's name is not a valid worker id, or the runner does not
/// offer an agent whose queue it receives from ([`NotOffered`](crate::NotOffered)).
pub fn start(
    ports: Ports,
    config: RunnerConfig,
    folders: Folders,
    protection: Protection,
    version: &str,
) -> Result<Runner> {
    process::init_process().context("cannot become the parent of escaped processes")?;
    git::init_process();
    let machine = Arc::new(LocalMachine::new(&folders, &config));
    start_on(machine, ports, config, folders, protection, version)
}

/// Prepares a runner on any [`Machine`].
///
/// # Errors
/// As [`start`].
pub fn start_on(
    machine: Arc<dyn Machine>,
    ports: Ports,
    config: RunnerConfig,
    folders: Folders,
    protection: Protection,
    version: &str,
) -> Result<Runner> {
    machine.clean_start()?;
    let worker_id = match &config.runner.worker_id {
        Some(id) => id.clone(),
        None => heartbeat::hostname()
            .parse()
            .context("the host's name is not a valid worker id; set runner.worker_id")?,
    };
    let letter = |_| char::from_u32(u32::from(b'a') + machine.random(26));
    let process: String = (0..8).filter_map(letter).collect();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let slots = config.runner.slots.unwrap_or_else(|| u32::try_from(cores).unwrap_or(1)).max(1);
    let agents = config.queue.taken(&machine.agents())?;
    let capabilities = Capabilities { worker_id: worker_id.clone(), agents };
    let tokens = config.git.credentials.iter().map(|entry| entry.token.clone());
    let context = RunnerContext {
        redactor: Redactor::new(tokens.chain(agent::secrets(&config.agents))),
        owner: Owner::new(&worker_id, &process),
        worker_id,
        capabilities,
        slots,
        version: version.to_owned(),
        started_at: machine.now(),
        running: Mutex::default(),
        changed: Notify::new(),
        in_use: InUse::default(),
        granted: crate::build::Granted::default(),
        background: TaskTracker::new(),
        memory: cleanup::Memory::default(),
        drain: CancellationToken::new(),
        release: CancellationToken::new(),
        ordered_drain: watch::Sender::new(false),
        protection: ScaleInGuard::new(protection)
            .context("cannot set up the client of the ECS agent")?,
        store_ok: watch::Sender::new(Instant::now()),
        machine,
        ports,
        config,
        folders,
    };
    Ok(Runner { context: Arc::new(context) })
}

impl Runner {
    /// Redacts one more secret in every log and record, beside those of the configuration.
    pub fn redact(&self, secret: Secret) {
        self.context.redactor.add([secret]);
    }

    /// Logs a warning for each agent that only some runners of the default queue take. It looks at
    /// those that run now: whoever starts last sees the difference.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn warn_of_differences(&self) -> PortResult<()> {
        let context = &self.context;
        let workers = context.ports.store.workers().await?;
        let taken = &context.capabilities.agents;
        for (agent, worker) in context.config.queue.differing(taken, &workers) {
            warn!(%agent, %worker, "this runner and that worker receive from the same queue, and only one of them takes builds of this agent: such builds wait until a wake-up meets the right one; give the agent a queue of its own");
        }
        Ok(())
    }

    /// A handle that controls this runner.
    pub fn handle(&self) -> RunnerHandle {
        RunnerHandle { context: Arc::clone(&self.context) }
    }

    /// Runs until a drain is complete: every build has ended or was given back.
    ///
    /// # Errors
    /// Only for a defect of the runner itself, never for a build.
    pub async fn run(self) -> Result<()> {
        let context = self.context;
        info!(worker = %context.worker_id, slots = context.slots, agents = ?context.capabilities.agents, "the runner is ready for work");
        cleanup::forget_ended_unpushed(&context).await;
        context.expire_sessions().await;
        context.in_background(cleanup::look_where_due(Arc::clone(&context)));
        let heartbeats = context.machine.spawn(heartbeat::heartbeats(Arc::clone(&context)).boxed());
        let protected = Arc::clone(&context);
        let renewals = async move { protected.protection.renew_periodically().await };
        let protection = context.machine.spawn(renewals.boxed());
        let slots = Arc::new(Semaphore::new(context.slots as usize));
        let jobs = TaskTracker::new();
        claim::claim_work(&context, &slots, &jobs).await;

        jobs.close();
        context.changed.notify_one();
        let drain_limit = Duration::from_secs(context.config.runner.drain_s);
        tokio::select! {
            biased;
            () = jobs.wait() => {}
            () = tokio::time::sleep(drain_limit) => context.release_all(),
            () = context.release.cancelled() => context.release_all(),
        }
        jobs.wait().await;
        context.background.close();
        context.background.wait().await;
        context.machine.pushes_ended(HOOKS_LIMIT).await;
        heartbeats.abort();
        protection.abort();
        heartbeat::report(&context, WorkerStatus::Offline).await;
        info!(worker = %context.worker_id, "the runner has ended");
        Ok(())
    }
}

impl RunnerHandle {
    /// Stops a cancelled task at once. Without this it stops at its next renewal.
    pub fn cancel(&self, task: TaskId) {
        if let Some(lease) = self.context.running().get(&task) {
            lease.stop.request(StopReason::Cancelled);
        }
    }

    /// The health of the runner now.
    pub fn health(&self) -> Health {
        let context = &self.context;
        let mut running: Vec<TaskId> = context.running().keys().copied().collect();
        running.sort_unstable();
        Health {
            worker_id: context.worker_id.clone(),
            status: context.status(),
            slots: context.slots,
            running,
            store_ok_age: context.store_ok.borrow().elapsed(),
        }
    }

    /// Claims nothing more. Running builds have `runner.drain_s` to finish.
    pub fn drain(&self) {
        self.context.drain.cancel();
    }

    /// Claims nothing more and gives running builds back to the queue.
    pub fn drain_now(&self) {
        self.context.drain.cancel();
        self.context.release.cancel();
    }
}
