//! The store on SQLite: one transaction per operation.
//!
//! [`transition`] is the only place that changes a task, and it writes what
//! [`rdev_domain::step::step`] returns.

mod audit;
mod claim;
mod deliveries;
mod domains;
mod events;
mod keys;
mod letters;
mod lists;
mod pipelines;
#[cfg(test)]
mod plans;
mod projects;
mod recover;
mod requests;
mod retention;
mod rows;
mod stats;
mod sweep;
mod tasks;
mod transition;
mod webhooks;
mod workers;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
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
    Advanced, AuditFilter, Capabilities, Claim, DeadLetter, Enqueued, EventPage, PortResult,
    Record, Renewal, Store, Swept, TaskFilter, TaskRecord, WorkStats,
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
use rusqlite::Connection;
use ulid::Ulid;

use crate::database::{Database, Kind};
use crate::failed::Failed;
use crate::lock::DataLock;

pub(crate) const KIND: Kind = Kind {
    what: "the store",
    migrations: &[
        include_str!("../../migrations/store-1.sql"),
        include_str!("../../migrations/store-2.sql"),
    ],
    durable: true,
};

/// Registry, task state and audit in `rdev.db`.
///
/// It has no clock. What has expired is hidden from readers by the latest
/// `now` that any caller has named; the minute's sweep names one.
#[derive(Debug)]
pub struct SqliteStore {
    database: Database,
    shared: Arc<Shared>,
    _lock: Arc<DataLock>,
}

/// What every operation needs beside its connection.
#[derive(Debug)]
struct Shared {
    retention: Retention,
    latest: AtomicI64,
    last_id: Mutex<Ulid>,
}

/// One writing transaction.
struct Tx<'a> {
    conn: &'a Connection,
    shared: &'a Shared,
    by: &'a Actor,
    now: Timestamp,
}

impl SqliteStore {
    pub(crate) fn new(
        database: Database,
        retention: Retention,
        lock: Arc<DataLock>,
    ) -> rusqlite::Result<Self> {
        let last_id = database.at_start(audit::last_id)?;
        let shared =
            Shared { retention, latest: AtomicI64::new(i64::MIN), last_id: Mutex::new(last_id) };
        Ok(Self { database, shared: Arc::new(shared), _lock: lock })
    }

    /// A change that `by` makes.
    async fn change<T: Send + 'static>(
        &self,
        by: &Actor,
        now: Timestamp,
        work: impl FnOnce(&Tx<'_>) -> Result<T, Failed> + Send + 'static,
    ) -> PortResult<T> {
        self.shared.latest.fetch_max(now.as_millis(), Ordering::Relaxed);
        let (shared, by) = (Arc::clone(&self.shared), by.clone());
        self.database.write(move |conn| work(&Tx { conn, shared: &shared, by: &by, now })).await
    }

    /// A read; `latest` hides what had expired by then.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, Timestamp) -> Result<T, Failed> + Send + 'static,
    ) -> PortResult<T> {
        let latest = Timestamp::from_millis(self.shared.latest.load(Ordering::Relaxed));
        self.database.read(move |conn| work(conn, latest)).await
    }
}

