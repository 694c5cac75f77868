//! The store: registry, task state, audit. Every operation is one transaction.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use ulid::Ulid;
use utoipa::ToSchema;

use super::PortResult;
use crate::audit::{Actor, AuditEvent};
use crate::commit_status::ShownStatus;
use crate::dns::{Domain, DomainName};
use crate::event::BuildEvent;
use crate::git::CommitId;
use crate::git_url::GitUrl;
use crate::ids::{KeyId, Owner, ProjectId, TaskId, WorkerId};
use crate::key::ApiKey;
use crate::lease::{Holder, Lease, Progress};
use crate::page::{Listed, Page};
use crate::pipeline::CommitPipeline;
use crate::project::{Deletion, Project, ProjectPatch, Stage};
use crate::ref_look::RefLook;
use crate::request::{Begun, RequestKey, StoredAnswer};
use crate::spec::AgentName;
use crate::step::Event;
use crate::task::{Task, TaskState};
use crate::time::Timestamp;
use crate::wake_up::{DueAgents, OutboxEntry, WakeUp};
use crate::webhook::{Webhook, WebhookDelivery};
use crate::worker::Worker;

/// Where everything is kept. Steps 1 to 13 of `docs/protocol.md`.
///
/// Whoever changes something names the [`Actor`]; the change and its audit
/// event are one transaction. Operations that return [`OutboxEntry`]s have written
/// them; the caller sends the wake-ups ([`crate::outbox::send`]).
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Creates a project. One of the same id **and nonce** is returned as it is:
    /// the same request, repeated.
    ///
    /// Errors: `Conflict(ProjectExists)`.
    async fn create_project(
        &self,
        project: &Project,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Project>;

    /// One project. Errors: `NotFound`.
    async fn project(&self, id: &ProjectId) -> PortResult<Project>;

    /// Projects by creation, newest first (by `nonce`, the creating request's ULID).
    async fn projects(&self, page: &Page) -> PortResult<Listed<Project>>;

    /// Changes a project. A raised limit writes an outbox entry for each slot it adds and each
    /// agent that is due ([`DueAgents::for_slots`]).
    ///
    /// Errors: `NotFound`; `Conflict(ProjectNotReady)` when it is being deleted;
    /// `Conflict(ProjectChanged)` when it is not at the stage that the patch expects.
    async fn update_project(
        &self,
        id: &ProjectId,
        patch: &ProjectPatch,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<(Project, Vec<OutboxEntry>)>;

    /// Turns a project to `deleting` (so that no enqueue passes), records what `deletion` asks
    /// for, and cancels what is queued. Repeated: the same, and the newest request's `deletion`
    /// counts. The caller then removes what the project has in other systems and calls
    /// [`Store::forget_project`]; if it dies before that, the sweep finds the project
    /// ([`Swept::deleting`]).
    ///
    /// Errors: `NotFound`; `Conflict(ProjectChanged)` when it is not at the stage that is expected
    /// (`None`: any); `Conflict(TasksRunning)` while a task has a lease or is `pushing`;
    /// `Refused(NewerRecord)` while a task is queued whose record has a newer format: nothing but
    /// the newer program that wrote it can cancel it, and that one does it, or runs it, or deletes
    /// the project. Left in a project that is gone, nobody would look for it and it would never
    /// end. Then nothing changes: the project stays open, and what is queued stays queued.
    async fn begin_delete_project(
        &self,
        id: &ProjectId,
        deletion: Deletion,
        expected: Option<&Stage>,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Project>;

    /// Removes a project that is `deleting`, and its webhook; its tasks stay until they expire.
    /// The caller has removed its domains; remaining ones are removed too. `left` is for the audit:
    /// what stays in other systems, in words.
    ///
    /// Errors: `NotFound`; `Conflict(ProjectNotReady)` when it is in another state.
    async fn forget_project(
        &self,
        id: &ProjectId,
        left: Option<&str>,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<()>;

    /// Sets or removes a project's webhook: its URL in the project, its secret apart.
    ///
    /// Errors: `NotFound`; `Conflict(ProjectNotReady)` when it is being deleted.
    async fn set_webhook(
        &self,
        id: &ProjectId,
        webhook: Option<&Webhook>,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Project>;

    /// A project's webhook. `None` when it has none, or there is no such project.
    async fn webhook(&self, id: &ProjectId) -> PortResult<Option<Webhook>>;

    /// Reserves a name for a project, `pending`. One that the project has already is returned as
    /// it is; the caller checks whether it differs from what was requested.
    ///
    /// Errors: `NotFound` (no such project), `Conflict(DomainTaken)`,
    /// `Conflict(ProjectNotReady)` when the project is being deleted, `Conflict(ProjectReplaced)`
    /// when it is another one than the domain's.
    async fn reserve_domain(
        &self,
        domain: &Domain,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Domain>;

    /// Writes a domain that was changed; by name and id. `updated_at` becomes `now`.
    ///
    /// Errors: `NotFound` when the project has no such domain (any more).
    async fn update_domain(
        &self,
        domain: &Domain,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Domain>;

    /// Removes a domain; by name and id. One that is not there is nothing.
    async fn forget_domain(&self, domain: &Domain, by: &Actor, now: Timestamp) -> PortResult<()>;

    /// One domain of any project. Errors: `NotFound`.
    async fn domain(&self, name: &DomainName) -> PortResult<Domain>;

    /// Every domain of a project (there are few), newest first.
    async fn domains(&self, project: &ProjectId) -> PortResult<Vec<Domain>>;

    /// Up to `limit` deliveries (at most 100) whose next try is due, the longest due first.
    async fn due_deliveries(&self, now: Timestamp, limit: u32) -> PortResult<Vec<WebhookDelivery>>;

    /// Writes `after` if the delivery still is as `before`; whether it was.
    async fn update_delivery(
        &self,
        before: &WebhookDelivery,
        after: &WebhookDelivery,
    ) -> PortResult<bool>;

    /// Up to `limit` tasks (at most 100) whose commit status is due to be sent, the longest due
    /// first.
    async fn due_statuses(&self, now: Timestamp, limit: u32) -> PortResult<Vec<Task>>;

    /// Writes `after` as the task's commit status if that still is the one of `before`. The task as
    /// it is then; `None`: it is another one, or the task is gone.
    async fn update_status(&self, before: &Task, after: &ShownStatus) -> PortResult<Option<Task>>;

    /// A project's deliveries, newest first, without those of an earlier project of its name. Those
    /// that ended expire after [`crate::webhook::KEPT`].
    async fn deliveries(
        &self,
        project: &ProjectId,
        page: &Page,
    ) -> PortResult<Listed<WebhookDelivery>>;

    /// Keeps what is known of a commit's pipeline, unless something later (`at`) is kept already.
    async fn record_pipeline(&self, pipeline: &CommitPipeline, now: Timestamp) -> PortResult<()>;

    /// What is known of a commit's pipeline. Expires as the records of builds do.
    async fn pipeline(
        &self,
        project: &ProjectId,
        commit: &CommitId,
    ) -> PortResult<Option<CommitPipeline>>;

    /// Plans a look through a repository for refs that nobody needs, `at` a time or earlier
    /// ([`RefLook::planned`]).
    async fn plan_look(&self, repository: &GitUrl, at: Timestamp, now: Timestamp)
    -> PortResult<()>;

    /// Up to `limit` looks (at most 100) that are due, the longest due first.
    async fn due_looks(&self, now: Timestamp, limit: u32) -> PortResult<Vec<RefLook>>;

    /// Replaces a plan, or removes it, if it still is as `before`; whether it was.
    async fn update_look(&self, before: &RefLook, after: Option<&RefLook>) -> PortResult<bool>;

    /// Adds a task to its project's queue. A task of the same id, lineage and
    /// project that is there already is returned as it is, without an outbox entry.
    /// With `retry_of`, the old task's `retried_as` is set in the same transaction.
    ///
    /// Errors: `NotFound` (no such project), `Conflict(ProjectNotReady)`,
    /// `Conflict(ProjectReplaced)` for the task, or the task that it retries, of an earlier project
    /// of the same name; `Conflict(IdTaken)`.
    async fn enqueue(&self, task: &Task, by: &Actor, now: Timestamp) -> PortResult<Enqueued>;

    /// Claims a task for the project whose turn it is ([`crate::turn`]), of all that have a free
    /// slot and something due that `can` do. `hint` is the project that the wake-up named; when
    /// nothing can be claimed anywhere, the answer says why not there. Before, the expired leases
    /// of the hint are recovered if its slots are taken or nothing is due in it; so they are as
    /// well when nothing is due in it any more, because the claim has ended what was (see below).
    ///
    /// Of a project's due tasks the one of the lowest rank is claimed ([`crate::task::rank`]). A
    /// task whose record cannot be read, or whose type is unknown, fails as `poison`
    /// during that and blocks nothing. A task whose record has a newer format
    /// ([`crate::record`]) is left alone: what is queued behind it is claimed, but a lease
    /// on it keeps its slot. A task that an earlier project of the same name has left is cancelled.
    /// A project that is not there has [`Claim::Nothing`].
    /// Outbox entries of a recovery that leads to no claim wait for the sweep.
    async fn claim_next(
        &self,
        hint: &ProjectId,
        owner: &Owner,
        can: &Capabilities,
        now: Timestamp,
    ) -> PortResult<Claim>;

    /// A project that has a free slot and something due, whoever can do it; `None`: nothing waits.
    /// For a runner that looks for work without a wake-up.
    async fn waiting_project(&self, now: Timestamp) -> PortResult<Option<ProjectId>>;

    /// The agents that the project's due tasks need. Whoever has freed a slot asks this afterwards:
    /// nothing due, then no wake-up is needed, since what is queued later has its own. A store may
    /// look at the beginning of a long queue only ([`DueAgents::more`]).
    async fn due_agents(&self, project: &ProjectId, now: Timestamp) -> PortResult<DueAgents>;

    /// Recovers up to a page of expired leases, whatever project they are of. A wake-up that comes
    /// back may be one whose receiver claimed another project's task, and died.
    async fn recover_expired(&self, now: Timestamp) -> PortResult<Vec<OutboxEntry>>;

    /// Renews a lease and writes the attempt's progress.
    /// Events are stored also when the lease has passed its end but is still held.
    ///
    /// Errors: `Refused(Stale)`.
    async fn renew(
        &self,
        task: TaskId,
        holder: &Holder,
        progress: Progress<'_>,
        now: Timestamp,
    ) -> PortResult<Renewal>;

    /// Applies an event other than [`Event::Claim`] to a task:
    /// [`crate::step::step`] in one transaction, together with `record`.
    ///
    /// Errors: `NotFound`, `Refused(…)` (`Refused(NewerRecord)` for a record in a newer format);
    /// then nothing is written, not even the events.
    async fn advance(
        &self,
        task: TaskId,
        event: Event,
        record: Record,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Advanced>;

    /// One task with its lease. Errors: `NotFound`.
    async fn task(&self, id: TaskId) -> PortResult<TaskRecord>;

    /// Tasks, newest first.
    async fn tasks(&self, filter: &TaskFilter, page: &Page) -> PortResult<Listed<TaskRecord>>;

    /// Up to `limit` events of a task with a `seq` above `after`, oldest first.
    /// Errors: `NotFound` (no such task).
    async fn events(&self, task: TaskId, after: u64, limit: u32) -> PortResult<EventPage>;

    /// The unified diff of a task; `None` when it made none (or it expired).
    /// Errors: `NotFound` (no such task).
    async fn diff(&self, task: TaskId) -> PortResult<Option<String>>;

    /// How much there is to do.
    async fn work_stats(&self, now: Timestamp) -> PortResult<WorkStats>;

    /// Deletes outbox entries whose wake-ups were sent; unknown ones are nothing.
    async fn delete_outbox(&self, outbox: &[OutboxEntry]) -> PortResult<()>;

    /// One page of the minute's sweep (PROTOCOL step 11): recovers expired
    /// leases, finds what has to be woken, turns silent workers `offline` and
    /// stuck projects `provisioning_failed`, and deletes what has expired.
    /// If `more` is set, the caller calls again.
    async fn sweep(&self, now: Timestamp) -> PortResult<Swept>;

    /// Recovers every lease, expired or not, but for those of records in a newer format. Only for a
    /// store whose holders are known to be dead: one machine, at start, under the data folder's
    /// lock.
    async fn recover_all(&self, now: Timestamp) -> PortResult<Vec<OutboxEntry>>;

    /// Begins an idempotent request; `nonce` is taken if it is the first.
    async fn begin_request(
        &self,
        key: &RequestKey,
        body_sha256: &str,
        nonce: Ulid,
        now: Timestamp,
    ) -> PortResult<Begun>;

    /// Records the answer that repeats get.
    async fn finish_request(
        &self,
        key: &RequestKey,
        answer: &StoredAnswer,
        now: Timestamp,
    ) -> PortResult<()>;

    /// The request failed for a passing reason: a repeat runs at once, with the same nonce.
    async fn release_request(&self, key: &RequestKey, now: Timestamp) -> PortResult<()>;

    /// Stores a new key. Errors: `Conflict(IdTaken)`.
    async fn create_key(&self, key: &ApiKey, by: &Actor, now: Timestamp) -> PortResult<()>;

    /// One key, revoked or not. Errors: `NotFound`.
    async fn key(&self, id: &KeyId) -> PortResult<ApiKey>;

    /// Every key (there are few), newest first.
    async fn keys(&self) -> PortResult<Vec<ApiKey>>;

    /// Revokes a key; a revoked one stays as it is. Errors: `NotFound`.
    async fn revoke_key(&self, id: &KeyId, by: &Actor, now: Timestamp) -> PortResult<ApiKey>;

    /// A worker's report. Answers whether it is to drain. The worker's own
    /// `status` is kept, but `draining` while a drain is requested.
    async fn heartbeat(&self, worker: &Worker, now: Timestamp) -> PortResult<bool>;

    /// One worker. Errors: `NotFound`.
    async fn worker(&self, id: &WorkerId) -> PortResult<Worker>;

    /// Every worker that reported within the last day, by id.
    async fn workers(&self) -> PortResult<Vec<Worker>>;

    /// Asks a worker to drain, or to take work again. Errors: `NotFound`.
    async fn set_drain(
        &self,
        id: &WorkerId,
        drain: bool,
        by: &Actor,
        now: Timestamp,
    ) -> PortResult<Worker>;

    /// Records a message that ended in the dead-letter queue; the same id again is nothing new.
    async fn record_dead_letter(&self, letter: &DeadLetter) -> PortResult<()>;

    /// Dead letters, newest first.
    async fn dead_letters(&self, page: &Page) -> PortResult<Listed<DeadLetter>>;

    /// Removes a dead letter after it was dealt with; an unknown one is nothing.
    async fn delete_dead_letter(&self, id: Ulid, by: &Actor, now: Timestamp) -> PortResult<()>;

    /// The audit log, newest first.
    async fn audit(&self, filter: &AuditFilter, page: &Page) -> PortResult<Listed<AuditEvent>>;

    /// Whether the store answers; cheap.
    async fn ping(&self) -> PortResult<()>;
}

/// What a runner can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Its worker's id.
    pub worker_id: WorkerId,
    /// The agents it offers. Checks and pushes need none.
    pub agents: Vec<AgentName>,
}

/// A task with its lease.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRecord {
    /// The task.
    pub task: Task,
    /// Its lease, while somebody holds it.
    pub lease: Option<Lease>,
}

/// What enqueue did.
#[derive(Debug, Clone, PartialEq)]
pub struct Enqueued {
    /// The task as it is stored.
    pub task: Task,
    /// The entry to send.
    pub outbox: Vec<OutboxEntry>,
}

/// What a claim found.
#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// A task, now held by the claimer.
    Claimed(Box<Claimed>),
    /// Nothing is due; delete the wake-up.
    Nothing,
    /// Something is due, but every slot has a live holder: when one is freed, a wake-up follows.
    SlotsTaken,
    /// Something is due, but nothing that the claimer can do.
    Unsuited {
        /// What the first due task needs; `None` for one that every runner could do, if a newer
        /// program or an earlier project had not made it or somebody else had not taken it first.
        agent: Option<AgentName>,
    },
    /// Lost the race five times.
    Contended,
}

/// A claimed task.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// The task.
    pub task: Task,
    /// The claimer's lease.
    pub lease: Lease,
    /// Its project.
    pub project: Project,
    /// Outbox entries that recoveries during the claim have written.
    pub outbox: Vec<OutboxEntry>,
}

/// What a renewal answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// Somebody asked to cancel the task.
    pub cancel_requested: bool,
    /// When the lease ends now.
    pub until: Timestamp,
}

/// What an event's transaction writes beside the task.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Record {
    /// Events that were not written yet.
    pub events: Vec<BuildEvent>,
    /// The task's diff.
    pub diff: Option<String>,
    /// The forge shows statuses at the commits of the task's repository: the task has a
    /// [`ShownStatus`] from now on.
    pub shows_status: bool,
}

/// What an event did.
#[derive(Debug, Clone, PartialEq)]
pub struct Advanced {
    /// The task after it.
    pub task: Task,
    /// Its lease after it.
    pub lease: Option<Lease>,
    /// The outbox entries to send.
    pub outbox: Vec<OutboxEntry>,
}

/// Which tasks a list has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskFilter {
    /// Only this project's. While there is a project of the name, those of earlier projects of the
    /// same name are left out.
    pub project: Option<ProjectId>,
    /// Only those in this state.
    pub state: Option<TaskState>,
    /// Only builds.
    pub builds_only: bool,
}

