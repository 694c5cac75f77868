//! The calls that operations become, and what a store answers, in a form that can be compared.

use futures_util::future::BoxFuture;
use rdev_domain::audit::Actor;
use rdev_domain::event::BuildEvent;
use rdev_domain::git::RecordedRef;
use rdev_domain::ids::{Owner, ProjectId, TaskId};
use rdev_domain::lease::{Holder, Progress};
use rdev_domain::page::Page;
use rdev_domain::ports::{
    Capabilities, Claim, Claimed, Conflict, PortError, PortResult, Record, Renewal, Store, Swept,
    TaskFilter, TaskRecord,
};
use rdev_domain::project::{Deletion, Project, ProjectPatch};
use rdev_domain::result::Usage;
use rdev_domain::step::{Event, Refusal};
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::{OutboxEntry, WakeUp};
use ulid::Ulid;

/// A call with all of its arguments: every store gets the same.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub(crate) enum Call {
    CreateProject(Project),
    UpdateProject(ProjectId, ProjectPatch),
    BeginDelete(ProjectId),
    Forget(ProjectId),
    Enqueue(Task),
    Claim(ProjectId, Owner, Capabilities),
    Renew(TaskId, Holder, Vec<BuildEvent>, Option<Usage>, Option<Vec<RecordedRef>>),
    Advance(TaskId, Event, Record, Actor),
    Sweep {
        sent: bool,
    },
    /// An outbox entry is named by what it says: each store gives it an id of its own.
    DeleteOutbox(Wake),
    /// A delivery is named by its task, which has one at most: each store gives it an id of its
    /// own.
    Deliver {
        project: ProjectId,
        task: TaskId,
        status: u16,
        stale: bool,
    },
    /// A task's commit status is tried.
    Show {
        task: TaskId,
        taken: bool,
        stale: bool,
    },
    List(TaskFilter, u32),
    /// Replaces a task's type and its record, past the store.
    Replace(TaskId, &'static str, String),
    RecoverAll,
}

/// A wake-up that is to be sent.
pub(crate) type Wake = (WakeUp, Timestamp);

/// What a store answered.
pub(crate) type Answer = Result<Told, Refused>;

#[derive(Debug, PartialEq, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub(crate) enum Told {
    Done,
    Project(Project, Vec<Wake>),
    Enqueued(Task, Vec<Wake>),
    Claimed(Box<(Task, rdev_domain::lease::Lease, Project, Vec<Wake>)>),
    NotClaimed(Claim),
    Renewed(Renewal),
    Advanced(Box<TaskRecord>, Vec<Wake>),
    Swept { wakes: Vec<Wake>, due: Vec<WakeUp>, recovered: u64, offline: u64, expired: u64 },
    Changed(bool),
    Updated(Option<Box<Task>>),
    Listed(Vec<TaskRecord>),
    Recovered(Vec<Wake>),
}

/// Why a store changed nothing. The words of an error are not compared.
#[derive(Debug, PartialEq, Clone)]
pub(crate) enum Refused {
    NotFound,
    Conflict(Conflict),
    ByStep(Refusal),
    /// No store may answer anything else.
    Other(String),
}

impl From<PortError> for Refused {
    fn from(error: PortError) -> Self {
        match error {
            PortError::NotFound { .. } => Self::NotFound,
            PortError::Conflict(conflict) => Self::Conflict(conflict),
            PortError::Refused(refusal) => Self::ByStep(refusal),
            other => Self::Other(rdev_domain::chain(&other)),
        }
    }
}

/// What kind of answer it is, for the count of what a run has reached.
pub(crate) fn kind(answer: &Answer) -> String {
    match answer {
        Ok(Told::Claimed(claimed)) => format!("claimed {}", claimed.0.state.as_str()),
        Ok(Told::NotClaimed(Claim::Unsuited { .. })) => "Unsuited".to_owned(),
        Ok(Told::NotClaimed(claim)) => format!("{claim:?}"),
        Ok(Told::Advanced(record, _)) => format!("became {}", record.task.state.as_str()),
        Ok(Told::Swept { recovered: 1.., .. }) => "recovered by a sweep".to_owned(),
        Ok(Told::Swept { expired: 1.., .. }) => "expired".to_owned(),
        Ok(_) => "done".to_owned(),
        Err(Refused::ByStep(refusal)) => {
            let text = format!("{refusal:?}");
            text.split('(').next().unwrap_or_default().to_owned()
        }
        Err(other) => format!("{other:?}"),
    }
}

/// The outbox entries that a store has written and nobody has deleted.
pub(crate) type Outbox = Vec<OutboxEntry>;

