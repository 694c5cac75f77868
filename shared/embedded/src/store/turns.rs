//! Whose turn it is: a row for each project with a free slot and something due, and each agent that
//! what is due needs, in the order in which projects are served.

use rdev_domain::ids::ProjectId;
use rdev_domain::ports::Capabilities;
use rdev_domain::project::{Project, ProjectState};
use rdev_domain::spec::AgentName;
use rdev_domain::time::Timestamp;
use rdev_domain::turn::Turn;
use rusqlite::{Connection, OptionalExtension, params};

use super::transaction::Tx;
use super::{claim, projects, rows};
use crate::error::Error;

/// Writes the turns of a project anew, after its queue, its slots, its limit or its state have
/// changed.
pub(super) fn refresh(tx: &Tx<'_>, id: &ProjectId) -> Result<(), Error> {
    tx.conn.prepare_cached("DELETE FROM turns WHERE project = ?1")?.execute([id.as_str()])?;
    let Some(project) = projects::find(tx.conn, id)? else { return Ok(()) };
    let held = claim::leased_tasks(tx, id)?;
    if project.state == ProjectState::Deleting || held >= project.build_limit {
        return Ok(());
    }
    let mut next = tx.conn.prepare_cached(
        "SELECT agent FROM due WHERE project = ?1 AND agent >= ?2 ORDER BY agent LIMIT 1",
    )?;
    let mut write = tx.conn.prepare_cached(
        "INSERT INTO turns (project, agent, held, served)
         SELECT ?1, ?2, ?3, served FROM projects WHERE id = ?1",
    )?;
    let mut from = String::new();
    while let Some(agent) =
        next.query_row([id.as_str(), &from], |row| row.get::<_, String>(0)).optional()?
    {
        write.execute(params![id.as_str(), agent, held])?;
        // The least text that is greater.
        from = agent + "\0";
    }
    Ok(())
}

/// Notes that a task of the project is claimed now.
pub(super) fn note_served(tx: &Tx<'_>, id: &ProjectId) -> Result<(), Error> {
    tx.conn
        .prepare_cached("UPDATE projects SET served = ?2 WHERE id = ?1")?
        .execute(params![id.as_str(), tx.now.as_millis()])?;
    Ok(())
}

/// The turn that the project would have if something in it were due.
pub(super) fn of(tx: &Tx<'_>, project: &Project) -> Result<Turn, Error> {
    let mut one = tx.conn.prepare_cached("SELECT served FROM projects WHERE id = ?1")?;
    let served = one.query_row([project.id.as_str()], |row| row.get(0))?;
    let held = claim::leased_tasks(tx, &project.id)?;
    Ok(Turn { held, served: read(served), project: project.id.clone() })
}

/// The first turn behind `after` that the runner can take.
pub(super) fn next(
    tx: &Tx<'_>,
    can: &Capabilities,
    after: Option<&Turn>,
) -> Result<Option<Turn>, Error> {
    let mut first = tx.conn.prepare_cached(
        "SELECT held, served, project FROM turns
         WHERE agent = ?1 AND (held, served, project) > (?2, ?3, ?4)
         ORDER BY held, served, project LIMIT 1",
    )?;
    let (held, served, project) = after.map_or((-1, 0, ""), |turn| {
        (i64::from(turn.held), turn.served.map_or(0, Timestamp::as_millis), turn.project.as_str())
    });
    let mut least: Option<Turn> = None;
    for agent in claim::queues(can) {
        let found = first
            .query_row(params![agent, held, served, project], |row| {
                Ok(Turn {
                    held: row.get(0)?,
                    served: read(row.get(1)?),
                    project: rows::parsed(row, 2)?,
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

/// A project with a free slot and something due, whatever agent that needs.
pub(super) fn waiting(conn: &Connection) -> Result<Option<ProjectId>, Error> {
    let mut first = conn.prepare_cached(
        "SELECT project FROM turns WHERE agent = ?1 ORDER BY held, served, project LIMIT 1",
    )?;
    for agent in std::iter::once("").chain(AgentName::ALL.iter().map(|agent| agent.as_str())) {
        if let Some(found) = first.query_row([agent], |row| rows::parsed(row, 0)).optional()? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// A time of the column `served`: 0 is never.
fn read(served: i64) -> Option<Timestamp> {
    (served > 0).then(|| Timestamp::from_millis(served))
}
