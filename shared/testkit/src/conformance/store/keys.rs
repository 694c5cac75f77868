//! API keys.

use rdev_domain::key::{ApiKey, Scope};
use rdev_domain::ports::Conflict;

use super::cases;
use super::world::{MINUTE, World, conflict, key_actor, not_found};

cases! {
    a_key_reads_back_as_it_was_created;
    a_key_is_revoked_once_and_stays;
    keys_are_listed_newest_first;
}

async fn a_key_reads_back_as_it_was_created(w: World) {
    let key = new_key(&w, "aaaaaaaaaaa1");
    w.store.create_key(&key, &key_actor(), w.now()).await.expect("a new id");
    assert_eq!(w.store.key(&key.id).await.expect("it is there"), key);
    let other = ApiKey { name: "other".to_owned(), ..key.clone() };
    let answer = w.store.create_key(&other, &key_actor(), w.now()).await;
    assert_eq!(conflict(answer), Conflict::IdTaken);
    assert_eq!(w.store.key(&key.id).await.expect("it is there"), key);
    not_found(w.store.key(&"zzzzzzzzzzzz".parse().expect("a key id")).await);
}

async fn a_key_is_revoked_once_and_stays(w: World) {
    let key = new_key(&w, "aaaaaaaaaaa1");
    w.store.create_key(&key, &key_actor(), w.now()).await.expect("a new id");
    w.pass(MINUTE);
    let revoked = w.store.revoke_key(&key.id, &key_actor(), w.now()).await.expect("it is there");
    assert_eq!(revoked, ApiKey { revoked_at: Some(w.now()), ..key.clone() });
    w.pass(MINUTE);
    let again = w.store.revoke_key(&key.id, &key_actor(), w.now()).await.expect("it is there");
    assert_eq!(again, revoked, "a revoked one stays as it is");
    assert_eq!(w.store.key(&key.id).await.expect("it is there"), revoked);
    assert_eq!(w.store.keys().await.expect("the keys"), [revoked]);
    let unknown = "zzzzzzzzzzzz".parse().expect("a key id");
    not_found(w.store.revoke_key(&unknown, &key_actor(), w.now()).await);
}

async fn keys_are_listed_newest_first(w: World) {
    assert_eq!(w.store.keys().await.expect("the keys"), []);
    let mut expected = Vec::new();
    for id in ["mmmmmmmmmmmm", "aaaaaaaaaaaa", "zzzzzzzzzzzz"] {
        w.pass(MINUTE);
        let key = new_key(&w, id);
        w.store.create_key(&key, &key_actor(), w.now()).await.expect("a new id");
        expected.insert(0, key);
    }
    assert_eq!(w.store.keys().await.expect("the keys"), expected);
}

fn new_key(w: &World, id: &str) -> ApiKey {
    ApiKey {
        id: id.parse().expect("a key id"),
        name: "ci \"robot\"".to_owned(),
        scopes: vec![Scope::BuildsRead, Scope::WorkWrite],
        secret_sha256: "ab".repeat(32),
        created_at: w.now(),
        revoked_at: None,
    }
}
