//! How SQLite runs every statement of the store: with an index, except where a table
//! is always small.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdev_domain::dns::{DomainSpec, Target, Ttl};
use rdev_domain::event::BuildEvent;
use rdev_domain::ids::KeyId;
use rdev_domain::lease::Lease;
use rdev_domain::ports::{Claim, Claimed};
use rdev_domain::record::Format;
use rdev_domain::result::Usage;
use rdev_domain::result::{CheckResult, TaskResult};
use rdev_domain::secret::Secret;
use rdev_domain::spec::{CheckSpec, Work};
use rdev_domain::task::TaskState;
use rdev_domain::worker::WorkerStatus;
use rusqlite::trace::{TraceEvent, TraceEventCodes};

use super::schema::SCHEMA;
use super::transaction::Context;
use super::*;
use crate::database::migrate::migrate;

/// Tables that a statement may read completely: they have as many rows as there are
/// slots, workers or keys, or the statement counts exactly these rows.
const SMALL: [&str; 5] = [
    "SCAN leases",
    "SCAN workers",
    "SCAN keys",
    // The one row of a subquery that counts, or of a recursive table.
    "SCAN (subquery-",
    "SCAN CONSTANT ROW",
];

struct Scene {
    conn: Connection,
    context: Context,
    by: Actor,
}

impl Scene {
    fn at(&self, seconds: i64) -> Tx<'_> {
        let now = Timestamp::from_millis(2_000_000_000_000 + seconds * 1000);
        Tx { conn: &self.conn, context: &self.context, by: &self.by, now }
    }
}

/// Runs every statement of the store at least once, and returns them.
fn every_statement() -> (Scene, BTreeSet<String>) {
    let mut conn = Connection::open_in_memory().expect("a database");
    migrate(&conn, SCHEMA.migrations).expect("the schema");
    let statements = Arc::new(Mutex::new(BTreeSet::new()));
    let collect = {
        let statements = Arc::clone(&statements);
        move |event: TraceEvent<'_>| {
            if let TraceEvent::Stmt(statement, _) = event {
                statements.lock().expect("no panic in here").insert(statement.sql().into_owned());
            }
        }
    };
    conn.trace_v2(TraceEventCodes::SQLITE_TRACE_STMT, Some(collect)).expect("a trace");
    let context = Context::new(Retention::default(), Ulid::nil());
    let scene = Scene { conn, context, by: Actor::maintenance() };
    projects_and_tasks(&scene);
    everything_else(&scene);
    scene.conn.flush_prepared_statement_cache();
    let statements = statements.lock().expect("no panic in here").clone();
    (scene, statements)
}

