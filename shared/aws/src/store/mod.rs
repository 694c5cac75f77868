//! The store on DynamoDB: one transaction per operation, each under the condition that what
//! it was made from is still so.
//!
//! [`transition`] is the only place that changes a task, and it writes what
//! [`rdev_domain::step::step`] returns. What stands where is told by [`crate::schema`].

mod audit;
mod calls;
mod claim;
mod deliveries;
mod domains;
mod events;
mod fit;
mod held;
mod item;
mod keys;
mod letters;
mod lists;
mod pipelines;
mod projects;
mod recover;
mod requests;
mod rows;
mod stats;
mod sweep;
mod tasks;
mod transition;
mod webhooks;
mod workers;
mod writes;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use rdev_domain::audit::{Actor, AuditEvent};
use rdev_domain::dns::{Domain, DomainName};
use rdev_domain::event::BuildEvent;
use rdev_domain::git::CommitId;
use rdev_domain::ids::{KeyId, Owner, ProjectId, TaskId, WorkerId};
use rdev_domain::key::ApiKey;
use rdev_domain::lease::Holder;
use rdev_domain::page::{Listed, Page};
use rdev_domain::pipeline::CommitPipeline;
use rdev_domain::ports::{
    Advanced, AuditFilter, Capabilities, Claim, DeadLetter, Enqueued, EventPage, PortError,
    PortResult, Record, Renewal, Store, Swept, TaskFilter, TaskRecord, WorkStats,
};
use rdev_domain::project::{Project, ProjectPatch};
use rdev_domain::request::{Begun, RequestKey, StoredAnswer};
use rdev_domain::result::Usage;
use rdev_domain::retention::Retention;
use rdev_domain::step::Event;
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::OutboxEntry;
use rdev_domain::webhook::{Webhook, WebhookDelivery};
use rdev_domain::worker::Worker;
use ulid::Ulid;

use crate::clock::Clock;
use crate::schema::Key;
use events::Encoded;
use held::Held;
use rows::Row;
use transition::ulid_time;

/// What the SDK waits before its first own retry: DynamoDB's hiccups are short.
const FIRST_RETRY: Duration = Duration::from_millis(50);

/// Registry, task state and audit in one table.
///
/// Times are those that callers name, corrected by how far this machine's clock is from
/// DynamoDB's. It has no `recover_all`: nobody can know that every holder is dead.
#[derive(Debug)]
pub struct DynamoStore {
    client: Client,
    table: String,
    retention: Retention,
    clock: Clock,
    held: Held,
    latest: AtomicI64,
    last_id: Mutex<Ulid>,
}

/// One change: who makes it, and when.
struct Change<'a> {
    store: &'a DynamoStore,
    by: &'a Actor,
    now: Timestamp,
}

impl DynamoStore {
    /// The store in `table`. Nothing is called yet.
    #[expect(clippy::needless_pass_by_value, reason = "the store has a client of its own")]
    pub fn new(client: Client, table: String, retention: Retention) -> Self {
        let clock = Clock::default();
        let config = client.config();
        let retries = config.retry_config().cloned().unwrap_or_else(RetryConfig::standard);
        let config = config
            .to_builder()
            .retry_config(retries.with_initial_backoff(FIRST_RETRY))
            .interceptor(clock.clone());
        Self {
            client: Client::from_conf(config.build()),
            table,
            retention,
            clock,
            held: Held::default(),
            latest: AtomicI64::new(i64::MIN),
            last_id: Mutex::new(Ulid::nil()),
        }
    }

    /// A change by `by` at the caller's `now`.
    fn change<'a>(&'a self, by: &'a Actor, now: Timestamp) -> Change<'a> {
        let now = self.clock.correct(now);
        self.latest.fetch_max(now.as_millis(), Ordering::Relaxed);
        Change { store: self, by, now }
    }

    /// What had expired by then is not shown.
    fn latest(&self) -> Timestamp {
        Timestamp::from_millis(self.latest.load(Ordering::Relaxed)).max(self.clock.now())
    }

    /// A new ULID of `now`, above every one that this process has made before: its part of
    /// the audit log is in the order of its transactions.
    fn next_id(&self, now: Timestamp) -> Ulid {
        let fresh = Ulid::from_parts(ulid_time(now), Ulid::generate().random());
        let mut last = self.last_id.lock().unwrap_or_else(PoisonError::into_inner);
        *last = if fresh > *last { fresh } else { last.increment().unwrap_or(fresh) };
        *last
    }
}

