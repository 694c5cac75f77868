//! `rdev project …`.

use serde_json::{Value, json};

use super::{Column, Session, cell, fields};
use crate::args::project::Project;
use crate::exit::Exit;
use crate::out;
use crate::usage::UsageError;

const COLUMNS: [Column; 5] = [
    ("NAME", "/id"),
    ("STATE", "/state"),
    ("TEMPLATE", "/template"),
    ("CREATED", "/created_at"),
    ("DESCRIPTION", "/description"),
];

const FIELDS: [Column; 14] = [
    ("name", "/id"),
    ("state", "/state"),
    ("description", "/description"),
    ("template", "/template"),
    ("repository", "/git_url"),
    ("branch", "/default_branch"),
    ("build limit", "/build_limit"),
    ("deliver", "/deliver"),
    ("labels", "/pull_request_options/labels"),
    ("draft", "/pull_request_options/draft"),
    ("reviewers", "/pull_request_options/reviewers"),
    ("messages", "/messages/count"),
    ("last one", "/messages/last_at"),
    ("created", "/created_at"),
];

/// Runs one of the commands.
pub(crate) async fn run(session: &Session, command: Project) -> anyhow::Result<Exit> {
    match command {
        Project::Create(create) => {
            let mut body = json!({"name": create.name});
            let domain = create.domain.map(|name| match name {
                Some(name) => json!({ "domain": name }),
                None => json!({}),
            });
            let secret = match &create.webhook_url {
                Some(_) => Some(std::env::var("RDEV_WEBHOOK_SECRET").map_err(|_| {
                    UsageError("--webhook-url needs RDEV_WEBHOOK_SECRET".to_owned())
                })?),
                None => None,
            };
            let optional = [
                ("domain", domain),
                ("prompt", create.prompt.as_ref().map(|text| json!(text))),
                ("agent", create.agent.map(|agent| json!(agent))),
                ("webhook_url", create.webhook_url.map(|url| json!(url))),
                ("webhook_secret", secret.map(|secret| json!(secret))),
                ("description", create.description.map(|text| json!(text))),
                ("template", create.template.map(|name| json!(name))),
                ("git_url", create.git_url.map(|url| json!(url))),
                ("repository", create.no_repository.then_some(Value::Bool(false))),
                ("default_branch", create.default_branch.map(|branch| json!(branch))),
                ("build_limit", create.build_limit.map(|limit| json!(limit))),
                ("deliver", create.deliver.map(|deliver| json!(deliver))),
                ("pull_request_options", create.options.in_json()),
            ];
            for (name, value) in optional {
                if let Some(value) = value {
                    body[name] = value;
                }
            }
            if create.prompt.is_none() {
                let answer = session.client.post("projects", Some(&body), None).await?;
                return session.show(&answer, shown);
            }
            let path = "project/create-and-build";
            let answer = session.client.post(path, Some(&body), None).await?;
            if !session.json {
                out::line(shown(&answer["project"]))?;
            }
            super::build::queued(session, &answer["task"], create.follow).await
        }
        Project::List(paging) => session.list("projects", &paging, &COLUMNS).await,
        Project::Show { name } => {
            let answer = session.client.get(&format!("projects/{name}"), &[]).await?;
            session.show(&answer, shown)
        }
        Project::Provision { name } => {
            let path = format!("projects/{name}/provision");
            let answer = session.client.post(&path, None, None).await?;
            session.show(&answer, shown)
        }
        Project::Delete { name, delete_repository } => {
            let query = [("delete_repository", delete_repository.to_string())];
            let answer = session.client.delete(&format!("projects/{name}"), &query).await?;
            let left = answer["stays"].as_array().map_or(&[][..], Vec::as_slice);
            // Of a project that is still being deleted the answer is the project.
            if !answer.is_null() && left.is_empty() {
                return session.show(&answer, shown);
            }
            if session.json {
                out::json(&json!({"id": name, "deleted": true, "stays": left}))?;
            } else {
                out::note(format_args!("deleted project {name}"));
                for one in left {
                    out::note(cell(one, "/detail"));
                }
            }
            Ok(Exit::Done)
        }
    }
}

/// A project, with the steps of its setup that are not done.
fn shown(project: &Value) -> String {
    let mut text = fields(project, &FIELDS);
    if let Some(Standing { text: standing, .. }) = standing(project) {
        text.push_str(&format!("\nat the forge {standing}"));
    }
    let steps = project["provisioning"]["steps"].as_array().into_iter().flatten();
    for step in steps.filter(|step| step["state"] != "done") {
        let (name, state) = (cell(step, "/name"), cell(step, "/state"));
        let error = cell(step, "/error");
        let colon = if error.is_empty() { "" } else { ": " };
        text.push_str(&format!("\nstep         {name} {state}{colon}{error}"));
    }
    text
}

/// How the project's repository stands on the forge, where that is to be told.
pub(crate) struct Standing {
    pub(crate) text: String,
    /// Whether it is known to be so for builds.
    pub(crate) certain: bool,
}

/// What keeps builds from the project's repository, or where it is now; `None`: nothing.
pub(crate) fn standing(project: &Value) -> Option<Standing> {
    // A server that does not say it does not know of others.
    let certain = project["repository"]["certain"].as_bool().unwrap_or(true);
    let problem = match cell(project, "/repository/state").as_str() {
        "gone" => "the repository is gone, or rdev may not see it any more",
        "archived" => "the repository is archived: builds fail until it is writable",
        "push_denied" if certain => {
            "rdev's user may not push to the repository: give it the right to write"
        }
        "push_denied" => {
            "the user of rdev's forge token may not push to the repository: builds fail if runners push as that user"
        }
        // By a pull request they deliver to branches of their own.
        "branch_protected" if cell(project, "/deliver") == "pull_request" => "",
        "branch_protected" if certain => {
            "the branch is protected against rdev's user: build with --pull-request, make that the project's default (deliver), or let it push"
        }
        "branch_protected" => {
            "the branch is protected against the user of rdev's forge token: if runners push as that user, build with --pull-request"
        }
        _ => "",
    };
    let moved_to = cell(project, "/repository/moved_to");
    let text = match (problem, moved_to.as_str()) {
        ("", "") => return None,
        ("", url) => format!("the repository is at {url} now; the next build follows it"),
        (problem, _) => problem.to_owned(),
    };
    Some(Standing { text, certain })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_certain_is_said_of_the_user_of_builds() {
        let told = |state: &str, certain: Option<bool>| {
            let project = json!({ "repository": { "state": state, "certain": certain } });
            standing(&project).map(|standing| (standing.text, standing.certain))
        };
        assert_eq!(told("writable", Some(true)), None);
        for state in ["push_denied", "branch_protected"] {
            let (text, certain) = told(state, Some(true)).expect("a problem");
            assert!(certain && text.contains("rdev's user"), "{text}");
            assert_eq!(told(state, None), Some((text, true)), "an older server");
            let (text, certain) = told(state, Some(false)).expect("a note");
            assert!(!certain && text.contains("if runners push as that user"), "{text}");
        }
    }
}
