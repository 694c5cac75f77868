//! `rdev key …`.

use serde_json::json;

use super::{Column, Session};
use crate::args::Key;
use crate::exit::Exit;
use crate::out;

const COLUMNS: [Column; 5] = [
    ("KEY", "/id"),
    ("NAME", "/name"),
    ("SCOPES", "/scopes"),
    ("CREATED", "/created_at"),
    ("REVOKED", "/revoked_at"),
];

/// Runs one of the commands.
pub(crate) async fn run(session: &Session, command: Key) -> anyhow::Result<Exit> {
    match command {
        Key::Create { name, scopes } => {
            let body = json!({"name": name, "scopes": scopes});
            let answer = session.client.post("keys", Some(&body), None).await?;
            if !session.json {
                let id = answer["id"].as_str().map(out::clean).unwrap_or_default();
                out::note(format_args!("key {id}; it is shown this once, keep it safe:"));
            }
            session.show(&answer, |answer| answer["key"].as_str().unwrap_or_default().to_owned())
        }
        Key::List(paging) => session.list("keys", &paging, &COLUMNS).await,
        Key::Revoke { id } => {
            let answer = session.client.delete(&format!("keys/{id}"), &[]).await?;
            if answer.is_null() {
                if session.json {
                    out::json(&json!({"id": id, "revoked": true}))?;
                } else {
                    out::note(format_args!("revoked key {id}"));
                }
                return Ok(Exit::Done);
            }
            session.show(&answer, |answer| format!("{answer:#}"))
        }
    }
}
