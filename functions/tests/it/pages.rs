//! Lists: pages, cursors, and what is not a cursor of the list.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::Fixture;

/// All pages of a list, two items each.
async fn walk(fixture: &Fixture, path: &str) -> Vec<Value> {
    let and = if path.contains('?') { '&' } else { '?' };
    let (mut items, mut cursor) = (Vec::new(), String::new());
    for _ in 0..100 {
        let page = fixture.get(&format!("{path}{and}limit=2{cursor}")).await;
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.json();
        let part = page["items"].as_array().expect("items");
        assert!(part.len() <= 2);
        items.extend(part.iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
    panic!("{path} never ends");
}

fn ids(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["id"].as_str().expect("an id")).collect()
}

#[tokio::test]
async fn every_list_is_walked_page_by_page_newest_first() {
    let fixture = Fixture::new().await;
    let mut projects = Vec::new();
    for n in 0..5 {
        projects.push(fixture.project(&format!("site-{n}")).await.to_string());
        fixture
            .heartbeat_of(
                &format!("worker-{n}"),
                rdev_domain::worker::WorkerStatus::Idle,
                std::time::Duration::ZERO,
            )
            .await;
        fixture.key(&[rdev_domain::key::Scope::Admin]).await;
    }
    let project = projects[0].parse().expect("a name");
    let mut builds = Vec::new();
    for _ in 0..5 {
        builds.push(fixture.build(&project).await.to_string());
    }
    let body = json!({ "project_id": "site-0", "type": "check", "spec": { "commands": ["true"] } });
    let check = fixture.post("/work/enqueue", body).await.task_id().to_string();

    projects.reverse();
    assert_eq!(ids(&walk(&fixture, "/projects").await), projects);
    builds.reverse();
    assert_eq!(ids(&walk(&fixture, "/projects/site-0/builds").await), builds);
    assert_eq!(ids(&walk(&fixture, "/work?state=queued").await)[1..], builds);
    assert_eq!(ids(&walk(&fixture, "/work?project_id=site-0").await)[0], check);
    assert_eq!(walk(&fixture, "/work?project_id=site-1").await, [] as [Value; 0]);
    assert_eq!(walk(&fixture, "/work?state=running").await, [] as [Value; 0]);
    let workers: Vec<_> = (0..5).map(|n| format!("worker-{n}")).collect();
    assert_eq!(ids(&walk(&fixture, "/workers").await), workers);
    let keys = walk(&fixture, "/keys").await;
    assert_eq!(keys.len(), 6);
    let created: Vec<_> =
        keys.iter().map(|key| key["created_at"].as_str().expect("a time")).collect();
    assert!(created.is_sorted_by(|a, b| a >= b), "{created:?}");
    let audit = walk(&fixture, "/audit").await;
    assert!(ids(&audit).is_sorted_by(|a, b| a > b));
    assert_eq!(walk(&fixture, "/agents").await.len(), 4);
}

#[tokio::test]
async fn items_inserted_meanwhile_do_not_disturb_the_pages() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    let mut old = Vec::new();
    for _ in 0..6 {
        old.push(fixture.build(&project).await.to_string());
    }
    old.reverse();
    let first = fixture.get("/projects/site/builds?limit=3").await.json();
    fixture.build(&project).await;
    let cursor = first["next_cursor"].as_str().expect("a next page");
    let second =
        fixture.get(&format!("/projects/site/builds?limit=3&cursor={cursor}")).await.json();
    let mut seen: Vec<_> = first["items"].as_array().expect("items").clone();
    seen.extend(second["items"].as_array().expect("items").clone());
    assert_eq!(ids(&seen), old);
    assert_eq!(second["next_cursor"], Value::Null);
}

#[tokio::test]
async fn a_cursor_of_another_list_or_with_other_filters_is_refused() {
    let fixture = Fixture::new().await;
    let project = fixture.project("site").await;
    fixture.project("other").await;
    for _ in 0..3 {
        fixture.build(&project).await;
    }
    let page = fixture.get("/work?limit=1&project_id=site&state=queued").await.json();
    let good = page["next_cursor"].as_str().expect("a next page").to_owned();
    let with = |cursor: &str| format!("/work?project_id=site&state=queued&cursor={cursor}");
    assert_eq!(fixture.get(&with(&good)).await.status, 200);
    for path in [
        "/work",
        "/work?project_id=site",
        "/work?project_id=other&state=queued",
        "/work?project_id=site&state=failed",
        "/projects",
        "/projects/site/builds",
        "/audit",
        "/keys",
        "/workers",
        "/agents",
        "/work/dead",
    ] {
        let and = if path.contains('?') { '&' } else { '?' };
        let reply = fixture.get(&format!("{path}{and}cursor={good}")).await;
        reply.assert_problem(400, "invalid_cursor");
    }
    let mut inside: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(&good).expect("base64")).expect("JSON");
    for last in ["", "x", "01jdgz2v9qk8m3t5x7y9abcdef", "' OR 1=1 --", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ"]
    {
        inside["a"] = json!(last);
        let forged = URL_SAFE_NO_PAD.encode(inside.to_string());
        fixture.get(&with(&forged)).await.assert_problem(400, "invalid_cursor");
    }
    let long = "A".repeat(5000);
    for forged in ["", "x", "e30", "bnVsbA", "%00", "%ff", "W10", &good[1..], &long] {
        fixture.get(&with(forged)).await.assert_problem(400, "invalid_cursor");
    }
}
