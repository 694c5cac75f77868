//! The store in memory: one state behind one lock, and each operation a function over it.
//!
//! [`rdev_domain::step::step`] decides where a task goes; `rows.rs` writes what it returns.

mod claim;
mod deliveries;
mod domains;
mod lists;
mod projects;
mod ref_looks;
mod requests;
mod rows;
mod statuses;
mod sweep;
mod tasks;
mod transaction;
mod workers;

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rdev_domain::audit::{Actor, AuditEvent};
use rdev_domain::commit_status::ShownStatus;
use rdev_domain::dns::{Domain, DomainName};
use rdev_domain::git::CommitId;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::{KeyId, Owner, ProjectId, TaskId, WorkerId};
use rdev_domain::key::ApiKey;
use rdev_domain::lease::{Holder, Progress};
use rdev_domain::page::{Listed, Page};
use rdev_domain::pipeline::CommitPipeline;
use rdev_domain::ports::{
    Advanced, AuditFilter, Capabilities, Claim, DeadLetter, Enqueued, EventPage, PortResult,
    Record, Renewal, Store, Swept, TaskFilter, TaskRecord, WorkStats,
};
use rdev_domain::project::{Deletion, Project, ProjectPatch, Stage};
use rdev_domain::record::Format;
use rdev_domain::ref_look::RefLook;
use rdev_domain::request::{Begun, RequestKey, StoredAnswer};
use rdev_domain::retention::Retention;
use rdev_domain::step::Event;
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::{DueAgents, OutboxEntry};
use rdev_domain::webhook::{Webhook, WebhookDelivery};
use rdev_domain::worker::Worker;
use ulid::Ulid;

use transaction::{State, Tx};

/// Registry, task state and audit in memory.
///
/// The store has no clock. Readers do not see what had expired at the latest `now` that
/// any caller has passed. A clone is a store of its own.
#[derive(Debug)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    format: Format,
}

impl Clone for MemoryStore {
    fn clone(&self) -> Self {
        let state = self.read(|state| state.clone());
        Self { state: Arc::new(Mutex::new(state)), format: self.format }
    }
}

impl MemoryStore {
    /// An empty store, which keeps records for as long as `retention` says.
    pub fn new(retention: Retention) -> Self {
        let state = Arc::new(Mutex::new(State::new(retention)));
        Self { state, format: Format::CURRENT }
    }

    /// The same store, in which a sweep wakes a project for what was parked and is due now also if
    /// a claim has seen it, as DynamoDB's does. A wake-up too many does no harm.
    #[must_use]
    pub fn woken_by_sweeps(self) -> Self {
        self.read(|state| state.sweeps_wake_too = true);
        self
    }

    /// The same records, as a program of another format sees them.
    #[must_use]
    pub fn with_format(&self, format: Format) -> Self {
        Self { state: Arc::clone(&self.state), format }
    }

    /// Replaces a task's type and its record, past the state machine, as a defect or another
    /// version of rdev would. An unknown task stays unknown.
    pub fn replace_record(&self, task: TaskId, kind: &str, body: &str) {
        self.read(|state| {
            if let Some(row) = state.tasks.get_mut(&task) {
                row.replace(kind, body);
            }
        });
    }

