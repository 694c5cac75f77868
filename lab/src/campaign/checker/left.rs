//! What remains in the store, in folders and in repositories after everything has ended.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::history::History;
use super::tasks::{Seen, State};

/// Tables of `rdev.db` that are empty when nothing runs and nothing waits, and what a row of each
/// is.
const EMPTY: [(&str, &str); 4] = [
    ("leases", "lease, and the slot that it takes"),
    ("marks", "outbox entry"),
    ("due", "entry of the queue"),
    ("later", "entry of the queue"),
];

/// Refs of rdev's own that go when their task has succeeded or was cancelled.
const REFS: [&str; 3] = ["refs/rdev/wip/", "refs/rdev/part/", "refs/rdev/revoked/"];

/// Rows of the store on SQLite that should be gone.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn in_database(file: &Path) -> Result<Vec<String>> {
    let context = || format!("cannot read {}", file.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let store = Connection::open_with_flags(file, flags).with_context(context)?;
    let mut left = Vec::new();
    for (table, what) in EMPTY {
        let count = format!("SELECT project, count(*) FROM {table} GROUP BY project");
        let mut rows = store.prepare(&count).with_context(context)?;
        let rows = rows.query_map((), |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)));
        for row in rows.with_context(context)? {
            let (project, count) = row.with_context(context)?;
            left.extend((0..count).map(|_| format!("{project}: an {what} is left in {table}")));
        }
    }
    Ok(left)
}

/// Items of the table on DynamoDB that should be gone.
pub(crate) fn in_table(items: &[Value]) -> Vec<String> {
    let mut left = Vec::new();
    for item in items {
        let key = |name: &str| item[name]["S"].as_str().unwrap_or_default();
        let (pk, sk) = (key("pk"), key("sk"));
        if sk == "LEASE" {
            left.push(format!("a lease is left: {pk}"));
        } else if pk.starts_with("O#") {
            left.push(format!("an outbox entry is left: {pk} {sk}"));
        } else if pk.starts_with("P#") && (sk.starts_with("Q#") || sk.starts_with("R#")) {
            left.push(format!("an entry of the queue is left: {pk} {sk}"));
        } else if sk == "META#SLOTS" {
            let held = item["held"]["SS"].as_array().into_iter().flatten();
            left.extend(held.map(|task| format!("a slot is left: {pk} {task}")));
        }
    }
    left
}

/// What is left in a data folder: workspaces, unpushed work that nobody needs, lock files.
///
/// # Errors
/// When a folder cannot be read.
pub(crate) fn in_folder(data: &Path, tasks: &BTreeMap<String, Seen>) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for workspace in entries(&data.join("work"))? {
        left.push(format!("a workspace is left: {}", workspace.display()));
    }
    for unpushed in entries(&data.join("unpushed"))? {
        let name = unpushed.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if tasks.get(name).is_none_or(is_done_with) {
            left.push(format!("unpushed work is left that nobody needs: {}", unpushed.display()));
        }
    }
    for folder in ["repos", "cache"] {
        locks_below(&data.join(folder), &mut left)?;
    }
    Ok(left)
}

/// Lock files below a folder.
///
/// # Errors
/// When a folder cannot be read.
pub(crate) fn locks_below(folder: &Path, left: &mut Vec<String>) -> Result<()> {
    for path in entries(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // `cache/….lock` are files that runners lock with flock; they stay.
        let repository = path.ancestors().skip(1).any(|above| above.join("objects").is_dir());
        if repository && (name.ends_with(".lock") || name.starts_with("rdev-lock-")) {
            left.push(format!("a lock file is left: {}", path.display()));
        } else if path.is_dir() && !path.is_symlink() && name != "objects" {
            locks_below(&path, left)?;
        }
    }
    Ok(())
}

/// Refs of tasks that have no use for them any more.
pub(crate) fn refs<'a>(
    history: &'a History,
    tasks: &'a BTreeMap<String, Seen>,
) -> impl Iterator<Item = &'a str> {
    history.refs.keys().map(String::as_str).filter(|name| {
        let own = REFS.iter().find_map(|prefix| name.strip_prefix(prefix));
        let task = own.and_then(|own| own.split('/').next());
        task.and_then(|task| tasks.get(task)).is_some_and(is_done_with)
    })
}

/// Whether a task has succeeded or was cancelled, so that nothing of it is needed.
fn is_done_with(task: &Seen) -> bool {
    match task.state {
        State::Delivered(_) | State::Nothing => true,
        State::Undelivered | State::InDoubt => task.told.starts_with("cancelled"),
        State::Open => false,
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        other => {
            let entries = other.with_context(|| format!("cannot read {}", folder.display()))?;
            Ok(entries.flatten().map(|entry| entry.path()).collect())
        }
    }
}
