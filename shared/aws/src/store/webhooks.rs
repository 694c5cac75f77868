//! Webhooks. The project shows the URL; what sends needs URL and secret of one time, and so
//! they stand together in an item of their own.

use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{Conflict, PortResult};
use rdev_domain::project::{Project, ProjectState};
use rdev_domain::secret::Secret;
use rdev_domain::webhook::Webhook;

use super::calls::pause;
use super::item::{broken, get_text, item, text};
use super::projects::{self, Known, RACES};
use super::writes::Writes;
use super::{Change, DynamoStore};
use crate::schema::Key;

pub(super) async fn set(
    change: &Change<'_>,
    id: &ProjectId,
    webhook: Option<&Webhook>,
) -> PortResult<Project> {
    for race in 1..=RACES {
        let Known { project, rev } = change.store.known(id).await?;
        if project.state == ProjectState::Deleting {
            return Err(Conflict::ProjectNotReady.into());
        }
        if webhook.is_none() && project.webhook_url.is_none() {
            return Ok(project);
        }
        let webhook_url = webhook.map(|webhook| webhook.url.clone());
        let project = Project { webhook_url, updated_at: change.now, ..project };
        let mut writes = Writes::new(&change.store.table);
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
        if change.store.transact(writes).await?.is_ok() {
            return Ok(project);
        }
        pause(race).await;
    }
    Err(Conflict::Contended.into())
}

impl DynamoStore {
    pub(super) async fn read_webhook(&self, id: &ProjectId) -> PortResult<Option<Webhook>> {
        let Some(item) = self.get(Key::webhook(id)).await? else { return Ok(None) };
        let url = get_text(&item, "url").and_then(|url| url.parse().ok());
        match (url, get_text(&item, "secret")) {
            (Some(url), Some(secret)) => Ok(Some(Webhook { url, secret: Secret::new(secret) })),
            _ => Err(broken(&item)),
        }
    }
}
