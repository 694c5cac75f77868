//! `rdev key …`.

use serde_json::json;

use super::{Column, Session};
use crate::args::key::Key;
use crate::exit::Exit;
use crate::out;

const COLUMNS: [Column; 5] = [
    ("KEY", "/id"),
    ("NAME", "/name"),
    ("SCOPES", "/scopes"),
    ("CREATED", "/created_at"),
    ("REVOKED", "/revoked_at"),
];

/// Runs one of the commands. `session` finds the server, which `bootstrap` does not need.
pub(crate) async fn run(
    session: impl FnOnce() -> anyhow::Result<Session>,
    json: bool,
    command: Key,
) -> anyhow::Result<Exit> {
    match command {
        Key::Create { name, scopes } => {
            let session = session()?;
            let body = json!({"name": name, "scopes": scopes});
            let answer = session.client.post("keys", Some(&body), None).await?;
            if !json {
                out::new_key_note(answer["id"].as_str().unwrap_or_default());
            }
            session.show(&answer, |answer| answer["key"].as_str().unwrap_or_default().to_owned())
        }
        Key::List(paging) => session()?.list("keys", &paging, &COLUMNS).await,
        Key::Revoke { id } => {
            let session = session()?;
            let answer = session.client.delete(&format!("keys/{id}"), &[]).await?;
            if answer.is_null() {
                if json {
                    out::json(&json!({"id": id, "revoked": true}))?;
                } else {
                    out::note(format_args!("revoked key {id}"));
                }
                return Ok(Exit::Done);
            }
            session.show(&answer, |answer| format!("{answer:#}"))
        }
        #[cfg(feature = "aws")]
        Key::Bootstrap(bootstrap) => crate::bootstrap::run(bootstrap, json).await,
    }
}
