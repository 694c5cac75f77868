//! Whether builds of the projects can deliver to their repositories.

use std::collections::BTreeMap;

use rdev_platform::Finding;
use serde_json::Value;

use crate::client::Client;
use crate::command::project::standing;

/// The problems of the newest projects' repositories: what takes no builds, or is elsewhere by now.
pub(super) async fn check(client: &Client) -> Vec<Finding> {
    match found(client).await {
        Ok(problems) => {
            let of_project = |(id, problem)| Finding::problem(format!("the project {id}"), problem);
            problems.into_iter().map(of_project).collect()
        }
        Err(error) => vec![Finding::problem("the projects' repositories", format!("{error:#}"))],
    }
}

/// The newest projects.
pub(super) async fn newest(client: &Client) -> anyhow::Result<Vec<Value>> {
    let list = client.get("projects", &[("limit", "100".to_owned())]).await?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

async fn found(client: &Client) -> anyhow::Result<BTreeMap<String, String>> {
    let mut problems = BTreeMap::new();
    for project in newest(client).await? {
        let Some(id) = project["id"].as_str() else { continue };
        let shown = client.get(&format!("projects/{id}"), &[]).await?;
        problems.extend(standing(&shown).map(|problem| (id.to_owned(), problem)));
    }
    Ok(problems)
}
