//! 200,000 queued tasks and 2,000 workers, in one project, in a thousand, and parked: a process
//! that sweeps, counts, lists workers and claims stays small.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rdev_domain::ids::TaskId;
use rdev_domain::ports::Store;
use rdev_domain::task::Task;
use rdev_domain::worker::{SILENT_AFTER, Worker, WorkerStatus};
use rdev_embedded::{Options, open};
use rusqlite::{Connection, params};
use ulid::Ulid;

use crate::scene::{NOW, Scene, claim, project, task};

/// Set in the process that is measured: the data folder.
const FOLDER: &str = "RDEV_TEST_SCALE_FOLDER";

const TASKS: usize = 200_000;
const WORKERS: usize = 2_000;

/// The most memory that the process may ever have had.
const MOST_KB: u64 = 256 * 1024;

#[test]
fn two_hundred_thousand_tasks_of_one_project_fit_into_256_mb() {
    measured("two_hundred_thousand_tasks_of_one_project_fit_into_256_mb", 1, Duration::ZERO);
}

#[test]
fn two_hundred_thousand_tasks_of_a_thousand_projects_fit_into_256_mb() {
    let name = "two_hundred_thousand_tasks_of_a_thousand_projects_fit_into_256_mb";
    measured(name, 1_000, Duration::ZERO);
}

#[test]
fn two_hundred_thousand_tasks_that_become_due_at_once_fit_into_256_mb() {
    let name = "two_hundred_thousand_tasks_that_become_due_at_once_fit_into_256_mb";
    measured(name, 1, Duration::from_secs(60));
}

/// Fills a folder, and runs this test again in a process of its own that works in it.
fn measured(name: &str, projects: usize, wait: Duration) {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(work(Path::new(&folder), projects, wait));
        return;
    }
    let scene = Scene::new();
    let data = scene.data.folder.clone();
    let _files = scene.into_files();
    fill(&data, projects, wait);
    let child = Command::new(std::env::current_exe().expect("this test binary"))
        .args(["--exact", &format!("scale::{name}"), "--nocapture"])
        .env(FOLDER, &data)
        .output()
        .expect("a child");
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}{}", String::from_utf8_lossy(&child.stderr));
    let peak = said.lines().find_map(|line| line.strip_prefix("peak ")).expect("the peak");
    let peak: u64 = peak.parse().expect("a number");
    assert!(peak < MOST_KB, "{peak} kB");
}

/// Writes what the store would have written.
fn fill(data: &Path, projects: usize, wait: Duration) {
    let mut conn = Connection::open(data.join("rdev.db")).expect("a connection");
    conn.execute_batch("PRAGMA synchronous = OFF").expect("it is only a test");
    let tx = conn.transaction().expect("a transaction");
    for n in 0..projects {
        let project = project(&format!("p{n:04}"));
        tx.execute(
            "INSERT INTO projects (id, nonce, state, changed_at, body) VALUES (?1, ?2, 'ready', ?3, ?4)",
            params![
                project.id.as_str(),
                project.nonce.to_bytes(),
                NOW.as_millis(),
                serde_json::to_string(&project).expect("JSON")
            ],
        )
        .expect("a project");
        let first = Task { available_at: NOW.plus(wait), ..task(&project.id) };
        let body = serde_json::to_string(&first).expect("JSON");
        let agent = first.work.agent().expect("a build has one").as_str();
        let rank = rdev_domain::task::rank(first.available_at, first.priority).as_millis();
        let at = first.available_at.as_millis();
        tx.execute(
            "INSERT INTO turns (project, agent, held, served) SELECT ?1, ?2, 0, 0 WHERE ?3",
            params![project.id.as_str(), agent, wait.is_zero()],
        )
        .expect("a turn");
        let mut row = tx
            .prepare_cached(
                "INSERT INTO tasks (id, project, kind, agent, state, priority, available_at, body)
                 VALUES (?1, ?2, 'build', ?3, 'queued', 4, ?4, ?5)",
            )
            .expect("a statement");
        let entry = if wait.is_zero() {
            "INSERT INTO due (project, agent, class, rank, task, since) VALUES (?1, ?2, 1, ?3, ?4, ?5)"
        } else {
            "INSERT INTO later (project, agent, class, rank, task, at) VALUES (?1, ?2, 1, ?3, ?4, ?5)"
        };
        let mut entry = tx.prepare_cached(entry).expect("a statement");
        for _ in 0..TASKS / projects {
            let id = TaskId(Ulid::generate());
            let body = body.replace(&first.id.to_string(), &id.to_string());
            let (name, bytes) = (project.id.as_str(), id.0.to_bytes());
            row.execute(params![bytes, name, agent, at, body]).expect("a task");
            entry.execute(params![name, agent, rank, bytes, at]).expect("an entry");
        }
    }
    tx.commit().expect("all of it");
}

/// What a process does in a minute.
#[expect(clippy::print_stdout, reason = "the test reads it")]
async fn work(data: &Path, projects: usize, wait: Duration) {
    let data = open(data, Options::default()).expect("the folder is free");
    let store = &*data.store;
    for n in 0..WORKERS {
        let worker = Worker {
            id: format!("w{n:04}").parse().expect("a worker id"),
            hostname: "a-host".to_owned(),
            version: "0.1.0".to_owned(),
            status: WorkerStatus::Idle,
            slots: 4,
            running: Vec::new(),
            agents: Vec::new(),
            started_at: NOW,
            last_heartbeat_at: NOW,
        };
        store.heartbeat(&worker, NOW).await.expect("a report is taken");
    }
    assert_eq!(store.workers().await.expect("workers").len(), WORKERS);
    let stats = store.work_stats(NOW).await.expect("stats");
    let queued = TASKS as u64;
    assert_eq!((stats.due, stats.later), if wait.is_zero() { (queued, 0) } else { (0, queued) });

    let now = NOW.plus(wait + SILENT_AFTER + Duration::from_secs(60));
    let swept = store.sweep(now).await.expect("a sweep");
    assert_eq!(swept.offline, WORKERS as u64);
    assert_eq!((swept.wake.len(), swept.more), (projects, !wait.is_zero()));
    assert_eq!(store.work_stats(now).await.expect("stats").due, queued);
    if wait.is_zero() {
        claim(store, &"p0000".parse().expect("a slug")).await;
        let stats = store.work_stats(now).await.expect("stats");
        assert_eq!((stats.due, stats.running), (queued - 1, 1));
    }
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak");
    println!("\npeak {}", peak.trim().trim_end_matches(" kB"));
}
