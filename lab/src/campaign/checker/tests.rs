//! The checker finds what it is there for: a repository with a doubled landing, a lost task, an
//! orphan, a leak.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rdev_testkit::servers::git_http::{git, git_command};
use tempfile::TempDir;

use super::history::{self, By, History, Move};
use super::tasks::{Audited, Seen, State};
use super::{Breach, Column, Evidence, judge, left, processes, tasks};
use crate::campaign::people::Repository;
use serde_json::json;

const RDEV: &str = "rdev-chaos";
const MAIN: &str = "refs/heads/main";

/// A bare repository that people and rdev move the branch of.
struct Bench {
    _folder: TempDir,
    repository: Repository,
}

impl Bench {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let bare = folder.path().join("site.git");
        fs::create_dir(&bare).expect("a folder");
        git(&bare, &["init", "--quiet", "--bare", "--initial-branch=main"]);
        let archive = folder.path().join("site.log");
        let project = "site".to_owned();
        let repository = Repository { project, folder: bare, archive };
        let bench = Self { _folder: folder, repository };
        let first = bench.commit(None, "first");
        git(bench.at(), &["update-ref", MAIN, &first]);
        bench.repository.watch().expect("a log of every move");
        bench
    }

    fn at(&self) -> &Path {
        &self.repository.folder
    }

    /// A commit with this message.
    fn commit(&self, parent: Option<&str>, message: &str) -> String {
        let tree = git(self.at(), &["hash-object", "-w", "-t", "tree", "/dev/null"]);
        let mut arguments = vec!["commit-tree", &tree, "-m", message];
        arguments.extend(parent.iter().flat_map(|parent| ["-p", parent]));
        git(self.at(), &arguments)
    }

    /// A commit of a lineage.
    fn work(&self, parent: Option<&str>, lineage: &str) -> String {
        self.commit(parent, &format!("work\n\nRdev-Task: {lineage}\nRdev-Lineage: {lineage}"))
    }

    fn tip(&self) -> String {
        git(self.at(), &["rev-parse", MAIN])
    }

    /// Moves the branch as rdev does.
    fn push(&self, to: &str) {
        let mut command = git_command(self.at());
        command.args(["update-ref", MAIN, to]).env("GIT_COMMITTER_NAME", RDEV);
        assert!(command.status().expect("git runs").success());
    }

    fn by_hand(&self, to: &str) {
        git(self.at(), &["update-ref", MAIN, to]);
    }

    fn delete(&self) {
        let mut command = git_command(self.at());
        command.args(["update-ref", "-d", MAIN, &self.tip()]).env("CHAOS_DELETES", "yes");
        assert!(command.status().expect("git runs").success());
    }

    fn history(&self) -> History {
        let Repository { folder, archive, .. } = &self.repository;
        history::read(folder, archive, "main", RDEV).expect("a history")
    }

    /// How often rdev has landed a lineage.
    fn landed(&self, lineage: &str) -> usize {
        let history = self.history();
        let landings = history.landings();
        let all = landings.get(lineage).into_iter().flatten();
        all.filter(|landing| landing.by == By::Rdev).count()
    }
}

/// A task of the project `site` that has ended once.
fn evidence(state: State, history: History) -> Evidence {
    let told = "as it is".to_owned();
    let seen = Seen { project: "site".to_owned(), lineage: "L".to_owned(), state, told };
    Evidence {
        accepted: ["L".to_owned()].into(),
        tasks: [("L".to_owned(), seen)].into(),
        ends: [("L".to_owned(), 1)].into(),
        histories: [("site".to_owned(), history)].into(),
        ..Evidence::default()
    }
}

/// The columns of what is found.
fn columns(evidence: &Evidence) -> Vec<Column> {
    judge(evidence).into_iter().map(|breach| breach.column).collect()
}

#[test]
fn work_that_landed_once_is_no_breach_and_a_second_landing_is_one_also_when_a_person_removed_the_first()
 {
    let bench = Bench::new();
    let first = bench.tip();
    let work = bench.work(Some(&first), "L");
    bench.push(&work);
    let delivered = || State::Delivered(work.clone());
    assert_eq!(columns(&evidence(delivered(), bench.history())), []);

    bench.by_hand(&first);
    assert_eq!(columns(&evidence(delivered(), bench.history())), [], "a rewind is a person's");
    bench.by_hand(&work);
    assert_eq!(columns(&evidence(delivered(), bench.history())), [], "so is its end");
    bench.by_hand(&first);
    bench.push(&work);
    assert_eq!(columns(&evidence(delivered(), bench.history())), [Column::Doubled]);
    let again = bench.work(Some(&work), "L");
    bench.push(&again);
    assert_eq!(columns(&evidence(delivered(), bench.history())), [Column::Doubled; 2]);
    assert_eq!(bench.landed("L"), 3);
}

