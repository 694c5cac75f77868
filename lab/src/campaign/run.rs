//! The course of a campaign: start, faults and builds side by side, quiet, stop, check.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rand::RngExt;
use rand::seq::IndexedRandom;
use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{RwLock, watch};
use tokio::time::sleep;

use super::api::Api;
use super::aws::{Aws, Programs};
use super::checker::{self, Breach, Evidence, history, left, processes, tasks};
use super::clients::{self, Accepted, PATIENCE};
use super::disk::Disk;
use super::faults::{Faults, Targets, strike};
use super::git_server::RemoteGit;
use super::machine::Machine;
use super::one_machine::OneMachine;
use super::people::{Person, Repository};
use super::plan::{self, Options, Shape};
use super::report::{Table, last_line, percentiles, reclaimed};
use super::{RDEV, note, programs};

/// The projects, with how many builds of each may run at once.
const LIMITS: [u64; 8] = [1, 2, 1, 3, 2, 1, 2, 4];

/// How often builds that change nothing are run at the end, so that runners see left-over refs.
const CLEAN_UPS: usize = 40;

/// How long the store may take until nothing is left in it.
const SETTLE: Duration = Duration::from_secs(180);

/// How long processes may take to disappear after everything was stopped.
const LAST_MOMENTS: Duration = Duration::from_secs(10);

/// Everything that runs, and where.
struct World {
    folder: PathBuf,
    mark: String,
    api: Api,
    machine: Machine,
    git: RemoteGit,
    /// Why there is none, if it could not be mounted.
    disk: Result<Disk>,
    repositories: Vec<Repository>,
}

/// Runs a campaign and prints its report. Returns whether every promise was kept.
///
/// # Errors
/// When the campaign itself could not be done.
pub fn run(options: &Options) -> Result<bool> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        tokio::select! {
            done = Box::pin(whole(options)) => done,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })
}

async fn whole(options: &Options) -> Result<bool> {
    let temporary = TempDir::new()?;
    let folder = options.folder.clone().unwrap_or_else(|| temporary.path().to_owned());
    fs::create_dir_all(&folder)?;
    let folder = fs::canonicalize(folder)?;
    let begun = Instant::now();
    let mut world = World::start(options, folder.clone()).await?;
    note(format_args!(
        "{} projects are ready; everything is in {}",
        LIMITS.len(),
        folder.display()
    ));
    let outcome = course(options, &mut world, begun).await;
    let kept = match &outcome {
        Ok(breaches) => breaches.is_empty(),
        Err(_) => false,
    };
    if !kept {
        world.save_data()?;
        if options.folder.is_none() {
            note(format_args!("what there is to see stays in {}", temporary.keep().display()));
        }
    }
    outcome.map(|breaches| breaches.is_empty())
}

