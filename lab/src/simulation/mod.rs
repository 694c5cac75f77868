//! A seeded simulation: the real code of runner and sweep over ports in memory, in paused time.
//!
//! Everything outside is simulated: the store and the queue (`crate::memory`) behind lines that
//! fail, a git server, agents, disks, clocks, processes that are killed and stopped, and people.
//! All of it runs on one thread, and everything random comes from the seed; so a seed is a
//! schedule, and it can be run again.

mod agent;
mod campaign;
mod check;
mod commits;
mod faults;
mod idle;
mod machine;
mod people;
mod plan;
mod ports;
mod process;
mod remote;
mod server;
mod world;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use rdev_domain::audit::Actor;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::{ProjectId, WorkerId};
use rdev_domain::ports::Store;
use rdev_domain::project::Project;
use rdev_domain::retention::Retention;
use rdev_domain::spec::AgentName;
use rdev_functions::services::maintenance;
use rdev_runner::{Folders, OwnQueue, Ports, Protection, RunnerConfig, RunnerHandle};
use tokio::sync::oneshot;
use ulid::Ulid;

pub use campaign::{Campaign, replay_command, run_many};
pub use faults::{Counts, Fault};
pub use plan::{Broken, Fleet, Plan};

use crate::memory::{MemoryQueue, MemoryStore, QueueOptions};
use check::Watch;
use machine::{Disk, SimulatedMachine};
use ports::{FaultyQueue, FaultyStore, SimulatedForge};
use process::Process;
use server::{Lacks, Repository, Server};
use world::World;

/// How long the tasks may take to end once nothing goes wrong any more: longer than any is parked.
const PATIENCE: Duration = Duration::from_secs(8 * 24 * 60 * 60);

/// What came of one simulation.
#[derive(Debug)]
pub struct Outcome {
    /// What is wrong that must never be.
    pub violations: Vec<String>,
    /// How often each thing went wrong on purpose.
    pub counts: Counts,
    /// How many tasks were accepted, and how they ended.
    pub tasks: BTreeMap<&'static str, u64>,
    /// How many pushes moved a branch.
    pub landings: u64,
    /// The simulated time.
    pub elapsed: Duration,
    /// Everything that happened, if it was asked for.
    pub trace: Vec<String>,
}

/// The agent that every task needs and every runner offers, unless the fleet is mixed.
const COMMON: AgentName = AgentName::Command;

/// The agent that one runner of a mixed fleet offers.
const RARE: AgentName = AgentName::Codex;

/// Everything of one simulation.
struct Simulation {
    world: Arc<World>,
    server: Arc<Server>,
    store: Arc<MemoryStore>,
    queue: Arc<MemoryQueue>,
    /// How users reach store and queue.
    users: (Arc<FaultyStore>, Arc<FaultyQueue>),
    projects: Vec<ProjectId>,
    workers: Vec<WorkerId>,
    running: Mutex<BTreeMap<usize, (RunnerHandle, Arc<Process>)>>,
}

/// Runs the schedule of a plan. `traced`: the outcome has every event.
///
/// # Panics
/// When the runtime cannot be made.
pub fn run(plan: Plan, traced: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing that can be lacking");
    runtime.block_on(async {
        let simulation = Simulation::new(plan, traced).await;
        let outcome = simulation.run().await;
        // Their ends must not do anything any more.
        simulation.running().values().for_each(|(_, process)| process.kill());
        outcome
    })
}

