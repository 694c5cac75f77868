//! Store and queue as a runner or a user reaches them: slow, away, and with lost answers.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rdev_domain::audit::{Actor, AuditEvent};
use rdev_domain::commit_status::ShownStatus;
use rdev_domain::dns::{Domain, DomainName};
use rdev_domain::git::{CommitId, RecordedRef};
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::{KeyId, Owner, ProjectId, TaskId, WorkerId};
use rdev_domain::key::ApiKey;
use rdev_domain::lease::{Holder, Progress};
use rdev_domain::outbox::MAX_DELAY;
use rdev_domain::page::{Listed, Page};
use rdev_domain::pipeline::CommitPipeline;
use rdev_domain::ports::{
    Advanced, AuditFilter, Capabilities, Claim, CommitStatus, DeadLetter, DeadMessage, Enqueued,
    EventPage, Forge, FoundPullRequest, NewRepository, OpenedPullRequest, OwnRepository, PortError,
    PortResult, PullRequest, PullRequestBranches, PushTarget, Queue, QueueStats, Receipt,
    ReceivedMessage, Record, Renewal, Repository, Standing, Store, Swept, TaskFilter, TaskRecord,
    WorkStats,
};
use rdev_domain::project::{Deletion, Project, ProjectPatch, Stage};
use rdev_domain::ref_look::RefLook;
use rdev_domain::request::{Begun, RequestKey, StoredAnswer};
use rdev_domain::step::Event;
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::{DueAgents, OutboxEntry, WakeUp};
use rdev_domain::webhook::{Webhook, WebhookDelivery};
use rdev_domain::worker::Worker;
use ulid::Ulid;

use super::check::record;
use super::faults::Fault;
use super::plan::Broken;
use super::server::Server;
use super::world::World;
use crate::memory::{MemoryQueue, MemoryStore};

/// The way of one process to the store and the queue.
#[derive(Clone)]
struct Line {
    world: Arc<World>,
    name: String,
}

impl Line {
    /// Makes a call. It may fail before it is made, and its answer may get lost.
    async fn call<T>(
        &self,
        what: &'static str,
        faults: [Fault; 2],
        call: impl Future<Output = PortResult<T>>,
    ) -> PortResult<T> {
        let world = &self.world;
        let [error, lost] = faults;
        tokio::time::sleep(world.millis(1, 25)).await;
        if world.is_store_away() || world.fails(error, world.plan.per_mille) {
            tokio::time::sleep(world.millis(1, 8_000)).await;
            return Err(PortError::unavailable("the simulated port", "it is away"));
        }
        let outcome = call.await;
        world.trace(|| {
            let outcome = outcome.as_ref().map(|_| ()).map_err(ToString::to_string);
            format!("{} {what}: {outcome:?}", self.name)
        });
        if outcome.is_ok() && world.fails(lost, world.plan.per_mille) {
            tokio::time::sleep(world.millis(1_000, 20_000)).await;
            return Err(PortError::TimedOut { what: "the simulated port" });
        }
        tokio::time::sleep(world.millis(1, 25)).await;
        outcome
    }
}

/// The store at the end of a line.
pub(super) struct FaultyStore {
    line: Line,
    inner: Arc<MemoryStore>,
    server: Arc<Server>,
}

const STORE: [Fault; 2] = [Fault::StoreError, Fault::StoreAnswerLost];
const QUEUE: [Fault; 2] = [Fault::QueueError, Fault::QueueAnswerLost];

impl FaultyStore {
    pub(super) fn new(
        world: &Arc<World>,
        name: &str,
        inner: &Arc<MemoryStore>,
        server: &Arc<Server>,
    ) -> Self {
        let line = Line { world: Arc::clone(world), name: name.to_owned() };
        Self { line, inner: Arc::clone(inner), server: Arc::clone(server) }
    }
}

/// Makes an event as the current holder of the task would, where the fence is to be ignored.
fn with_holder(mut event: Event, current: Holder) -> Event {
    match &mut event {
        Event::Prepare { holder, .. }
        | Event::Finish { holder, .. }
        | Event::Complete { holder, .. }
        | Event::Fail { holder, .. }
        | Event::Release { holder }
        | Event::Restart { holder } => *holder = current,
        Event::Claim { .. } | Event::Cancel | Event::Recover { .. } => {}
    }
    event
}