/// All of it; the breaches that were found.
async fn course(options: &Options, world: &mut World, begun: Instant) -> Result<Vec<Breach>> {
    let accepted = Accepted::none();
    let (faults, acts) = storm(options, world, &accepted).await?;
    note(format_args!("{:?}: the last fault is over; waiting for what is open", begun.elapsed()));
    let (requests, broken) = world.git.counted();
    let open = quiet(world, options.quiet()).await?;
    world.api.moved(world.machine.refresh().await?);
    let closing = clean_up(world, &accepted, open == 0).await?;
    settle(world).await?;
    let (tasks, audit) = world.read_store().await?;
    world.machine.stop().await?;
    world.git.stop()?;
    let mut evidence = Evidence {
        accepted: accepted.tasks(),
        ends: tasks::ends(&audit),
        orphans: faults.survivors.clone(),
        histories: world.histories()?,
        tasks,
        ..Evidence::default()
    };
    evidence.orphans.extend(living(&world.mark).await);
    evidence.left = world.left(&evidence).await?;
    let breaches = checker::judge(&evidence);

    let mut table = Table::default();
    let counts = accepted.counts();
    table.row("shape, seed", &format!("{:?} {}", options.shape, options.seed));
    table.row("builds asked for", &accepted.builds());
    table.row(
        "retries of people, and second ones refused",
        &format!("{} {}", counts.retries, counts.refused_retries),
    );
    table.row("cancelled by people", &counts.cancels);
    table.row("builds at the end that let refs be removed", &closing);
    for (told, count) in told(&evidence) {
        table.row(format!("tasks {told}"), &count);
    }
    let landings = |by| {
        let histories = evidence.histories.values();
        let all = histories
            .flat_map(|history| history.landings().into_values().flatten().collect::<Vec<_>>());
        all.filter(|one| one.by == by).count()
    };
    table.row(
        "landings by rdev, by people",
        &format!("{} {}", landings(history::By::Rdev), landings(history::By::Person)),
    );
    table.row("acts of people", &acts);
    table.row(
        "killed: runners, API alone, git server",
        &format!("{} {} {}", faults.runners.len(), faults.api_kills, faults.git_kills),
    );
    table.row(
        "paused, drained, disk filled",
        &format!("{} {} {}", faults.pauses, faults.drains, faults.full_disks),
    );
    table.row(
        "kills that left a push half done, branches rewound then",
        &format!("{} {}", faults.half_done, faults.rewinds),
    );
    if let Machine::Aws(aws) = &world.machine {
        let (calls, broken) = aws.counted();
        table.row("calls of AWS, broken by the proxy", &format!("{calls} {broken}"));
    }
    if let (Err(error), Shape::OneMachine) = (&world.disk, options.shape) {
        table.row("disk filled: NOT DONE", &format!("cannot mount a tmpfs: {error:#}"));
    }
    table.row("requests to git, broken by the proxy", &format!("{requests} {broken}"));
    table.row(
        "from the kill of a holder to the next claim",
        &percentiles(&reclaimed(&audit, &faults.runners)),
    );
    table.row("took", &format!("{:?}", begun.elapsed()));
    show(&table, &breaches, options, &faults);
    Ok(breaches)
}

#[expect(clippy::print_stdout, reason = "it is the result of the program")]
fn show(table: &Table, breaches: &[Breach], options: &Options, faults: &Faults) {
    print!("{table}");
    for Breach { column, what } in breaches {
        println!("{column}: {what}");
    }
    let kills = faults.runners.len() + faults.api_kills + faults.git_kills;
    println!("{}", last_line(options.builds, kills, breaches));
}

/// Faults, builds and people side by side. Ends when there were as many of each as were asked for.
async fn storm(
    options: &Options,
    world: &mut World,
    accepted: &Accepted,
) -> Result<(Faults, String)> {
    let World { api, machine, git, disk, repositories, mark, .. } = world;
    let wishes = plan::wishes(options, LIMITS.len(), mark);
    let names: Vec<String> = repositories.iter().map(|one| one.project.clone()).collect();
    let allowed = watch::Sender::new(0);
    let people = RwLock::new(());
    let over = Arc::new(AtomicBool::new(false));
    git.break_some();
    machine.break_some();
    let api = &*api;
    let mut targets = Targets {
        machine,
        git,
        disk: disk.as_ref().ok(),
        api,
        accepted,
        people: &people,
        repositories,
        mark,
    };
    let random = |actor| plan::random(options.seed, actor);
    let striking = async {
        let faults = strike(&mut targets, options, &allowed, random("faults")).await;
        over.store(true, Ordering::Relaxed);
        faults
    };
    let (faults, (), (), acts) = tokio::try_join!(
        striking,
        clients::submit(api, accepted, wishes, &names, allowed.subscribe()),
        clients::meddle(api, accepted, random("clients")),
        persons(options, accepted, repositories, &people, &over),
    )?;
    world.git.heal();
    world.machine.heal();
    Ok((faults, acts))
}

/// People act in step with the builds. What they did.
async fn persons(
    options: &Options,
    accepted: &Accepted,
    repositories: &[Repository],
    people: &RwLock<()>,
    over: &AtomicBool,
) -> Result<String> {
    let mut random = plan::random(options.seed, "people");
    let mut person = Person::new(plan::random(options.seed, "acts"));
    let (mut done, mut tried) = (0, 0);
    while done < options.acts() {
        accepted.reached(options.builds * done / options.acts(), PATIENCE).await;
        sleep(Duration::from_millis(random.random_range(0..600))).await;
        let repository = repositories.choose(&mut random).context("no repositories")?.clone();
        let _here = people.read().await;
        let acting = tokio::task::spawn_blocking(move || {
            let did = person.act(&repository);
            (person, did)
        });
        let did;
        (person, did) = acting.await.context("a person panicked")?;
        done += usize::from(did?);
        tried += 1;
        // What needs a ticket or an earlier tip may find none any more.
        if tried > 20 * options.acts() + 100 && over.load(Ordering::Relaxed) {
            bail!("people could do only {done} things: {}", person.told());
        }
    }
    Ok(format!("{done} ({})", person.told()))
}

