//! Step 13: a repeated request is answered once.

use std::time::Duration;

use rdev_domain::request::{Begun, IN_FLIGHT, RequestKey, StoredAnswer};
use ulid::Ulid;

use super::cases;
use super::world::{DAY, MINUTE, SECOND, World, race};

cases! {
    the_same_body_gets_the_first_answer_again;
    another_body_is_refused;
    a_repeat_of_a_request_in_flight_is_refused;
    a_repeat_of_a_lost_request_continues_with_its_nonce;
    a_released_request_continues_immediately;
    a_record_expires_after_a_day;
    of_twenty_concurrent_requests_one_continues;
    requests_with_other_keys_know_nothing_of_each_other;
}

async fn the_same_body_gets_the_first_answer_again(w: World) {
    let nonce = w.ulid();
    assert_eq!(begin(&w, "k", "body", nonce).await, Begun::Go { nonce, resumed: false });
    w.pass(SECOND);
    finish(&w, "k", &answer("first")).await;
    for _ in 0..2 {
        w.pass(MINUTE);
        assert_eq!(begin(&w, "k", "body", w.ulid()).await, Begun::Replay(answer("first")));
    }
}

async fn another_body_is_refused(w: World) {
    let nonce = w.ulid();
    begin(&w, "k", "body", nonce).await;
    assert_eq!(begin(&w, "k", "other", w.ulid()).await, Begun::OtherBody, "while in flight");
    w.pass(IN_FLIGHT + SECOND);
    assert_eq!(begin(&w, "k", "other", w.ulid()).await, Begun::OtherBody, "when it was lost");
    assert_eq!(begin(&w, "k", "body", w.ulid()).await, Begun::Go { nonce, resumed: true });
    finish(&w, "k", &answer("first")).await;
    assert_eq!(begin(&w, "k", "other", w.ulid()).await, Begun::OtherBody, "when it was answered");
    assert_eq!(begin(&w, "k", "body", w.ulid()).await, Begun::Replay(answer("first")));
}

async fn a_repeat_of_a_request_in_flight_is_refused(w: World) {
    begin(&w, "k", "body", w.ulid()).await;
    assert_eq!(begin(&w, "k", "body", w.ulid()).await, Begun::InFlight);
    w.pass(IN_FLIGHT - Duration::from_millis(1));
    assert_eq!(begin(&w, "k", "body", w.ulid()).await, Begun::InFlight);
}

async fn a_repeat_of_a_lost_request_continues_with_its_nonce(w: World) {
    let nonce = w.ulid();
    begin(&w, "k", "body", nonce).await;
    for _ in 0..3 {
        w.pass(IN_FLIGHT + SECOND);
        let resumed = begin(&w, "k", "body", w.ulid()).await;
        assert_eq!(resumed, Begun::Go { nonce, resumed: true });
        assert_eq!(begin(&w, "k", "body", w.ulid()).await, Begun::InFlight, "it has a minute anew");
    }
    finish(&w, "k", &answer("at last")).await;
    assert_eq!(begin(&w, "k", "body", w.ulid()).await, Begun::Replay(answer("at last")));
}

async fn a_released_request_continues_immediately(w: World) {
    let nonce = w.ulid();
    begin(&w, "k", "body", nonce).await;
    w.store.release_request(&key("k"), w.now()).await.expect("it can be released");
    assert_eq!(begin(&w, "k", "other", w.ulid()).await, Begun::OtherBody);
    assert_eq!(begin(&w, "k", "body", w.ulid()).await, Begun::Go { nonce, resumed: true });
    assert_eq!(begin(&w, "k", "body", w.ulid()).await, Begun::InFlight);
}

async fn a_record_expires_after_a_day(w: World) {
    begin(&w, "answered", "body", w.ulid()).await;
    finish(&w, "answered", &answer("first")).await;
    begin(&w, "lost", "body", w.ulid()).await;
    w.pass(DAY - SECOND);
    assert_eq!(begin(&w, "answered", "body", w.ulid()).await, Begun::Replay(answer("first")));
    w.pass(2 * SECOND);
    // Expired records are not seen, also where the sweep has not deleted them yet.
    for name in ["answered", "lost"] {
        let nonce = w.ulid();
        assert_eq!(begin(&w, name, "other", nonce).await, Begun::Go { nonce, resumed: false });
    }
    finish(&w, "answered", &answer("second")).await;
    assert_eq!(begin(&w, "answered", "other", w.ulid()).await, Begun::Replay(answer("second")));
    assert_eq!(begin(&w, "answered", "body", w.ulid()).await, Begun::OtherBody);
}

async fn of_twenty_concurrent_requests_one_continues(w: World) {
    let first = w.ulid();
    for (name, resumed) in [("new", false), ("lost", true)] {
        if resumed {
            begin(&w, name, "body", first).await;
            w.pass(IN_FLIGHT + SECOND);
        }
        let begun = race(20, |_| {
            let w = w.clone();
            async move { begin(&w, name, "body", w.ulid()).await }
        })
        .await;
        let mut went = 0;
        for begun in begun {
            match begun {
                Begun::Go { nonce, resumed: again } => {
                    assert_eq!(again, resumed);
                    assert!(!resumed || nonce == first);
                    went += 1;
                }
                other => assert_eq!(other, Begun::InFlight),
            }
        }
        assert_eq!(went, 1, "{name}");
    }
}

async fn requests_with_other_keys_know_nothing_of_each_other(w: World) {
    for name in ["a", "b"] {
        let nonce = w.ulid();
        assert_eq!(begin(&w, name, name, nonce).await, Begun::Go { nonce, resumed: false });
        finish(&w, name, &answer(name)).await;
    }
    assert_eq!(begin(&w, "a", "a", w.ulid()).await, Begun::Replay(answer("a")));
    assert_eq!(begin(&w, "b", "b", w.ulid()).await, Begun::Replay(answer("b")));
}

async fn begin(w: &World, name: &str, body: &str, nonce: Ulid) -> Begun {
    let begun = w.store.begin_request(&key(name), body, nonce, w.now()).await;
    begun.expect("the store answers")
}

async fn finish(w: &World, name: &str, answer: &StoredAnswer) {
    w.store.finish_request(&key(name), answer, w.now()).await.expect("the answer is kept");
}

fn key(name: &str) -> RequestKey {
    RequestKey(format!("{name:0>64}"))
}

fn answer(text: &str) -> StoredAnswer {
    StoredAnswer {
        status: 202,
        location: Some(format!("/work/{text}")),
        content_type: "application/json".to_owned(),
        body: format!(r#"{{"text":"{text}"}}"#),
    }
}
