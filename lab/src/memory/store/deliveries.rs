//! Webhook deliveries.

use rdev_domain::ids::ProjectId;
use rdev_domain::page::{Listed, Page};
use rdev_domain::time::Timestamp;
use rdev_domain::webhook::{KEPT, WebhookDelivery};

use super::lists;
use super::transaction::{State, expired};

pub(super) fn due(state: &State, now: Timestamp, limit: u32) -> Vec<WebhookDelivery> {
    let all = state.deliveries.values();
    let mut due: Vec<&WebhookDelivery> =
        all.filter(|delivery| delivery.next_at.is_some_and(|at| at <= now)).collect();
    due.sort_by_key(|delivery| (delivery.next_at, delivery.id));
    due.into_iter().take(limit as usize).cloned().collect()
}

pub(super) fn update(state: &mut State, before: &WebhookDelivery, after: &WebhookDelivery) -> bool {
    match state.deliveries.get_mut(&before.id) {
        Some(there) if there == before => {
            *there = after.clone();
            true
        }
        _ => false,
    }
}

pub(super) fn list(state: &State, project: &ProjectId, page: &Page) -> Listed<WebhookDelivery> {
    let all = state.deliveries.values().rev();
    let owner = state.projects.get(project);
    let wanted = all.filter(|delivery| {
        delivery.project_id == *project
            && owner.is_none_or(|owner| owner.owns(delivery.project_nonce, delivery.task_id.0))
            && !expired(expires_at(delivery), state.latest)
    });
    lists::page(wanted.cloned(), page, |delivery| delivery.id)
}

/// A delivery expires after it has ended. One that is still to be sent does not.
pub(super) fn expires_at(delivery: &WebhookDelivery) -> Option<Timestamp> {
    delivery.next_at.is_none().then(|| delivery.updated_at.plus(KEPT))
}
