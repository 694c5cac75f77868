//! Deleting a project: it is closed, its queued tasks are cancelled, and then its records go.

use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::ports::Conflict;
use rdev_domain::project::{Deletion, Project, ProjectState, Stage};
use rdev_domain::step::{Event, Refusal, step};
use rdev_domain::task::TaskState;
use rdev_domain::time::Timestamp;
use rusqlite::params;

use super::rows::{self, Found};
use super::transaction::Tx;
use super::{audit, claim, domains, projects, transition, webhooks};
use crate::error::Error;

/// Takes projects whose deletion has not changed since `since`: they change now, so that no other
/// sweep takes them too. Returns whether there may be more.
pub(super) fn take_abandoned(
    tx: &Tx<'_>,
    since: Timestamp,
    limit: u32,
) -> Result<(Vec<Project>, bool), Error> {
    let abandoned = projects::readable(
        tx,
        "SELECT id, body FROM projects WHERE state = 'deleting' AND changed_at <= ?1",
        since,
        limit,
    )?;
    let more = abandoned.len() == limit as usize;
    let mut taken = Vec::new();
    for project in abandoned {
        let project = Project { updated_at: tx.now, ..project };
        projects::write(tx, &project)?;
        taken.push(project);
    }
    Ok((taken, more))
}

/// How many queued tasks one transaction cancels.
const MAX_CANCELLED: u32 = 500;

/// Closes a project and cancels one page of its queued tasks. Returns the project once no
/// task is queued.
pub(super) fn begin(
    tx: &Tx<'_>,
    id: &ProjectId,
    deletion: Deletion,
    expected: Option<&Stage>,
) -> Result<Option<Project>, Error> {
    let before = projects::get(tx.conn, id)?;
    if !before.is_at(expected) {
        return Err(Conflict::ProjectChanged.into());
    }
    if claim::leased_tasks(tx, id)? > 0 || is_pushing(tx, id)? {
        return Err(Conflict::TasksRunning.into());
    }
    // Before anything is written: what has more than a page of tasks is closed in several
    // transactions.
    if has_newer(tx, id)? {
        return Err(Refusal::NewerRecord.into());
    }
    let begun = before.state == ProjectState::Deleting;
    let project = if begun && before.deletion == Some(deletion) {
        before
    } else {
        let project = before.deleting(deletion, tx.now);
        projects::write(tx, &project)?;
        projects::record(tx, "project.deleting", id)?;
        project
    };
    let cancelled = cancel_queued(tx, id)?;
    Ok((cancelled < MAX_CANCELLED as usize).then_some(project))
}

pub(super) fn forget(tx: &Tx<'_>, id: &ProjectId, left: Option<&str>) -> Result<(), Error> {
    if projects::get(tx.conn, id)?.state != ProjectState::Deleting {
        return Err(Conflict::ProjectNotReady.into());
    }
    // A crash may have interrupted the cancellation.
    while cancel_queued(tx, id)? > 0 {}
    webhooks::forget(tx, id)?;
    domains::forget_all(tx, id)?;
    tx.conn.prepare_cached("DELETE FROM projects WHERE id = ?1")?.execute([id.as_str()])?;
    let subject = format!("project/{id}");
    audit::record_with(tx, "project.deleted", &subject, Some(id), left)
}

fn is_pushing(tx: &Tx<'_>, id: &ProjectId) -> Result<bool, Error> {
    let mut any = tx
        .conn
        .prepare_cached("SELECT 1 FROM tasks WHERE project = ?1 AND state = 'pushing' LIMIT 1")?;
    Ok(any.exists([id.as_str()])?)
}

/// Whether a newer program has written a queued task of the project.
fn has_newer(tx: &Tx<'_>, id: &ProjectId) -> Result<bool, Error> {
    let mut any = tx.conn.prepare_cached(
        "SELECT 1 FROM tasks WHERE id IN (SELECT task FROM due WHERE project = ?1
                                          UNION ALL SELECT task FROM later WHERE project = ?1)
             AND json_valid(body) AND json_type(body, '$.v') = 'integer'
             AND json_extract(body, '$.v') > ?2",
    )?;
    Ok(any.exists(params![id.as_str(), rows::signed(tx.context.format.version())])?)
}

fn cancel_queued(tx: &Tx<'_>, id: &ProjectId) -> Result<usize, Error> {
    let queued = tx
        .conn
        .prepare_cached(
            "SELECT task FROM due WHERE project = ?1
             UNION ALL SELECT task FROM later WHERE project = ?1 LIMIT ?2",
        )?
        .query_map(params![id.as_str(), MAX_CANCELLED], |row| rows::ulid(row, 0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for &task in &queued {
        match rows::find_any(tx, TaskId(task))? {
            Some(Found::Task(record)) if record.task.state == TaskState::Queued => {
                let step = step(&record.task, record.lease.as_ref(), Event::Cancel, tx.now)?;
                transition::write(tx, &record, &step)?;
            }
            Some(Found::Corrupt(corrupt)) => {
                transition::poison(tx, &corrupt)?;
            }
            Some(Found::Newer(_)) => return Err(Refusal::NewerRecord.into()),
            // A push without a lease: a runner will resume it.
            Some(Found::Task(_)) => return Err(Conflict::TasksRunning.into()),
            None => return Err(rusqlite::Error::QueryReturnedNoRows.into()),
        }
    }
    Ok(queued.len())
}

#[cfg(test)]
mod tests {
    use rdev_domain::audit::Actor;
    use rdev_domain::record::Format;
    use rdev_domain::retention::Retention;
    use rdev_domain::spec::{BuildSpec, Work};
    use rdev_domain::task::Task;
    use rdev_domain::time::Timestamp;
    use rusqlite::Connection;
    use ulid::Ulid;

    use super::super::schema::SCHEMA;
    use super::super::tasks::{self, NewTask};
    use super::super::transaction::Context;
    use super::*;
    use crate::database::migrate::migrate;

    #[test]
    fn a_deletion_that_was_interrupted_after_its_first_page_is_completed_by_forget() {
        let conn = Connection::open_in_memory().expect("a database");
        migrate(&conn, SCHEMA.migrations).expect("the schema");
        let context = Context::new(Retention::default(), Ulid::nil());
        let (by, now) = (Actor::maintenance(), Timestamp::from_millis(2_000_000_000_000));
        let tx = Tx { conn: &conn, context: &context, by: &by, now };
        let id: ProjectId = "site".parse().expect("a slug");
        let project = Project::new(id.clone(), context.next_id(now), now);
        projects::create(&tx, project).expect("a project");
        let count = MAX_CANCELLED + 1;
        for _ in 0..count {
            let work = Work::Build(BuildSpec::of("make the header blue"));
            let task = Task::new(TaskId(context.next_id(now)), id.clone(), work, now);
            tasks::enqueue(&tx, NewTask::of(task, Format::CURRENT).expect("JSON"))
                .expect("a queued task");
        }
        assert_eq!(
            begin(&tx, &id, Deletion::KeepRepository, None).expect("nothing runs"),
            None,
            "one task is still queued"
        );
        forget(&tx, &id, None).expect("it is being deleted");
        let cancelled = conn
            .query_row("SELECT count(*) FROM tasks WHERE state = 'cancelled'", [], |row| {
                row.get::<_, u32>(0)
            })
            .expect("a count");
        assert_eq!(cancelled, count);
    }
}
