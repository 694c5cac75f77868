//! `rdev worker …`.

use super::{Column, Session, fields};
use crate::args::work::Worker;
use crate::exit::Exit;

const COLUMNS: [Column; 7] = [
    ("WORKER", "/id"),
    ("STATUS", "/status"),
    ("SLOTS", "/slots"),
    ("RUNNING", "/running"),
    ("AGENTS", "/agents"),
    ("VERSION", "/version"),
    ("LAST HEARTBEAT", "/last_heartbeat_at"),
];

const FIELDS: [Column; 4] =
    [("worker", "/id"), ("status", "/status"), ("slots", "/slots"), ("running", "/running")];

/// Runs one of the commands.
pub(crate) async fn run(session: &Session, command: Worker) -> anyhow::Result<Exit> {
    let (id, action) = match command {
        Worker::List(paging) => return session.list("workers", &paging, &COLUMNS).await,
        Worker::Drain { id } => (id, "drain"),
        Worker::Resume { id } => (id, "resume"),
    };
    let answer = session.client.post(&format!("workers/{id}/{action}"), None, None).await?;
    session.show(&answer, |answer| fields(answer, &FIELDS))
}