#[test]
fn a_landing_counts_although_the_branch_and_its_log_were_deleted_and_packed() {
    let bench = Bench::new();
    let work = bench.work(Some(&bench.tip()), "L");
    bench.push(&work);
    git(bench.at(), &["pack-refs", "--all"]);
    assert_eq!(bench.landed("L"), 1, "packing deletes nothing");
    bench.delete();
    assert_eq!(bench.landed("L"), 1);
    bench.by_hand(&work);
    assert_eq!(bench.landed("L"), 1, "put back by hand");
    bench.delete();
    bench.push(&work);
    assert_eq!(bench.landed("L"), 2);
    let other = bench.work(None, "M");
    bench.delete();
    bench.push(&other);
    assert_eq!((bench.landed("L"), bench.landed("M")), (2, 1));
}

#[test]
fn a_squash_or_a_copy_by_hand_is_no_landing_of_ours_but_makes_a_delivery_true() {
    let bench = Bench::new();
    let copy = bench.work(Some(&bench.tip()), "L");
    bench.by_hand(&copy);
    assert_eq!(bench.landed("L"), 0);
    assert_eq!(columns(&evidence(State::Delivered(copy), bench.history())), []);
    assert_eq!(columns(&evidence(State::Undelivered, bench.history())), []);
    let named = bench.commit(Some(&bench.tip()), "Rdev-Lineage: M\n\nonly quoted");
    bench.push(&named);
    assert_eq!(bench.landed("M"), 0, "it is not in the last paragraph");
}

#[test]
fn a_move_that_a_log_lacks_is_a_push_that_was_killed_and_one_that_never_was_is_none() {
    let bench = Bench::new();
    let first = bench.tip();
    let work = bench.work(Some(&first), "L");
    // As a push into a folder that was killed before it wrote the log.
    fs::write(bench.at().join(MAIN), format!("{work}\n")).expect("a ref");
    assert_eq!(bench.landed("L"), 1);
    let person = bench.commit(Some(&work), "by hand");
    bench.by_hand(&person);
    assert_eq!(bench.landed("L"), 1);
    bench.by_hand(&first);
    // As a push to a server that was killed after it wrote the log.
    let log = bench.at().join("logs").join(MAIN);
    let phantom = bench.work(Some(&first), "M");
    let entry = format!("{first} {phantom} {RDEV} <x> 0 +0000\tpush\n");
    let text = fs::read_to_string(&log).expect("a log") + &entry;
    fs::write(&log, text).expect("a log");
    assert_eq!(bench.landed("M"), 0);
    bench.push(&phantom);
    assert_eq!(bench.landed("M"), 1);
    let moves = bench.history().moves;
    let last = Move { from: Some(first), to: Some(phantom), by: By::Rdev };
    assert_eq!(moves.last(), Some(&last));
}

#[test]
fn tasks_that_have_not_ended_are_gone_or_claim_what_is_not_true_are_lost() {
    let bench = Bench::new();
    let work = bench.work(Some(&bench.tip()), "L");
    let lost = [Column::Lost];
    assert_eq!(columns(&evidence(State::Open, bench.history())), lost);
    assert_eq!(columns(&evidence(State::Delivered(work.clone()), bench.history())), lost);
    let forgotten = Evidence { tasks: [].into(), ..evidence(State::Nothing, bench.history()) };
    assert_eq!(columns(&forgotten), lost);
    let unrecorded = Evidence { ends: [].into(), ..evidence(State::Nothing, bench.history()) };
    assert_eq!(columns(&unrecorded), lost);

    bench.push(&work);
    assert_eq!(columns(&evidence(State::Undelivered, bench.history())), lost);
    assert_eq!(columns(&evidence(State::InDoubt, bench.history())), [], "it says so");
    let other = "0123456789012345678901234567890123456789".to_owned();
    assert_eq!(columns(&evidence(State::Delivered(other), bench.history())), lost);
    // A retry of the lineage says so in its place.
    let mut retried = evidence(State::Undelivered, bench.history());
    let retry = Seen { state: State::Delivered(work), ..retried.tasks["L"].clone() };
    retried.tasks.insert("R".to_owned(), retry);
    retried.accepted.insert("R".to_owned());
    retried.ends.insert("R".to_owned(), 1);
    assert_eq!(columns(&retried), []);
}

#[test]
fn tasks_that_nobody_asked_for_or_that_ended_twice_are_doubled() {
    let bench = Bench::new();
    let mut two = evidence(State::Nothing, bench.history());
    two.ends.insert("L".to_owned(), 2);
    assert_eq!(columns(&two), [Column::Doubled]);
    let strange = Evidence { accepted: [].into(), ..evidence(State::Nothing, bench.history()) };
    assert_eq!(columns(&strange), [Column::Doubled]);
}

#[test]
fn a_process_with_the_mark_in_its_environment_or_arguments_is_found_until_it_ends() {
    let mark = format!("chaos-{}", ulid::Ulid::generate());
    assert_eq!(processes::marked(&mark), []);
    let start = |command: &mut Command| {
        command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("a process")
    };
    let mut marked = start(Command::new("cat").env(processes::VARIABLE, &mark));
    let script = "while read line; do :; done";
    let mut hidden = start(Command::new("/bin/sh").args(["-c", script, "sh", &mark]).env_clear());
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    // Between fork and exec a process still shows what its parent is.
    while processes::marked(&mark).len() < 2 && std::time::Instant::now() < end {}
    let found = processes::marked(&mark);
    let mut pids: Vec<u32> = found.iter().map(|one| one.pid).collect();
    let mut wanted = vec![marked.id(), hidden.id()];
    pids.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(pids, wanted);
    let evidence = Evidence { orphans: found.clone(), ..Evidence::default() };
    assert_eq!(columns(&evidence), [Column::Orphans; 2]);
    for child in [&mut marked, &mut hidden] {
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }
    assert_eq!(processes::marked(&mark), []);
    assert!(!found.iter().any(processes::is_alive));
}