/// Which audit events a list has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditFilter {
    /// Only this project's.
    pub project: Option<ProjectId>,
}

/// A part of a task's events.
#[derive(Debug, Clone, PartialEq)]
pub struct EventPage {
    /// The events, oldest first.
    pub events: Vec<BuildEvent>,
    /// The task's state, read **before** the events: when it is terminal and
    /// there are fewer events than `limit`, there will be no more.
    pub state: TaskState,
}

/// How much there is to do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct WorkStats {
    /// Tasks that could be claimed now, unowned pushes too.
    pub due: u64,
    /// Tasks that back off or are parked.
    pub later: u64,
    /// Tasks that run.
    pub running: u64,
    /// Tasks that push and have a holder.
    pub pushing: u64,
    /// For how long the oldest due task has been due, in milliseconds.
    pub oldest_due_ms: Option<u64>,
    /// Dead letters.
    pub dead_letters: u64,
}

/// A message that could not be delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetter {
    /// Its own id.
    #[schema(value_type = String)]
    pub id: Ulid,
    /// When it was recorded.
    pub at: Timestamp,
    /// Its text, at most 16 KiB.
    pub body: String,
    /// Why it is here: `garbage`, `unknown_version` or `undelivered`.
    pub reason: String,
    /// The project it would have woken.
    pub project_id: Option<ProjectId>,
    /// How often it was received.
    pub receive_count: u32,
}

/// What one page of a sweep did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Swept {
    /// Outbox entries past their time and outbox entries just written, to be sent.
    pub outbox: Vec<OutboxEntry>,
    /// Wake-ups of projects with something due and a free slot that may have none under way: one
    /// for each agent that is due, so that tasks for an absent agent hide no others.
    pub wake: Vec<WakeUp>,
    /// Projects whose deletion was cut short, as they are: `deleting`, and unchanged for
    /// [`crate::project::ABANDONED_AFTER`]. The caller ends their deletion. Each is found again
    /// only after that time, so that of two sweeps only one has it.
    pub deleting: Vec<Project>,
    /// How many leases were recovered.
    pub recovered: u64,
    /// How many workers went offline.
    pub offline: u64,
    /// How many records were deleted because they had expired.
    pub expired: u64,
    /// There is more to do.
    pub more: bool,
}
