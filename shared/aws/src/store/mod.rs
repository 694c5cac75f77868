//! The store on DynamoDB: one transaction per operation, on condition that the records which it
//! was computed from have not changed.
//!
//! [`transition`] is the only module that changes a task: it writes the result of
//! [`rdev_domain::step::step`]. [`crate::schema`] shows where each record is.

mod audit;
mod claim;
mod context;
mod counts;
mod dead_letters;
mod deliveries;
mod domains;
mod events;
mod indexes;
mod item;
mod item_size;
mod keys;
mod lease_cache;
mod lookup;
mod newest;
mod outbox;
mod pipelines;
mod project_delete;
mod projects;
mod queue_entry;
mod recover;
mod requests;
mod rows;
mod stats;
mod sweep;
mod table;
mod task_list;
mod tasks;
mod transition;
mod turns;
mod walk;
mod webhooks;
mod workers;
mod writes;

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use rdev_domain::audit::{Actor, AuditEvent};
use rdev_domain::dns::{Domain, DomainName};
use rdev_domain::git::CommitId;
use rdev_domain::ids::{KeyId, Owner, ProjectId, TaskId, WorkerId};
use rdev_domain::key::ApiKey;
use rdev_domain::lease::{Holder, Progress};
use rdev_domain::page::{Listed, Page};
use rdev_domain::pipeline::CommitPipeline;
use rdev_domain::ports::{
    Advanced, AuditFilter, Capabilities, Claim, DeadLetter, Enqueued, EventPage, PortError,
    PortResult, Record, Renewal, Store, Swept, TaskFilter, TaskRecord, WorkStats,
};
use rdev_domain::project::{Deletion, Project, ProjectPatch, Stage};
use rdev_domain::record::Format;
use rdev_domain::request::{Begun, RequestKey, StoredAnswer};
use rdev_domain::retention::Retention;
use rdev_domain::step::Event;
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::{DueAgents, OutboxEntry};
use rdev_domain::webhook::{Webhook, WebhookDelivery};
use rdev_domain::worker::Worker;
use ulid::Ulid;

use crate::clock::Clock;
use crate::schema::Key;
use context::{Change, Context};
use events::EncodedRecord;
use table::Table;

/// The SDK's wait before its first retry: DynamoDB's failures are short.
const FIRST_RETRY: Duration = Duration::from_millis(50);

/// Registry, task state and audit in one table.
///
/// Times are those that callers pass, corrected by the difference between this machine's
/// clock and DynamoDB's. `recover_all` is not supported: no process can know that every
/// holder of a lease is dead.
#[derive(Debug)]
pub struct DynamoStore {
    context: Context,
}

impl DynamoStore {
    /// The store in `table`. It makes no call yet.
    #[expect(clippy::needless_pass_by_value, reason = "the store has a client of its own")]
    pub fn new(client: Client, table: String, retention: Retention) -> Self {
        let clock = Clock::default();
        let config = client.config();
        let retries = config.retry_config().cloned().unwrap_or_else(RetryConfig::standard);
        let config = config
            .to_builder()
            .retry_config(retries.with_initial_backoff(FIRST_RETRY))
            .interceptor(clock.clone());
        let table = Table::new(Client::from_conf(config.build()), table);
        Self { context: Context::new(table, retention, clock) }
    }

    /// The store as a program of another format sees it: for a test of two programs.
    #[must_use]
    pub fn with_format(mut self, format: Format) -> Self {
        self.context.format = format;
        self
    }

    /// The same store, with claims that choose among projects whose turns are equal by `chance`
    /// instead of at random.
    #[must_use]
    pub fn choosing_by(mut self, chance: fn() -> u32) -> Self {
        self.context.chance = chance;
        self
    }

    fn change<'a>(&'a self, by: &'a Actor, now: Timestamp) -> Change<'a> {
        self.context.change(by, now)
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
        projects::get(&self.context, id).await
    }

