//! The verbs that the cases are written in.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdev_domain::audit::{Actor, AuditEvent, Who};
use rdev_domain::event::BuildEvent;
use rdev_domain::failure::FailureClass;
use rdev_domain::git::RecordedRef;
use rdev_domain::ids::{KeyId, ProjectId, TaskId};
use rdev_domain::lease::{CLOCK_SLACK, LEASE, Progress};
use rdev_domain::page::Page;
use rdev_domain::ports::{
    Advanced, AuditFilter, Claim, Conflict, PortError, PortResult, Record, Renewal, Store, Swept,
    TaskFilter, TaskRecord,
};
use rdev_domain::project::{Deletion, Project, ProjectPatch};
use rdev_domain::record::Format;
use rdev_domain::result::Usage;
use rdev_domain::spec::{AgentName, BuildSpec, CheckSpec, Work};
use rdev_domain::step::{Event, Refusal};
use rdev_domain::task::{Task, TaskState};
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::OutboxEntry;
use ulid::Ulid;

pub(super) use super::claimed_task::{ClaimedTask, Runner, commit, main, result};
use super::race::settled;
pub(super) use super::race::{race, race_two};
use super::{Damage, DamageRecord, ReplaceRecord, StoreUnderTest, WithFormat};
use crate::tools::clock::Clock;

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(60 * 60);
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A store, a clock and what a case does with them. Clones are the same world.
#[derive(Clone)]
pub(super) struct World {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    /// The nonce of the latest project of each name.
    nonces: Arc<Mutex<HashMap<ProjectId, Ulid>>>,
    with_format: WithFormat,
    replace_record: ReplaceRecord,
    damage: DamageRecord,
    pub(super) sweep_deletes: bool,
    pub(super) recovers_all: bool,
}

/// Everything that a write which is refused must leave as it is.
#[derive(Debug, PartialEq)]
pub(super) struct Snapshot {
    record: TaskRecord,
    events: Vec<BuildEvent>,
    diff: Option<String>,
    audit: Vec<AuditEvent>,
}

impl World {
    pub(super) fn new(subject: &StoreUnderTest) -> Self {
        Self {
            store: Arc::clone(&subject.store),
            clock: Clock::default(),
            nonces: Arc::default(),
            with_format: subject.with_format.clone(),
            replace_record: subject.replace_record.clone(),
            damage: subject.damage.clone(),
            sweep_deletes: subject.sweep_deletes,
            recovers_all: subject.recovers_all,
        }
    }

    /// The same store, seen by a machine whose clock shows another time.
    pub(super) fn with_clock(&self, now: Timestamp) -> Self {
        Self { clock: Clock::showing(now), ..self.clone() }
    }