#[test]
fn rows_folders_locks_and_refs_that_remain_are_leaks() {
    let data = TempDir::new().expect("a folder");
    let store = rusqlite::Connection::open(data.path().join("rdev.db")).expect("a database");
    for table in ["leases", "marks", "due", "later"] {
        store.execute(&format!("CREATE TABLE {table} (project TEXT)"), ()).expect("a table");
    }
    let file = data.path().join("rdev.db");
    assert_eq!(left::in_database(&file).expect("read"), [""; 0]);
    for table in ["leases", "leases", "marks"] {
        store.execute(&format!("INSERT INTO {table} VALUES ('site')"), ()).expect("a row");
    }
    assert_eq!(left::in_database(&file).expect("read").len(), 3);

    let bench = Bench::new();
    let tip = bench.tip();
    let done = evidence(State::Nothing, bench.history()).tasks;
    let open = evidence(State::InDoubt, bench.history()).tasks;
    let repository = data.path().join("repos/site.git");
    fs::create_dir_all(repository.join("objects")).expect("a folder");
    fs::create_dir_all(repository.join("refs/heads")).expect("a folder");
    assert_eq!(left::in_folder(data.path(), &done).expect("read"), [""; 0]);
    fs::write(repository.join("refs/heads/main.lock"), "").expect("a lock");
    fs::create_dir_all(data.path().join("work/L")).expect("a workspace");
    fs::create_dir_all(data.path().join("unpushed/L/1")).expect("unpushed work");
    assert_eq!(left::in_folder(data.path(), &done).expect("read").len(), 3);
    assert_eq!(left::in_folder(data.path(), &open).expect("read").len(), 2, "a retry needs it");

    git(bench.at(), &["update-ref", "refs/rdev/wip/L/3", &tip]);
    git(bench.at(), &["update-ref", "refs/rdev/kept/L", &tip]);
    let history = bench.history();
    assert_eq!(left::refs(&history, &done).collect::<Vec<_>>(), ["refs/rdev/wip/L/3"]);
    assert_eq!(left::refs(&history, &open).count(), 0, "a retry needs it");
    let evidence = Evidence { left: vec!["a lease".to_owned()], ..Evidence::default() };
    let breach = Breach { column: Column::Leaked, what: "a lease".to_owned() };
    assert_eq!(judge(&evidence), [breach]);
}

#[test]
fn leases_slots_and_entries_of_the_outbox_and_the_queue_are_leaks_of_a_table() {
    let item = |pk: &str, sk: &str| json!({"pk": {"S": pk}, "sk": {"S": sk}});
    let clean = [item("P#site", "META"), item("P#site", "META#SLOTS"), item("T#1", "PROJECT")];
    assert_eq!(left::in_table(&clean), [""; 0]);
    let mut slots = item("P#site", "META#SLOTS");
    slots["held"] = json!({"SS": ["1", "2"]});
    let all = [
        item("T#1", "LEASE"),
        item("O#0", "01"),
        item("P#site", "Q#1#4#1"),
        item("P#site", "R#000000000000001#1"),
        slots,
    ];
    assert_eq!(left::in_table(&all).len(), 6);
}

#[test]
fn a_task_of_the_api_is_read_with_what_it_says_of_its_push() {
    let record = |more: serde_json::Value| {
        let mut record = json!({"id": "T", "project_id": "site", "lineage": "L", "failure": null});
        let fields = record.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        tasks::task(&record).expect("a task").1.state
    };
    let delivered =
        json!({"state": "succeeded", "result": {"outcome": "delivered", "commit_sha": "c"}});
    assert_eq!(record(delivered), State::Delivered("c".to_owned()));
    let nothing = json!({"state": "succeeded", "result": {"outcome": "no_change"}});
    assert_eq!(record(nothing), State::Nothing);
    let doubt = json!({"state": "failed", "failure": {"class": "infra", "push_in_doubt": true}});
    assert_eq!(record(doubt), State::InDoubt);
    assert_eq!(record(json!({"state": "cancelled"})), State::Undelivered);
    assert_eq!(record(json!({"state": "pushing"})), State::Open);
    assert!(tasks::task(&json!({"id": "T"})).is_err());

    let event = json!({"at": "2026-01-01T00:00:00.000Z", "action": "task.failed", "actor": "worker:a", "subject": "task/T"});
    let event = tasks::audited(&event).expect("an event").expect("of a task");
    let other = Audited { action: "task.claimed".to_owned(), ..event.clone() };
    assert_eq!(tasks::ends(&[event, other]), [("T".to_owned(), 1)].into());
}