fn projects_and_tasks(scene: &Scene) {
    let tx = scene.at(0);
    let site: ProjectId = "site".parse().expect("a slug");
    let nonce = tx.context.next_id(tx.now);
    let project = Project { build_limit: 2, ..Project::new(site.clone(), nonce, tx.now) };
    projects::create(&tx, project).expect("a project");
    let raise = ProjectPatch { build_limit: Some(3), ..ProjectPatch::default() };
    projects::update(&tx, &site, raise).expect("a higher limit");
    let page = Page { limit: 10, before: None };
    projects::list(tx.conn, &page).expect("projects");
    let url = "https://hooks.example.com/".parse().expect("a URL");
    let webhook = Webhook { url, secret: Secret::new("whsec_") };
    webhooks::set(&tx, &site, Some(&webhook)).expect("a webhook");
    webhooks::get(tx.conn, &site).expect("a webhook");
    webhooks::set(&tx, &site, None).expect("no webhook");
    domains_of(&tx, &site);

    let check = CheckSpec { branch: None, commands: vec!["true".to_owned()], timeout_s: 9 };
    let new = |wait: u64| {
        let id = TaskId(tx.context.next_id(tx.now));
        let mut task = Task::new(id, site.clone(), Work::Check(check.clone()), tx.now);
        task.notify = true;
        task.available_at = tx.now.plus(Duration::from_secs(wait));
        task
    };
    let enqueue = |task: Task| {
        tasks::enqueue(&tx, tasks::NewTask::of(task, Format::CURRENT).expect("JSON"))
            .expect("a queued task")
            .task
    };
    let (first, parked) = (enqueue(new(0)), enqueue(new(5)));
    enqueue(new(0));
    enqueue(new(7));
    let due = queue_entry::due_agents(tx.conn, &site, tx.now).expect("an answer");
    assert!(!due.agents.is_empty());
    assert_eq!(turns::waiting(tx.conn).expect("an answer"), Some(site.clone()));
    let claimed = claim(&scene.at(1), &site);
    let holder = Holder { fence: claimed.lease.fence, owner: claimed.lease.owner.clone() };
    let log = events::EncodedEvents::of(&[BuildEvent {
        seq: 1,
        at: tx.now,
        kind: rdev_domain::event::EventKind::Log,
        data: serde_json::json!({}),
    }]);
    tasks::renew(&scene.at(2), claimed.task.id, &holder, &log, None, None).expect("a renewal");
    let commit_sha = "0".repeat(40).parse().expect("a commit");
    let finish = Event::Finish {
        holder,
        result: TaskResult::Check(CheckResult { commit_sha, commands: Vec::new() }),
        usage: Usage::default(),
    };
    let done =
        tasks::advance(&scene.at(3), claimed.task.id, finish, &log, Some("diff".to_owned()), true);
    done.expect("a transaction").expect("a finished task");
    tasks::advance(&scene.at(3), parked.id, Event::Cancel, &log, None, false)
        .expect("a transaction")
        .expect("a parked task can be cancelled");
    enqueue(Task { retry_of: Some(parked.id), ..new(0) });
    let [delivery, _] = &deliveries::due(tx.conn, scene.at(3).now, 9).expect("deliveries")[..]
    else {
        panic!("two tasks have ended")
    };
    let ended = delivery.begun(tx.now).ended(Some(200), None, tx.now);
    assert!(deliveries::update(tx.conn, delivery, &ended).expect("a delivery"));
    statuses::due(tx.conn, tx.now, 9, Format::CURRENT).expect("statuses");
    let status = serde_json::json!({
        "commit": "0".repeat(40), "state": "success", "description": "delivered",
        "shown": "taken", "tries": 1, "since": tx.now, "updated_at": tx.now,
    });
    let status = serde_json::from_value(status).expect("a status");
    statuses::update(tx.conn, first.id, None, &status, Format::CURRENT).expect("a status");
    deliveries::list(tx.conn, &site, &page, tx.now).expect("deliveries");
    let pipeline = CommitPipeline {
        project_id: site.clone(),
        commit: "0".repeat(40).parse().expect("a commit"),
        number: None,
        status: String::new(),
        url: None,
        at: tx.now,
    };
    pipelines::record(&tx, &pipeline).expect("a pipeline");
    pipelines::get(tx.conn, &site, &pipeline.commit, tx.now).expect("a pipeline");
    events::list(tx.conn, first.id, 0, 10, tx.now).expect("events");
    events::diff(tx.conn, first.id, tx.now).expect("a diff");
    for project in [None, Some(site.clone())] {
        for state in [None, Some(TaskState::Queued)] {
            for builds_only in [false, true] {
                let filter = TaskFilter { project: project.clone(), state, builds_only };
                task_list::tasks(tx.conn, &filter, &page, tx.now, Format::CURRENT).expect("tasks");
            }
        }
        let filter = AuditFilter { project };
        audit::list(tx.conn, &filter, &page, tx.now).expect("the audit log");
    }
    stats::work_stats(tx.conn, tx.now).expect("stats");

    // Two expired leases, one of a task whose record is corrupt.
    claim(&scene.at(10), &site);
    let corrupt = claim(&scene.at(11), &site).task.id;
    scene
        .conn
        .execute("UPDATE tasks SET body = '' WHERE id = ?1", [rows::blob(corrupt.0)])
        .expect("a broken record");
    assert_eq!(sweep::page(&scene.at(500)).expect("a sweep").recovered, 2);
    claim(&scene.at(501), &site);
    recover::everything(&scene.at(502)).expect("the holders are dead");
    assert!(
        project_delete::begin(&scene.at(503), &site, Deletion::KeepRepository, None)
            .expect("nothing runs")
            .is_some()
    );
    project_delete::forget(&scene.at(504), &site, None).expect("it is being deleted");
    let outbox = sweep::page(&scene.at(1000)).expect("a sweep").outbox;
    assert!(!outbox.is_empty());
    outbox::delete(tx.conn, &outbox).expect("outbox entries go");
}

fn domains_of(tx: &Tx<'_>, site: &ProjectId) {
    let names = ["a.example.com", "b.example.com"].map(|name| {
        let spec = DomainSpec {
            domain: name.parse().expect("a name"),
            target: Target::A([192, 0, 2, 1].into()),
            proxied: false,
            ttl: Ttl::AUTOMATIC,
        };
        let project = projects::get(tx.conn, site).expect("it is there");
        let domain = Domain::new(&project, spec, tx.context.next_id(tx.now), tx.now);
        domains::reserve(tx, domain).expect("a name that nobody has")
    });
    domains::update(tx, names[0].clone()).expect("it is there");
    domains::forget(tx, &names[0]).expect("it is there");
    domains::get(tx.conn, &names[1].spec.domain).expect("it is there");
    assert_eq!(domains::list(tx.conn, site).expect("domains").len(), 1);
}

