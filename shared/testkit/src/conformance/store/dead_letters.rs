//! Step 12: dead letters stay recorded until they are forgotten.

use rdev_domain::page::Page;
use rdev_domain::ports::DeadLetter;

use super::cases;
use super::world::{MINUTE, World, key_actor};

cases! {
    a_dead_letter_is_recorded_once_and_stays;
    dead_letters_are_listed_newest_first_in_pages;
    only_the_first_delete_of_a_dead_letter_is_recorded;
}

async fn a_dead_letter_is_recorded_once_and_stays(w: World) {
    let letter = new_letter(&w, "not a wake-up \"\u{fffd}\"");
    for _ in 0..2 {
        w.store.record_dead_letter(&letter).await.expect("it is recorded");
    }
    assert_eq!(letters(&w, 10).await, std::slice::from_ref(&letter));
    let stats = w.store.work_stats(w.now()).await.expect("the stats");
    assert_eq!(stats.dead_letters, 1);

    w.store.delete_dead_letter(w.ulid(), &key_actor(), w.now()).await.expect("unknown: nothing");
    assert_eq!(letters(&w, 10).await.len(), 1);
    for _ in 0..2 {
        w.store.delete_dead_letter(letter.id, &key_actor(), w.now()).await.expect("it goes");
    }
    assert_eq!(letters(&w, 10).await, []);
    assert_eq!(w.store.work_stats(w.now()).await.expect("the stats").dead_letters, 0);
}

async fn dead_letters_are_listed_newest_first_in_pages(w: World) {
    let mut expected = Vec::new();
    for number in 0..5 {
        w.pass(MINUTE);
        let letter = new_letter(&w, &format!("letter {number}"));
        w.store.record_dead_letter(&letter).await.expect("it is recorded");
        expected.insert(0, letter);
    }
    for limit in [1, 2, 5, 100] {
        assert_eq!(letters(&w, limit).await, expected, "in pages of {limit}");
    }
}

async fn only_the_first_delete_of_a_dead_letter_is_recorded(w: World) {
    let letter = new_letter(&w, "garbage");
    w.store.record_dead_letter(&letter).await.expect("it is recorded");
    for (id, recorded) in [(w.ulid(), 0), (letter.id, 1), (letter.id, 1)] {
        w.store.delete_dead_letter(id, &key_actor(), w.now()).await.expect("it is gone");
        assert_eq!(w.audit_log(None).await.len(), recorded);
    }
}

fn new_letter(w: &World, body: &str) -> DeadLetter {
    DeadLetter {
        id: w.ulid(),
        at: w.now(),
        body: body.to_owned(),
        reason: "garbage".to_owned(),
        project_id: Some("site".parse().expect("a slug")),
        receive_count: 10,
    }
}

/// Every dead letter, read in pages of `limit`.
async fn letters(w: &World, limit: u32) -> Vec<DeadLetter> {
    let mut page = Page { limit, before: None };
    let mut all = Vec::new();
    loop {
        let listed = w.store.dead_letters(&page).await.expect("a page");
        assert!(listed.items.len() <= limit as usize);
        all.extend(listed.items);
        match listed.next {
            Some(next) => page.before = Some(next),
            None => return all,
        }
    }
}