impl Simulation {
    async fn new(plan: Plan, traced: bool) -> Arc<Self> {
        let world = Arc::new(World::new(plan, traced));
        let server = Server::new(&world);
        let store = Arc::new(MemoryStore::new(Retention::default()));
        let own_queues = match world.plan.fleet {
            Fleet::Alike => [].into(),
            Fleet::Mixed { .. } => [RARE].into(),
        };
        let opened_at = world.now();
        let options = QueueOptions { opened_at, own_queues, ..QueueOptions::default() };
        let queue = Arc::new(MemoryQueue::new(options));
        let mut projects = Vec::new();
        for number in 0..world.plan.projects {
            let id: ProjectId = format!("p{number}").parse().expect("a letter and a digit");
            let url = format!("https://git.example.com/{id}.git");
            let url: GitUrl = url.parse().expect("a URL of a host and a path");
            let nonce = Ulid::from_parts(1, number.into());
            let project = Project {
                git_url: Some(url.clone()),
                build_limit: 1 + world.below(world.plan.build_limit),
                ..Project::new(id.clone(), nonce, world.now())
            };
            let by = Actor::maintenance();
            store.create_project(&project, &by, world.now()).await.expect("names differ");
            make_repository(&world, &server, url.as_str());
            projects.push(id);
        }
        let workers = (0..world.plan.runners)
            .map(|number| format!("r{number}").parse().expect("a letter and a digit"))
            .collect();
        let users = (
            Arc::new(FaultyStore::new(&world, "user", &store, &server)),
            Arc::new(FaultyQueue::new(&world, "user", &queue)),
        );
        let running = Mutex::default();
        Arc::new(Self { world, server, store, queue, users, projects, workers, running })
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, (RunnerHandle, Arc<Process>)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, number: usize) -> Option<RunnerHandle> {
        self.running().get(&number).map(|(handle, _)| handle.clone())
    }