    async fn projects(&self, page: &Page) -> PortResult<Listed<Project>> {
        projects::list(&self.context, page).await
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
        deletion: Deletion,
        expected: Option<&Stage>,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Project> {
        Box::pin(project_delete::begin(&self.change(by, now), id, deletion, expected)).await
    }

    async fn forget_project(
        &self,
        id: &ProjectId,
        left: Option<&str>,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<()> {
        project_delete::forget(&self.change(by, now), id, left).await
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
        webhooks::get(&self.context, id).await
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
        domains::get(&self.context, name).await
    }

    async fn domains(&self, project: &ProjectId) -> PortResult<Vec<Domain>> {
        domains::list(&self.context, project).await
    }

    async fn due_deliveries(&self, now: Timestamp, limit: u32) -> PortResult<Vec<WebhookDelivery>> {
        deliveries::due(&self.context, self.context.clock.correct(now), limit).await
    }

    async fn update_delivery(
        &self,
        before: &WebhookDelivery,
        after: &WebhookDelivery,
    ) -> PortResult<bool> {
        deliveries::update(&self.context, before, after).await
    }

    async fn deliveries(
        &self,
        project: &ProjectId,
        page: &Page,
    ) -> PortResult<Listed<WebhookDelivery>> {
        deliveries::list(&self.context, project, page).await
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
        pipelines::get(&self.context, project, commit).await
    }

    async fn enqueue(&self, task: &Task, by: &Actor, now: Timestamp) -> PortResult<Enqueued> {
        tasks::enqueue(&self.change(by, now), task).await
    }

    async fn claim_next(
        &self,
        hint: &ProjectId,
        owner: &Owner,
        can: &Capabilities,
        now: Timestamp,
    ) -> PortResult<Claim> {
        let by = Actor::worker(can.worker_id.clone());
        Box::pin(claim::claim_next(&self.change(&by, now), hint, owner, can)).await
    }

    async fn waiting_project(&self, _now: Timestamp) -> PortResult<Option<ProjectId>> {
        let turns = turns::waiting(&self.context, None).await?;
        Ok(turns.into_iter().min().map(|turn| turn.project))
    }

    async fn due_agents(&self, project: &ProjectId, now: Timestamp) -> PortResult<DueAgents> {
        let by = Actor::maintenance();
        queue_entry::due_agents(&self.change(&by, now), project, queue_entry::AT_A_GLANCE).await
    }

    async fn recover_expired(&self, now: Timestamp) -> PortResult<Vec<OutboxEntry>> {
        let by = Actor::maintenance();
        let change = self.change(&by, now);
        change.context.clock.check()?;
        Ok(sweep::expired_leases(&change).await?.outbox)
    }

    async fn renew(
        &self,
        task: TaskId,
        holder: &Holder,
        progress: Progress<'_>,
        now: Timestamp,
    ) -> PortResult<Renewal> {
        let by = Actor::maintenance();
        tasks::renew(&self.change(&by, now), task, holder, progress).await
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
            self.context.clock.check()?;
        }
        let log = EncodedRecord::of(&record)?;
        Box::pin(tasks::advance(&self.change(by, now), task, event, log)).await
    }

    async fn task(&self, id: TaskId) -> PortResult<TaskRecord> {
        task_list::task(&self.context, id).await
    }

    async fn tasks(&self, filter: &TaskFilter, page: &Page) -> PortResult<Listed<TaskRecord>> {
        task_list::tasks(&self.context, filter, page).await
    }

    async fn events(&self, task: TaskId, after: u64, limit: u32) -> PortResult<EventPage> {
        events::list(&self.context, task, after, limit).await
    }

    async fn diff(&self, task: TaskId) -> PortResult<Option<String>> {
        events::diff(&self.context, task).await
    }

    async fn work_stats(&self, now: Timestamp) -> PortResult<WorkStats> {
        let by = Actor::maintenance();
        stats::work_stats(&self.change(&by, now)).await
    }

    async fn delete_outbox(&self, outbox: &[OutboxEntry]) -> PortResult<()> {
        outbox::delete(&self.context, outbox).await
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
        keys::get(&self.context, id).await
    }

    async fn keys(&self) -> PortResult<Vec<ApiKey>> {
        keys::all(&self.context).await
    }

    async fn revoke_key(&self, id: &KeyId, by: &Actor, now: Timestamp) -> PortResult<ApiKey> {
        keys::revoke(&self.change(by, now), id).await
    }

    async fn heartbeat(&self, worker: &Worker, now: Timestamp) -> PortResult<bool> {
        let by = Actor::worker(worker.id.clone());
        workers::heartbeat(&self.change(&by, now), worker).await
    }

    async fn worker(&self, id: &WorkerId) -> PortResult<Worker> {
        workers::get(&self.context, id).await
    }

    async fn workers(&self) -> PortResult<Vec<Worker>> {
        workers::all(&self.context).await
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
        dead_letters::record(&self.context, letter).await
    }

    async fn dead_letters(&self, page: &Page) -> PortResult<Listed<DeadLetter>> {
        dead_letters::list(&self.context, page).await
    }

    async fn delete_dead_letter(&self, id: Ulid, by: &Actor, now: Timestamp) -> PortResult<()> {
        dead_letters::delete(&self.change(by, now), id).await
    }

    async fn audit(&self, filter: &AuditFilter, page: &Page) -> PortResult<Listed<AuditEvent>> {
        audit::list(&self.context, filter, page).await
    }

    async fn ping(&self) -> PortResult<()> {
        self.context.table.get(Key::nothing()).await.map(drop)
    }
}
