//! The reference: the store in memory, and what the people and runners know who use it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;
use rdev_domain::audit::Actor;
use rdev_domain::commit_status::LONGEST_TRY;
use rdev_domain::event::{BuildEvent, EventKind, seq};
use rdev_domain::failure::Failure;
use rdev_domain::git::{Branch, CommitId, OwnRef, RecordedRef, Tip};
use rdev_domain::ids::{Fence, Owner, ProjectId, TaskId, WorkerId};
use rdev_domain::lease::Holder;
use rdev_domain::ports::{Capabilities, Record, Store, TaskFilter, TaskRecord};
use rdev_domain::project::{Project, ProjectPatch};
use rdev_domain::record::VERSION;
use rdev_domain::result::{BuildResult, Outcome, TaskResult, Usage};
use rdev_domain::retention::Retention;
use rdev_domain::spec::{BuildSpec, CheckSpec, Work};
use rdev_domain::step::{Event, retry};
use rdev_domain::task::{Prepared, Task, WipRef};
use rdev_domain::time::Timestamp;
use rdev_lab::memory::MemoryStore;
use serde_json::json;
use ulid::Ulid;

use super::call::{Answer, Call, Outbox, Told, perform};
use super::op::{self, By, CLOCKS, NewTask, Op, Report, Seen, Unreadable};

/// A time ahead of every real clock: DynamoDB's store compares the end of records with one.
const START: Timestamp = Timestamp::from_millis(2_208_988_800_000);

/// The clock of requests and of the maintenance.
pub(crate) const API: usize = CLOCKS - 1;

/// The state of the reference. Clones are stores of their own.
#[derive(Clone)]
pub(crate) struct World {
    store: MemoryStore,
    outbox: Outbox,
    now: Timestamp,
    /// The latest time that any call was made at.
    pub(crate) latest: Timestamp,
    /// How far each clock is ahead, in seconds.
    ahead: [i64; CLOCKS],
    ids: u64,
    projects: BTreeMap<usize, Project>,
    tasks: Vec<TaskId>,
    claims: Vec<Claimed>,
    /// What the last operation called, if it did.
    pub(crate) last: Option<Arc<Last>>,
}

/// A call and its answer.
#[derive(Debug)]
pub(crate) struct Last {
    pub(crate) call: Call,
    /// Whose clock showed `now`: a worker's, or that of requests and maintenance.
    pub(crate) clock: usize,
    pub(crate) now: Timestamp,
    pub(crate) answer: Answer,
}

/// What a claim gave to a runner.
#[derive(Debug, Clone)]
struct Claimed {
    task: TaskId,
    holder: Holder,
    worker: usize,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an empty store")
    }
}

/// The machine that draws operations and applies them to the reference. `RECOVERS_ALL`: the store
/// that is compared offers that; those that do not are DynamoDB's, whose sweeps wake also for what
/// a claim has seen.
pub(crate) struct Machine<const RECOVERS_ALL: bool>;

impl<const RECOVERS_ALL: bool> ReferenceStateMachine for Machine<RECOVERS_ALL> {
    type State = World;
    type Transition = Op;

    fn init_state() -> BoxedStrategy<World> {
        let store = MemoryStore::new(Retention::default());
        let world = World {
            store: if RECOVERS_ALL { store } else { store.woken_by_sweeps() },
            outbox: Vec::new(),
            now: START,
            latest: START,
            ahead: [0; CLOCKS],
            ids: 0,
            projects: BTreeMap::new(),
            tasks: Vec::new(),
            claims: Vec::new(),
            last: None,
        };
        Just(world).boxed()
    }

    fn transitions(world: &World) -> BoxedStrategy<Op> {
        op::next(
            RECOVERS_ALL,
            !world.projects.is_empty(),
            !world.tasks.is_empty(),
            !world.claims.is_empty(),
        )
    }

    fn apply(mut world: World, op: &Op) -> World {
        world.last = None;
        let clock = match op {
            Op::Claim { worker, .. } => *worker,
            Op::Renew { claim, .. } | Op::Report { claim, .. } => {
                world.claim(*claim).map_or(API, |claimed| claimed.worker)
            }
            _ => API,
        };
        let now = world.clock(clock);
        let Some(call) = world.call(op, now) else { return world };
        world.latest = world.latest.max(now);
        let store = &world.store;
        let replace = |task, kind: &'static str, body: String| -> BoxFuture<'static, ()> {
            store.replace_record(task, kind, &body);
            Box::pin(std::future::ready(()))
        };
        let answer = perform(store, &replace, &mut world.outbox, &call, now).now_or_never();
        let answer = answer.expect("the store in memory waits for nothing");
        world.learn(op, &call, &answer);
        world.last = Some(Arc::new(Last { call, clock, now, answer }));
        world
    }
}