    async fn run(self: &Arc<Self>) -> Outcome {
        let world = &self.world;
        for number in 0..self.workers.len() {
            tokio::spawn(supervise(Arc::clone(self), number));
        }
        if world.plan.undisturbed {
            world.calm_down();
        } else {
            if world.plan.broken != Some(Broken::NoSweep) {
                tokio::spawn(sweep(Arc::clone(self)));
            }
            tokio::spawn(weather(Arc::clone(self)));
            tokio::spawn(people::act_in_repositories(Arc::clone(self)));
            tokio::spawn(people::ask(Arc::clone(self)));
        }
        let queueing = tokio::spawn(people::queue_tasks(Arc::clone(self)));
        let mut watch = Watch::default();
        while world.elapsed() < world.plan.span {
            tokio::time::sleep(Duration::from_secs(20)).await;
            watch.look(self);
        }
        world.calm_down();
        for repository in &mut self.server.state().repositories {
            repository.protected = false;
        }
        // If it panicked, its panic was reported, and no task is missing.
        let _ = queueing.await;
        while !(watch.look(self) && world.is_quiet())
            && world.elapsed() < world.plan.span + PATIENCE
        {
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
        // The last wake-ups are sent by the next sweep but one; those of a clock that was ahead
        // wait until it would have been right.
        let ahead = if world.plan.skewed { 600 } else { 0 };
        tokio::time::sleep(Duration::from_secs(200 + ahead)).await;
        watch.look(self);
        check::end(self).await;
        self.outcome()
    }

    fn outcome(&self) -> Outcome {
        let mut tasks = BTreeMap::new();
        for task in check::tasks(self) {
            *tasks.entry(task.state.as_str()).or_default() += 1;
        }
        Outcome {
            violations: self.world.violations(),
            counts: self.world.counts(),
            tasks,
            landings: self.server.state().landings.len() as u64,
            elapsed: self.world.elapsed(),
            trace: self.world.take_trace(),
        }
    }
}

/// A repository with a branch, or an empty one; at a server that can do everything, or cannot.
fn make_repository(world: &World, server: &Server, url: &str) {
    let lacks = Lacks {
        atomic: world.happens(150),
        deletions: world.happens(100),
        other_refs: world.happens(150),
    };
    let mut state = server.state();
    let mut refs = BTreeMap::new();
    let mut tips = Vec::new();
    if world.happens(850) {
        let files = Arc::new([("readme".to_owned(), url.to_owned())].into());
        let first = state.commits.make(None, None, files, "the first");
        refs.insert("refs/heads/main".to_owned(), first.clone());
        tips.push(first);
    }
    let url = url.to_owned();
    let repository = Repository { url, refs, lacks, protected: false, tips, rewritten: false };
    state.repositories.push(repository);
}

/// Keeps a runner running: a new process follows each that has ended or was killed.
async fn supervise(simulation: Arc<Simulation>, number: usize) {
    let Simulation { world, server, store, queue, workers, .. } = &*simulation;
    let disk = Arc::new(Disk::default());
    for start in 0_u64.. {
        let name = format!("r{number}.{start}");
        let process = Process::new(world, name.clone());
        let skew = if world.plan.skewed && !world.is_calm() {
            world.count(Fault::Skew);
            i64::from(world.below(600_000)) - 300_000
        } else {
            0
        };
        let machine = Arc::new(SimulatedMachine {
            world: Arc::clone(world),
            server: Arc::clone(server),
            process: Arc::clone(&process),
            store: Arc::clone(store),
            worker: workers[number].clone(),
            skew,
            disk: Arc::clone(&disk),
            drawn: Mutex::default(),
            agents: world.plan.agents_of(number),
        });
        let own_queue = world.plan.queue_of(number);
        let received = match own_queue {
            OwnQueue::Default { .. } => Arc::clone(queue),
            OwnQueue::Of(_) => Arc::new(queue.of(RARE)),
        };
        let ports = Ports {
            store: Arc::new(FaultyStore::new(world, &name, store, server)),
            queue: Arc::new(FaultyQueue::new(world, &name, &received)),
            forge: Arc::new(SimulatedForge::new(world, &name)),
        };
        let mut config = RunnerConfig { queue: own_queue, ..RunnerConfig::default() };
        config.runner.worker_id = Some(workers[number].clone());
        config.runner.slots = Some(world.plan.slots);
        config.runner.event_flush_ms = 15_000;
        let folder = |name: &str| format!("/simulated/r{number}/{name}").into();
        let folders = Folders {
            work: folder("work"),
            cache: folder("cache"),
            sessions: folder("sessions"),
            repositories: None,
        };
        let runner =
            rdev_runner::start_on(machine, ports, config, folders, Protection::None, "simulated");
        let runner = runner.expect("a simulated disk has no faults at the start");
        simulation.running().insert(number, (runner.handle(), Arc::clone(&process)));
        let (ended, end) = oneshot::channel();
        let running = async move {
            // It only fails for a defect of its own, which it has logged.
            let _ = runner.run().await;
            // Nobody waits any more when everything ends.
            let _ = ended.send(());
        };
        process.spawn(running.boxed());
        tokio::select! {
            biased;
            () = process.death() => {}
            _ = end => {}
        }
        process.kill();
        world.trace(|| format!("{name} has ended"));
        tokio::time::sleep(world.millis(500, 60_000)).await;
    }
}

/// The sweep, once a minute: the real one.
async fn sweep(simulation: Arc<Simulation>) {
    let Simulation { world, server, store, queue, .. } = &*simulation;
    let store = FaultyStore::new(world, "sweep", store, server);
    let queue = FaultyQueue::new(world, "sweep", queue);
    let skew = if world.plan.skewed { i64::from(world.below(600_000)) - 300_000 } else { 0 };
    let clock = || {
        let skew = if world.is_calm() { 0 } else { skew };
        rdev_domain::time::Timestamp::from_millis(world.now().as_millis() + skew)
    };
    loop {
        // The next sweep does what this one could not.
        let _ = maintenance::sweep_store(&store, &queue, clock).await;
        let _ = maintenance::dead_letters(&store, &queue, clock).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

/// Takes the store or the git server away from time to time.
async fn weather(simulation: Arc<Simulation>) {
    let world = &simulation.world;
    let every = u64::try_from(world.plan.away_every.as_millis()).unwrap_or(u64::MAX);
    loop {
        tokio::time::sleep(world.millis(1, 2 * every)).await;
        if world.is_calm() {
            return;
        }
        if world.happens(500) {
            world.take_store_away(world.millis(1_000, 600_000));
        } else {
            world.take_server_away(world.millis(1_000, 3_600_000));
        }
    }
}
