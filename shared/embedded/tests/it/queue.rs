//! Properties of the queue beyond the conformance suite.

use std::time::{Duration, Instant};

use rdev_domain::ports::{PortError, Queue};
use rdev_domain::wake_up::{Undecodable, WakeUp};
use rdev_embedded::Options;
use rusqlite::Connection;

use crate::scene::Scene;

fn wake_up(name: &str) -> WakeUp {
    WakeUp { project_id: name.parse().expect("a slug"), agent: None }
}

/// Longer than every step of these tests, shorter than a receiver's own wait.
const SOON: Duration = Duration::from_secs(18);

#[tokio::test(flavor = "multi_thread")]
async fn each_waiting_receiver_is_woken_by_a_message_of_its_own() {
    let scene = Scene::new();
    let mut receivers = Vec::new();
    for _ in 0..8 {
        let queue = scene.data.queue.clone();
        receivers.push(tokio::spawn(async move { queue.receive(Duration::from_secs(20)).await }));
    }
    let begun = Instant::now();
    for number in 0..8 {
        let queue = &scene.data.queue;
        queue.send(&wake_up(&format!("site-{number}")), Duration::ZERO).await.expect("sent");
    }
    let mut got = Vec::new();
    for receiver in receivers {
        let message = receiver.await.expect("no panic").expect("an answer").expect("a message");
        got.push(message.body.expect("a wake-up").project_id.to_string());
    }
    got.sort();
    assert_eq!(got, (0..8).map(|number| format!("site-{number}")).collect::<Vec<_>>());
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_receiver_does_not_lose_a_wake_up() {
    let scene = Scene::new();
    for round in 0..50 {
        let queue = scene.data.queue.clone();
        let quitter = tokio::spawn({
            let queue = queue.clone();
            async move { queue.receive(Duration::from_secs(20)).await }
        });
        let stayer = tokio::spawn({
            let queue = queue.clone();
            async move { queue.receive(Duration::from_secs(20)).await }
        });
        tokio::task::yield_now().await;
        quitter.abort();
        let quit = quitter.await;
        assert!(quit.is_err(), "nothing was there to receive");
        queue.send(&wake_up("site"), Duration::ZERO).await.expect("sent");
        let message = tokio::time::timeout(SOON, stayer).await.expect("it was woken");
        let message = message.expect("no panic").expect("an answer").expect("a message");
        queue.delete(&message.receipt).await.expect("deleted");
        assert_eq!(queue.stats().await.expect("stats"), Default::default(), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_receiver_gets_a_message_that_becomes_visible_later() {
    let scene = Scene::new();
    let queue = scene.data.queue.clone();
    let receiver = tokio::spawn({
        let queue = queue.clone();
        async move { queue.receive(Duration::from_secs(20)).await }
    });
    let begun = Instant::now();
    queue.send(&wake_up("site"), Duration::from_millis(300)).await.expect("sent");
    let message = receiver.await.expect("no panic").expect("an answer");
    message.expect("a message");
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(300) && waited < SOON, "{waited:?}");
}

#[tokio::test]
async fn a_delay_that_is_too_long_is_refused() {
    let scene = Scene::new();
    let answer = scene.data.queue.send(&wake_up("site"), Duration::from_secs(901)).await;
    assert!(matches!(answer, Err(PortError::Invalid(_))), "{answer:?}");
}

#[tokio::test]
async fn messages_that_are_not_wake_ups_are_received_as_such_and_become_dead_letters() {
    let visibility = Duration::ZERO;
    let scene = Scene::with(Options { visibility, max_receives: 2, ..Options::default() });
    let queue = &scene.data.queue;
    let file = Connection::open(scene.path("queue.db")).expect("a second connection");
    for body in ["garbage", "{\"v\":2}"] {
        file.execute(
            "INSERT INTO messages (body, sent_at, visible_at, receive_count) VALUES (?1, 1, 1, 0)",
            [body],
        )
        .expect("a message");
    }
    let mut bodies = Vec::new();
    while let Some(message) = queue.receive(Duration::ZERO).await.expect("an answer") {
        bodies.push(message.body.expect_err("it is no wake-up"));
        assert!(bodies.len() <= 4, "each is received twice");
    }
    let count = |kind: &Undecodable| bodies.iter().filter(|body| *body == kind).count();
    assert_eq!((count(&Undecodable::Garbage), count(&Undecodable::UnknownVersion(2))), (2, 2));
    assert_eq!(queue.stats().await.expect("stats").dead, 2);
    let dead = queue.receive_dead(10).await.expect("an answer");
    let mut texts: Vec<_> = dead.iter().map(|message| message.body.as_str()).collect();
    texts.sort_unstable();
    assert_eq!(texts, ["garbage", "{\"v\":2}"]);
    assert!(dead.iter().all(|message| message.receive_count == 2));
    for message in &dead {
        queue.delete_dead(&message.receipt).await.expect("deleted");
    }
    assert_eq!(queue.stats().await.expect("stats"), Default::default());
}

#[tokio::test]
async fn messages_survive_a_restart() {
    let scene = Scene::new();
    scene.data.queue.send(&wake_up("site"), Duration::ZERO).await.expect("sent");
    let scene = scene.reopened();
    let message = scene.data.queue.receive(Duration::ZERO).await.expect("an answer");
    assert_eq!(message.expect("a message").body, Ok(wake_up("site")));
}

#[tokio::test]
async fn after_a_restart_received_messages_are_visible_at_once_and_delayed_ones_are_not() {
    let scene = Scene::new();
    scene.data.queue.send(&wake_up("held"), Duration::ZERO).await.expect("sent");
    scene.data.queue.send(&wake_up("later"), Duration::from_secs(600)).await.expect("sent");
    scene.data.queue.receive(Duration::ZERO).await.expect("an answer").expect("a message");
    let scene = scene.reopened();
    assert_eq!(scene.data.queue.receive(Duration::ZERO).await.expect("an answer"), None);
    scene.data.queue.return_received().await.expect("returned");
    let message = scene.data.queue.receive(Duration::ZERO).await.expect("an answer");
    let message = message.expect("a message");
    assert_eq!((message.body, message.receive_count), (Ok(wake_up("held")), 2));
    assert_eq!(scene.data.queue.receive(Duration::ZERO).await.expect("an answer"), None);
}