/// Applies an event, and notes what the checks need to know of it.
async fn apply(
    (world, inner, server): (Arc<World>, Arc<MemoryStore>, Arc<Server>),
    task: TaskId,
    event: Event,
    record_of: Record,
    by: Actor,
    now: Timestamp,
) -> PortResult<Advanced> {
    let lease = record(&inner, task).and_then(|record| record.lease);
    let event = match lease.filter(|_| world.plan.broken == Some(Broken::FenceIgnored)) {
        Some(lease) => with_holder(event, Holder { fence: lease.fence, owner: lease.owner }),
        None => event,
    };
    let ticket = match &event {
        Event::Prepare { prepared, .. } => Some((prepared.atomic, prepared.wip)),
        _ => None,
    };
    let what = world.is_traced().then(|| format!("{event:?}"));
    let outcome = inner.advance(task, event, record_of, &by, now).await;
    world.trace(|| {
        let state = outcome.as_ref().map(|advanced| advanced.task.state);
        format!("{} advances {task} by {what:?}: {state:?}", by.name())
    });
    if let (Ok(_), Some((atomic, wip))) = (&outcome, ticket) {
        let mut server = server.state();
        let chain = server.chains.get(&task).copied().unwrap_or(task);
        match atomic {
            true => {
                let tickets = server.prepared.entry(chain).or_default();
                tickets.insert((wip.task, wip.fence));
            }
            false => {
                server.prepared.remove(&chain);
            }
        }
    }
    outcome
}

