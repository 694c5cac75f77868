//! The promise under fire: `rdev up` is killed again and again while builds run
//! through it, and still every task ends once and no commit is lost or doubled.
//!
//! `RDEV_SEED` repeats a campaign's random choices; the seed is printed.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, Server, configure, git, http_client, processes_below, start_time};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::{RwLock, watch};

const BUILDS: usize = 200;
const KILLS: usize = 60;
const PROJECTS: [(&str, u32); 6] =
    [("one", 1), ("two", 2), ("three", 1), ("four", 2), ("five", 1), ("six", 2)];

/// One build that the campaign asks for.
struct Wish {
    project: &'static str,
    key: String,
    body: Value,
    /// Its agent ends well, sooner or later.
    good: bool,
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::print_stdout,
    reason = "the seed repeats a failed campaign, the counts tell what it covered"
)]
async fn killed_sixty_times_two_hundred_builds_end_once_each_and_no_commit_is_doubled() {
    let seed = std::env::var("RDEV_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random::<u64>);
    println!("RDEV_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let data = tempfile::tempdir().expect("a folder");
    configure(data.path(), "[api]\nrate_limit_per_s = 0\n");
    let work = data.path().join("work");

    let server = Server::start(data.path(), &[]).await;
    let mut repositories = HashMap::new();
    for (name, limit) in PROJECTS {
        repositories.insert(name, server.project(name, limit).await);
    }
    let hidden = data.path().join("hidden.pids");
    let wishes: VecDeque<Wish> = (0..BUILDS).map(|n| wish(n, &hidden, &mut random)).collect();
    let server = Arc::new(RwLock::new(Some(server)));
    // Builds come in step with the kills: on a fast machine the last kills meet some too.
    let allowed = watch::Sender::new(0);
    let submitted = tokio::spawn(submit(Arc::clone(&server), wishes, allowed.subscribe()));

    let (mut kills, mut at_work) = (0, 0);
    while kills < KILLS || !submitted.is_finished() {
        allowed.send_replace(BUILDS * (kills + 1).min(KILLS) / KILLS);
        tokio::time::sleep(Duration::from_millis(random.random_range(50..900))).await;
        if kills >= KILLS {
            continue;
        }
        let mut slot = server.write().await;
        let stats = slot.as_ref().expect("it runs").get("/work/stats").await.body;
        let of = |name: &str| stats[name].as_u64().expect("a count");
        at_work += usize::from(of("running") + of("pushing") > 0);
        slot.take().expect("it runs").kill();
        kills += 1;
        let survivors = processes_below(&work);
        let hid = pids(&hidden);
        *slot = Some(Server::start(data.path(), &[]).await);
        for (pid, started) in survivors {
            assert_ne!(
                start_time(pid),
                Some(started),
                "process {pid} of an agent survived restart {kills}"
            );
        }
        for (pid, started) in hid {
            let now = start_time(pid);
            assert_ne!(now, Some(started), "the hidden process {pid} survived restart {kills}");
        }
    }
    let tasks = submitted.await.expect("the submitter does not panic");
    assert_eq!(tasks.len(), BUILDS);

    let server =
        Arc::into_inner(server).expect("nobody else has it").into_inner().expect("it runs");
    let (mut delivered, mut ended) = (0, HashMap::<String, usize>::new());
    for (id, wish) in &tasks {
        let record = ended_within(&server, wish.project, id, PATIENCE * 3).await;
        let state = record["state"].as_str().expect("a state");
        let class = record["failure"]["class"].as_str().unwrap_or_default();
        *ended.entry(format!("{state} {class}")).or_default() += 1;
        let commits = commits_of(&repositories[wish.project], id);
        if state == "succeeded" {
            assert_eq!(record["result"]["outcome"], "delivered", "{record:#}");
            assert_eq!(
                commits,
                [record["result"]["commit_sha"].as_str().expect("a commit")],
                "{record:#}"
            );
            assert!(wish.good, "an agent that fails cannot deliver: {record:#}");
            delivered += 1;
        } else {
            assert_eq!(commits, Vec::<String>::new(), "{record:#}");
        }
    }
    println!("{kills} kills, {at_work} of them at work, {BUILDS} tasks: {ended:?}");
    assert!(at_work >= KILLS / 2, "most kills must meet something: {at_work}");
    let ends = ends(&server).await;
    for id in tasks.keys() {
        assert_eq!(ends.get(id.as_str()), Some(&1), "{id} has ended more than once, or never");
    }
    assert!(delivered >= BUILDS / 2, "the campaign must let most builds through: {ended:?}");
    for repository in repositories.values() {
        git(repository, &["fsck", "--strict", "--no-dangling"]);
        let all = git(
            repository,
            &["log", "--format=%(trailers:key=Rdev-Task,valueonly,separator=)", "main"],
        );
        let mut tasks: Vec<&str> = all.lines().filter(|line| !line.is_empty()).collect();
        let count = tasks.len();
        tasks.sort_unstable();
        tasks.dedup();
        assert_eq!(tasks.len(), count, "a task has two commits in {}", repository.display());
    }
    server.stop().await;
    let left: Vec<PathBuf> =
        std::fs::read_dir(&work).expect("work").flatten().map(|entry| entry.path()).collect();
    assert_eq!(left, Vec::<PathBuf>::new(), "nothing is left in the workspaces");
    assert_eq!(processes_below(&work), [], "no agent is left");
}

/// The `n`th build: four of five write a file of their own, the rest fail or hang.
///
/// Those that hang have a child that no environment and no folder tells of.
fn wish(n: usize, hidden: &Path, random: &mut StdRng) -> Wish {
    let pause = random.random_range(0..300);
    let good = !n.is_multiple_of(5);
    let script = match (good, n % 2) {
        (true, _) => format!("sleep 0.{pause:03}; echo {n} > file-{n}.txt"),
        (false, 0) => format!("sleep 0.{pause:03}; echo half > half-{n}; exit 1"),
        (false, _) => format!(
            "(cd / && exec setsid env -i /bin/sh -c 'echo $$ >> \"$0\"; exec sleep 300' {}) & \
             (setsid sleep 300 &); trap '' TERM; sleep 300",
            hidden.display()
        ),
    };
    // A kill spends an attempt; those that fail by themselves get no second one, whose backoff
    // would be waited for.
    let attempts = if good { 10 } else { 1 };
    Wish {
        project: PROJECTS[random.random_range(0..PROJECTS.len())].0,
        key: format!("wish-{n}"),
        body: json!({"prompt": script, "stall_timeout_s": 2, "max_attempts": attempts}),
        good,
    }
}

/// The processes that have hidden and live, with their start times.
fn pids(hidden: &Path) -> Vec<(u32, String)> {
    let text = std::fs::read_to_string(hidden).unwrap_or_default();
    let pids = text.lines().filter_map(|line| line.parse().ok());
    pids.filter_map(|pid| Some((pid, start_time(pid)?))).collect()
}

/// How often each task has ended, as the audit log tells.
async fn ends(server: &Server) -> HashMap<String, usize> {
    let mut ends = HashMap::new();
    let mut path = "/audit?limit=100".to_owned();
    loop {
        let page = server.get(&path).await.body;
        for event in page["items"].as_array().expect("a list") {
            let action = event["action"].as_str().expect("an action");
            if matches!(action, "task.succeeded" | "task.failed" | "task.cancelled") {
                let subject = event["subject"].as_str().expect("what it is about");
                let task = subject.strip_prefix("task/").expect("a task").to_owned();
                *ends.entry(task).or_default() += 1;
            }
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/audit?limit=100&cursor={cursor}"),
            None => return ends,
        }
    }
}

/// Asks for every build until it is accepted, also through crashes, and for no more of them than
/// are `allowed` so far; the tasks' ids.
async fn submit(
    server: Arc<RwLock<Option<Server>>>,
    mut wishes: VecDeque<Wish>,
    mut allowed: watch::Receiver<usize>,
) -> HashMap<String, Wish> {
    let client = http_client();
    let mut tasks = HashMap::new();
    let end = Instant::now() + PATIENCE * 3;
    while let Some(wish) = wishes.pop_front() {
        let more = allowed.wait_for(|allowed| tasks.len() < *allowed).await;
        more.expect("the campaign runs until all are accepted");
        assert!(Instant::now() < end, "not all builds were accepted in time");
        let path = format!("/projects/{}/builds", wish.project);
        let answer = {
            let (url, key) = {
                let slot = server.read().await;
                let server = slot.as_ref().expect("it runs");
                (server.url.clone(), server.key.clone())
            };
            // Not under the lock: the server may be killed in the middle of a request.
            let request = client.post(format!("{url}{path}")).bearer_auth(key);
            request.header("Idempotency-Key", &wish.key).json(&wish.body).send().await
        };
        let id = match answer {
            Ok(answer) if answer.status().as_u16() == 202 => answer
                .json::<Value>()
                .await
                .ok()
                .and_then(|task| task["id"].as_str().map(str::to_owned)),
            Ok(answer) => {
                // 409: the first try is in flight, or its process died with it.
                assert_eq!(
                    answer.status().as_u16(),
                    409,
                    "{}",
                    answer.text().await.unwrap_or_default()
                );
                None
            }
            Err(_) => None,
        };
        match id {
            Some(id) => assert!(tasks.insert(id, wish).is_none(), "two wishes got one task"),
            None => {
                wishes.push_back(wish);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    tasks
}

async fn ended_within(server: &Server, project: &str, task: &str, patience: Duration) -> Value {
    let end = Instant::now() + patience;
    loop {
        let record = server.get(&format!("/projects/{project}/builds/{task}")).await.body;
        if matches!(record["state"].as_str(), Some("succeeded" | "failed" | "cancelled")) {
            return record;
        }
        assert!(Instant::now() < end, "{task} never ended: {record:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The commits on the branch that carry a task's name.
fn commits_of(repository: &Path, task: &str) -> Vec<String> {
    let pattern = format!("--grep=^Rdev-Task: {task}$");
    git(repository, &["log", "--format=%H", &pattern, "main"]).lines().map(str::to_owned).collect()
}
