//! `rdev domain …`.

use serde_json::{Map, Value, json};

use super::{Column, Session, fields};
use crate::args::domain::Domain;
use crate::exit::Exit;
use crate::out;

const COLUMNS: [Column; 6] = [
    ("DOMAIN", "/domain"),
    ("TYPE", "/type"),
    ("TARGET", "/target"),
    ("TTL", "/ttl"),
    ("STATE", "/state"),
    ("CREATED", "/created_at"),
];

const FIELDS: [Column; 6] = [
    ("domain", "/domain"),
    ("type", "/type"),
    ("target", "/target"),
    ("proxied", "/proxied"),
    ("ttl", "/ttl"),
    ("state", "/state"),
];

/// Runs one of the commands.
pub(crate) async fn run(session: &Session, command: Domain) -> anyhow::Result<Exit> {
    match command {
        Domain::Add { project, domain, kind, target, proxied, ttl } => {
            let optional = [
                ("domain", domain.map(|name| json!(name))),
                ("type", kind.map(|kind| json!(kind))),
                ("target", target.map(|target| json!(target))),
                ("proxied", proxied.map(|proxied| json!(proxied))),
                ("ttl", ttl.map(|ttl| json!(ttl))),
            ];
            let given = optional.into_iter().filter_map(|(name, value)| Some((name, value?)));
            let body: Map<String, Value> =
                given.map(|(name, value)| (name.to_owned(), value)).collect();
            let path = format!("projects/{project}/domains");
            let answer = session.client.post(&path, Some(&body.into()), None).await?;
            session.show(&answer, |answer| fields(answer, &FIELDS))
        }
        Domain::List { project, paging } => {
            session.list(&format!("projects/{project}/domains"), &paging, &COLUMNS).await
        }
        Domain::Remove { project, domain } => {
            let path = format!("projects/{project}/domains/{domain}");
            session.client.delete(&path, &[]).await?;
            if session.json {
                out::json(&json!({"domain": domain, "removed": true}))?;
            } else {
                out::note(format_args!("removed {domain}"));
            }
            Ok(Exit::Done)
        }
    }
}
