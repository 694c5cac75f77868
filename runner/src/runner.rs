//! The loop of a runner: receive a wake-up, claim, work; heartbeats and drain.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::{Owner, TaskId, WorkerId};
use rdev_domain::outbox;
use rdev_domain::ports::{Capabilities, Claim, Forge, PortError, Queue, ReceivedMessage, Store};
use rdev_domain::secret::Secret;
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::WakeUp;
use rdev_domain::worker::{HEARTBEAT_EVERY, Worker, WorkerStatus};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::attempt::chain;
use crate::config::{Folders, RunnerConfig};
use crate::lease::Held;
use crate::protection::{Guard, Hold, Protection};
use crate::redact::Redactor;
use crate::stop::Why;
use crate::workspace::{self, InUse};
use crate::{agent, git, job, now, process, tidy};

/// How long one receive waits for a message.
const RECEIVE_WAIT: Duration = Duration::from_secs(20);

/// How long a wake-up is put off whose work this runner cannot take now.
const POSTPONE: Duration = Duration::from_secs(60);

/// How often a runner removes old sessions and unpushed work that was delivered.
const CLEAN_EVERY: Duration = Duration::from_secs(60 * 60);

/// The longest pause while the store or the queue is away, or protection is denied.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What a runner works with.
#[derive(Clone)]
pub struct Ports {
    /// Where tasks are.
    pub store: Arc<dyn Store>,
    /// Where wake-ups come from.
    pub queue: Arc<dyn Queue>,
    /// Where pull requests are opened.
    pub forge: Arc<dyn Forge>,
}

/// A runner that is ready to run.
pub struct Runner {
    shared: Arc<Shared>,
}

/// Reaches a runner while it runs.
#[derive(Clone)]
pub struct RunnerHandle {
    shared: Arc<Shared>,
}

