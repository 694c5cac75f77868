//! Everything that a store shows, in a form that can be compared.

use rdev_domain::audit::AuditEvent;
use rdev_domain::event::BuildEvent;
use rdev_domain::ids::TaskId;
use rdev_domain::page::Page;
use rdev_domain::ports::{AuditFilter, PortResult, Store, TaskFilter, TaskRecord, WorkStats};
use rdev_domain::project::Project;
use rdev_domain::task::{Task, TaskState};
use rdev_domain::time::Timestamp;
use rdev_domain::webhook::WebhookDelivery;
use ulid::Ulid;

use super::call::listed;

/// How much is read after a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Look {
    /// Each task by its id.
    Tasks,
    /// Everything, by the lists too.
    Whole,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Shown {
    Tasks(Vec<TaskRecord>),
    Whole(Box<Whole>),
}

#[derive(Debug, PartialEq)]
pub(crate) struct Whole {
    stats: WorkStats,
    projects: Vec<Project>,
    tasks: Vec<TaskRecord>,
    logs: Vec<(Vec<BuildEvent>, TaskState, Option<String>)>,
    audit: Vec<AuditEvent>,
    deliveries: Vec<WebhookDelivery>,
    due_deliveries: Vec<WebhookDelivery>,
    due_statuses: Vec<Task>,
}

/// Reads what `store` shows at `now`; `ids` are the tasks that are there.
pub(crate) async fn shown(
    store: &dyn Store,
    look: Look,
    ids: &[TaskId],
    now: Timestamp,
) -> PortResult<Shown> {
    if look == Look::Whole {
        return Ok(Shown::Whole(Box::new(whole(store, now).await?)));
    }
    let mut tasks = Vec::new();
    for id in ids {
        tasks.push(store.task(*id).await?);
    }
    Ok(Shown::Tasks(tasks))
}

/// Reads everything. The lists are longer than a case makes them.
async fn whole(store: &dyn Store, now: Timestamp) -> PortResult<Whole> {
    let stats = store.work_stats(now).await?;
    let page = Page { limit: 100, before: None };
    let projects = store.projects(&page).await?.items;
    let tasks = listed(store, &TaskFilter::default(), page.limit).await?;
    let mut logs = Vec::new();
    for TaskRecord { task, .. } in &tasks {
        let log = store.events(task.id, 0, 1000).await?;
        logs.push((log.events, log.state, store.diff(task.id).await?));
    }
    let mut deliveries = Vec::new();
    for project in &projects {
        deliveries.extend(store.deliveries(&project.id, &page).await?.items);
    }
    let due_deliveries = store.due_deliveries(now, 100).await?;
    assert!(due_deliveries.is_sorted_by_key(|one| one.next_at), "{due_deliveries:?}");
    let due_statuses = store.due_statuses(now, 100).await?;
    let audit = audit(store).await?;
    let (deliveries, due_deliveries) = (unnamed(deliveries), unnamed(due_deliveries));
    Ok(Whole { stats, projects, tasks, logs, audit, deliveries, due_deliveries, due_statuses })
}

impl Shown {
    /// The same with the audit log in no order: of several processes each has its own.
    pub(crate) fn without_order_of_audit(mut self) -> Self {
        if let Self::Whole(whole) = &mut self {
            let text = |event: &AuditEvent| format!("{event:?}");
            whole.audit.sort_by_cached_key(text);
        }
        self
    }
}

/// The audit log, newest first. The ids are random. One call may change many tasks, in no order
/// that the port promises: what happened at one time is in the order of what it happened to.
async fn audit(store: &dyn Store) -> PortResult<Vec<AuditEvent>> {
    let (mut all, mut page) = (Vec::new(), Page { limit: 100, before: None });
    loop {
        let listed = store.audit(&AuditFilter::default(), &page).await?;
        all.extend(listed.items.into_iter().map(|event| AuditEvent { id: Ulid::nil(), ..event }));
        match listed.next {
            Some(next) => page.before = Some(next),
            None => break,
        }
    }
    for at_once in all.chunk_by_mut(|a: &AuditEvent, b: &AuditEvent| a.at == b.at) {
        at_once.sort_by(|a, b| a.subject.cmp(&b.subject));
    }
    Ok(all)
}

/// Deliveries without their ids, which are random, in the order of their tasks: two that become
/// due at once are in no order.
fn unnamed(deliveries: Vec<WebhookDelivery>) -> Vec<WebhookDelivery> {
    let unnamed = |delivery| WebhookDelivery { id: Ulid::nil(), ..delivery };
    let mut all: Vec<WebhookDelivery> = deliveries.into_iter().map(unnamed).collect();
    all.sort_by_key(|delivery| delivery.task_id);
    all
}

/// What differs, line by line.
pub(crate) fn difference(what: &str, expected: &str, found: &str) -> String {
    let (expected, found): (Vec<&str>, Vec<&str>) =
        (expected.lines().collect(), found.lines().collect());
    let mut lines = vec![format!("{what} (- in memory, + the store):")];
    let same = expected.iter().zip(&found).take_while(|(a, b)| a == b).count();
    let ends = expected[same..].iter().rev().zip(found[same..].iter().rev());
    let end = ends.take_while(|(a, b)| a == b).count();
    lines.extend(expected[same.saturating_sub(12)..same].iter().map(|line| format!("  {line}")));
    let part = |sign, lines: &[&str]| -> Vec<String> {
        lines.iter().take(40).map(|line| format!("{sign} {line}")).collect()
    };
    lines.extend(part('-', &expected[same..expected.len() - end]));
    lines.extend(part('+', &found[same..found.len() - end]));
    lines.join("\n")
}
