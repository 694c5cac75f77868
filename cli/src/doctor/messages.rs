//! Whether the forge's messages arrive: the forge is asked for a test message, and the server
//! counts what comes.
//!
//! A forge that may not send to the address of `public_url` says nothing of it to anybody: its
//! webhooks are registered, and every check of its API succeeds.

use std::time::{Duration, Instant};

use rdev_domain::ids::ProjectId;
use rdev_platform::Finding;
use rdev_platform::gitea::{Gitea, TestMessage};
use serde_json::Value;

use super::projects::newest as projects;
use crate::client::Client;

/// How long a message may take. A forge sends at once.
const WITHIN: Duration = Duration::from_secs(8);

/// The time between two looks at the project.
const EVERY: Duration = Duration::from_millis(200);

const WHAT: &str = "messages from the forge";

/// Checks it with the webhook of the newest project that has its repository on the forge. The
/// message changes nothing but the project's count of messages.
pub(super) async fn check(forge: &Gitea, server: Option<&Client>) -> Finding {
    let not_tried = |why: &str| Finding::fine(format!("{WHAT}: not tried, {why}"));
    let Some(server) = server else { return not_tried("since no server is running here") };
    match try_one(forge, server).await {
        Ok(Tried::Arrived { project, to }) => {
            Finding::fine(format!("{WHAT}: one about {project} has arrived at {to}"))
        }
        Ok(Tried::Lost { project, to }) => Finding::problem(
            format!("{WHAT} to {to}"),
            format!(
                "a test message about {project} has not arrived within {} s; check that the forge \
                 reaches this address. A Gitea sends to public addresses only: for another one, \
                 name its host in `[webhook] ALLOWED_HOST_LIST` of its app.ini (`private` allows \
                 all private addresses) and restart it. The settings of the repository there list \
                 what it has tried",
                WITHIN.as_secs()
            ),
        ),
        Ok(Tried::NoHook { project, to }) => Finding::problem(
            format!("{WHAT} to {to}"),
            format!(
                "the repository of {project} has no webhook with this address; if public_url has \
                 changed, change it in the settings of the repositories there, too"
            ),
        ),
        Ok(Tried::NotConfigured) => {
            Finding::fine(format!("{WHAT}: none are configured (forge.webhook_secret)"))
        }
        Ok(Tried::NoProject) => {
            not_tried("since no project has a repository on it yet: look again when one has")
        }
        Err(error) => Finding::problem(WHAT, format!("they cannot be tried: {error:#}")),
    }
}

enum Tried {
    Arrived { project: ProjectId, to: String },
    Lost { project: ProjectId, to: String },
    NoHook { project: ProjectId, to: String },
    NotConfigured,
    NoProject,
}

async fn try_one(forge: &Gitea, server: &Client) -> anyhow::Result<Tried> {
    let Some((project, before)) = newest_project(server).await? else {
        return Ok(Tried::NoProject);
    };
    let to = match forge.send_test_message(&project).await? {
        TestMessage::Queued { to } => to,
        TestMessage::NoHook { to } => return Ok(Tried::NoHook { project, to }),
        TestMessage::NotConfigured => return Ok(Tried::NotConfigured),
    };
    let begun = Instant::now();
    loop {
        // The list: a project by itself is looked up on the forge each time.
        let listed = projects(server).await?;
        let now = listed.iter().find(|one| one["id"] == project.as_str()).map_or(0, count);
        if now > before {
            return Ok(Tried::Arrived { project, to });
        }
        if begun.elapsed() > WITHIN {
            return Ok(Tried::Lost { project, to });
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// The newest project whose repository rdev has made on the forge, and how many messages have come.
async fn newest_project(server: &Client) -> anyhow::Result<Option<(ProjectId, u64)>> {
    let listed = projects(server).await?;
    let suits = |one: &&Value| one["forge_id"].is_u64() && one["state"] == "ready";
    let Some(found) = listed.iter().find(suits) else { return Ok(None) };
    let id = found["id"].as_str().unwrap_or_default().parse()?;
    Ok(Some((id, count(found))))
}

fn count(project: &Value) -> u64 {
    project["messages"]["count"].as_u64().unwrap_or(0)
}
