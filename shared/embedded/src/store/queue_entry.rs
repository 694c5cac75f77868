//! The entries of a project's queue. Its two parts are what is due, and what is due later.

use std::collections::BTreeSet;

use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::spec::AgentName;
use rdev_domain::task::{QueuePlace, Task, TaskState, rank};
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::DueAgents;
use rusqlite::{Connection, OptionalExtension, Params, Statement, params};

use super::rows::{self, CorruptTask, blob};
use super::sweep::PAGE;
use super::transaction::Tx;
use super::turns;
use crate::error::Error;

/// A task's entry in its project's queue.
pub(super) struct Entry<'a> {
    project: &'a ProjectId,
    agent: &'a str,
    class: u8,
    rank: Timestamp,
    task: TaskId,
    at: Timestamp,
}

impl<'a> Entry<'a> {
    pub(super) fn of(task: &'a Task) -> Self {
        let push = task.state == TaskState::Pushing;
        let agent = if push { None } else { task.work.agent() };
        Self {
            project: &task.project_id,
            agent: agent.map_or("", |agent| agent.as_str()),
            class: u8::from(!push),
            rank: rank(task.available_at, task.priority),
            task: task.id,
            at: task.available_at,
        }
    }

    /// The entry of a corrupt task.
    pub(super) fn of_corrupt(task: &'a CorruptTask) -> Self {
        let push = task.state == TaskState::Pushing;
        Self {
            project: &task.project,
            agent: if push { "" } else { &task.agent },
            class: u8::from(!push),
            rank: rank(task.available_at, task.priority),
            task: task.id,
            at: task.available_at,
        }
    }
}

/// Inserts the queue entry of a task, if its state gives it one.
pub(super) fn insert(tx: &Tx<'_>, task: &Task, leased: bool) -> Result<(), Error> {
    let insert = match task.queue_place(leased, tx.now) {
        None => return Ok(()),
        Some(QueuePlace::Due { .. }) => {
            "INSERT INTO due (project, agent, class, rank, task, since)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
        }
        Some(QueuePlace::Later { .. }) => {
            "INSERT INTO later (project, agent, class, rank, task, at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
        }
    };
    let Entry { project, agent, class, rank, task, at } = Entry::of(task);
    tx.conn.prepare_cached(insert)?.execute(params![
        project.as_str(),
        agent,
        class,
        rank.as_millis(),
        blob(task.0),
        at.as_millis()
    ])?;
    Ok(())
}

/// Deletes an entry, in whichever part of the queue it is: an entry that was due later
/// when it was written may have been promoted since.
pub(super) fn delete(conn: &Connection, entry: &Entry<'_>) -> Result<(), Error> {
    let Entry { project, agent, class, rank, task, at } = entry;
    let removed = conn
        .prepare_cached(
            "DELETE FROM due WHERE project = ?1 AND agent = ?2 AND class = ?3 AND rank = ?4
                                   AND task = ?5",
        )?
        .execute(params![project.as_str(), agent, class, rank.as_millis(), blob(task.0)])?;
    if removed == 0 {
        conn.prepare_cached("DELETE FROM later WHERE project = ?1 AND at = ?2 AND task = ?3")?
            .execute(params![project.as_str(), at.as_millis(), blob(task.0)])?;
    }
    Ok(())
}

/// Moves what has become due to the due part of the queue, of one project: a page of it, and the
/// sweep moves the rest.
pub(super) fn promote_project(tx: &Tx<'_>, project: &ProjectId) -> Result<(), Error> {
    let mut due = tx.conn.prepare_cached(
        "SELECT project, at, task FROM later WHERE project = ?1 AND at <= ?2 ORDER BY at LIMIT ?3",
    )?;
    let moved = promote_all(tx, &mut due, params![project.as_str(), tx.now.as_millis(), PAGE])?;
    if !moved.is_empty() {
        turns::refresh(tx, project)?;
    }
    Ok(())
}

/// Moves up to `limit` entries that have become due to the due part of their queues.
/// Returns the projects, and whether there may be more.
pub(super) fn promote(tx: &Tx<'_>, limit: u32) -> Result<(BTreeSet<ProjectId>, bool), Error> {
    let mut due = tx.conn.prepare_cached(
        "SELECT project, at, task FROM later WHERE at <= ?1 ORDER BY at LIMIT ?2",
    )?;
    let moved = promote_all(tx, &mut due, params![tx.now.as_millis(), limit])?;
    let more = moved.len() == limit as usize;
    // A name that is none has no project that could be woken.
    let projects: BTreeSet<ProjectId> =
        moved.iter().filter_map(|project| project.parse().ok()).collect();
    for project in &projects {
        turns::refresh(tx, project)?;
    }
    Ok((projects, more))
}

/// Moves the entries that a statement finds. Returns the project of each.
fn promote_all(
    tx: &Tx<'_>,
    found: &mut Statement<'_>,
    params: impl Params,
) -> Result<Vec<String>, Error> {
    let found = found
        .query_map(params, |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, rows::ulid(row, 2)?))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut projects = Vec::with_capacity(found.len());
    for (project, at, task) in found {
        let key = params![project, at, blob(task)];
        tx.conn
            .prepare_cached(
                "INSERT OR IGNORE INTO due (project, agent, class, rank, task, since)
                 SELECT project, agent, class, rank, task, at FROM later
                 WHERE project = ?1 AND at = ?2 AND task = ?3",
            )?
            .execute(key)?;
        tx.conn
            .prepare_cached("DELETE FROM later WHERE project = ?1 AND at = ?2 AND task = ?3")?
            .execute(key)?;
        projects.push(project);
    }
    Ok(projects)
}

/// Whether a task of the project has been due since `time` or longer.
pub(super) fn due_since(tx: &Tx<'_>, project: &ProjectId, time: Timestamp) -> Result<bool, Error> {
    let mut any =
        tx.conn.prepare_cached("SELECT 1 FROM due WHERE project = ?1 AND since <= ?2 LIMIT 1")?;
    Ok(any.exists(params![project.as_str(), time.as_millis()])?)
}

/// The agents that the project's due tasks need, in whichever part of the queue they are.
pub(super) fn due_agents(
    conn: &Connection,
    project: &ProjectId,
    now: Timestamp,
) -> Result<DueAgents, Error> {
    let mut agents = Vec::new();
    let mut next = conn.prepare_cached(
        "SELECT agent FROM due WHERE project = ?1 AND agent >= ?2 ORDER BY agent LIMIT 1",
    )?;
    // The clock may have gone back since an entry became due.
    let mut any = conn.prepare_cached(
        "SELECT 1 FROM due WHERE project = ?1 AND agent = ?2 AND +since <= ?3 LIMIT 1",
    )?;
    let mut from = String::new();
    while let Some(name) =
        next.query_row([project.as_str(), &from], |row| row.get::<_, String>(0)).optional()?
    {
        if any.exists(params![project.as_str(), name, now.as_millis()])? {
            agents.push(agent(&name));
        }
        // The least text that is greater.
        from = name + "\0";
    }
    let mut promoted =
        conn.prepare_cached("SELECT agent FROM later WHERE project = ?1 AND at <= ?2")?;
    let promoted = promoted
        .query_map(params![project.as_str(), now.as_millis()], |row| row.get::<_, String>(0))?;
    for name in promoted {
        agents.push(agent(&name?));
    }
    Ok(agents.into_iter().collect())
}

/// The agent of a column: `''` is none. One that only a newer program knows is none, too: that
/// program's runners find it.
pub(super) fn agent(column: &str) -> Option<AgentName> {
    column.parse().ok()
}