impl World {
    pub(crate) fn store(&self) -> &dyn Store {
        &self.store
    }

    /// The tasks that are there: were enqueued, and have not expired.
    pub(crate) fn tasks(&self) -> Vec<TaskId> {
        let shown =
            |id: &&TaskId| self.store.task(**id).now_or_never().is_some_and(|one| one.is_ok());
        self.tasks.iter().filter(shown).copied().collect()
    }

    fn clock(&self, clock: usize) -> Timestamp {
        let ahead = self.ahead[clock % CLOCKS];
        let span = Duration::from_secs(ahead.unsigned_abs());
        if ahead < 0 { self.now.minus(span) } else { self.now.plus(span) }
    }

    fn ulid(&mut self, now: Timestamp) -> Ulid {
        self.ids += 1;
        let millis = u64::try_from(now.as_millis()).expect("after 1970");
        Ulid::from_parts(millis, u128::from(self.ids))
    }

    /// A project that was created once, or one that never was.
    fn project(&self, number: usize) -> ProjectId {
        let known: Vec<usize> = self.projects.keys().copied().collect();
        let never = number == op::UNKNOWN || known.is_empty();
        named(if never { op::PROJECTS } else { known[number % known.len()] })
    }

    /// A task by its number from the newest. What has expired is not there for anybody: a store
    /// may keep the record for longer than it shows it, and then answers otherwise than one that
    /// has deleted it.
    fn task(&self, number: usize) -> Option<TaskRecord> {
        let shown = |id: &TaskId| self.store.task(*id).now_or_never()?.ok();
        let shown: Vec<TaskRecord> = self.tasks.iter().rev().filter_map(shown).collect();
        shown.get(number % shown.len().max(1)).cloned()
    }

    /// A claim by its number from the newest, of a task that is there.
    fn claim(&self, number: usize) -> Option<&Claimed> {
        let shown = |id: TaskId| self.store.task(id).now_or_never().is_some_and(|one| one.is_ok());
        let shown: Vec<&Claimed> =
            self.claims.iter().rev().filter(|claimed| shown(claimed.task)).collect();
        shown.get(number % shown.len().max(1)).copied()
    }

