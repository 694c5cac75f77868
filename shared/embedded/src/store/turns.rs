//! Whose turn it is: each project with a free slot and something due, once for each agent that what
//! is due needs. The project with the fewest held tasks comes first, then the one that was served
//! the longest ago. So a project with a thousand builds delays another's first one by one at most.

use rdev_domain::ids::ProjectId;
use rdev_domain::ports::Capabilities;
use rdev_domain::project::ProjectState;
use rusqlite::{OptionalExtension, params};

use super::transaction::Tx;
use super::{claim, projects, rows};
use crate::error::Error;

/// A place in the order of projects. The least is served first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    held: u32,
    /// When the project's latest claim was, in milliseconds; 0 is never.
    served: i64,
    /// The rank of its first due task.
    rank: i64,
    pub(super) project: ProjectId,
}

/// Writes the turns of a project anew, after its queue, its slots, its limit or its state have
/// changed.
pub(super) fn refresh(tx: &Tx<'_>, id: &ProjectId) -> Result<(), Error> {
    tx.conn.prepare_cached("DELETE FROM turns WHERE project = ?1")?.execute([id.as_str()])?;
    let Some(project) = projects::find(tx.conn, id)? else { return Ok(()) };
    let held = claim::leased_tasks(tx, id)?;
    if project.state == ProjectState::Deleting || held >= project.build_limit {
        return Ok(());
    }
    let mut head = tx.conn.prepare_cached(
        "SELECT agent, rank FROM due WHERE project = ?1 AND agent > ?2
         ORDER BY agent, class, rank, task LIMIT 1",
    )?;
    let mut write = tx.conn.prepare_cached(
        "INSERT INTO turns (project, agent, held, served, rank)
         SELECT ?1, ?2, ?3, served, ?4 FROM projects WHERE id = ?1",
    )?;
    let mut add =
        |agent: &str, rank: i64| write.execute(params![id.as_str(), agent, held, rank]).map(|_| ());
    // Pushes and checks need no agent, and stand under the empty name.
    let mut without = tx.conn.prepare_cached(
        "SELECT rank FROM due WHERE project = ?1 AND agent = '' ORDER BY class, rank, task LIMIT 1",
    )?;
    if let Some(rank) = without.query_row([id.as_str()], |row| row.get(0)).optional()? {
        add("", rank)?;
    }
    let mut last = String::new();
    while let Some((agent, rank)) = head
        .query_row([id.as_str(), &last], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))
        .optional()?
    {
        add(&agent, rank)?;
        last = agent;
    }
    Ok(())
}

/// Notes that a task of the project is claimed now.
pub(super) fn served(tx: &Tx<'_>, id: &ProjectId) -> Result<(), Error> {
    tx.conn
        .prepare_cached("UPDATE projects SET served = ?2 WHERE id = ?1")?
        .execute(params![id.as_str(), tx.now.as_millis()])?;
    Ok(())
}

/// The first turn behind `after` that the runner can take.
pub(super) fn next(
    tx: &Tx<'_>,
    can: &Capabilities,
    after: Option<&Turn>,
) -> Result<Option<Turn>, Error> {
    let mut first = tx.conn.prepare_cached(
        "SELECT held, served, rank, project FROM turns
         WHERE agent = ?1 AND (held, served, rank, project) > (?2, ?3, ?4, ?5)
         ORDER BY held, served, rank, project LIMIT 1",
    )?;
    let (held, served, rank, project) = after.map_or((-1, 0, 0, ""), |turn| {
        (i64::from(turn.held), turn.served, turn.rank, turn.project.as_str())
    });
    let mut least: Option<Turn> = None;
    for agent in claim::queues(can) {
        let found = first
            .query_row(params![agent, held, served, rank, project], |row| {
                Ok(Turn {
                    held: row.get(0)?,
                    served: row.get(1)?,
                    rank: row.get(2)?,
                    project: rows::parsed(row, 3)?,
                })
            })
            .optional()?;
        least = match (least, found) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    Ok(least)
}
