//! `rdev work …`.

use serde_json::json;

use super::{Column, Session, fields};
use crate::args::work::{Redrive, Work};
use crate::exit::Exit;

const COLUMNS: [Column; 6] = [
    ("TASK", "/id"),
    ("PROJECT", "/project_id"),
    ("TYPE", "/type"),
    ("STATE", "/state"),
    ("PRIORITY", "/priority"),
    ("CREATED", "/created_at"),
];

const DEAD: [Column; 5] = [
    ("LETTER", "/id"),
    ("AT", "/at"),
    ("REASON", "/reason"),
    ("PROJECT", "/project_id"),
    ("BODY", "/body"),
];

/// Runs one of the commands.
pub(crate) async fn run(session: &Session, command: Work) -> anyhow::Result<Exit> {
    match command {
        Work::List(paging) => session.list("work", &paging, &COLUMNS).await,
        Work::Stats => {
            let answer = session.client.get("work/stats", &[]).await?;
            session.show(&answer, |answer| fields(answer, &STATS))
        }
        Work::Dead(paging) => session.list("work/dead", &paging, &DEAD).await,
        Work::Redrive(redrive) => again(session, &redrive).await,
    }
}

const STATS: [Column; 8] = [
    ("due", "/due"),
    ("later", "/later"),
    ("running", "/running"),
    ("pushing", "/pushing"),
    ("oldest due (ms)", "/oldest_due_ms"),
    ("dead letters", "/dead_letters"),
    ("wake-ups", "/wake_ups/visible"),
    ("in flight", "/wake_ups/in_flight"),
];

const REDRIVEN: [Column; 4] =
    [("woken", "/woken"), ("retried", "/retried"), ("left", "/left"), ("more", "/more")];

async fn again(session: &Session, redrive: &Redrive) -> anyhow::Result<Exit> {
    // Without lists the server takes everything.
    let mut body = json!({});
    if !redrive.letters.is_empty() {
        body["dead_letter_ids"] = json!(redrive.letters);
    }
    if !redrive.tasks.is_empty() {
        body["task_ids"] = json!(redrive.tasks);
    }
    let answer = session.client.post("work/dead/redrive", Some(&body), None).await?;
    session.show(&answer, |answer| fields(answer, &REDRIVEN))
}