    /// The call that an operation makes. `None` when it only changes a clock, or names nothing
    /// that is there.
    fn call(&mut self, op: &Op, now: Timestamp) -> Option<Call> {
        Some(match op {
            Op::Pass { seconds } => {
                self.now = self.now.plus(Duration::from_secs(*seconds));
                return None;
            }
            Op::SetClock { clock, ahead } => {
                self.ahead[clock % CLOCKS] = *ahead;
                return None;
            }
            Op::CreateProject { name, limit, repeated } => {
                let there = self.projects.get(name).filter(|_| *repeated).cloned();
                Call::CreateProject(match there {
                    Some(there) => there,
                    None => {
                        let project = Project::new(named(*name), self.ulid(now), now);
                        Project { build_limit: *limit, ..project }
                    }
                })
            }
            Op::SetLimit { project, limit } => {
                let patch = ProjectPatch { build_limit: Some(*limit), ..ProjectPatch::default() };
                Call::UpdateProject(self.project(*project), patch)
            }
            Op::BeginDelete { project } => Call::BeginDelete(self.project(*project)),
            Op::Forget { project } => Call::Forget(self.project(*project)),
            Op::Enqueue { project, new } => Call::Enqueue(self.new_task(*project, new, now)),
            Op::EnqueueAgain { task, as_another } => {
                let task = self.task(*task)?.task;
                let lineage = if *as_another { TaskId(self.ulid(now)) } else { task.lineage };
                Call::Enqueue(Task { lineage, retry_of: None, ..task })
            }
            Op::Retry { task, repeated } => {
                let old = self.task(*task)?.task;
                let id = match old.retried_as {
                    Some(id) if *repeated => id,
                    _ => TaskId(self.ulid(now)),
                };
                // What may not be retried is tried all the same: the store decides.
                let new = retry(&old, id, now).unwrap_or_else(|_| {
                    let work = Work::Build(BuildSpec::of("make it blue"));
                    let new = Task::new(id, old.project_id.clone(), work, now);
                    let (lineage, project_nonce) = (old.lineage, old.project_nonce);
                    Task { retry_of: Some(old.id), lineage, project_nonce, ..new }
                });
                Call::Enqueue(new)
            }
            Op::Claim { project, worker, agents } => {
                let worker_id = self::worker(*worker);
                let owner = Owner::new(&worker_id, "first");
                let can = Capabilities { worker_id, agents: agents.clone() };
                Call::Claim(self.project(*project), owner, can)
            }
            Op::Renew { claim, by, events, turns, ticket } => {
                let claimed = self.claim(*claim)?.clone();
                let (task, holder) = (claimed.task, written_by(&claimed, *by));
                let own = OwnRef::Wip(task, holder.fence);
                let own_refs = ticket.then(|| vec![RecordedRef::of(own, commit(holder.fence))]);
                let usage = turns.map(|turns| Usage { turns, ..Usage::default() });
                let events = self.events(holder.fence, *events, now);
                Call::Renew(task, holder, events, usage, own_refs)
            }
            Op::Report { claim, by, report, events, diff } => {
                let claimed = self.claim(*claim)?.clone();
                let (task, holder) = (claimed.task, written_by(&claimed, *by));
                let diff = diff.then(|| format!("the diff of {task} under {}", holder.fence));
                // Once it is told it is known.
                let shows_status = diff.is_some();
                let events = self.events(holder.fence, *events, now);
                let record = Record { events, diff, shows_status };
                let by = Actor::worker(worker(claimed.worker));
                Call::Advance(task, event_of(report, task, holder, now), record, by)
            }
            Op::Cancel { task } => {
                let (id, by) = (self.task(*task)?.task.id, Actor::hook("test"));
                Call::Advance(id, Event::Cancel, Record::default(), by)
            }
            Op::Recover { task, seen } => {
                let TaskRecord { task, lease } = self.task(*task)?;
                let heartbeat = lease.map_or(0, |lease| lease.heartbeat);
                let (seen, heartbeat) = match seen {
                    Seen::AsItIs => (task.fence, heartbeat),
                    Seen::AnOlderFence => (Fence(task.fence.0.saturating_sub(1)), heartbeat),
                    Seen::AnOlderHeartbeat => (task.fence, heartbeat.wrapping_sub(1)),
                };
                let event = Event::Recover { seen, heartbeat, proved_dead: false };
                Call::Advance(task.id, event, Record::default(), Actor::maintenance())
            }
            Op::Sweep { sent } => Call::Sweep { sent: *sent },
            Op::Send { entry } => {
                let entry = self.outbox.get(*entry % self.outbox.len().max(1))?;
                Call::DeleteOutbox((entry.wake_up(), entry.send_at))
            }
            Op::Deliver { delivery, status, stale } => {
                let due = self.store.due_deliveries(now, 100).now_or_never()?.ok()?;
                let one = due.get(delivery % due.len().max(1))?;
                let (project, task) = (one.project_id.clone(), one.task_id);
                Call::Deliver { project, task, status: *status, stale: *stale }
            }
            Op::Show { status, taken, stale } => {
                // Also those whose holders are at it.
                let soon = now.plus(LONGEST_TRY);
                let due = self.store.due_statuses(soon, 100).now_or_never()?.ok()?;
                let task = due.get(status % due.len().max(1))?;
                Call::Show { task: task.id, taken: *taken, stale: *stale }
            }
            Op::Replace { task, with } => {
                let task = self.task(*task)?.task;
                let (kind, body) = unreadable(&task, *with);
                Call::Replace(task.id, kind, body)
            }
            Op::RecoverAll => Call::RecoverAll,
            Op::List { project, state, builds_only, limit } => {
                let project = project.map(|project| self.project(project));
                let filter = TaskFilter { project, state: *state, builds_only: *builds_only };
                Call::List(filter, *limit)
            }
        })
    }

    fn new_task(&mut self, project: usize, new: &NewTask, now: Timestamp) -> Task {
        let work = match new.agent {
            Some(agent) => Work::Build(BuildSpec { agent, ..BuildSpec::of("make it blue") }),
            None => Work::Check(CheckSpec::of(vec!["true".to_owned()])),
        };
        let id = self.project(project);
        let project_nonce =
            self.projects.values().find(|project| project.id == id).map(|project| project.nonce);
        let task = Task::new(TaskId(self.ulid(now)), id, work, now);
        Task {
            project_nonce: project_nonce.unwrap_or_default(),
            priority: new.priority.try_into().expect("a priority"),
            available_at: now.plus(Duration::from_secs(new.later.unwrap_or(0))),
            max_attempts: new.max_attempts,
            notify: new.notify,
            ..task
        }
    }

    /// New events under a fence.
    fn events(&mut self, fence: Fence, count: u64, at: Timestamp) -> Vec<BuildEvent> {
        let event = |_| {
            self.ids += 1;
            let data = json!({ "stream": "stdout", "text": format!("line {}", self.ids) });
            BuildEvent { seq: seq(fence, self.ids), at, kind: EventKind::Log, data }
        };
        (0..count).map(event).collect()
    }