impl Shared {
    /// A new ULID of `now`, above every one that was made before: the audit log
    /// is in the order of its transactions.
    fn next_id(&self, now: Timestamp) -> Ulid {
        const LATEST: i64 = (1 << 48) - 1;
        let millis = u64::try_from(now.as_millis().clamp(0, LATEST)).unwrap_or(0);
        let fresh = Ulid::from_parts(millis, Ulid::generate().random());
        let mut last = self.last_id.lock().unwrap_or_else(PoisonError::into_inner);
        *last = if fresh > *last { fresh } else { last.increment().unwrap_or(fresh) };
        *last
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn create_project(
        &self,
        project: &Project,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Project> {
        let project = project.clone();
        self.change(by, now, move |tx| projects::create(tx, project)).await
    }

    async fn project(&self, id: &ProjectId) -> PortResult<Project> {
        let id = id.clone();
        self.read(move |conn, _| projects::get(conn, &id)).await
    }

    async fn projects(&self, page: &Page) -> PortResult<Listed<Project>> {
        let page = *page;
        self.read(move |conn, _| projects::list(conn, &page)).await
    }

    async fn update_project(
        &self,
        id: &ProjectId,
        patch: &ProjectPatch,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<(Project, Vec<OutboxEntry>)> {
        let (id, patch) = (id.clone(), patch.clone());
        self.change(by, now, move |tx| projects::update(tx, &id, patch)).await
    }

    async fn begin_delete_project(
        &self,
        id: &ProjectId,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Project> {
        // The first transaction shuts the queue; then nothing can be claimed or
        // added, and the rest is cancelled in pages that let others through.
        loop {
            let id = id.clone();
            let page = self.change(by, now, move |tx| projects::begin_delete(tx, &id)).await?;
            if let Some(project) = page {
                return Ok(project);
            }
        }
    }

    async fn forget_project(&self, id: &ProjectId, by: &Actor, now: Timestamp) -> PortResult<()> {
        let id = id.clone();
        self.change(by, now, move |tx| projects::forget(tx, &id)).await
    }

    async fn set_webhook(
        &self,
        id: &ProjectId,
        webhook: Option<&Webhook>,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Project> {
        let (id, webhook) = (id.clone(), webhook.cloned());
        self.change(by, now, move |tx| webhooks::set(tx, &id, webhook.as_ref())).await
    }

    async fn webhook(&self, id: &ProjectId) -> PortResult<Option<Webhook>> {
        let id = id.clone();
        self.read(move |conn, _| webhooks::get(conn, &id)).await
    }

    async fn reserve_domain(
        &self,
        domain: &Domain,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Domain> {
        let domain = domain.clone();
        self.change(by, now, move |tx| domains::reserve(tx, domain)).await
    }

    async fn update_domain(
        &self,
        domain: &Domain,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Domain> {
        let domain = domain.clone();
        self.change(by, now, move |tx| domains::update(tx, domain)).await
    }

    async fn forget_domain(&self, domain: &Domain, by: &Actor, now: Timestamp) -> PortResult<()> {
        let domain = domain.clone();
        self.change(by, now, move |tx| domains::forget(tx, &domain)).await
    }

    async fn domain(&self, name: &DomainName) -> PortResult<Domain> {
        let name = name.clone();
        self.read(move |conn, _| domains::get(conn, &name)).await
    }

    async fn domains(&self, project: &ProjectId) -> PortResult<Vec<Domain>> {
        let project = project.clone();
        self.read(move |conn, _| domains::list(conn, &project)).await
    }

    async fn due_deliveries(&self, now: Timestamp, limit: u32) -> PortResult<Vec<WebhookDelivery>> {
        self.read(move |conn, _| deliveries::due(conn, now, limit)).await
    }

    async fn update_delivery(
        &self,
        before: &WebhookDelivery,
        after: &WebhookDelivery,
    ) -> PortResult<bool> {
        let (before, after) = (before.clone(), after.clone());
        self.database.write(move |conn| deliveries::update(conn, &before, &after)).await
    }

    async fn deliveries(
        &self,
        project: &ProjectId,
        page: &Page,
    ) -> PortResult<Listed<WebhookDelivery>> {
        let (project, page) = (project.clone(), *page);
        self.read(move |conn, latest| deliveries::list(conn, &project, &page, latest)).await
    }

    async fn record_pipeline(&self, pipeline: &CommitPipeline, now: Timestamp) -> PortResult<()> {
        let pipeline = pipeline.clone();
        let by = Actor::maintenance();
        self.change(&by, now, move |tx| pipelines::record(tx, &pipeline)).await
    }

    async fn pipeline(
        &self,
        project: &ProjectId,
        commit: &CommitId,
    ) -> PortResult<Option<CommitPipeline>> {
        let (project, commit) = (project.clone(), commit.clone());
        self.read(move |conn, latest| pipelines::get(conn, &project, &commit, latest)).await
    }

    async fn enqueue(&self, task: &Task, by: &Actor, now: Timestamp) -> PortResult<Enqueued> {
        let new = tasks::New::of(task.clone())?;
        self.change(by, now, move |tx| tasks::enqueue(tx, new)).await
    }

    async fn claim_next(
        &self,
        project: &ProjectId,
        owner: &Owner,
        can: &Capabilities,
        now: Timestamp,
    ) -> PortResult<Claim> {
        let (project, owner, can) = (project.clone(), owner.clone(), can.clone());
        let by = Actor::worker(can.worker_id.clone());
        self.change(&by, now, move |tx| claim::claim_next(tx, &project, &owner, &can)).await
    }

    async fn renew(
        &self,
        task: TaskId,
        holder: &Holder,
        events: &[BuildEvent],
        usage: Option<Usage>,
        now: Timestamp,
    ) -> PortResult<Renewal> {
        let holder = holder.clone();
        let events = events::Encoded::of(events);
        // A renewal is no change of a record: nobody is named for it.
        let by = Actor::maintenance();
        self.change(&by, now, move |tx| tasks::renew(tx, task, &holder, &events, usage)).await
    }

    async fn advance(
        &self,
        task: TaskId,
        event: Event,
        record: Record,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Advanced> {
        let events = events::Encoded::of(&record.events);
        self.change(by, now, move |tx| tasks::advance(tx, task, event, &events, record.diff))
            .await?
    }

    async fn task(&self, id: TaskId) -> PortResult<TaskRecord> {
        self.read(move |conn, latest| lists::task(conn, id, latest)).await
    }

    async fn tasks(&self, filter: &TaskFilter, page: &Page) -> PortResult<Listed<TaskRecord>> {
        let (filter, page) = (filter.clone(), *page);
        self.read(move |conn, latest| lists::tasks(conn, &filter, &page, latest)).await
    }

    async fn events(&self, task: TaskId, after: u64, limit: u32) -> PortResult<EventPage> {
        self.read(move |conn, latest| events::list(conn, task, after, limit, latest)).await
    }

    async fn diff(&self, task: TaskId) -> PortResult<Option<String>> {
        self.read(move |conn, latest| events::diff(conn, task, latest)).await
    }

    async fn work_stats(&self, now: Timestamp) -> PortResult<WorkStats> {
        self.read(move |conn, _| stats::work_stats(conn, now)).await
    }

    async fn delete_outbox(&self, outbox: &[OutboxEntry]) -> PortResult<()> {
        if outbox.is_empty() {
            return Ok(());
        }
        // An outbox entry that outlives a crash is sent twice, which is nothing: not
        // worth a sync of its own, and nobody needs to wait for it.
        let outbox = outbox.to_vec();
        self.database.write_soon(move |conn| transition::delete_outbox(conn, &outbox))
    }

    async fn sweep(&self, now: Timestamp) -> PortResult<Swept> {
        self.change(&Actor::maintenance(), now, sweep::page).await
    }

    async fn recover_all(&self, now: Timestamp) -> PortResult<Vec<OutboxEntry>> {
        self.change(&Actor::maintenance(), now, recover::everything).await
    }

    async fn begin_request(
        &self,
        key: &RequestKey,
        body_sha256: &str,
        nonce: Ulid,
        now: Timestamp,
    ) -> PortResult<Begun> {
        let (key, body) = (key.clone(), body_sha256.to_owned());
        let by = Actor::maintenance();
        self.change(&by, now, move |tx| requests::begin(tx, &key, &body, nonce)).await
    }

    async fn finish_request(
        &self,
        key: &RequestKey,
        answer: &StoredAnswer,
        now: Timestamp,
    ) -> PortResult<()> {
        let (key, answer) = (key.clone(), answer.clone());
        let by = Actor::maintenance();
        self.change(&by, now, move |tx| requests::finish(tx, &key, &answer)).await
    }

    async fn release_request(&self, key: &RequestKey, now: Timestamp) -> PortResult<()> {
        let key = key.clone();
        let by = Actor::maintenance();
        self.change(&by, now, move |tx| requests::release(tx, &key)).await
    }

    async fn create_key(&self, key: &ApiKey, by: &Actor, now: Timestamp) -> PortResult<()> {
        let key = key.clone();
        self.change(by, now, move |tx| keys::create(tx, &key)).await
    }

    async fn key(&self, id: &KeyId) -> PortResult<ApiKey> {
        let id = id.clone();
        self.read(move |conn, _| keys::get(conn, &id)).await
    }

    async fn keys(&self) -> PortResult<Vec<ApiKey>> {
        self.read(|conn, _| keys::all(conn)).await
    }

    async fn revoke_key(&self, id: &KeyId, by: &Actor, now: Timestamp) -> PortResult<ApiKey> {
        let id = id.clone();
        self.change(by, now, move |tx| keys::revoke(tx, &id)).await
    }

    async fn heartbeat(&self, worker: &Worker, now: Timestamp) -> PortResult<bool> {
        let worker = worker.clone();
        let by = Actor::worker(worker.id.clone());
        self.change(&by, now, move |tx| workers::heartbeat(tx, worker)).await
    }

    async fn worker(&self, id: &WorkerId) -> PortResult<Worker> {
        let id = id.clone();
        self.read(move |conn, _| workers::get(conn, &id)).await
    }

    async fn workers(&self) -> PortResult<Vec<Worker>> {
        self.read(workers::all).await
    }

    async fn set_drain(
        &self,
        id: &WorkerId,
        drain: bool,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Worker> {
        let id = id.clone();
        self.change(by, now, move |tx| workers::set_drain(tx, &id, drain)).await
    }

    async fn record_dead_letter(&self, letter: &DeadLetter) -> PortResult<()> {
        let letter = letter.clone();
        self.database.write(move |conn| letters::record(conn, &letter)).await
    }

    async fn dead_letters(&self, page: &Page) -> PortResult<Listed<DeadLetter>> {
        let page = *page;
        self.read(move |conn, _| letters::list(conn, &page)).await
    }

    async fn delete_dead_letter(&self, id: Ulid, by: &Actor, now: Timestamp) -> PortResult<()> {
        self.change(by, now, move |tx| letters::delete(tx, id)).await
    }

    async fn audit(&self, filter: &AuditFilter, page: &Page) -> PortResult<Listed<AuditEvent>> {
        let (filter, page) = (filter.clone(), *page);
        self.read(move |conn, latest| audit::list(conn, &filter, &page, latest)).await
    }

    async fn ping(&self) -> PortResult<()> {
        // Through the writer: a reader alone would not tell that it is stuck.
        self.database
            .write(|conn| {
                conn.prepare_cached("SELECT 1 FROM projects LIMIT 1")?.exists([])?;
                Ok(())
            })
            .await
    }
}
