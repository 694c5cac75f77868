//! `rdev project …`.

use serde_json::{Value, json};

use super::{Column, Session, fields};
use crate::args::Project;
use crate::exit::Exit;
use crate::out;

const COLUMNS: [Column; 5] = [
    ("NAME", "/id"),
    ("STATE", "/state"),
    ("TEMPLATE", "/template"),
    ("CREATED", "/created_at"),
    ("DESCRIPTION", "/description"),
];

const FIELDS: [Column; 8] = [
    ("name", "/id"),
    ("state", "/state"),
    ("description", "/description"),
    ("template", "/template"),
    ("repository", "/git_url"),
    ("branch", "/default_branch"),
    ("build limit", "/build_limit"),
    ("created", "/created_at"),
];

/// Runs one of the commands.
pub(crate) async fn run(session: &Session, command: Project) -> anyhow::Result<Exit> {
    match command {
        Project::Create(create) => {
            let mut body = json!({"name": create.name});
            let optional = [
                ("description", create.description.map(|text| json!(text))),
                ("template", create.template.map(|name| json!(name))),
                ("git_url", create.git_url.map(|url| json!(url))),
                ("repository", create.no_repository.then_some(Value::Bool(false))),
                ("default_branch", create.default_branch.map(|branch| json!(branch))),
                ("build_limit", create.build_limit.map(|limit| json!(limit))),
            ];
            for (name, value) in optional {
                if let Some(value) = value {
                    body[name] = value;
                }
            }
            let answer = session.client.post("projects", Some(&body), None).await?;
            session.show(&answer, |answer| fields(answer, &FIELDS))
        }
        Project::List(paging) => session.list("projects", &paging, &COLUMNS).await,
        Project::Show { name } => {
            let answer = session.client.get(&format!("projects/{name}"), &[]).await?;
            session.show(&answer, |answer| fields(answer, &FIELDS))
        }
        Project::Delete { name, delete_repository } => {
            let query = [("delete_repository", delete_repository.to_string())];
            let answer = session.client.delete(&format!("projects/{name}"), &query).await?;
            if answer.is_null() {
                if session.json {
                    out::json(&json!({"id": name, "deleted": true}))?;
                } else {
                    out::note(format_args!("deleted project {name}"));
                }
                return Ok(Exit::Done);
            }
            session.show(&answer, |answer| fields(answer, &FIELDS))
        }
    }
}
