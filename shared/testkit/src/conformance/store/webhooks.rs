//! A project's webhook: its URL is shown, its secret is kept apart.

use rdev_domain::ids::ProjectId;
use rdev_domain::page::Page;
use rdev_domain::ports::{Conflict, PortResult};
use rdev_domain::project::{Deletion, Project, ProjectPatch};
use rdev_domain::secret::Secret;
use rdev_domain::webhook::Webhook;

use super::cases;
use super::race::settled;
use super::world::{MINUTE, World, conflict, key_actor, not_found, race};

cases! {
    a_webhook_is_set_changed_and_removed;
    removing_no_webhook_changes_nothing;
    a_webhook_needs_a_project_that_stays;
    another_change_of_a_project_keeps_its_webhook;
    a_forgotten_project_has_no_webhook;
    of_webhooks_that_are_set_at_once_one_stays_whole;
}

async fn a_webhook_is_set_changed_and_removed(w: World) {
    let id = w.project().await;
    assert_eq!(webhook(&w, &id).await, None);
    for number in [1, 2] {
        w.pass(MINUTE);
        let expected_webhook = numbered(number);
        let set =
            set(&w, &id, Some(&expected_webhook)).await.expect("a ready project accepts a webhook");
        assert_eq!(
            (set.webhook_url.as_ref(), set.updated_at),
            (Some(&expected_webhook.url), w.now())
        );
        assert_eq!(w.store.project(&id).await.expect("it is there"), set);
        let page = Page { limit: 10, before: None };
        assert_eq!(w.store.projects(&page).await.expect("a page").items, [set]);
        assert_eq!(webhook(&w, &id).await, Some(expected_webhook));
        newest_is(&w, &id, "project.webhook_set").await;
    }
    w.pass(MINUTE);
    let removed = set(&w, &id, None).await.expect("a webhook can be removed");
    assert_eq!((&removed.webhook_url, removed.updated_at), (&None, w.now()));
    assert_eq!(w.store.project(&id).await.expect("it is there"), removed);
    assert_eq!(webhook(&w, &id).await, None);
    newest_is(&w, &id, "project.webhook_removed").await;
    assert_eq!(w.audit(&id).await.len(), 4);
}

async fn removing_no_webhook_changes_nothing(w: World) {
    let id = w.project().await;
    let before = w.store.project(&id).await.expect("it is there");
    w.pass(MINUTE);
    assert_eq!(set(&w, &id, None).await.expect("there is none"), before);
    assert_eq!(w.store.project(&id).await.expect("it is there"), before);
    assert_eq!(w.audit(&id).await.len(), 1);
}

async fn a_webhook_needs_a_project_that_stays(w: World) {
    let nowhere = "nowhere".parse().expect("a slug");
    not_found(set(&w, &nowhere, Some(&numbered(1))).await);
    not_found(set(&w, &nowhere, None).await);
    assert_eq!(webhook(&w, &nowhere).await, None);

    let id = w.project().await;
    set(&w, &id, Some(&numbered(1))).await.expect("a ready project accepts a webhook");
    w.store
        .begin_delete_project(&id, Deletion::KeepRepository, None, &key_actor(), w.now())
        .await
        .expect("nothing runs");
    for expected_webhook in [Some(numbered(2)), None] {
        let refused = set(&w, &id, expected_webhook.as_ref()).await;
        assert_eq!(conflict(refused), Conflict::ProjectNotReady);
    }
    assert_eq!(webhook(&w, &id).await, Some(numbered(1)), "ended builds are still delivered");
}

async fn another_change_of_a_project_keeps_its_webhook(w: World) {
    let id = w.project().await;
    set(&w, &id, Some(&numbered(1))).await.expect("a ready project accepts a webhook");
    let patch = ProjectPatch { description: Some("other".to_owned()), ..ProjectPatch::default() };
    let changed = w.store.update_project(&id, &patch, &key_actor(), w.now()).await;
    let (project, _) = changed.expect("it is there");
    assert_eq!(project.webhook_url, Some(numbered(1).url));
    assert_eq!(webhook(&w, &id).await, Some(numbered(1)));
}

async fn a_forgotten_project_has_no_webhook(w: World) {
    let project = w.new_project();
    w.create(&project).await.expect("a new name");
    set(&w, &project.id, Some(&numbered(1))).await.expect("a ready project accepts a webhook");
    let by = key_actor();
    w.store
        .begin_delete_project(&project.id, Deletion::KeepRepository, None, &by, w.now())
        .await
        .expect("nothing runs");
    w.store.forget_project(&project.id, None, &by, w.now()).await.expect("it is being deleted");
    assert_eq!(webhook(&w, &project.id).await, None);
    let again = Project { nonce: w.ulid(), ..project };
    assert_eq!(w.create(&again).await.expect("the name is free").webhook_url, None);
    assert_eq!(webhook(&w, &again.id).await, None, "it has nothing of its predecessor's");
}

async fn of_webhooks_that_are_set_at_once_one_stays_whole(w: World) {
    let id = w.project().await;
    let set = race(6, |number| {
        let (w, id) = (w.clone(), id.clone());
        async move { settled(|| async { set(&w, &id, Some(&numbered(number))).await }).await }
    });
    for answer in set.await {
        answer.expect("a ready project accepts a webhook");
    }
    let kept = webhook(&w, &id).await.expect("one was the last");
    assert!((0..6).any(|number| kept == numbered(number)), "the URL of one, the secret of another");
    let project = w.store.project(&id).await.expect("it is there");
    assert_eq!(project.webhook_url, Some(kept.url));
}

fn numbered(number: usize) -> Webhook {
    let url = format!("https://hooks.example.com/{number}?a=b").parse().expect("a URL");
    Webhook { url, secret: Secret::new(format!("whsec_{number}")) }
}

async fn set(w: &World, id: &ProjectId, webhook: Option<&Webhook>) -> PortResult<Project> {
    w.store.set_webhook(id, webhook, &key_actor(), w.now()).await
}

async fn webhook(w: &World, id: &ProjectId) -> Option<Webhook> {
    w.store.webhook(id).await.expect("an answer")
}

async fn newest_is(w: &World, id: &ProjectId, action: &str) {
    let event = w.audit(id).await.into_iter().next().expect("it is recorded");
    assert_eq!((event.action.as_str(), event.at), (action, w.now()));
    assert_eq!((event.subject, event.actor), (format!("project/{id}"), key_actor().name()));
    assert_eq!(event.request_id.as_deref(), Some("request-1"));
}
