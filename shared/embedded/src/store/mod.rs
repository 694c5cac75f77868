//! The store on SQLite: one transaction per operation.
//!
//! [`transition`] is the only place that changes a task, and it writes what
//! [`rdev_domain::step::step`] returns.

mod audit;
mod claim;
mod dead_letters;
mod deliveries;
mod domains;
mod events;
mod keys;
mod outbox;
mod pipelines;
pub(crate) mod place;
mod project_delete;
mod projects;
#[cfg(test)]
mod query_plans;
mod queue_entry;
mod recover;
mod ref_looks;
mod requests;
pub(crate) mod restored;
mod retention;
mod rows;
pub(crate) mod schema;
mod stats;
mod statuses;
mod sweep;
mod task_list;
mod tasks;
mod transaction;
mod transition;
mod turns;
mod webhooks;
mod workers;

use std::sync::Arc;

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
    Advanced, AuditFilter, Capabilities, Claim, Claimed, DeadLetter, Enqueued, EventPage,
    PortResult, Record, Renewal, Store, Swept, TaskFilter, TaskRecord, WorkStats,
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
use rusqlite::Connection;
use ulid::Ulid;

use crate::database::Database;
use crate::error::Error;
use crate::lock::DataLock;
use place::Place;
use transaction::{Context, Tx};

/// Registry, task state and audit in `rdev.db`.
///
/// The store has no clock. Readers do not see what had expired at the latest `now` that
/// any caller has passed; the sweep passes one every minute.
#[derive(Debug)]
pub struct SqliteStore {
    database: Arc<Database>,
    context: Arc<Context>,
    place: Place,
    _lock: Arc<DataLock>,
}

impl SqliteStore {
    pub(crate) fn new(
        database: Database,
        retention: Retention,
        place: Place,
        lock: Arc<DataLock>,
    ) -> rusqlite::Result<Self> {
        let last_id = database.read_blocking(audit::last_id)?;
        let context = Arc::new(Context::new(retention, last_id));
        Ok(Self { database: Arc::new(database), context, place, _lock: lock })
    }

    /// The same database, as a program of another format sees it: for a test of two programs.
    #[must_use]
    pub fn with_format(&self, format: Format) -> Self {
        Self {
            database: Arc::clone(&self.database),
            context: Arc::new(self.context.with_format(format)),
            place: self.place.clone(),
            _lock: Arc::clone(&self._lock),
        }
    }

    /// Runs a transaction in the name of `by`.
    async fn change<T: Send + 'static>(
        &self,
        by: &Actor,
        now: Timestamp,
        work: impl FnOnce(&Tx<'_>) -> Result<T, Error> + Send + 'static,
    ) -> PortResult<T> {
        self.context.note_time(now);
        let (context, by) = (Arc::clone(&self.context), by.clone());
        self.database.write(move |conn| work(&Tx { conn, context: &context, by: &by, now })).await
    }