/// Waits until no task is open, for at most `patience`. How many are open then.
async fn quiet(world: &mut World, patience: Duration) -> Result<u64> {
    let begun = Instant::now();
    let mut told = Instant::now();
    loop {
        let stats = world.api.get("/work/stats", PATIENCE).await?;
        let of = |name: &str| stats[name].as_u64().context("no stats");
        let open = of("due")? + of("later")? + of("running")? + of("pushing")?;
        if open == 0 || begun.elapsed() > patience {
            return Ok(open);
        }
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            note(format_args!("{:?}: {stats}", begun.elapsed()));
        }
        world.machine.still_runs()?;
        sleep(Duration::from_millis(300)).await;
    }
}

/// Runs builds that change nothing while there are refs that the next fetch should remove. How many
/// were run.
async fn clean_up(world: &mut World, accepted: &Accepted, calm: bool) -> Result<usize> {
    let mut run = 0;
    if !calm {
        return Ok(run);
    }
    for round in 0..CLEAN_UPS {
        let (tasks, _) = world.read_store().await?;
        let histories = world.histories()?;
        let left = histories.iter().filter(|(_, history)| left::refs(history, &tasks).count() > 0);
        let mut rounds = 0;
        for (project, _) in left {
            let path = format!("/projects/{project}/builds");
            let body = json!({"prompt": "true"});
            let key = format!("clean-{round}");
            let answer =
                world.api.ask(Method::POST, &path, Some(&body), Some(&key), PATIENCE).await?;
            accepted.add_closing(&answer.body)?;
            rounds += 1;
        }
        if rounds == 0 {
            break;
        }
        run += rounds;
        quiet(world, PATIENCE).await?;
        // The refs are removed in the background.
        sleep(Duration::from_millis(500)).await;
    }
    Ok(run)
}