/// Replaces a task's type and its record, past the store.
pub(crate) type Replace<'a> =
    dyn Fn(TaskId, &'static str, String) -> BoxFuture<'static, ()> + Send + Sync + 'a;

/// Makes a call. New outbox entries are added to `outbox`.
pub(crate) async fn perform(
    store: &dyn Store,
    replace: &Replace<'_>,
    outbox: &mut Outbox,
    call: &Call,
    now: Timestamp,
) -> Answer {
    let by = Actor::maintenance();
    Ok(match call {
        Call::CreateProject(project) => {
            Told::Project(store.create_project(project, &by, now).await?, vec![])
        }
        Call::UpdateProject(id, patch) => {
            let (project, written) = store.update_project(id, patch, &by, now).await?;
            Told::Project(project, noted(outbox, written))
        }
        Call::BeginDelete(id) => Told::Project(
            store.begin_delete_project(id, Deletion::KeepRepository, None, &by, now).await?,
            vec![],
        ),
        Call::Forget(id) => {
            store.forget_project(id, None, &by, now).await?;
            Told::Done
        }
        Call::Enqueue(task) => {
            let enqueued = store.enqueue(task, &by, now).await?;
            Told::Enqueued(enqueued.task, noted(outbox, enqueued.outbox))
        }
        Call::Claim(project, owner, can) => {
            match store.claim_next(project, owner, can, now).await? {
                Claim::Claimed(claimed) => {
                    let Claimed { task, lease, project, outbox: written } = *claimed;
                    Told::Claimed(Box::new((task, lease, project, noted(outbox, written))))
                }
                other => Told::NotClaimed(other),
            }
        }
        Call::Renew(task, holder, events, usage, own_refs) => {
            let own_refs = own_refs.as_deref();
            let progress = Progress { events, usage: *usage, own_refs };
            Told::Renewed(store.renew(*task, holder, progress, now).await?)
        }
        Call::Advance(task, event, record, by) => {
            let advanced = store.advance(*task, event.clone(), record.clone(), by, now).await?;
            let record = TaskRecord { task: advanced.task, lease: advanced.lease };
            Told::Advanced(Box::new(record), noted(outbox, advanced.outbox))
        }
        Call::Sweep { sent } => swept(store, outbox, *sent, now).await?,
        Call::DeleteOutbox(wake) => {
            let same = |entry: &OutboxEntry| of(entry) == *wake;
            let entry = outbox.iter().position(same).map(|at| outbox.swap_remove(at));
            store.delete_outbox(entry.as_slice()).await?;
            Told::Done
        }
        Call::Deliver { project, task, status, stale } => {
            let page = Page { limit: 100, before: None };
            let all = store.deliveries(project, &page).await?.items;
            let Some(there) = all.into_iter().find(|one| one.task_id == *task) else {
                return Err(Refused::NotFound);
            };
            let before = if *stale { there.begun(now) } else { there.clone() };
            let after = there.begun(now).ended(Some(*status), None, now);
            Told::Changed(store.update_delivery(&before, &after).await?)
        }
        Call::Show { task, taken, stale } => {
            let there = store.task(*task).await?.task;
            let Some(status) = &there.commit_status else { return Err(Refused::NotFound) };
            let sent = match taken {
                true => Ok(()),
                false => Err(PortError::TimedOut { what: "the forge" }),
            };
            let (begun, ended) = (status.begun(now), status.begun(now).ended(&sent, now));
            let seen = if *stale { begun } else { status.clone() };
            let before = Task { commit_status: Some(seen), ..there };
            let updated = store.update_status(&before, &ended).await?;
            Told::Updated(updated.map(Box::new))
        }
        Call::List(filter, limit) => Told::Listed(listed(store, filter, *limit).await?),
        Call::Replace(task, kind, body) => {
            replace(*task, kind, body.clone()).await;
            Told::Done
        }
        Call::RecoverAll => Told::Recovered(noted(outbox, store.recover_all(now).await?)),
    })
}

/// Sweeps to the end. The pages may differ, what they find together may not.
async fn swept(
    store: &dyn Store,
    outbox: &mut Outbox,
    sent: bool,
    now: Timestamp,
) -> PortResult<Told> {
    let mut all = Swept::default();
    for _ in 0..50 {
        let page = store.sweep(now).await?;
        if sent {
            store.delete_outbox(&page.outbox).await?;
        }
        all.outbox.extend(page.outbox);
        all.wake.extend(page.wake);
        all.recovered += page.recovered;
        all.offline += page.offline;
        all.expired += page.expired;
        if !page.more {
            break;
        }
    }
    all.wake.sort();
    all.wake.dedup();
    let swept: Vec<Ulid> = all.outbox.iter().map(|entry| entry.id).collect();
    outbox.retain(|entry| !swept.contains(&entry.id));
    let wakes = if sent { wakes(&all.outbox) } else { noted(outbox, all.outbox) };
    let Swept { wake: due, recovered, offline, expired, .. } = all;
    Ok(Told::Swept { wakes, due, recovered, offline, expired })
}

/// Every page of a list of tasks.
pub(crate) async fn listed(
    store: &dyn Store,
    filter: &TaskFilter,
    limit: u32,
) -> PortResult<Vec<TaskRecord>> {
    let (mut all, mut page) = (Vec::new(), Page { limit, before: None });
    loop {
        let listed = store.tasks(filter, &page).await?;
        assert!(listed.items.len() <= limit as usize, "a page is as large as it was asked for");
        all.extend(listed.items);
        match listed.next {
            Some(next) => page.before = Some(next),
            None => return Ok(all),
        }
    }
}

fn noted(outbox: &mut Outbox, written: Vec<OutboxEntry>) -> Vec<Wake> {
    let noted = wakes(&written);
    outbox.extend(written);
    noted
}

/// What outbox entries say. Their ids are random, and the port promises no order of them.
fn wakes(entries: &[OutboxEntry]) -> Vec<Wake> {
    let mut wakes: Vec<Wake> = entries.iter().map(of).collect();
    wakes.sort();
    wakes
}

fn of(entry: &OutboxEntry) -> Wake {
    (entry.wake_up(), entry.send_at)
}
