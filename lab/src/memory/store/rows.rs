//! A task as it is kept, and the ways to change it: a step of the state machine, or its end when
//! its record cannot be read.

use std::collections::BTreeMap;

use rdev_domain::event::BuildEvent;
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::ids::{Fence, TaskId};
use rdev_domain::lease::Lease;
use rdev_domain::ports::{PortError, PortResult, TaskRecord};
use rdev_domain::record::{self, Decoded, Format};
use rdev_domain::spec::{AgentName, Work};
use rdev_domain::step::{Event, step};
use rdev_domain::task::{QueuePlace, Task, TaskState};
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::OutboxEntry;
use rdev_domain::webhook::WebhookDelivery;

use super::transaction::{State, Tx};

/// A task with everything that belongs to it.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) task: Task,
    reading: Reading,
    /// The version of the program that wrote the record.
    version: u64,
    /// The agent that the task was queued for. Databases keep it beside the record.
    pub(super) agent: Option<AgentName>,
    pub(super) lease: Option<Lease>,
    /// It was to become due later when it was queued, and no sweep has seen it due.
    pub(super) parked: bool,
    /// A sweep is to wake its project when it is due.
    pub(super) unswept: bool,
    pub(super) events: BTreeMap<u64, BuildEvent>,
    pub(super) diff: Option<String>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) events_expire_at: Option<Timestamp>,
}

/// Whether a task's record can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    Readable,
    /// No version of rdev could have written it.
    Corrupt,
    /// A newer version wrote it.
    Newer,
}

impl Row {
    /// A task that a program of this format enqueues at `now`.
    pub(super) fn new(task: Task, now: Timestamp, format: Format) -> Self {
        Self {
            parked: task.available_at > now,
            unswept: task.available_at > now,
            agent: task.work.agent(),
            task,
            reading: Reading::Readable,
            version: format.version(),
            lease: None,
            events: BTreeMap::new(),
            diff: None,
            expires_at: None,
            events_expire_at: None,
        }
    }

    /// Its place in the queue.
    pub(super) fn place(&self, now: Timestamp) -> Option<QueuePlace> {
        self.task.queue_place(self.lease.is_some(), now)
    }

    /// The agent that a runner must offer to claim it.
    pub(super) fn needs(&self) -> Option<AgentName> {
        // A push needs none.
        self.agent.filter(|_| self.task.state != TaskState::Pushing)
    }

    /// Whether a program of this format can read it.
    pub(super) fn reading(&self, format: Format) -> Reading {
        match self.reading {
            Reading::Readable if format.leaves(self.version) => Reading::Newer,
            reading => reading,
        }
    }

    /// What a program of this format shows.
    pub(super) fn record(&self, format: Format) -> TaskRecord {
        let task = match (self.reading, self.reading(format)) {
            (Reading::Readable, Reading::Newer) => {
                self.rebuilt(record::unreadable_work(self.task.work.kind()))
            }
            _ => self.task.clone(),
        };
        TaskRecord { task, lease: self.lease.clone() }
    }

    /// Replaces the task, as a program of this format writes it.
    pub(super) fn write(&mut self, task: Task, format: Format) {
        (self.task, self.version, self.reading) = (task, format.version(), Reading::Readable);
    }

    /// Adds events; those that are there stay as they are.
    pub(super) fn add_events(&mut self, events: &[BuildEvent]) {
        for event in events {
            self.events.entry(event.seq).or_insert_with(|| event.clone());
        }
    }

    /// Replaces the record, as a defect or another version would. What cannot be decoded is
    /// rebuilt from what databases keep beside it.
    pub(super) fn replace(&mut self, kind: &str, body: &str) {
        let there = &self.task;
        let decoded = Format::CURRENT.decode(body.as_bytes());
        let newer = decoded == Decoded::Newer;
        let task = match decoded {
            Decoded::Task(task) => Some(task),
            // A task that has ended is only shown.
            Decoded::UnreadableWork(task) => Some(task).filter(|task| task.state.is_terminal()),
            Decoded::Newer | Decoded::Undecodable => None,
        };
        let same = |task: &Task| {
            (task.id, task.state, &task.project_id) == (there.id, there.state, &there.project_id)
        };
        if let Some(task) = task.filter(|task| same(task)) {
            self.write(*task, Format::CURRENT);
        } else if newer {
            self.task = self.rebuilt(record::unreadable_work(kind));
            self.reading = Reading::Newer;
        } else {
            let agent = self.agent.map_or("", |agent| agent.as_str());
            self.task = self.rebuilt(record::work_beside_body(kind, agent));
            let message = "the task's record cannot be read";
            // What cannot be read may have been pushed, and may still land.
            let push_in_doubt = self.task.state == TaskState::Pushing;
            let failure = Failure::new(FailureClass::Poison, message);
            self.task.failure = Some(Failure { push_in_doubt, ..failure });
            self.reading = Reading::Corrupt;
        }
    }