macro_rules! store {
    ($($name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Store for FaultyStore {
            $(async fn $name(&self, $($arg: $type),*) -> PortResult<$answer> {
                let call = self.inner.$name($($arg),*);
                self.line.call(stringify!($name), STORE, call).await
            })*

            async fn advance(
                &self,
                task: TaskId,
                event: Event,
                record: Record,
                by: &Actor,
                now: Timestamp,
            ) -> PortResult<Advanced> {
                let world = &self.line.world;
                let parts = (Arc::clone(world), Arc::clone(&self.inner), Arc::clone(&self.server));
                let call = apply(parts, task, event, record, by.clone(), now);
                if world.fails(Fault::StoreLate, world.plan.per_mille) {
                    let late = world.millis(1_000, 180_000);
                    world.under_way(false);
                    let arrived = Arc::clone(world);
                    tokio::spawn(async move {
                        tokio::time::sleep(late).await;
                        // Nobody waits for the answer any more.
                        let _ = call.await;
                        arrived.under_way(true);
                    });
                    tokio::time::sleep(world.millis(500, 5_000)).await;
                    return Err(PortError::TimedOut { what: "the simulated store" });
                }
                self.line.call("advance", STORE, call).await
            }

            async fn renew(
                &self,
                task: TaskId,
                holder: &Holder,
                progress: Progress<'_>,
                now: Timestamp,
            ) -> PortResult<Renewal> {
                let forgets = self.line.world.plan.broken == Some(Broken::UnverifiedForgotten);
                let forgotten = progress.own_refs.filter(|_| forgets).map(|refs| {
                    let refs = refs.iter().cloned();
                    refs.map(|one| RecordedRef { unverified: false, ..one }).collect::<Vec<_>>()
                });
                let own_refs = forgotten.as_deref().or(progress.own_refs);
                let call = self.inner.renew(task, holder, Progress { own_refs, ..progress }, now);
                self.line.call("renew", STORE, call).await
            }
        }
    };
}

store! {
    create_project(project: &Project, by: &Actor, now: Timestamp) -> Project;
    project(id: &ProjectId) -> Project;
    projects(page: &Page) -> Listed<Project>;
    update_project(id: &ProjectId, patch: &ProjectPatch, by: &Actor, now: Timestamp) -> (Project, Vec<OutboxEntry>);
    begin_delete_project(id: &ProjectId, deletion: Deletion, expected: Option<&Stage>, by: &Actor, now: Timestamp) -> Project;
    forget_project(id: &ProjectId, left: Option<&str>, by: &Actor, now: Timestamp) -> ();
    set_webhook(id: &ProjectId, webhook: Option<&Webhook>, by: &Actor, now: Timestamp) -> Project;
    webhook(id: &ProjectId) -> Option<Webhook>;
    reserve_domain(domain: &Domain, by: &Actor, now: Timestamp) -> Domain;
    update_domain(domain: &Domain, by: &Actor, now: Timestamp) -> Domain;
    forget_domain(domain: &Domain, by: &Actor, now: Timestamp) -> ();
    domain(name: &DomainName) -> Domain;
    domains(project: &ProjectId) -> Vec<Domain>;
    due_deliveries(now: Timestamp, limit: u32) -> Vec<WebhookDelivery>;
    update_delivery(before: &WebhookDelivery, after: &WebhookDelivery) -> bool;
    due_statuses(now: Timestamp, limit: u32) -> Vec<Task>;
    update_status(before: &Task, after: &ShownStatus) -> Option<Task>;
    deliveries(project: &ProjectId, page: &Page) -> Listed<WebhookDelivery>;
    record_pipeline(pipeline: &CommitPipeline, now: Timestamp) -> ();
    pipeline(project: &ProjectId, commit: &CommitId) -> Option<CommitPipeline>;
    plan_look(repository: &GitUrl, at: Timestamp, now: Timestamp) -> ();
    due_looks(now: Timestamp, limit: u32) -> Vec<RefLook>;
    update_look(before: &RefLook, after: Option<&RefLook>) -> bool;
    enqueue(task: &Task, by: &Actor, now: Timestamp) -> Enqueued;
    claim_next(hint: &ProjectId, owner: &Owner, can: &Capabilities, now: Timestamp) -> Claim;
    waiting_project(now: Timestamp) -> Option<ProjectId>;
    due_agents(project: &ProjectId, now: Timestamp) -> DueAgents;
    recover_expired(now: Timestamp) -> Vec<OutboxEntry>;
    task(id: TaskId) -> TaskRecord;
    tasks(filter: &TaskFilter, page: &Page) -> Listed<TaskRecord>;
    events(task: TaskId, after: u64, limit: u32) -> EventPage;
    diff(task: TaskId) -> Option<String>;
    work_stats(now: Timestamp) -> WorkStats;
    delete_outbox(outbox: &[OutboxEntry]) -> ();
    sweep(now: Timestamp) -> Swept;
    recover_all(now: Timestamp) -> Vec<OutboxEntry>;
    begin_request(key: &RequestKey, body_sha256: &str, nonce: Ulid, now: Timestamp) -> Begun;
    finish_request(key: &RequestKey, answer: &StoredAnswer, now: Timestamp) -> ();
    release_request(key: &RequestKey, now: Timestamp) -> ();
    create_key(key: &ApiKey, by: &Actor, now: Timestamp) -> ();
    key(id: &KeyId) -> ApiKey;
    keys() -> Vec<ApiKey>;
    revoke_key(id: &KeyId, by: &Actor, now: Timestamp) -> ApiKey;
    heartbeat(worker: &Worker, now: Timestamp) -> bool;
    worker(id: &WorkerId) -> Worker;
    workers() -> Vec<Worker>;
    set_drain(id: &WorkerId, drain: bool, by: &Actor, now: Timestamp) -> Worker;
    record_dead_letter(letter: &DeadLetter) -> ();
    dead_letters(page: &Page) -> Listed<DeadLetter>;
    delete_dead_letter(id: Ulid, by: &Actor, now: Timestamp) -> ();
    audit(filter: &AuditFilter, page: &Page) -> Listed<AuditEvent>;
    ping() -> ();
}

/// The queue at the end of a line: it also loses, doubles and delays messages.
pub(super) struct FaultyQueue {
    line: Line,
    inner: Arc<MemoryQueue>,
}

impl FaultyQueue {
    pub(super) fn new(world: &Arc<World>, name: &str, inner: &Arc<MemoryQueue>) -> Self {
        let line = Line { world: Arc::clone(world), name: name.to_owned() };
        Self { line, inner: Arc::clone(inner) }
    }

    fn fails(&self, fault: Fault) -> bool {
        let world = &self.line.world;
        world.fails(fault, world.plan.per_mille)
    }
}

#[async_trait]
impl Queue for FaultyQueue {
    async fn send(&self, wake_up: &WakeUp, delay: Duration) -> PortResult<()> {
        let older = self.line.world.plan.older_api && self.line.name == "user";
        let wake_up = &WakeUp { agent: wake_up.agent.filter(|_| !older), ..wake_up.clone() };
        let send = async {
            if self.fails(Fault::WakeUpLost) {
                return Ok(());
            }
            if self.fails(Fault::Garbage) {
                let text = if self.line.world.happens(500) { "garbage" } else { "{\"v\":99}" };
                self.inner.send_text(text.to_owned(), delay);
            }
            if self.fails(Fault::WakeUpDoubled) {
                self.inner.send(wake_up, delay).await?;
            }
            let late = self.fails(Fault::WakeUpLate);
            let more = if late { self.line.world.millis(1_000, 300_000) } else { Duration::ZERO };
            self.inner.send(wake_up, (delay + more).min(MAX_DELAY)).await
        };
        self.line.call("send", QUEUE, send).await
    }

    async fn receive(&self, wait: Duration) -> PortResult<Option<ReceivedMessage>> {
        let received = self.line.call("receive", QUEUE, self.inner.receive(wait)).await?;
        if received.is_some() && self.fails(Fault::WakeUpUnseen) {
            return Ok(None);
        }
        Ok(received)
    }

    async fn delete(&self, receipt: &Receipt) -> PortResult<()> {
        let delete = async {
            if self.fails(Fault::WakeUpUndeleted) {
                return Ok(());
            }
            self.inner.delete(receipt).await
        };
        self.line.call("delete", QUEUE, delete).await
    }

    async fn set_visibility(&self, receipt: &Receipt, after: Duration) -> PortResult<()> {
        let set = self.inner.set_visibility(receipt, after);
        self.line.call("set_visibility", QUEUE, set).await
    }

    async fn receive_dead(&self, limit: u32) -> PortResult<Vec<DeadMessage>> {
        self.line.call("receive_dead", QUEUE, self.inner.receive_dead(limit)).await
    }

    async fn delete_dead(&self, receipt: &Receipt) -> PortResult<()> {
        self.line.call("delete_dead", QUEUE, self.inner.delete_dead(receipt)).await
    }

    async fn stats(&self) -> PortResult<QueueStats> {
        self.line.call("stats", QUEUE, self.inner.stats()).await
    }
}

fn page_of(branches: &PullRequestBranches) -> String {
    format!("{}/pulls/{}", branches.git_url, branches.head)
}

/// A forge that opens every pull request.
pub(super) struct SimulatedForge {
    line: Line,
}

impl SimulatedForge {
    pub(super) fn new(world: &Arc<World>, name: &str) -> Self {
        Self { line: Line { world: Arc::clone(world), name: name.to_owned() } }
    }
}

#[async_trait]
impl Forge for SimulatedForge {
    async fn create_repository(&self, _: &NewRepository) -> PortResult<Repository> {
        Err(PortError::NotSupported { what: "making a repository" })
    }

    async fn delete_repository(&self, _: &OwnRepository) -> PortResult<()> {
        Err(PortError::NotSupported { what: "deleting a repository" })
    }

    async fn pull_request(&self, request: &PullRequest) -> PortResult<OpenedPullRequest> {
        let url = page_of(&request.branches);
        let opened = async {
            self.line.world.open_pull_request(&url, &request.commit);
            Ok(OpenedPullRequest::at(url))
        };
        self.line.call("pull_request", STORE, opened).await
    }

    async fn find_pull_request(
        &self,
        branches: &PullRequestBranches,
    ) -> PortResult<Option<FoundPullRequest>> {
        let url = page_of(branches);
        let found = async {
            let commit = self.line.world.pull_request(&url);
            Ok(commit.map(|commit| FoundPullRequest { url, commit }))
        };
        self.line.call("find_pull_request", STORE, found).await
    }

    async fn standing(&self, _of: &PushTarget) -> PortResult<Standing> {
        Err(PortError::NotSupported { what: "a look at a repository" })
    }

    fn shows_statuses(&self, _: &GitUrl) -> bool {
        true
    }

    async fn set_status(&self, _: &CommitStatus) -> PortResult<()> {
        self.line.call("set_status", STORE, async { Ok(()) }).await
    }
}
