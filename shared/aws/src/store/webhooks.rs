//! Webhooks. The project shows the URL. The sender needs a URL and a secret that belong together,
//! so both are in an item of their own too.

use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{Conflict, PortResult};
use rdev_domain::project::{Project, ProjectState};
use rdev_domain::secret::Secret;
use rdev_domain::webhook::Webhook;

use super::context::{Change, Context};
use super::item::{corrupt, get_text, item, text};
use super::projects::{self, MAX_RACES, StoredProject};
use super::table::pause;
use crate::schema::Key;

pub(super) async fn set(
    change: &Change<'_>,
    id: &ProjectId,
    webhook: Option<&Webhook>,
) -> PortResult<Project> {
    for race in 1..=MAX_RACES {
        let StoredProject { project, rev } = projects::find(change.context, id).await?;
        if project.state == ProjectState::Deleting {
            return Err(Conflict::ProjectNotReady.into());
        }
        if webhook.is_none() && project.webhook_url.is_none() {
            return Ok(project);
        }
        let webhook_url = webhook.map(|webhook| webhook.url.clone());
        let project = Project { webhook_url, updated_at: change.now, ..project };
        let mut writes = change.context.table.writes();
        projects::write(&mut writes, &project, rev)?;
        let action = match webhook {
            Some(Webhook { url, secret }) => {
                let of_it = [("url", text(url.as_str())), ("secret", text(secret.expose()))];
                writes.put(item(Key::webhook(id), of_it));
                "project.webhook_set"
            }
            None => {
                writes.delete(Key::webhook(id), "", vec![]);
                "project.webhook_removed"
            }
        };
        projects::record_change(change, &mut writes, action, id)?;
        if change.context.table.transact(writes).await?.is_ok() {
            return Ok(project);
        }
        pause(race).await;
    }
    Err(Conflict::Contended.into())
}

pub(super) async fn get(context: &Context, id: &ProjectId) -> PortResult<Option<Webhook>> {
    let Some(item) = context.table.get(Key::webhook(id)).await? else { return Ok(None) };
    let url = get_text(&item, "url").and_then(|url| url.parse().ok());
    match (url, get_text(&item, "secret")) {
        (Some(url), Some(secret)) => Ok(Some(Webhook { url, secret: Secret::new(secret) })),
        _ => Err(corrupt(&item)),
    }
}