    fn rebuilt(&self, work: Work) -> Task {
        let there = &self.task;
        let created = i64::try_from(there.id.0.timestamp_ms()).unwrap_or(i64::MAX);
        let created = Timestamp::from_millis(created);
        Task {
            state: there.state,
            priority: there.priority,
            available_at: there.available_at,
            notify: there.notify,
            project_nonce: there.project_nonce,
            fence: self.lease.as_ref().map_or(Fence(0), |lease| lease.fence),
            ..Task::new(there.id, there.project_id.clone(), work, created)
        }
    }
}

/// The error for a task that does not exist.
pub(super) fn not_found(id: TaskId) -> PortError {
    PortError::not_found(format!("task \"{id}\""))
}

/// The name of a task in the audit log.
pub(super) fn subject(id: TaskId) -> String {
    format!("task/{id}")
}

impl State {
    /// A task, expired or not. Errors: `NotFound`.
    pub(super) fn row(&mut self, id: TaskId) -> PortResult<&mut Row> {
        self.tasks.get_mut(&id).ok_or_else(|| not_found(id))
    }
}

impl Tx<'_> {
    /// Applies an event to a task whose record can be read, and writes what follows from it.
    pub(super) fn apply(&mut self, id: TaskId, event: Event) -> PortResult<Vec<OutboxEntry>> {
        self.apply_told(id, event, false)
    }

    /// Like [`Tx::apply`]; `shows_status`: the holder tells that the forge shows statuses.
    pub(super) fn apply_told(
        &mut self,
        id: TaskId,
        event: Event,
        shows_status: bool,
    ) -> PortResult<Vec<OutboxEntry>> {
        let (now, format) = (self.now, self.state.format);
        let row = self.state.row(id)?;
        let task = Task { shows_status: row.task.shows_status || shows_status, ..row.task.clone() };
        let step = step(&task, row.lease.as_ref(), event, now)?;
        row.write(step.task, format);
        row.lease = step.lease;
        let (project, agent) = (row.task.project_id.clone(), row.task.work.agent());
        self.written(id);
        self.record(step.action, subject(id), Some(&project));
        Ok(self.wake(&project, agent, &step.wake_ups))
    }

    /// Ends a task whose record is corrupt as `poison`.
    pub(super) fn poison(&mut self, id: TaskId) -> PortResult<Vec<OutboxEntry>> {
        let (now, format) = (self.now, self.state.format);
        let row = self.state.row(id)?;
        let held = row.lease.take().is_some();
        let (state, finished_at) = (TaskState::Failed, Some(now));
        let task = Task { state, updated_at: now, finished_at, ..row.task.clone() };
        row.write(task, format);
        let (project, agent) = (row.task.project_id.clone(), row.task.work.agent());
        self.written(id);
        self.record("task.failed", subject(id), Some(&project));
        let wake_ups = if held { &[now][..] } else { &[] };
        Ok(self.wake(&project, agent, wake_ups))
    }

    /// What follows from the new state of a task: its place in the queue; and when it has ended,
    /// it expires some day, and its end is announced.
    fn written(&mut self, id: TaskId) {
        let retention = self.state.retention;
        let Some(row) = self.state.tasks.get_mut(&id) else { return };
        row.parked = matches!(row.place(self.now), Some(QueuePlace::Later { .. }));
        row.unswept = row.parked;
        if !row.task.state.is_terminal() {
            return;
        }
        row.expires_at = retention.task_expires_at(&row.task, self.now);
        let events = retention.events_expire_at(self.now);
        // Events do not outlive their task.
        row.events_expire_at = match (row.expires_at, events) {
            (Some(task), Some(events)) => Some(task.min(events)),
            (task, events) => task.or(events),
        };
        let task = row.task.clone();
        self.state.live.remove(&(task.project_id.clone(), id));
        if task.notify {
            let id = self.next_id();
            let delivery = WebhookDelivery::of(&task, id, self.now);
            self.state.deliveries.extend(delivery.map(|delivery| (id, delivery)));
        }
    }
}