    /// Runs a transaction in the name of `by`.
    fn change<T>(&self, by: &Actor, now: Timestamp, work: impl FnOnce(&mut Tx<'_>) -> T) -> T {
        self.read(|state| {
            state.latest = state.latest.max(now);
            work(&mut Tx { state, by, now })
        })
    }

    /// Runs what needs neither time nor actor.
    fn read<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.format = self.format;
        work(&mut state)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn create_project(
        &self,
        project: &Project,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Project> {
        self.change(by, now, |tx| projects::create(tx, project))
    }

    async fn project(&self, id: &ProjectId) -> PortResult<Project> {
        self.read(|state| state.project(id).cloned())
    }

    async fn projects(&self, page: &Page) -> PortResult<Listed<Project>> {
        self.read(|state| Ok(projects::list(state, page)))
    }

    async fn update_project(
        &self,
        id: &ProjectId,
        patch: &ProjectPatch,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<(Project, Vec<OutboxEntry>)> {
        self.change(by, now, |tx| projects::update(tx, id, patch))
    }

    async fn begin_delete_project(
        &self,
        id: &ProjectId,
        deletion: Deletion,
        expected: Option<&Stage>,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Project> {
        self.change(by, now, |tx| projects::begin_delete(tx, id, deletion, expected))
    }

    async fn forget_project(
        &self,
        id: &ProjectId,
        left: Option<&str>,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<()> {
        self.change(by, now, |tx| projects::forget(tx, id, left))
    }

    async fn set_webhook(
        &self,
        id: &ProjectId,
        webhook: Option<&Webhook>,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Project> {
        self.change(by, now, |tx| projects::set_webhook(tx, id, webhook))
    }

    async fn webhook(&self, id: &ProjectId) -> PortResult<Option<Webhook>> {
        self.read(|state| Ok(projects::webhook(state, id)))
    }

    async fn reserve_domain(
        &self,
        domain: &Domain,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Domain> {
        self.change(by, now, |tx| domains::reserve(tx, domain))
    }

    async fn update_domain(
        &self,
        domain: &Domain,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Domain> {
        self.change(by, now, |tx| domains::update(tx, domain))
    }

    async fn forget_domain(&self, domain: &Domain, by: &Actor, now: Timestamp) -> PortResult<()> {
        self.change(by, now, |tx| domains::forget(tx, domain));
        Ok(())
    }

    async fn domain(&self, name: &DomainName) -> PortResult<Domain> {
        self.read(|state| domains::get(state, name))
    }

    async fn domains(&self, project: &ProjectId) -> PortResult<Vec<Domain>> {
        self.read(|state| Ok(domains::list(state, project)))
    }

    async fn due_deliveries(&self, now: Timestamp, limit: u32) -> PortResult<Vec<WebhookDelivery>> {
        self.read(|state| Ok(deliveries::due(state, now, limit)))
    }

    async fn update_delivery(
        &self,
        before: &WebhookDelivery,
        after: &WebhookDelivery,
    ) -> PortResult<bool> {
        self.read(|state| Ok(deliveries::update(state, before, after)))
    }

    async fn due_statuses(&self, now: Timestamp, limit: u32) -> PortResult<Vec<Task>> {
        self.read(|state| Ok(statuses::due(state, now, limit)))
    }

    async fn update_status(&self, before: &Task, after: &ShownStatus) -> PortResult<Option<Task>> {
        self.read(|state| Ok(statuses::update(state, before, after)))
    }

    async fn deliveries(
        &self,
        project: &ProjectId,
        page: &Page,
    ) -> PortResult<Listed<WebhookDelivery>> {
        self.read(|state| Ok(deliveries::list(state, project, page)))
    }

    async fn record_pipeline(&self, pipeline: &CommitPipeline, now: Timestamp) -> PortResult<()> {
        self.change(&Actor::maintenance(), now, |tx| lists::record_pipeline(tx, pipeline));
        Ok(())
    }

    async fn pipeline(
        &self,
        project: &ProjectId,
        commit: &CommitId,
    ) -> PortResult<Option<CommitPipeline>> {
        self.read(|state| Ok(lists::pipeline(state, project, commit)))
    }

    async fn plan_look(
        &self,
        repository: &GitUrl,
        at: Timestamp,
        now: Timestamp,
    ) -> PortResult<()> {
        self.read(|state| ref_looks::plan(state, repository, at, now));
        Ok(())
    }

    async fn due_looks(&self, now: Timestamp, limit: u32) -> PortResult<Vec<RefLook>> {
        self.read(|state| Ok(ref_looks::due(state, now, limit)))
    }

    async fn update_look(&self, before: &RefLook, after: Option<&RefLook>) -> PortResult<bool> {
        self.read(|state| Ok(ref_looks::update(state, before, after)))
    }

    async fn enqueue(&self, task: &Task, by: &Actor, now: Timestamp) -> PortResult<Enqueued> {
        self.change(by, now, |tx| tasks::enqueue(tx, task))
    }

    async fn claim_next(
        &self,
        hint: &ProjectId,
        owner: &Owner,
        can: &Capabilities,
        now: Timestamp,
    ) -> PortResult<Claim> {
        let by = Actor::worker(can.worker_id.clone());
        self.change(&by, now, |tx| claim::claim_next(tx, hint, owner, can))
    }

    async fn waiting_project(&self, now: Timestamp) -> PortResult<Option<ProjectId>> {
        self.read(|state| Ok(state.turns(now).into_iter().min().map(|turn| turn.project)))
    }

    async fn due_agents(&self, project: &ProjectId, now: Timestamp) -> PortResult<DueAgents> {
        self.read(|state| Ok(state.due_agents(project, now)))
    }

    async fn recover_expired(&self, now: Timestamp) -> PortResult<Vec<OutboxEntry>> {
        let by = Actor::maintenance();
        self.change(&by, now, |tx| Ok(claim::recover_expired(tx, None)?.1))
    }

    async fn renew(
        &self,
        task: TaskId,
        holder: &Holder,
        progress: Progress<'_>,
        now: Timestamp,
    ) -> PortResult<Renewal> {
        // A renewal writes no audit event: it needs no actor of its own.
        self.change(&Actor::maintenance(), now, |tx| tasks::renew(tx, task, holder, progress))
    }

    async fn advance(
        &self,
        task: TaskId,
        event: Event,
        record: Record,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Advanced> {
        self.change(by, now, |tx| tasks::advance(tx, task, event, record))
    }

    async fn task(&self, id: TaskId) -> PortResult<TaskRecord> {
        self.read(|state| tasks::task(state, id))
    }

    async fn tasks(&self, filter: &TaskFilter, page: &Page) -> PortResult<Listed<TaskRecord>> {
        self.read(|state| Ok(tasks::tasks(state, filter, page)))
    }

    async fn events(&self, task: TaskId, after: u64, limit: u32) -> PortResult<EventPage> {
        self.read(|state| tasks::events(state, task, after, limit))
    }

    async fn diff(&self, task: TaskId) -> PortResult<Option<String>> {
        self.read(|state| tasks::diff(state, task))
    }

    async fn work_stats(&self, now: Timestamp) -> PortResult<WorkStats> {
        self.read(|state| Ok(sweep::work_stats(state, now)))
    }

    async fn delete_outbox(&self, outbox: &[OutboxEntry]) -> PortResult<()> {
        self.read(|state| {
            for entry in outbox {
                state.outbox.remove(&(entry.send_at, entry.id));
            }
        });
        Ok(())
    }

    async fn sweep(&self, now: Timestamp) -> PortResult<Swept> {
        self.change(&Actor::maintenance(), now, sweep::sweep)
    }

    async fn recover_all(&self, now: Timestamp) -> PortResult<Vec<OutboxEntry>> {
        self.change(&Actor::maintenance(), now, claim::recover_all)
    }

    async fn begin_request(
        &self,
        key: &RequestKey,
        body_sha256: &str,
        nonce: Ulid,
        now: Timestamp,
    ) -> PortResult<Begun> {
        let by = Actor::maintenance();
        Ok(self.change(&by, now, |tx| requests::begin(tx, key, body_sha256, nonce)))
    }

    async fn finish_request(
        &self,
        key: &RequestKey,
        answer: &StoredAnswer,
        now: Timestamp,
    ) -> PortResult<()> {
        let by = Actor::maintenance();
        self.change(&by, now, |tx| requests::finish(tx.state, key, answer));
        Ok(())
    }

    async fn release_request(&self, key: &RequestKey, now: Timestamp) -> PortResult<()> {
        self.change(&Actor::maintenance(), now, |tx| requests::release(tx, key));
        Ok(())
    }

    async fn create_key(&self, key: &ApiKey, by: &Actor, now: Timestamp) -> PortResult<()> {
        self.change(by, now, |tx| requests::create_key(tx, key))
    }

    async fn key(&self, id: &KeyId) -> PortResult<ApiKey> {
        self.read(|state| requests::key(state, id))
    }

    async fn keys(&self) -> PortResult<Vec<ApiKey>> {
        self.read(|state| Ok(requests::keys(state)))
    }

    async fn revoke_key(&self, id: &KeyId, by: &Actor, now: Timestamp) -> PortResult<ApiKey> {
        self.change(by, now, |tx| requests::revoke_key(tx, id))
    }

    async fn heartbeat(&self, worker: &Worker, now: Timestamp) -> PortResult<bool> {
        let by = Actor::worker(worker.id.clone());
        Ok(self.change(&by, now, |tx| workers::heartbeat(tx, worker)))
    }

    async fn worker(&self, id: &WorkerId) -> PortResult<Worker> {
        self.read(|state| workers::get(state, id))
    }

    async fn workers(&self) -> PortResult<Vec<Worker>> {
        self.read(|state| Ok(workers::all(state)))
    }

    async fn set_drain(
        &self,
        id: &WorkerId,
        drain: bool,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Worker> {
        self.change(by, now, |tx| workers::set_drain(tx, id, drain))
    }

    async fn record_dead_letter(&self, letter: &DeadLetter) -> PortResult<()> {
        self.read(|state| lists::record_dead_letter(state, letter));
        Ok(())
    }

    async fn dead_letters(&self, page: &Page) -> PortResult<Listed<DeadLetter>> {
        self.read(|state| Ok(lists::dead_letters(state, page)))
    }

    async fn delete_dead_letter(&self, id: Ulid, by: &Actor, now: Timestamp) -> PortResult<()> {
        self.change(by, now, |tx| lists::delete_dead_letter(tx, id));
        Ok(())
    }

    async fn audit(&self, filter: &AuditFilter, page: &Page) -> PortResult<Listed<AuditEvent>> {
        self.read(|state| Ok(lists::audit(state, filter, page)))
    }

    async fn ping(&self) -> PortResult<()> {
        Ok(())
    }
}
