//! Reading tasks: one, or a page of them.
//!
//! A list reads one index range per type of task, from the cursor down. Its cost depends
//! on the size of the page and on nothing else that is stored.

use rdev_domain::ids::TaskId;
use rdev_domain::page::{Listed, Page};
use rdev_domain::ports::{TaskFilter, TaskRecord};
use rdev_domain::record::Format;
use rdev_domain::spec::BuildSpec;
use rdev_domain::time::Timestamp;
use rusqlite::{Connection, ToSql};

use super::projects;
use super::rows::{self, FROM_TASKS, Found, blob};
use crate::error::Error;

pub(super) fn task(
    conn: &Connection,
    id: TaskId,
    latest: Timestamp,
    format: Format,
) -> Result<TaskRecord, Error> {
    rows::find(conn, id, latest, format)?
        .map(Found::into_record)
        .ok_or_else(|| rows::task_not_found(id).into())
}

pub(super) fn tasks(
    conn: &Connection,
    filter: &TaskFilter,
    page: &Page,
    latest: Timestamp,
    format: Format,
) -> Result<Listed<TaskRecord>, Error> {
    let before = rows::bound(page);
    let (latest, limit) = (latest.as_millis(), i64::from(page.limit) + 1);
    let state = filter.state.map(|state| state.as_str());
    let snapshot = conn.unchecked_transaction()?;
    let kinds =
        if filter.builds_only { vec![BuildSpec::KIND.to_owned()] } else { kinds(&snapshot)? };
    let nonce = match &filter.project {
        Some(project) => projects::find(&snapshot, project)?.map(|project| blob(project.nonce)),
        None => None,
    };
    let mut found = Vec::new();
    {
        let mut page_of_kind = snapshot.prepare_cached(&sql(filter))?;
        for kind in &kinds {
            let mut values: Vec<&dyn ToSql> = vec![kind, &before, &latest, &limit];
            let project = filter.project.as_ref().map(|project| project.as_str());
            if let Some(project) = &project {
                values.push(project);
                values.push(&nonce);
            }
            if let Some(state) = &state {
                values.push(state);
            }
            let records = page_of_kind
                .query_map(&values[..], |row| rows::found(row, format).map(Found::into_record))?;
            for record in records {
                found.push(record?);
            }
        }
    }
    snapshot.commit()?;
    found.sort_by_key(|record| std::cmp::Reverse(record.task.id));
    found.truncate(page.limit as usize + 1);
    Ok(Listed::from_one_more(found, page, |record| record.task.id.0))
}

/// Every type of task that there is, also those that this program does not know: one look-up
/// in the index for each.
fn kinds(conn: &Connection) -> Result<Vec<String>, Error> {
    let mut next = conn.prepare_cached("SELECT min(kind) FROM tasks WHERE kind > ?1")?;
    let mut kinds: Vec<String> = Vec::new();
    while let Some(kind) =
        next.query_row([kinds.last().map_or("", String::as_str)], |row| row.get(0))?
    {
        kinds.push(kind);
    }
    Ok(kinds)
}

/// Without those of an earlier project of the same name, if a project has the name.
const OF_PROJECT: &str = "AND t.project = ?5 AND (?6 IS NULL OR t.project_nonce = ?6)";

/// The query for one type of task.
fn sql(filter: &TaskFilter) -> String {
    let (project, state) = match (&filter.project, filter.state) {
        (None, None) => ("", ""),
        (Some(_), None) => (OF_PROJECT, ""),
        (None, Some(_)) => ("", "AND t.state = ?5"),
        (Some(_), Some(_)) => (OF_PROJECT, "AND t.state = ?7"),
    };
    format!(
        "SELECT {FROM_TASKS}
         WHERE t.kind = ?1 AND t.id < ?2 AND (t.expires_at IS NULL OR t.expires_at > ?3)
         {project} {state} ORDER BY t.id DESC LIMIT ?4"
    )
}

#[cfg(test)]
mod tests {
    use rdev_domain::task::TaskState;
    use rusqlite::{StatementStatus, params};

    use super::*;
    use crate::database::migrate::migrate;
    use crate::store::schema::SCHEMA;

    /// The nonce of both projects.
    const NONCE: [u8; 16] = [1; 16];

    /// A table with `count` finished tasks of two projects, a tenth of them checks.
    fn filled(count: i64) -> Connection {
        let conn = Connection::open_in_memory().expect("a database");
        migrate(&conn, SCHEMA.migrations).expect("the schema");
        conn.execute(
            "INSERT INTO tasks
                 (id, project, kind, agent, state, priority, available_at, body, project_nonce)
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             SELECT CAST(printf('%016d', i) AS BLOB), iif(i % 2, 'site', 'other'),
                    iif(i % 10, 'build', 'check'), '', iif(i % 3, 'succeeded', 'failed'), 4, 0, '{}',
                    ?2
             FROM n",
            params![count, NONCE],
        )
        .expect("rows");
        conn
    }

    #[test]
    fn a_page_of_a_hundred_thousand_tasks_costs_what_one_of_a_thousand_does() {
        let (few, many) = (filled(1_000), filled(100_000));
        for project in [None, Some("site".parse().expect("a slug"))] {
            for state in [None, Some(TaskState::Failed), Some(TaskState::Queued)] {
                let filter = TaskFilter { project: project.clone(), state, builds_only: true };
                let steps = |conn: &Connection, before: &str| {
                    let mut statement = conn.prepare(&sql(&filter)).expect("a statement");
                    statement.raw_bind_parameter(1, "build").expect("a value");
                    statement.raw_bind_parameter(2, before.as_bytes()).expect("a value");
                    statement.raw_bind_parameter(3, 0).expect("a value");
                    statement.raw_bind_parameter(4, 51).expect("a value");
                    let project = project.as_ref().map(|project| project.as_str());
                    if let Some(project) = project {
                        statement.raw_bind_parameter(5, project).expect("a value");
                        statement.raw_bind_parameter(6, NONCE).expect("a value");
                    }
                    if let Some(state) = state {
                        let place = if project.is_some() { 7 } else { 5 };
                        statement.raw_bind_parameter(place, state.as_str()).expect("a value");
                    }
                    let mut rows = statement.raw_query();
                    let mut found = 0;
                    while rows.next().expect("a row").is_some() {
                        found += 1;
                    }
                    assert_eq!(found, if state == Some(TaskState::Queued) { 0 } else { 51 });
                    drop(rows);
                    (
                        statement.get_status(StatementStatus::VmStep),
                        statement.get_status(StatementStatus::Sort),
                    )
                };
                let (first, sorts) = steps(&few, "0000000000000900");
                assert_eq!(sorts, 0, "{filter:?}");
                for before in ["0000000000099000", "0000000000050000", "0000000000000900"] {
                    assert_eq!(steps(&many, before), (first, 0), "{filter:?} below {before}");
                }
            }
        }
    }
}