/// What all attempts of a runner share.
pub(crate) struct Shared {
    pub(crate) ports: Ports,
    pub(crate) config: RunnerConfig,
    pub(crate) folders: Folders,
    pub(crate) worker_id: WorkerId,
    pub(crate) redactor: Redactor,
    pub(crate) in_use: InUse,
    pub(crate) heads_only: HeadsOnly,
    /// Clean-up that no build waits for.
    pub(crate) background: TaskTracker,
    owner: Owner,
    can: Capabilities,
    slots: u32,
    version: String,
    started_at: Timestamp,
    running: Mutex<HashMap<TaskId, Arc<Held>>>,
    /// Told when `running` changes.
    changed: Notify,
    /// No more claims, for good.
    drain: CancellationToken,
    /// Builds that still run are given back.
    pub(crate) release: CancellationToken,
    /// No more claims while this is true: a drain that was asked for through the API.
    ordered_drain: watch::Sender<bool>,
    protection: Guard,
    /// When the store last took a heartbeat; before that, when the runner was made.
    store_ok: watch::Sender<Instant>,
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

/// The repositories whose server takes no refs outside `refs/heads`;
/// remembered below the cache folder.
pub(crate) struct HeadsOnly {
    folder: PathBuf,
    known: Mutex<BTreeSet<String>>,
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
    workspace::expire_sessions(&folders, Duration::from_secs(config.runner.keep_sessions_s));
    let worker_id = match &config.runner.worker_id {
        Some(id) => id.clone(),
        None => {
            hostname().parse().context("the host's name is no worker id; set runner.worker_id")?
        }
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
        heads_only: HeadsOnly::new(folders.cache.join("heads-only")),
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
        tidy::unpushed(&shared).await;
        let heartbeats = tokio::spawn(heartbeats(Arc::clone(&shared)));
        let protected = Arc::clone(&shared);
        let protection = tokio::spawn(async move { protected.protection.keep().await });
        let slots = Arc::new(Semaphore::new(shared.slots as usize));
        let jobs = TaskTracker::new();
        take_work(&shared, &slots, &jobs).await;

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
        report(&shared, WorkerStatus::Offline).await;
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

impl Shared {
    /// An attempt begins: it can be reached, and the worker is busy.
    pub(crate) fn begin(&self, held: &Arc<Held>) {
        self.running().insert(held.task, Arc::clone(held));
        if self.release.is_cancelled() {
            held.stop.now(Why::Released);
        }
        self.changed.notify_one();
    }

    /// An attempt has ended.
    pub(crate) fn end(&self, held: &Arc<Held>) {
        let mut running = self.running();
        if running.get(&held.task).is_some_and(|known| Arc::ptr_eq(known, held)) {
            running.remove(&held.task);
        }
        drop(running);
        self.changed.notify_one();
    }

    fn status(&self) -> WorkerStatus {
        let draining = self.drain.is_cancelled() || *self.ordered_drain.borrow();
        match (draining, self.running().is_empty()) {
            (true, _) => WorkerStatus::Draining,
            (false, false) => WorkerStatus::Busy,
            (false, true) => WorkerStatus::Idle,
        }
    }

    fn release_all(&self) {
        self.release.cancel();
        for held in self.running().values() {
            held.stop.now(Why::Released);
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<TaskId, Arc<Held>>> {
        // Every change is one insert or remove, so a panic elsewhere leaves it whole.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Receives, claims and starts jobs until the drain begins.
async fn take_work(shared: &Arc<Shared>, slots: &Arc<Semaphore>, jobs: &TaskTracker) {
    let mut pause = Duration::from_millis(200);
    let mut kept: Option<Hold> = None;
    loop {
        let next = async {
            wait_until_wanted(shared, true).await;
            let permit = Arc::clone(slots).acquire_owned().await.ok()?;
            let received = tokio::select! {
                biased;
                received = shared.ports.queue.receive(RECEIVE_WAIT) => received,
                // A drain was ordered meanwhile: begin anew, and wait.
                () = wait_until_wanted(shared, false) => Ok(None),
            };
            Some((permit, received))
        };
        let (permit, received) = tokio::select! {
            biased;
            () = shared.drain.cancelled() => return,
            next = next => match next {
                Some(next) => next,
                None => return,
            },
        };
        let outcome = match received {
            Ok(None) => Ok(Taken::Done),
            Ok(Some(message)) => take(shared, message, permit, jobs).await,
            Err(error) => Err(error),
        };
        // What it was kept for is over: a job that was started holds its own.
        drop(kept.take());
        match outcome {
            Ok(Taken::Done) => pause = Duration::from_millis(200),
            Ok(Taken::Unprotected) => {
                // This runner is likely to be stopped. Nothing is received before it is protected.
                tokio::select! {
                    hold = protected(shared) => kept = Some(hold),
                    () = shared.drain.cancelled() => return,
                }
            }
            Err(error) => {
                warn!(error = chain(&error), "no work can be taken now; trying again");
                // Nothing is received while the store is away: each receive counts.
                loop {
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = shared.drain.cancelled() => return,
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    if shared.ports.store.ping().await.is_ok() {
                        break;
                    }
                }
            }
        }
    }
}

/// Asks for protection until it is given.
async fn protected(shared: &Shared) -> Hold {
    let mut pause = Duration::from_secs(1);
    loop {
        tokio::time::sleep(pause).await;
        match shared.protection.take().await {
            Ok(hold) => return hold,
            Err(_) => pause = (pause * 2).min(LONGEST_PAUSE),
        }
    }
}

/// Waits until work is wanted, or is not: a drain may be ordered through the API.
async fn wait_until_wanted(shared: &Shared, wanted: bool) {
    let mut ordered = shared.ordered_drain.subscribe();
    // The sender lives as long as `shared`, so this can only end well.
    let _ = ordered.wait_for(|ordered| *ordered != wanted).await;
}

/// What came of a wake-up.
enum Taken {
    /// All that is to be done about it.
    Done,
    /// It went back: the runner may be stopped at any time.
    Unprotected,
}

/// Steps 2 and 3 of the protocol: what a wake-up leads to.
async fn take(
    shared: &Arc<Shared>,
    message: ReceivedMessage,
    permit: OwnedSemaphorePermit,
    jobs: &TaskTracker,
) -> Result<Taken, PortError> {
    let queue = &shared.ports.queue;
    let Ok(wake_up) = message.body else {
        // Received often enough, it goes to the dead-letter queue.
        queue.set_visibility(&message.receipt, Duration::ZERO).await?;
        return Ok(Taken::Done);
    };
    let hold = match shared.protection.take().await {
        Ok(hold) => hold,
        Err(denied) => {
            warn!(error = chain(&denied), "no work is taken until the runner is protected");
            queue.set_visibility(&message.receipt, Duration::ZERO).await?;
            return Ok(Taken::Unprotected);
        }
    };
    let claim =
        shared.ports.store.claim_next(&wake_up.project_id, &shared.owner, &shared.can, now()).await;
    let outcome = match claim {
        Ok(Claim::Claimed(claimed)) => {
            metrics::counter!("rdev_tasks_claimed_total").increment(1);
            if let Err(error) =
                outbox::send(&*shared.ports.store, &**queue, &claimed.outbox, now()).await
            {
                warn!(error = chain(&error), "a wake-up was not sent; the next sweep sends it");
            }
            let shared = Arc::clone(shared);
            jobs.spawn(async move {
                Box::pin(job::run(shared, *claimed, message.receipt)).await;
                drop(permit);
                drop(hold);
            });
            Ok(())
        }
        Ok(Claim::Nothing) => queue.delete(&message.receipt).await,
        // The holder may just have died: then nobody else would send a wake-up.
        Ok(Claim::SlotsTaken) if message.receive_count > 1 => {
            postpone(&**queue, &wake_up, &message.receipt, POSTPONE).await
        }
        Ok(Claim::SlotsTaken) => queue.delete(&message.receipt).await,
        // The sweep wakes the project again while something is due. Putting each
        // wake-up off as well would add one to the queue with every sweep.
        Ok(Claim::Unsuited) => queue.delete(&message.receipt).await,
        Ok(Claim::Contended) => {
            postpone(&**queue, &wake_up, &message.receipt, Duration::from_secs(1)).await
        }
        Err(PortError::NotFound { .. }) => queue.delete(&message.receipt).await,
        Err(error) => {
            queue.set_visibility(&message.receipt, Duration::from_secs(5)).await?;
            Err(error)
        }
    };
    outcome.map(|()| Taken::Done)
}

/// A new message with a delay, then the old one goes: its receive count begins anew.
async fn postpone(
    queue: &dyn Queue,
    wake_up: &WakeUp,
    receipt: &rdev_domain::ports::Receipt,
    delay: Duration,
) -> Result<(), PortError> {
    queue.send(wake_up, delay).await?;
    queue.delete(receipt).await
}

/// Reports every 30 s, and soon after a build begins or ends.
async fn heartbeats(shared: Arc<Shared>) {
    let mut last = None;
    let mut cleaned = Instant::now();
    loop {
        if cleaned.elapsed() > CLEAN_EVERY {
            cleaned = Instant::now();
            shared.background.spawn(clean(Arc::clone(&shared)));
        }
        report(&shared, shared.status()).await;
        let reported = Instant::now();
        tokio::select! {
            () = tokio::time::sleep_until(reported + HEARTBEAT_EVERY) => {}
            () = shared.changed.notified() => {
                // Short builds in a row are one report, not two each.
                if last.is_some_and(|last: Instant| last.elapsed() < Duration::from_secs(1)) {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
        last = Some(reported);
    }
}

/// Removes what was kept on this machine and is of no use any more.
async fn clean(shared: Arc<Shared>) {
    tidy::unpushed(&shared).await;
    let keep = Duration::from_secs(shared.config.runner.keep_sessions_s);
    let folders = shared.folders.clone();
    // Its only failure is a panic, which the runtime has reported.
    let _ = tokio::task::spawn_blocking(move || workspace::expire_sessions(&folders, keep)).await;
}

async fn report(shared: &Shared, status: WorkerStatus) {
    let running: BTreeSet<TaskId> = shared.running().keys().copied().collect();
    let worker = Worker {
        id: shared.worker_id.clone(),
        hostname: hostname(),
        version: shared.version.clone(),
        status,
        slots: shared.slots,
        running: running.into_iter().collect(),
        agents: shared.can.agents.clone(),
        started_at: shared.started_at,
        last_heartbeat_at: now(),
    };
    match shared.ports.store.heartbeat(&worker, now()).await {
        Ok(drain) => {
            shared.store_ok.send_replace(Instant::now());
            shared
                .ordered_drain
                .send_if_modified(|ordered| std::mem::replace(ordered, drain) != drain);
        }
        Err(error) => warn!(error = chain(&error), "the worker could not report"),
    }
}

impl HeadsOnly {
    fn new(folder: PathBuf) -> Self {
        let names = fs::read_dir(&folder).into_iter().flatten().flatten();
        let known = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        Self { folder, known: Mutex::new(known) }
    }

    pub(crate) fn contains(&self, url: &GitUrl) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&mark(url))
    }

    pub(crate) fn insert(&self, url: &GitUrl) {
        let mark = mark(url);
        let path = self.folder.join(&mark);
        let noted = fs::create_dir_all(&self.folder).and_then(|()| fs::write(path, url.as_str()));
        if let Err(error) = noted {
            warn!(%error, "the next process will not know that this server takes only branches");
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(mark);
    }
}

/// A file name for a URL.
fn mark(url: &GitUrl) -> String {
    let digest = Sha256::digest(url.as_str());
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hostname() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}
