//! Whether builds of the projects can deliver to their repositories.

use rdev_platform::Finding;
use serde_json::Value;

use crate::client::Client;
use crate::command::project::{Standing, standing};

/// The problems of the newest projects' repositories: what takes no builds, or is elsewhere by now.
/// What may keep builds from one, or may not, is a note.
pub(super) async fn check(client: &Client) -> Vec<Finding> {
    match found(client).await {
        Ok(findings) => findings,
        Err(error) => vec![Finding::problem("the projects' repositories", format!("{error:#}"))],
    }
}

/// The newest projects.
pub(super) async fn newest(client: &Client) -> anyhow::Result<Vec<Value>> {
    let list = client.get("projects", &[("limit", "100".to_owned())]).await?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

async fn found(client: &Client) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for project in newest(client).await? {
        let Some(id) = project["id"].as_str() else { continue };
        let shown = client.get(&format!("projects/{id}"), &[]).await?;
        findings.extend(standing(&shown).map(|standing| finding(id, standing)));
    }
    findings.sort_by(|a, b| a.what.cmp(&b.what));
    Ok(findings)
}

fn finding(id: &str, Standing { text, certain }: Standing) -> Finding {
    let what = format!("the project {id}");
    if certain { Finding::problem(what, text) } else { Finding::fine(format!("{what}: {text}")) }
}
