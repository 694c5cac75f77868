//! Looks through repositories for refs that nobody needs: planned, taken by one, ended.

use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::TaskId;
use rdev_domain::ref_look::{RefLook, SELDOM};

use super::cases;
use super::world::{DAY, HOUR, MINUTE, World, race};

cases! {
    a_look_is_due_when_it_was_planned_for;
    a_plan_is_brought_forward_and_not_put_off;
    due_looks_are_limited_and_the_longest_due_comes_first;
    of_runners_that_take_a_look_at_once_one_has_it;
    a_plan_made_during_a_look_outlives_its_end;
    of_plans_made_at_once_none_is_lost;
}

async fn a_look_is_due_when_it_was_planned_for(w: World) {
    let url = url("site");
    assert_eq!(due(&w).await, []);
    w.store.plan_look(&url, w.now().plus(SELDOM), w.now()).await.expect("planned");
    let planned_at = w.now();
    w.pass(SELDOM - MINUTE);
    assert_eq!(due(&w).await, []);
    w.pass(MINUTE);
    let [look] = &due(&w).await[..] else { panic!("one") };
    let expected =
        RefLook { repository: url, due: planned_at.plus(SELDOM), planned_at, known: [].into() };
    assert_eq!(*look, expected);
    let after =
        RefLook { due: w.now().plus(DAY), known: [TaskId(w.ulid())].into(), ..look.clone() };
    assert!(w.store.update_look(look, Some(&after)).await.expect("an answer"));
    assert_eq!(due(&w).await, []);
    w.pass(DAY);
    assert_eq!(due(&w).await, std::slice::from_ref(&after));
    assert!(w.store.update_look(&after, None).await.expect("an answer"));
    assert_eq!(due(&w).await, []);
    assert!(!w.store.update_look(&after, None).await.expect("an answer"), "it is gone");
    assert!(!w.store.update_look(&after, Some(&after)).await.expect("an answer"));
    assert_eq!(due(&w).await, []);
}

async fn a_plan_is_brought_forward_and_not_put_off(w: World) {
    let url = url("site");
    let begun = w.now();
    w.store.plan_look(&url, begun.plus(DAY), begun).await.expect("planned");
    w.pass(MINUTE);
    w.store.plan_look(&url, begun.plus(HOUR), w.now()).await.expect("planned");
    w.store.plan_look(&url, begun.plus(3 * DAY), w.now()).await.expect("planned");
    w.pass(HOUR);
    let [look] = &due(&w).await[..] else { panic!("one") };
    assert_eq!((look.due, look.planned_at), (begun.plus(HOUR), begun.plus(MINUTE)));
}

async fn due_looks_are_limited_and_the_longest_due_comes_first(w: World) {
    let names = ["c", "a", "d", "b", "e"];
    for (number, name) in names.into_iter().enumerate() {
        let at = w.now().plus(MINUTE * u32::try_from(number).expect("a small number"));
        w.store.plan_look(&url(name), at, w.now()).await.expect("planned");
    }
    w.pass(HOUR);
    let first: Vec<GitUrl> = w
        .store
        .due_looks(w.now(), 3)
        .await
        .expect("an answer")
        .into_iter()
        .map(|look| look.repository)
        .collect();
    assert_eq!(first, [url("c"), url("a"), url("d")]);
    assert_eq!(due(&w).await.len(), names.len());
}

async fn of_runners_that_take_a_look_at_once_one_has_it(w: World) {
    let url = url("site");
    w.store.plan_look(&url, w.now(), w.now()).await.expect("planned");
    let [look] = &due(&w).await[..] else { panic!("one") };
    let taken = race(6, |number| {
        let (w, look) = (w.clone(), look.clone());
        let after = look.taken(w.now().plus(MINUTE * u32::try_from(number).expect("small")));
        async move { w.store.update_look(&look, Some(&after)).await }
    });
    let taken: Vec<bool> = taken.await.into_iter().map(|taken| taken.expect("an answer")).collect();
    assert_eq!(taken.iter().filter(|taken| **taken).count(), 1, "{taken:?}");
    assert_eq!(due(&w).await, []);
    w.pass(2 * HOUR);
    assert_eq!(due(&w).await.len(), 1, "should it die, another one looks");
}

async fn a_plan_made_during_a_look_outlives_its_end(w: World) {
    let url = url("site");
    w.store.plan_look(&url, w.now(), w.now()).await.expect("planned");
    let [look] = &due(&w).await[..] else { panic!("one") };
    let taken = look.taken(w.now());
    assert!(w.store.update_look(look, Some(&taken)).await.expect("an answer"));
    w.pass(MINUTE);
    w.store.plan_look(&url, w.now().plus(SELDOM), w.now()).await.expect("planned");
    assert!(!w.store.update_look(&taken, None).await.expect("an answer"), "it has changed");
    w.pass(DAY);
    let [again] = &due(&w).await[..] else { panic!("one") };
    assert_eq!(again.due, taken.due, "as early as whoever took it might have died");
}

async fn of_plans_made_at_once_none_is_lost(w: World) {
    let url = url("site");
    let begun = w.now();
    let planned = race(6, |number| {
        let (w, url) = (w.clone(), url.clone());
        let at = begun.plus(MINUTE * u32::try_from(10 - number).expect("small"));
        async move { w.store.plan_look(&url, at, w.now()).await }
    });
    for answer in planned.await {
        answer.expect("planned");
    }
    w.pass(HOUR);
    let [look] = &due(&w).await[..] else { panic!("one") };
    assert_eq!(look.due, begun.plus(5 * MINUTE), "the earliest");
}

fn url(name: &str) -> GitUrl {
    format!("https://git.example.com/team/{name}.git").parse().expect("a clone URL")
}

async fn due(w: &World) -> Vec<RefLook> {
    w.store.due_looks(w.now(), 100).await.expect("an answer")
}
