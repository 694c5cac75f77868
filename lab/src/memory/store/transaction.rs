//! The state, and what a transaction does with it beside its own business.
//!
//! A transaction is a function that has the state for itself. It reads and refuses before it
//! writes, so that one that fails has changed nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdev_domain::audit::{Actor, AuditEvent};
use rdev_domain::dns::{Domain, DomainName};
use rdev_domain::ids::{KeyId, ProjectId, TaskId, WorkerId};
use rdev_domain::key::ApiKey;
use rdev_domain::pipeline::CommitPipeline;
use rdev_domain::ports::DeadLetter;
use rdev_domain::project::Project;
use rdev_domain::record::Format;
use rdev_domain::ref_look::RefLook;
use rdev_domain::retention::Retention;
use rdev_domain::secret::Secret;
use rdev_domain::spec::AgentName;
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::{OutboxEntry, WakeUp};
use rdev_domain::webhook::WebhookDelivery;
use ulid::Ulid;

use super::requests::Request;
use super::rows::Row;
use super::workers::KnownWorker;

/// The process that wrote an outbox entry this old will not send it.
const OVERDUE_AFTER: Duration = Duration::from_secs(30);

/// Everything that is kept.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) retention: Retention,
    /// The format of the program whose operation this is.
    pub(super) format: Format,
    /// Whether a sweep also wakes for what was parked and a claim has already seen due.
    pub(super) sweeps_wake_too: bool,
    /// The latest time that any caller has passed. Readers do not see what had expired by then.
    pub(super) latest: Timestamp,
    last_id: Ulid,
    pub(super) projects: BTreeMap<ProjectId, Project>,
    /// When the latest claim of each project was.
    pub(super) served: BTreeMap<ProjectId, Timestamp>,
    pub(super) webhook_secrets: BTreeMap<ProjectId, Secret>,
    pub(super) tasks: BTreeMap<TaskId, Row>,
    /// The tasks that have not ended: the queues, the slots and the leases are theirs.
    pub(super) live: BTreeSet<(ProjectId, TaskId)>,
    pub(super) outbox: BTreeMap<(Timestamp, Ulid), WakeUp>,
    pub(super) audit: BTreeMap<Ulid, (AuditEvent, Option<Timestamp>)>,
    pub(super) domains: BTreeMap<DomainName, Domain>,
    pub(super) deliveries: BTreeMap<Ulid, WebhookDelivery>,
    pub(super) pipelines: BTreeMap<(ProjectId, String), (CommitPipeline, Option<Timestamp>)>,
    pub(super) requests: BTreeMap<String, Request>,
    pub(super) keys: BTreeMap<KeyId, ApiKey>,
    pub(super) workers: BTreeMap<WorkerId, KnownWorker>,
    pub(super) dead_letters: BTreeMap<Ulid, DeadLetter>,
    /// By the repository's URL.
    pub(super) ref_looks: BTreeMap<String, RefLook>,
}

/// One writing transaction: who changes the store, and when.
pub(super) struct Tx<'a> {
    pub(super) state: &'a mut State,
    pub(super) by: &'a Actor,
    pub(super) now: Timestamp,
}

impl State {
    pub(super) fn new(retention: Retention) -> Self {
        Self {
            retention,
            format: Format::CURRENT,
            sweeps_wake_too: false,
            latest: Timestamp::MIN,
            last_id: Ulid::nil(),
            projects: BTreeMap::new(),
            served: BTreeMap::new(),
            webhook_secrets: BTreeMap::new(),
            tasks: BTreeMap::new(),
            live: BTreeSet::new(),
            outbox: BTreeMap::new(),
            audit: BTreeMap::new(),
            domains: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            pipelines: BTreeMap::new(),
            requests: BTreeMap::new(),
            keys: BTreeMap::new(),
            workers: BTreeMap::new(),
            dead_letters: BTreeMap::new(),
            ref_looks: BTreeMap::new(),
        }
    }
}

impl Tx<'_> {
    /// A new ULID of now, greater than every one before. Nothing in it is random, so that a run
    /// can be repeated.
    pub(super) fn next_id(&mut self) -> Ulid {
        const LATEST: i64 = (1 << 48) - 1;
        let millis = u64::try_from(self.now.as_millis().clamp(0, LATEST)).unwrap_or(0);
        let (fresh, last) = (Ulid::from_parts(millis, 0), self.state.last_id);
        self.state.last_id = if fresh > last { fresh } else { last.increment().unwrap_or(fresh) };
        self.state.last_id
    }

    /// Records that the actor of the transaction has done `action` to `subject`.
    pub(super) fn record(&mut self, action: &str, subject: String, project: Option<&ProjectId>) {
        self.record_with(action, subject, project, None);
    }

    /// Like [`Tx::record`], with what else is to be known of it.
    pub(super) fn record_with(
        &mut self,
        action: &str,
        subject: String,
        project: Option<&ProjectId>,
        detail: Option<&str>,
    ) {
        let event = AuditEvent {
            id: self.next_id(),
            at: self.now,
            actor: self.by.name(),
            action: action.to_owned(),
            subject,
            project_id: project.cloned(),
            detail: detail.map(str::to_owned),
            request_id: self.by.request_id.clone(),
        };
        let expires_at = self.state.retention.audit_expires_at(self.now);
        self.state.audit.insert(event.id, (event, expires_at));
    }

    /// Writes an outbox entry for each time at which the wake-up is to be sent.
    pub(super) fn wake(
        &mut self,
        project: &ProjectId,
        agent: Option<AgentName>,
        times: &[Timestamp],
    ) -> Vec<OutboxEntry> {
        let entry = |&send_at| {
            let wake_up = WakeUp { project_id: project.clone(), agent };
            let id = self.next_id();
            self.state.outbox.insert((send_at, id), wake_up.clone());
            entry_of((send_at, id), wake_up)
        };
        times.iter().map(entry).collect()
    }

    /// The entries that their writers should have sent by now.
    pub(super) fn overdue_outbox(&self) -> Vec<OutboxEntry> {
        let until = (self.now.minus(OVERDUE_AFTER), Ulid(u128::MAX));
        let overdue = self.state.outbox.range(..=until);
        overdue.map(|(&key, wake_up)| entry_of(key, wake_up.clone())).collect()
    }
}

fn entry_of((send_at, id): (Timestamp, Ulid), wake_up: WakeUp) -> OutboxEntry {
    OutboxEntry { id, project_id: wake_up.project_id, agent: wake_up.agent, send_at }
}

/// Whether something that expires then has expired at `now`.
pub(super) fn expired(expires_at: Option<Timestamp>, now: Timestamp) -> bool {
    expires_at.is_some_and(|at| at <= now)
}