#[async_trait]
impl Store for DynamoStore {
    async fn create_project(
        &self,
        project: &Project,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Project> {
        projects::create(&self.change(by, now), project).await
    }

    async fn project(&self, id: &ProjectId) -> PortResult<Project> {
        Ok(self.known(id).await?.project)
    }

    async fn projects(&self, page: &Page) -> PortResult<Listed<Project>> {
        self.list_projects(page).await
    }

    async fn update_project(
        &self,
        id: &ProjectId,
        patch: &ProjectPatch,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<(Project, Vec<OutboxEntry>)> {
        projects::update(&self.change(by, now), id, patch).await
    }

    async fn begin_delete_project(
        &self,
        id: &ProjectId,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Project> {
        projects::begin_delete(&self.change(by, now), id).await
    }

    async fn forget_project(&self, id: &ProjectId, by: &Actor, now: Timestamp) -> PortResult<()> {
        projects::forget(&self.change(by, now), id).await
    }

    async fn set_webhook(
        &self,
        id: &ProjectId,
        webhook: Option<&Webhook>,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Project> {
        webhooks::set(&self.change(by, now), id, webhook).await
    }

    async fn webhook(&self, id: &ProjectId) -> PortResult<Option<Webhook>> {
        self.read_webhook(id).await
    }

    async fn reserve_domain(
        &self,
        domain: &Domain,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Domain> {
        domains::reserve(&self.change(by, now), domain).await
    }

    async fn update_domain(
        &self,
        domain: &Domain,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Domain> {
        domains::update(&self.change(by, now), domain).await
    }

    async fn forget_domain(&self, domain: &Domain, by: &Actor, now: Timestamp) -> PortResult<()> {
        domains::forget(&self.change(by, now), domain).await
    }

    async fn domain(&self, name: &DomainName) -> PortResult<Domain> {
        self.read_domain(name).await
    }

    async fn domains(&self, project: &ProjectId) -> PortResult<Vec<Domain>> {
        self.list_domains(project).await
    }

    async fn due_deliveries(&self, now: Timestamp, limit: u32) -> PortResult<Vec<WebhookDelivery>> {
        self.list_due_deliveries(self.clock.correct(now), limit).await
    }

    async fn update_delivery(
        &self,
        before: &WebhookDelivery,
        after: &WebhookDelivery,
    ) -> PortResult<bool> {
        self.replace_delivery(before, after).await
    }

    async fn deliveries(
        &self,
        project: &ProjectId,
        page: &Page,
    ) -> PortResult<Listed<WebhookDelivery>> {
        self.list_deliveries(project, page).await
    }

    async fn record_pipeline(&self, pipeline: &CommitPipeline, now: Timestamp) -> PortResult<()> {
        let by = Actor::maintenance();
        pipelines::record(&self.change(&by, now), pipeline).await
    }

    async fn pipeline(
        &self,
        project: &ProjectId,
        commit: &CommitId,
    ) -> PortResult<Option<CommitPipeline>> {
        self.read_pipeline(project, commit).await
    }

    async fn enqueue(&self, task: &Task, by: &Actor, now: Timestamp) -> PortResult<Enqueued> {
        tasks::enqueue(&self.change(by, now), task).await
    }

    async fn claim_next(
        &self,
        project: &ProjectId,
        owner: &Owner,
        can: &Capabilities,
        now: Timestamp,
    ) -> PortResult<Claim> {
        let by = Actor::worker(can.worker_id.clone());
        claim::claim_next(&self.change(&by, now), project, owner, can).await
    }

    async fn renew(
        &self,
        task: TaskId,
        holder: &Holder,
        events: &[BuildEvent],
        usage: Option<Usage>,
        now: Timestamp,
    ) -> PortResult<Renewal> {
        let log = Encoded::of(&Record { events: events.to_vec(), diff: None })?;
        let by = Actor::maintenance();
        tasks::renew(&self.change(&by, now), task, holder, log, usage).await
    }

    async fn advance(
        &self,
        task: TaskId,
        event: Event,
        record: Record,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Advanced> {
        if matches!(event, Event::Recover { .. }) {
            self.clock.check()?;
        }
        let log = Encoded::of(&record)?;
        Box::pin(tasks::advance(&self.change(by, now), task, event, log)).await
    }

    async fn task(&self, id: TaskId) -> PortResult<TaskRecord> {
        let latest = self.latest();
        let shown = |row: &Row| row.expires_at.is_none_or(|at| at > latest);
        let row = self.read(id).await?.filter(shown);
        Ok(row.ok_or_else(|| tasks::not_found(id))?.into_record())
    }

    async fn tasks(&self, filter: &TaskFilter, page: &Page) -> PortResult<Listed<TaskRecord>> {
        self.list_tasks(filter, page).await
    }

    async fn events(&self, task: TaskId, after: u64, limit: u32) -> PortResult<EventPage> {
        self.list_events(task, after, limit).await
    }

    async fn diff(&self, task: TaskId) -> PortResult<Option<String>> {
        self.read_diff(task).await
    }

    async fn work_stats(&self, now: Timestamp) -> PortResult<WorkStats> {
        let by = Actor::maintenance();
        stats::work_stats(&self.change(&by, now)).await
    }

    async fn delete_outbox(&self, outbox: &[OutboxEntry]) -> PortResult<()> {
        self.delete_all(outbox.iter().map(Key::outbox_entry).collect()).await
    }

    async fn sweep(&self, now: Timestamp) -> PortResult<Swept> {
        let by = Actor::maintenance();
        sweep::page(&self.change(&by, now)).await
    }

    async fn recover_all(&self, _now: Timestamp) -> PortResult<Vec<OutboxEntry>> {
        Err(PortError::NotSupported { what: "recovering leases that may be alive" })
    }

    async fn begin_request(
        &self,
        key: &RequestKey,
        body_sha256: &str,
        nonce: Ulid,
        now: Timestamp,
    ) -> PortResult<Begun> {
        let by = Actor::maintenance();
        requests::begin(&self.change(&by, now), key, body_sha256, nonce).await
    }

    async fn finish_request(
        &self,
        key: &RequestKey,
        answer: &StoredAnswer,
        now: Timestamp,
    ) -> PortResult<()> {
        let by = Actor::maintenance();
        requests::finish(&self.change(&by, now), key, answer).await
    }

    async fn release_request(&self, key: &RequestKey, now: Timestamp) -> PortResult<()> {
        let by = Actor::maintenance();
        requests::release(&self.change(&by, now), key).await
    }

    async fn create_key(&self, key: &ApiKey, by: &Actor, now: Timestamp) -> PortResult<()> {
        keys::create(&self.change(by, now), key).await
    }

    async fn key(&self, id: &KeyId) -> PortResult<ApiKey> {
        self.read_key(id).await
    }

    async fn keys(&self) -> PortResult<Vec<ApiKey>> {
        self.list_keys().await
    }

    async fn revoke_key(&self, id: &KeyId, by: &Actor, now: Timestamp) -> PortResult<ApiKey> {
        keys::revoke(&self.change(by, now), id).await
    }

    async fn heartbeat(&self, worker: &Worker, now: Timestamp) -> PortResult<bool> {
        let by = Actor::worker(worker.id.clone());
        workers::heartbeat(&self.change(&by, now), worker).await
    }

    async fn worker(&self, id: &WorkerId) -> PortResult<Worker> {
        self.read_worker(id).await
    }

    async fn workers(&self) -> PortResult<Vec<Worker>> {
        self.list_workers().await
    }

    async fn set_drain(
        &self,
        id: &WorkerId,
        drain: bool,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Worker> {
        workers::set_drain(&self.change(by, now), id, drain).await
    }

    async fn record_dead_letter(&self, letter: &DeadLetter) -> PortResult<()> {
        self.keep_letter(letter).await
    }

    async fn dead_letters(&self, page: &Page) -> PortResult<Listed<DeadLetter>> {
        self.list_letters(page).await
    }

    async fn delete_dead_letter(&self, id: Ulid, by: &Actor, now: Timestamp) -> PortResult<()> {
        letters::delete(&self.change(by, now), id).await
    }

    async fn audit(&self, filter: &AuditFilter, page: &Page) -> PortResult<Listed<AuditEvent>> {
        self.list_audit(filter, page).await
    }

    async fn ping(&self) -> PortResult<()> {
        self.get(Key::nothing()).await.map(drop)
    }
}