    /// What people and runners remember of an answer.
    fn learn(&mut self, op: &Op, call: &Call, answer: &Answer) {
        match (op, call, answer) {
            (Op::CreateProject { name, .. }, _, Ok(Told::Project(project, _))) => {
                self.projects.insert(*name, project.clone());
            }
            (_, Call::Enqueue(_), Ok(Told::Enqueued(task, _)))
                if !self.tasks.contains(&task.id) =>
            {
                self.tasks.push(task.id);
            }
            (Op::Claim { worker, .. }, _, Ok(Told::Claimed(claimed))) => {
                let (task, lease, ..) = &**claimed;
                let holder = Holder { fence: lease.fence, owner: lease.owner.clone() };
                let (task, worker) = (task.id, *worker);
                self.claims.push(Claimed { task, holder, worker });
            }
            _ => {}
        }
    }
}

/// The project of that name.
fn named(name: usize) -> ProjectId {
    format!("site-{name}").parse().expect("a slug")
}

/// What a claim's holder calls itself, or somebody who is not the holder.
fn written_by(claimed: &Claimed, by: By) -> Holder {
    let Holder { fence, owner } = claimed.holder.clone();
    match by {
        By::ItsHolder => Holder { fence, owner },
        By::AnOlderFence => Holder { fence: Fence(fence.0 - 1), owner },
        By::AYoungerFence => Holder { fence: fence.next(), owner },
        By::AnotherProcess => {
            let worker = worker(claimed.worker);
            Holder { fence, owner: Owner::new(&worker, "second") }
        }
    }
}

fn event_of(report: &Report, task: TaskId, holder: Holder, now: Timestamp) -> Event {
    let fence = holder.fence;
    match report {
        Report::Prepare { absent } => {
            let base = if *absent { Tip::Absent } else { Tip::Commit(commit(Fence(0))) };
            let wip = WipRef { task, fence };
            let (commit, branch) = (commit(fence), main());
            let prepared = Prepared { commit, base, branch, wip, atomic: true, at: now };
            let (result, usage) = (result(Outcome::Delivered, fence), Usage::default());
            Event::Prepare { holder, prepared, result, usage }
        }
        Report::Finish => {
            let result = TaskResult::Build(result(Outcome::NoChange, fence));
            Event::Finish { holder, result, usage: Usage { turns: 3, ..Usage::default() } }
        }
        Report::Complete => Event::Complete { holder, result: result(Outcome::Delivered, fence) },
        Report::Fail { class, revoked, retry_in } => {
            let retry_at = retry_in.map(|seconds| {
                Timestamp::from_millis(now.as_millis().saturating_add(seconds.saturating_mul(1000)))
            });
            let failure = Failure { retry_at, ..Failure::new(*class, "as the test wants it") };
            Event::Fail { holder, failure, usage: None, revoked: *revoked, left: None }
        }
        Report::Release => Event::Release { holder },
        Report::Restart => Event::Restart { holder },
    }
}

/// A task's type and record in a form that this version cannot read.
fn unreadable(task: &Task, with: Unreadable) -> (&'static str, String) {
    let kind = if matches!(task.work, Work::Check(_)) { CheckSpec::KIND } else { BuildSpec::KIND };
    let mut record = serde_json::to_value(task).expect("a task can be written as JSON");
    match with {
        Unreadable::Garbage => return (kind, r#"{"from": "another version"}"#.to_owned()),
        Unreadable::UnknownType => {
            record["type"] = json!("deploy");
            return ("deploy", record.to_string());
        }
        Unreadable::Newer => record["v"] = json!(VERSION + 1),
        Unreadable::NewerAndOther => record = json!({ "v": VERSION + 2, "what": "is this" }),
    }
    (kind, record.to_string())
}

fn worker(number: usize) -> WorkerId {
    format!("w{number}").parse().expect("a worker id")
}

fn main() -> Branch {
    "main".parse().expect("a branch")
}

fn commit(fence: Fence) -> CommitId {
    format!("{:040x}", fence.0).parse().expect("40 hexadecimal digits")
}

fn result(outcome: Outcome, fence: Fence) -> BuildResult {
    BuildResult {
        outcome,
        commit_sha: matches!(outcome, Outcome::Delivered).then(|| commit(fence)),
        branch: main(),
        kept_ref: None,
        pull_request_url: None,
        files_changed: Vec::new(),
        files_changed_total: 0,
        agent: None,
        usage: Usage::default(),
        durations_ms: BTreeMap::new(),
        summary: "made it blue".to_owned(),
        verify: Vec::new(),
        warnings: Vec::new(),
    }
}