    /// The same records, as the programs of another format see them.
    pub(super) fn of_format(&self, format: Format) -> Self {
        Self { store: (self.with_format)(format), ..self.clone() }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn pass(&self, time: Duration) {
        self.clock.pass(time);
    }

    /// Lets the time pass until every lease that is not renewed counts as dead.
    pub(super) fn let_leases_expire(&self) {
        self.pass(LEASE + CLOCK_SLACK + Duration::from_millis(1));
    }

    /// A ULID of now, greater than all that were made before at this time.
    pub(super) fn ulid(&self) -> Ulid {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let millis = u64::try_from(self.now().as_millis()).expect("after 1970");
        Ulid::from_parts(millis, u128::from(NEXT.fetch_add(1, Ordering::SeqCst)))
    }

    // Projects.

    /// A project as it would be created, `ready`, one slot.
    pub(super) fn new_project(&self) -> Project {
        let nonce = self.ulid();
        Project {
            description: "a landing page".to_owned(),
            template: Some("static".to_owned()),
            git_url: Some("https://git.example.com/team/site.git".parse().expect("a clone URL")),
            ..Project::new(
                format!("site-{}", nonce.random()).parse().expect("a slug"),
                nonce,
                self.now(),
            )
        }
    }

    pub(super) async fn create(&self, project: &Project) -> PortResult<Project> {
        let created = self.store.create_project(project, &key_actor(), self.now()).await;
        if let Ok(created) = &created {
            self.nonces().insert(created.id.clone(), created.nonce);
        }
        created
    }

    fn nonces(&self) -> MutexGuard<'_, HashMap<ProjectId, Ulid>> {
        self.nonces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The nonce of the latest project of the name; nil when there was none.
    pub(super) fn nonce(&self, project: &ProjectId) -> Ulid {
        self.nonces().get(project).copied().unwrap_or_default()
    }

    /// Deletes a project, and creates another one of its name.
    pub(super) async fn remake(&self, id: &ProjectId) -> Project {
        let by = key_actor();
        let keep = Deletion::KeepRepository;
        let begun = self.store.begin_delete_project(id, keep, None, &by, self.now()).await;
        begun.expect("nothing runs");
        self.store.forget_project(id, None, &by, self.now()).await.expect("it is being deleted");
        self.pass(SECOND);
        let project = Project { id: id.clone(), ..self.new_project() };
        self.create(&project).await.expect("the name is free")
    }

    /// A ready project with one slot.
    pub(super) async fn project(&self) -> ProjectId {
        self.project_with_limit(1).await
    }

    pub(super) async fn project_with_limit(&self, build_limit: u32) -> ProjectId {
        let project = Project { build_limit, ..self.new_project() };
        self.create(&project).await.expect("a project of a new name");
        project.id
    }

    pub(super) async fn set_limit(&self, project: &ProjectId, limit: u32) -> Vec<OutboxEntry> {
        let patch = ProjectPatch { build_limit: Some(limit), ..ProjectPatch::default() };
        let changed = self.store.update_project(project, &patch, &key_actor(), self.now()).await;
        let (project, outbox) = changed.expect("a ready project accepts another limit");
        assert_eq!(project.build_limit, limit);
        outbox
    }

    // Tasks.

    /// A build that was not enqueued yet.
    pub(super) fn new_task(&self, project: &ProjectId) -> Task {
        self.task_of(project, Work::Build(BuildSpec::of("make the header blue")))
    }

    /// A build by this agent that was not enqueued yet.
    pub(super) fn build_by(&self, project: &ProjectId, agent: AgentName) -> Task {
        let spec = BuildSpec { agent, ..BuildSpec::of("make the header blue") };
        self.task_of(project, Work::Build(spec))
    }

    /// A check that was not enqueued yet.
    pub(super) fn new_check(&self, project: &ProjectId) -> Task {
        let spec = CheckSpec { branch: None, commands: vec!["true".to_owned()], timeout_s: 60 };
        self.task_of(project, Work::Check(spec))
    }

    fn task_of(&self, project: &ProjectId, work: Work) -> Task {
        let project_nonce = self.nonce(project);
        let task = Task::new(TaskId(self.ulid()), project.clone(), work, self.now());
        Task { project_nonce, ..task }
    }

    /// A build of this priority, enqueued.
    pub(super) async fn enqueue_with_priority(&self, project: &ProjectId, priority: u8) -> Task {
        let priority = priority.try_into().expect("a priority");
        self.enqueue_task(Task { priority, ..self.new_task(project) }).await
    }

    pub(super) async fn enqueue(&self, project: &ProjectId) -> Task {
        self.enqueue_task(self.new_task(project)).await
    }

    pub(super) async fn enqueue_task(&self, task: Task) -> Task {
        let enqueued = self.store.enqueue(&task, &key_actor(), self.now()).await;
        enqueued.expect("a ready project accepts a new task").task
    }

    /// Enqueues a task for every number and claims them all.
    pub(super) async fn hold(&self, project: &ProjectId, tasks: usize) -> Vec<ClaimedTask> {
        let mut held = Vec::new();
        for _ in 0..tasks {
            self.enqueue(project).await;
            held.push(self.claim(project).await);
        }
        held
    }

    /// A new project whose only task runs.
    pub(super) async fn running(&self) -> ClaimedTask {
        let project = self.project().await;
        self.enqueue(&project).await;
        self.claim(&project).await
    }

    /// A new project whose only task runs its last attempt.
    pub(super) async fn running_for_the_last_time(&self) -> ClaimedTask {
        let project = self.project().await;
        self.enqueue_task(Task { max_attempts: 1, ..self.new_task(&project) }).await;
        self.claim(&project).await
    }

    /// A new project whose only task pushes.
    pub(super) async fn pushing(&self) -> ClaimedTask {
        let held = self.running().await;
        self.prepare(&held).await.expect("a holder may prepare");
        held
    }

    pub(super) async fn try_claim(&self, project: &ProjectId, runner: &Runner) -> Claim {
        let claim = self.store.claim_next(project, &runner.owner, &runner.can, self.now()).await;
        claim.expect("the store answers a claim")
    }

    /// A claim that must find something, by a worker called `w1`.
    pub(super) async fn claim(&self, project: &ProjectId) -> ClaimedTask {
        self.claim_as(project, &Runner::named("w1")).await
    }

    pub(super) async fn claim_as(&self, project: &ProjectId, runner: &Runner) -> ClaimedTask {
        match self.try_claim(project, runner).await {
            Claim::Claimed(claimed) => ClaimedTask::new(*claimed),
            other => panic!("there is a task to claim, not {other:?}"),
        }
    }

    /// Asserts that there is nothing to claim.
    pub(super) async fn nothing_to_claim(&self, project: &ProjectId) {
        assert_eq!(self.try_claim(project, &Runner::named("w1")).await, Claim::Nothing);
    }

    pub(super) async fn read(&self, id: TaskId) -> TaskRecord {
        self.store.task(id).await.expect("the task is there")
    }

    pub(super) async fn state(&self, id: TaskId) -> TaskState {
        self.read(id).await.task.state
    }

    /// How many tasks of a project have a lease.
    pub(super) async fn leases(&self, project: &ProjectId) -> usize {
        let tasks = self.all_tasks(project).await;
        tasks.iter().filter(|record| record.lease.is_some()).count()
    }

    /// Every task of a project, newest first.
    pub(super) async fn all_tasks(&self, project: &ProjectId) -> Vec<TaskRecord> {
        let filter = TaskFilter { project: Some(project.clone()), ..TaskFilter::default() };
        let mut page = Page { limit: 100, before: None };
        let mut tasks = Vec::new();
        loop {
            let listed = self.store.tasks(&filter, &page).await.expect("a page of tasks");
            tasks.extend(listed.items);
            match listed.next {
                Some(next) => page.before = Some(next),
                None => return tasks,
            }
        }
    }

    /// Makes a task's record unreadable.
    pub(super) async fn corrupt(&self, id: TaskId) {
        self.replace_record(id, "build", r#"{"from": "another version"}"#.to_owned()).await;
    }

    /// Replaces a task's type and its body, past the store.
    pub(super) async fn replace_record(&self, id: TaskId, kind: &'static str, body: String) {
        (self.replace_record)(id, kind, body).await;
    }

    /// Damages a record that belongs to a task.
    pub(super) async fn damage(&self, id: TaskId, damage: Damage) {
        (self.damage)(id, damage).await;
    }

    // What a holder writes.

    pub(super) async fn renew(&self, held: &ClaimedTask) -> PortResult<Renewal> {
        self.renew_with(held, &[], None).await
    }

    pub(super) async fn renew_with(
        &self,
        held: &ClaimedTask,
        events: &[BuildEvent],
        usage: Option<Usage>,
    ) -> PortResult<Renewal> {
        let store = &self.store;
        settled(|| {
            let progress = Progress { events, usage, own_refs: None };
            store.renew(held.id, &held.holder, progress, self.now())
        })
        .await
    }

    /// Renews a lease and records the refs of rdev's own that its holder is about to write.
    pub(super) async fn record_refs(
        &self,
        held: &ClaimedTask,
        own_refs: &[RecordedRef],
    ) -> PortResult<Renewal> {
        let store = &self.store;
        settled(|| {
            let progress = Progress { own_refs: Some(own_refs), ..Progress::default() };
            store.renew(held.id, &held.holder, progress, self.now())
        })
        .await
    }

    /// Applies an event as the holder's worker.
    pub(super) async fn write(&self, held: &ClaimedTask, event: Event) -> PortResult<Advanced> {
        self.advance(held.id, event, Record::default(), &held.by).await
    }

    pub(super) async fn advance(
        &self,
        id: TaskId,
        event: Event,
        record: Record,
        by: &Actor,
    ) -> PortResult<Advanced> {
        let store = &self.store;
        settled(|| store.advance(id, event.clone(), record.clone(), by, self.now())).await
    }

    pub(super) async fn prepare(&self, held: &ClaimedTask) -> PortResult<Advanced> {
        self.write(held, held.prepare(self.now())).await
    }

    pub(super) async fn finish(&self, held: &ClaimedTask) -> PortResult<Advanced> {
        self.write(held, held.finish()).await
    }

    pub(super) async fn complete(&self, held: &ClaimedTask) -> PortResult<Advanced> {
        self.write(held, held.complete()).await
    }

    pub(super) async fn fail(
        &self,
        held: &ClaimedTask,
        class: FailureClass,
    ) -> PortResult<Advanced> {
        self.write(held, held.fail(class)).await
    }

    pub(super) async fn release(&self, held: &ClaimedTask) -> PortResult<Advanced> {
        self.write(held, held.release()).await
    }

    pub(super) async fn restart(&self, held: &ClaimedTask) -> PortResult<Advanced> {
        self.write(held, held.restart()).await
    }

    /// A client cancels it through the API.
    pub(super) async fn cancel(&self, id: TaskId) -> PortResult<Advanced> {
        self.advance(id, Event::Cancel, Record::default(), &key_actor()).await
    }

    /// Recovers the task: its holder counts as dead, by the lease as it is now.
    pub(super) async fn recover(&self, id: TaskId) -> PortResult<Advanced> {
        let seen = self.read(id).await;
        self.recover_seen(&seen).await
    }

    /// Recovers the task, by the lease as it was in `seen`.
    pub(super) async fn recover_seen(&self, seen: &TaskRecord) -> PortResult<Advanced> {
        let heartbeat = seen.lease.as_ref().map_or(0, |lease| lease.heartbeat);
        let event = Event::Recover { seen: seen.task.fence, heartbeat, proved_dead: false };
        self.advance(seen.task.id, event, Record::default(), &Actor::maintenance()).await
    }

    // Outbox entries and sweeps.

    /// Sweeps until there is no more, sending (deleting) the outbox entries of each page.
    pub(super) async fn sweep(&self) -> Swept {
        let mut all = Swept::default();
        for _ in 0..1000 {
            let page = self.store.sweep(self.now()).await.expect("the store sweeps");
            self.store.delete_outbox(&page.outbox).await.expect("outbox entries can be deleted");
            all.outbox.extend(page.outbox);
            all.wake.extend(page.wake);
            all.deleting.extend(page.deleting);
            all.recovered += page.recovered;
            all.offline += page.offline;
            all.expired += page.expired;
            if !page.more {
                return all;
            }
        }
        panic!("a sweep of 1,000 pages finds no end")
    }

    /// Sweeps when something has expired: where the sweep deletes that, it counts it.
    pub(super) async fn sweep_what_expired(&self) {
        let swept = self.sweep().await;
        assert!(!self.sweep_deletes || swept.expired > 0, "nothing was deleted: {swept:?}");
    }

    /// Lets half a minute pass and sends every entry that is past its time.
    pub(super) async fn send_outbox(&self) -> Vec<OutboxEntry> {
        self.pass(31 * SECOND);
        self.sweep().await.outbox
    }

    /// Asserts that a transaction woke the project at once, and that the store keeps the entry
    /// until it is deleted.
    pub(super) async fn woke(&self, what: &str, outbox: &[OutboxEntry], project: &ProjectId) {
        let due: Vec<_> = outbox.iter().filter(|entry| entry.send_at <= self.now()).collect();
        assert!(!due.is_empty(), "{what} wakes its project, but wrote {outbox:?}");
        assert!(due.iter().all(|entry| entry.project_id == *project), "{what}: {outbox:?}");
        let due: Vec<_> = due.into_iter().cloned().collect();
        let sent = self.send_outbox().await;
        for entry in due {
            assert!(sent.contains(&entry), "{what}: the sweep sends {entry:?}, but found {sent:?}");
        }
    }

    // The audit log and what else a write may leave behind.

    /// The audit log of a project, newest first.
    pub(super) async fn audit(&self, project: &ProjectId) -> Vec<AuditEvent> {
        self.audit_log(Some(project)).await
    }

    /// The audit log, newest first.
    pub(super) async fn audit_log(&self, project: Option<&ProjectId>) -> Vec<AuditEvent> {
        let filter = AuditFilter { project: project.cloned() };
        let mut page = Page { limit: 100, before: None };
        let mut events = Vec::new();
        loop {
            let listed = self.store.audit(&filter, &page).await.expect("a page of the audit log");
            events.extend(listed.items);
            match listed.next {
                Some(next) => page.before = Some(next),
                None => return events,
            }
        }
    }

    pub(super) async fn snapshot(&self, id: TaskId) -> Snapshot {
        let record = self.read(id).await;
        let audit = self.audit(&record.task.project_id).await;
        Snapshot {
            events: self.store.events(id, 0, 1000).await.expect("the task's events").events,
            diff: self.store.diff(id).await.expect("the task's diff"),
            record,
            audit,
        }
    }
}

/// A request with a key.
pub(super) fn key_actor() -> Actor {
    let id: KeyId = "testkeytest1".parse().expect("a key id");
    Actor { who: Who::Key(id), request_id: Some("request-1".to_owned()) }
}

/// What the state machine refused with.
pub(super) fn refusal<T: Debug>(answer: PortResult<T>) -> Refusal {
    match answer {
        Err(PortError::Refused(refusal)) => refusal,
        other => panic!("it is refused, not {other:?}"),
    }
}

/// What was in the way.
pub(super) fn conflict<T: Debug>(answer: PortResult<T>) -> Conflict {
    match answer {
        Err(PortError::Conflict(conflict)) => conflict,
        other => panic!("it is a conflict, not {other:?}"),
    }
}

/// Asserts that there is no such thing.
pub(super) fn not_found<T: Debug>(answer: PortResult<T>) {
    match answer {
        Err(PortError::NotFound { .. }) => {}
        other => panic!("it is not there, not {other:?}"),
    }
}