fn claim(tx: &Tx<'_>, project: &ProjectId) -> Claimed {
    let worker_id: WorkerId = "w1".parse().expect("a worker id");
    let can = Capabilities { worker_id: worker_id.clone(), agents: Vec::new() };
    let owner = Owner::new(&worker_id, "first");
    match claim::claim_next(tx, project, &owner, &can).expect("a claim") {
        Claim::Claimed(claimed) => {
            assert_eq!(claimed.lease, Lease::taken(claimed.task.fence, owner, tx.now));
            *claimed
        }
        other => panic!("there is a task to claim, not {other:?}"),
    }
}

fn everything_else(scene: &Scene) {
    let tx = scene.at(600);
    let id = "stuck".parse().expect("a slug");
    let state = rdev_domain::project::ProjectState::Provisioning;
    let stuck = Project { state, ..Project::new(id, tx.context.next_id(tx.now), tx.now) };
    projects::create(&tx, stuck).expect("a project");
    let id: ProjectId = "leaving".parse().expect("a slug");
    let leaving = Project::new(id.clone(), tx.context.next_id(tx.now), tx.now);
    projects::create(&tx, leaving).expect("a project");
    project_delete::begin(&tx, &id, Deletion::KeepRepository, None).expect("nothing runs");
    let key = RequestKey("a".to_owned());
    requests::begin(&tx, &key, "body", Ulid::nil()).expect("a request");
    requests::release(&tx, &key).expect("a release");
    requests::begin(&tx, &key, "body", Ulid::nil()).expect("a request");
    let answer = StoredAnswer {
        status: 202,
        location: None,
        content_type: String::new(),
        body: String::new(),
    };
    requests::finish(&tx, &key, &answer).expect("an answer");
    let id: KeyId = "abcdefghijkl".parse().expect("a key id");
    let api_key = ApiKey {
        id: id.clone(),
        name: String::new(),
        scopes: Vec::new(),
        secret_sha256: String::new(),
        created_at: tx.now,
        revoked_at: None,
    };
    keys::create(&tx, &api_key).expect("a key");
    keys::revoke(&tx, &id).expect("a revoked key");
    keys::all(tx.conn).expect("keys");
    let worker = Worker {
        id: "w1".parse().expect("a worker id"),
        hostname: String::new(),
        version: String::new(),
        status: WorkerStatus::Idle,
        slots: 1,
        running: Vec::new(),
        agents: Vec::new(),
        started_at: tx.now,
        last_heartbeat_at: tx.now,
    };
    workers::heartbeat(&tx, worker.clone()).expect("a report");
    workers::set_drain(&tx, &worker.id, true).expect("a worker");
    workers::all(tx.conn, tx.now).expect("workers");
    let letter = DeadLetter {
        id: tx.context.next_id(tx.now),
        at: tx.now,
        body: String::new(),
        reason: String::new(),
        project_id: None,
        receive_count: 1,
    };
    dead_letters::record(tx.conn, &letter).expect("a dead letter");
    dead_letters::list(tx.conn, &Page { limit: 1, before: None }).expect("dead letters");
    dead_letters::delete(&tx, letter.id).expect("a deleted dead letter");
    audit::last_id(tx.conn).expect("an id");
    let url = "https://git.example.com/site.git".parse().expect("a URL");
    ref_looks::plan(tx.conn, &url, tx.now, tx.now).expect("a plan");
    let looks = ref_looks::due(tx.conn, tx.now, 10).expect("an answer");
    assert!(ref_looks::update(tx.conn, &looks[0], Some(&looks[0])).expect("an answer"));
    assert!(ref_looks::update(tx.conn, &looks[0], None).expect("an answer"));
    // Everything expires.
    let swept = sweep::page(&scene.at(500 * 24 * 60 * 60)).expect("a sweep");
    assert!(swept.expired > 0 && swept.offline == 1, "{swept:?}");
}

#[test]
fn every_statement_uses_an_index_and_sorts_nothing() {
    let (scene, statements) = every_statement();
    assert!(statements.len() > 90, "{} statements ran", statements.len());
    let mut wrong = Vec::new();
    for sql in &statements {
        let mut plan =
            scene.conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("a statement");
        let mut steps = plan.raw_query();
        while let Some(step) = steps.next().expect("a step") {
            let step: String = step.get(3).expect("a text");
            let scans = step.starts_with("SCAN") && !SMALL.iter().any(|s| step.starts_with(s));
            // There are only a few keys to sort.
            let sorts = step.contains("TEMP B-TREE") && !sql.contains("FROM keys ORDER BY");
            if scans || sorts || step.contains("AUTOMATIC") {
                wrong.push(format!("{step}\n    {sql}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