/// Waits until nothing is left in the store: what a crash has left there goes with the next sweep
/// but one.
async fn settle(world: &World) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < SETTLE && !world.machine.left_in_store().await?.is_empty() {
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// The marked processes that do not disappear.
async fn living(mark: &str) -> Vec<processes::Found> {
    let end = Instant::now() + LAST_MOMENTS;
    loop {
        let found = processes::marked(mark);
        if found.is_empty() || Instant::now() > end {
            return found;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// How many tasks ended in which way.
fn told(evidence: &Evidence) -> BTreeMap<String, usize> {
    let mut told = BTreeMap::new();
    for task in evidence.tasks.values() {
        let nothing = if task.state == tasks::State::Nothing { " (nothing to push)" } else { "" };
        *told.entry(format!("{}{nothing}", task.told)).or_default() += 1;
    }
    told
}

impl World {
    async fn start(options: &Options, folder: PathBuf) -> Result<Self> {
        let mark = format!("chaos-{}", ulid::Ulid::generate());
        let git = RemoteGit::start(folder.join("git"), folder.join("git.log"), &mark, options.seed);
        let git = git.await?;
        let data = folder.join("data");
        fs::create_dir_all(&data)?;
        let (mut machine, disk, timeout) = match options.shape {
            Shape::OneMachine => {
                let program = match &options.rdev {
                    Some(program) => fs::canonicalize(program)?,
                    None => programs::build("rdev", "rdev", &[])?,
                };
                let disk = Disk::mount(&data, 256 + options.builds);
                let log = folder.join("up.log");
                let more = git.credentials();
                let one = OneMachine::configure(program, data, log, &mark, &more)?;
                (Machine::OneMachine(one), disk, Duration::from_secs(10))
            }
            Shape::Aws => {
                let Options { rdev, runner, functions, seed, .. } = options;
                let programs =
                    Programs::find(rdev.as_deref(), runner.as_deref(), functions.as_deref())?;
                let aws = Aws::deploy(&programs, &data, &mark, &git.credentials(), *seed)?;
                let disk = Err(anyhow!("only the shape one-machine has one"));
                (Machine::Aws(Box::new(aws)), disk, Duration::from_secs(60))
            }
        };
        let api = Api::new(timeout)?;
        api.moved(machine.start().await?);
        let mut world = Self { folder, mark, api, machine, git, disk, repositories: Vec::new() };
        for (n, limit) in LIMITS.into_iter().enumerate() {
            let repository = world.project(n, limit).await?;
            world.repositories.push(repository);
        }
        Ok(world)
    }

    /// Makes a project: every other one over a repository of its own, the rest over one on the
    /// git server.
    async fn project(&self, n: usize, limit: u64) -> Result<Repository> {
        let own = n.is_multiple_of(2) && matches!(self.machine, Machine::OneMachine(_));
        let name = format!("{}-{n}", if own { "own" } else { "remote" });
        let body = if own {
            json!({"name": name, "template": "static", "build_limit": limit})
        } else {
            create(&self.git.repository(&name))?;
            json!({"name": name, "git_url": self.git.url(&name), "build_limit": limit})
        };
        let made =
            self.api.ask(Method::POST, "/project", Some(&body), Some(&name), PATIENCE).await?;
        if made.status != 201 {
            bail!("POST /project: {} {}", made.status, made.body);
        }
        let folder = match made.body["git_url"].as_str().and_then(|url| url.strip_prefix("file://"))
        {
            Some(folder) => PathBuf::from(folder),
            None => self.git.repository(&name),
        };
        let archive = self.folder.join(format!("{name}.log"));
        let repository = Repository { project: name, folder, archive };
        repository.watch()?;
        Ok(repository)
    }

    /// All tasks, and the audit log about them, oldest first.
    async fn read_store(&self) -> Result<(BTreeMap<String, tasks::Seen>, Vec<tasks::Audited>)> {
        let records = self.api.list("/work", PATIENCE).await?;
        let tasks = records.iter().map(tasks::task).collect::<Result<_>>()?;
        let events = self.api.list("/audit", PATIENCE).await?;
        let events = events.iter().rev().filter_map(|event| tasks::audited(event).transpose());
        Ok((tasks, events.collect::<Result<_>>()?))
    }

    fn histories(&self) -> Result<BTreeMap<String, history::History>> {
        let read = |one: &Repository| {
            let history = history::read(&one.folder, &one.archive, "main", RDEV);
            let history = history.with_context(|| format!("the history of {}", one.project))?;
            Ok((one.project.clone(), history))
        };
        self.repositories.iter().map(read).collect()
    }

    /// What is left in the store, in folders and in repositories.
    async fn left(&self, evidence: &Evidence) -> Result<Vec<String>> {
        let mut all = self.machine.left_in_store().await?;
        for folder in self.machine.folders() {
            all.extend(left::in_folder(folder, &evidence.tasks)?);
        }
        left::locks_below(&self.folder.join("git"), &mut all)?;
        for (project, history) in &evidence.histories {
            let refs = left::refs(history, &evidence.tasks);
            all.extend(
                refs.map(|name| format!("{project}: {name} is left of a task that is done")),
            );
        }
        Ok(all)
    }

    /// Copies the data folder out of the disk that goes with this.
    fn save_data(&self) -> Result<()> {
        let (from, to) = (self.folder.join("data"), self.folder.join("data-at-the-end"));
        let copied = std::process::Command::new("cp").arg("-a").args([&from, &to]).status()?;
        if !copied.success() {
            bail!("cannot copy {}", from.display());
        }
        Ok(())
    }
}

/// A bare repository with one commit.
fn create(folder: &Path) -> Result<()> {
    use rdev_testkit::servers::git_http::git;
    let path = folder.to_str().context("a path that is no text")?;
    git(Path::new("/"), &["init", "--quiet", "--bare", "--initial-branch=main", path]);
    git(folder, &["config", "http.receivepack", "true"]);
    let tree = git(folder, &["hash-object", "-w", "-t", "tree", "/dev/null"]);
    let commit = git(folder, &["commit-tree", &tree, "-m", "initial commit"]);
    git(folder, &["update-ref", "refs/heads/main", &commit]);
    Ok(())
}