    /// Runs a read. It gets the latest time that a caller has passed, and leaves out what
    /// had expired by then.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, Timestamp) -> Result<T, Error> + Send + 'static,
    ) -> PortResult<T> {
        let latest = self.context.latest();
        self.database.read(move |conn| work(conn, latest)).await
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
        let project = self.place.stored_project(project.clone());
        let created = self.change(by, now, move |tx| projects::create(tx, project)).await?;
        Ok(self.place.project(created))
    }

    async fn project(&self, id: &ProjectId) -> PortResult<Project> {
        let id = id.clone();
        let project = self.read(move |conn, _| projects::get(conn, &id)).await?;
        Ok(self.place.project(project))
    }

    async fn projects(&self, page: &Page) -> PortResult<Listed<Project>> {
        let page = *page;
        let Listed { items, next } = self.read(move |conn, _| projects::list(conn, &page)).await?;
        let items = items.into_iter().map(|project| self.place.project(project)).collect();
        Ok(Listed { items, next })
    }

    async fn update_project(
        &self,
        id: &ProjectId,
        patch: &ProjectPatch,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<(Project, Vec<OutboxEntry>)> {
        let (id, patch) = (id.clone(), self.place.stored_patch(patch.clone()));
        let (project, outbox) =
            self.change(by, now, move |tx| projects::update(tx, &id, patch)).await?;
        Ok((self.place.project(project), outbox))
    }

    async fn begin_delete_project(
        &self,
        id: &ProjectId,
        deletion: Deletion,
        expected: Option<&Stage>,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Project> {
        // The first transaction closes the project: no task can be claimed or added. Then the
        // queued tasks are cancelled in pages, between which other transactions run.
        let mut expected = expected.cloned();
        loop {
            let (id, expected) = (id.clone(), expected.take());
            let page = self.change(by, now, move |tx| {
                project_delete::begin(tx, &id, deletion, expected.as_ref())
            });
            if let Some(project) = page.await? {
                return Ok(self.place.project(project));
            }
        }
    }

    async fn forget_project(
        &self,
        id: &ProjectId,
        left: Option<&str>,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<()> {
        let (id, left) = (id.clone(), left.map(str::to_owned));
        self.change(by, now, move |tx| project_delete::forget(tx, &id, left.as_deref())).await
    }

    async fn set_webhook(
        &self,
        id: &ProjectId,
        webhook: Option<&Webhook>,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Project> {
        let (id, webhook) = (id.clone(), webhook.cloned());
        let set = self.change(by, now, move |tx| webhooks::set(tx, &id, webhook.as_ref())).await?;
        Ok(self.place.project(set))
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

    async fn due_statuses(&self, now: Timestamp, limit: u32) -> PortResult<Vec<Task>> {
        let format = self.context.format;
        let due = self.read(move |conn, _| statuses::due(conn, now, limit, format)).await?;
        Ok(due.into_iter().map(|task| self.place.task(task)).collect())
    }

    async fn update_status(&self, before: &Task, after: &ShownStatus) -> PortResult<Option<Task>> {
        let (id, before, after) = (before.id, before.commit_status.clone(), after.clone());
        let format = self.context.format;
        let update =
            move |conn: &Connection| statuses::update(conn, id, before.as_ref(), &after, format);
        Ok(self.database.write(update).await?.map(|task| self.place.task(task)))
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

    async fn plan_look(
        &self,
        repository: &GitUrl,
        at: Timestamp,
        now: Timestamp,
    ) -> PortResult<()> {
        let repository = self.place.stored_url(repository.clone());
        self.database.write(move |conn| ref_looks::plan(conn, &repository, at, now)).await
    }

    async fn due_looks(&self, now: Timestamp, limit: u32) -> PortResult<Vec<RefLook>> {
        let mut due = self.read(move |conn, _| ref_looks::due(conn, now, limit)).await?;
        for look in &mut due {
            look.repository = self.place.url(look.repository.clone());
        }
        Ok(due)
    }

    async fn update_look(&self, before: &RefLook, after: Option<&RefLook>) -> PortResult<bool> {
        let stored = |look: &RefLook| RefLook {
            repository: self.place.stored_url(look.repository.clone()),
            ..look.clone()
        };
        let (before, after) = (stored(before), after.map(stored));
        self.database.write(move |conn| ref_looks::update(conn, &before, after.as_ref())).await
    }

    async fn enqueue(&self, task: &Task, by: &Actor, now: Timestamp) -> PortResult<Enqueued> {
        let new = tasks::NewTask::of(self.place.stored_task(task.clone()), self.context.format)?;
        let Enqueued { task, outbox } =
            self.change(by, now, move |tx| tasks::enqueue(tx, new)).await?;
        Ok(Enqueued { task: self.place.task(task), outbox })
    }

    async fn claim_next(
        &self,
        hint: &ProjectId,
        owner: &Owner,
        can: &Capabilities,
        now: Timestamp,
    ) -> PortResult<Claim> {
        let (hint, owner, can) = (hint.clone(), owner.clone(), can.clone());
        let by = Actor::worker(can.worker_id.clone());
        let claim = move |tx: &Tx<'_>| claim::claim_next(tx, &hint, &owner, &can);
        Ok(match self.change(&by, now, claim).await? {
            Claim::Claimed(claimed) => {
                let Claimed { task, project, lease, outbox } = *claimed;
                let (task, project) = (self.place.task(task), self.place.project(project));
                Claim::Claimed(Box::new(Claimed { task, project, lease, outbox }))
            }
            other => other,
        })
    }

    async fn waiting_project(&self, _now: Timestamp) -> PortResult<Option<ProjectId>> {
        self.read(|conn, _| turns::waiting(conn)).await
    }

    async fn due_agents(&self, project: &ProjectId, now: Timestamp) -> PortResult<DueAgents> {
        let project = project.clone();
        self.read(move |conn, _| queue_entry::due_agents(conn, &project, now)).await
    }

    async fn recover_expired(&self, now: Timestamp) -> PortResult<Vec<OutboxEntry>> {
        let page = move |tx: &Tx<'_>| Ok(recover::expired(tx, sweep::PAGE as usize)?.1);
        self.change(&Actor::maintenance(), now, page).await
    }

    async fn renew(
        &self,
        task: TaskId,
        holder: &Holder,
        progress: Progress<'_>,
        now: Timestamp,
    ) -> PortResult<Renewal> {
        let Progress { events, usage, own_refs } = progress;
        let (holder, own_refs) = (holder.clone(), own_refs.map(<[_]>::to_vec));
        let events = events::EncodedEvents::of(events);
        // A renewal writes no audit event: it needs no actor of its own.
        let by = Actor::maintenance();
        let renew =
            move |tx: &Tx<'_>| tasks::renew(tx, task, &holder, &events, usage, own_refs.as_deref());
        self.change(&by, now, renew).await
    }

    async fn advance(
        &self,
        task: TaskId,
        event: Event,
        record: Record,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Advanced> {
        let events = events::EncodedEvents::of(&record.events);
        let Record { diff, shows_status, .. } = record;
        let advance =
            move |tx: &Tx<'_>| tasks::advance(tx, task, event, &events, diff, shows_status);
        let advanced = self.change(by, now, advance).await??;
        Ok(Advanced { task: self.place.task(advanced.task), ..advanced })
    }

    async fn task(&self, id: TaskId) -> PortResult<TaskRecord> {
        let format = self.context.format;
        let found =
            self.read(move |conn, latest| task_list::task(conn, id, latest, format)).await?;
        Ok(TaskRecord { task: self.place.task(found.task), ..found })
    }

    async fn tasks(&self, filter: &TaskFilter, page: &Page) -> PortResult<Listed<TaskRecord>> {
        let (filter, page, format) = (filter.clone(), *page, self.context.format);
        let found =
            move |conn: &Connection, latest| task_list::tasks(conn, &filter, &page, latest, format);
        let Listed { items, next } = self.read(found).await?;
        let here = |found: TaskRecord| TaskRecord { task: self.place.task(found.task), ..found };
        Ok(Listed { items: items.into_iter().map(here).collect(), next })
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
        // If a crash restores an entry, its wake-up is sent twice, which does no harm. So
        // the delete needs no sync of its own, and no caller waits for it.
        let outbox = outbox.to_vec();
        self.database.write_soon(move |conn| outbox::delete(conn, &outbox))
    }

    async fn sweep(&self, now: Timestamp) -> PortResult<Swept> {
        let swept = self.change(&Actor::maintenance(), now, sweep::page).await?;
        let deleting = swept.deleting.into_iter().map(|project| self.place.project(project));
        Ok(Swept { deleting: deleting.collect(), ..swept })
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
        self.database.write(move |conn| dead_letters::record(conn, &letter)).await
    }

    async fn dead_letters(&self, page: &Page) -> PortResult<Listed<DeadLetter>> {
        let page = *page;
        self.read(move |conn, _| dead_letters::list(conn, &page)).await
    }

    async fn delete_dead_letter(&self, id: Ulid, by: &Actor, now: Timestamp) -> PortResult<()> {
        self.change(by, now, move |tx| dead_letters::delete(tx, id)).await
    }

    async fn audit(&self, filter: &AuditFilter, page: &Page) -> PortResult<Listed<AuditEvent>> {
        let (filter, page) = (filter.clone(), *page);
        self.read(move |conn, latest| audit::list(conn, &filter, &page, latest)).await
    }

    async fn ping(&self) -> PortResult<()> {
        // Through the writing thread: a read would not notice that it hangs.
        self.database
            .write(|conn| {
                conn.prepare_cached("SELECT 1 FROM projects LIMIT 1")?.exists([])?;
                Ok(())
            })
            .await
    }
}
