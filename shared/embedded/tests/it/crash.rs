//! kill -9 in the middle of writes.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rdev_domain::audit::Actor;
use rdev_domain::ids::TaskId;
use rdev_domain::lease::Holder;
use rdev_domain::ports::{Queue, Record, Store};
use rdev_domain::project::ProjectPatch;
use rdev_domain::result::{CheckResult, TaskResult, Usage};
use rdev_domain::step::Event;
use rdev_domain::task::TaskState;
use rdev_domain::wake_up::WakeUp;
use rdev_embedded::{Options, open};
use rusqlite::Connection;
use tokio::task::JoinSet;

use crate::scene::{NOW, claim, create, enqueue};

/// Set in the process that is to be killed.
const FOLDER: &str = "RDEV_TEST_CRASH_FOLDER";

/// How many writers the child has, each with a project of its own.
const WRITERS: usize = 8;

#[test]
fn acknowledged_writes_survive_kill_9() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        write_until_killed(Path::new(&folder));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (mut enqueued, mut finished) = (BTreeSet::new(), BTreeSet::new());
    for round in 1..=12 {
        // Each round is killed at another point of its work.
        let (more, done) = killed_after(folder.path(), round * 37);
        enqueued.extend(more);
        finished.extend(done);
        check(folder.path(), &enqueued, &finished);
    }
    assert!(finished.len() > 500, "only {} tasks were finished", finished.len());
}

/// Runs a child until it has acknowledged `lines` writes, kills it, and returns
/// everything that it has acknowledged: tasks enqueued, tasks finished.
fn killed_after(folder: &Path, lines: usize) -> (Vec<TaskId>, Vec<TaskId>) {
    let mut child = Command::new(std::env::current_exe().expect("this test binary"))
        .args(["--exact", "crash::acknowledged_writes_survive_kill_9", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let output = BufReader::new(child.stdout.take().expect("a pipe"));
    let (mut enqueued, mut finished) = (Vec::new(), Vec::new());
    let mut killed = false;
    for line in output.lines() {
        let line = line.expect("a line");
        if let Some(id) = line.strip_prefix("enqueued ") {
            enqueued.push(id.parse().expect("a whole line"));
        } else if let Some(id) = line.strip_prefix("finished ") {
            finished.push(id.parse().expect("a whole line"));
        }
        if !killed && enqueued.len() + finished.len() >= lines {
            child.kill().expect("it runs");
            killed = true;
        }
    }
    child.wait().expect("it has ended");
    assert!(killed, "the child ended by itself");
    (enqueued, finished)
}

fn check(folder: &Path, enqueued: &BTreeSet<TaskId>, finished: &BTreeSet<TaskId>) {
    for name in ["rdev.db", "queue.db"] {
        let conn = Connection::open(folder.join(name)).expect("a database");
        let sound: String =
            conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("an answer");
        assert_eq!(sound, "ok", "{name}");
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let data = open(folder, Options::default()).expect("the lock went with its process");
        data.store.recover_all(NOW).await.expect("the holders are dead");
        for &id in enqueued {
            let task = data.store.task(id).await.expect("an acknowledged task is there").task;
            if finished.contains(&id) {
                assert_eq!(task.state, TaskState::Succeeded, "{id}");
            }
        }
        let stats = data.store.work_stats(NOW).await.expect("stats");
        assert_eq!((stats.running, stats.pushing), (0, 0));
    });
}

/// Enqueues, claims and finishes tasks in several projects, and prints each only after
/// the store has acknowledged it.
fn write_until_killed(folder: &Path) -> ! {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let data = open(folder, Options::default()).expect("a data folder");
        data.store.recover_all(NOW).await.expect("the holders are dead");
        let mut writers = JoinSet::<()>::new();
        for number in 0..WRITERS {
            let store: Arc<dyn Store> = data.store.clone();
            let queue: Arc<dyn Queue> = data.queue.clone();
            writers.spawn(async move {
                let name = format!("site-{number}");
                let id = name.parse().expect("a slug");
                let project = match store.project(&id).await {
                    Ok(project) => project.id,
                    Err(_) => create(&*store, &name).await,
                };
                // Each claims for the project whose turn it is: none may be full.
                let limit = u32::try_from(WRITERS).expect("they are few") + 1;
                let patch = ProjectPatch { build_limit: Some(limit), ..ProjectPatch::default() };
                let by = Actor::maintenance();
                store.update_project(&project, &patch, &by, NOW).await.expect("it is ready");
                loop {
                    let task = enqueue(&*store, &project).await;
                    say("enqueued", task.id);
                    let wake_up = WakeUp { project_id: project.clone(), agent: None };
                    queue.send(&wake_up, std::time::Duration::ZERO).await.expect("it is sent");
                    let claimed = claim(&*store, &project).await;
                    let holder =
                        Holder { fence: claimed.lease.fence, owner: claimed.lease.owner.clone() };
                    let commit_sha = "0".repeat(40).parse().expect("a commit");
                    let result =
                        TaskResult::Check(CheckResult { commit_sha, commands: Vec::new() });
                    let event = Event::Finish { holder, result, usage: Usage::default() };
                    let by = Actor::maintenance();
                    let done = store.advance(claimed.task.id, event, Record::default(), &by, NOW);
                    say("finished", done.await.expect("its holder finishes").task.id);
                }
            });
        }
        // A writer that ends has panicked.
        while let Some(ended) = writers.join_next().await {
            ended.expect("it writes until it is killed");
        }
    });
    unreachable!("writers do not end")
}

fn say(what: &str, id: TaskId) {
    // A pipe gets a short line completely or not at all, whenever the process dies.
    let line = format!("\n{what} {id}\n");
    std::io::stdout().lock().write_all(line.as_bytes()).expect("the parent reads the pipe");
}
