//! Domains over the API, at a real PowerDNS.

use serde_json::json;

use crate::platform::world::{World, assert_problem, wanted};
use rdev_testkit::tools::trial::Outcome;

rdev_testkit::trials! {
    async a_domain_is_added_changed_and_removed_and_the_name_always_leads_somewhere;
    async what_belongs_to_others_is_left_alone;
    async the_zone_itself_wildcards_and_underscores_need_a_scope_of_their_own;
}

async fn a_domain_is_added_changed_and_removed_and_the_name_always_leads_somewhere() -> Outcome {
    let world = World::new(10)?;
    let server = world.up().await;
    assert_eq!(server.post("/project", wanted("site")).await.status, 201);
    let path = "/projects/site/domains";
    let www = json!({ "domain": "www", "type": "A", "target": "93.184.216.35", "ttl": 300 });
    let added = server.post(path, www.clone()).await;
    assert_eq!(added.status, 201, "{added:?}");
    assert_eq!(added.body["domain"], "www.example.com");
    let again = server.post(path, www).await;
    assert_eq!((again.status, &again.body), (200, &added.body), "the same again is nothing new");

    let other = json!({ "domain": "www", "type": "CNAME", "target": "site.example.com" });
    let changed = server.post(path, other).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let found = world.powerdns.resolve("www.example.com", "A").answers;
    let kinds: Vec<_> = found.iter().map(|one| one.kind.as_str()).collect();
    assert_eq!(kinds, ["CNAME", "A"], "{found:?}");

    let unicode = server.post(path, json!({ "domain": "b\u{fc}cher" })).await;
    assert_eq!(unicode.body["domain"], "xn--bcher-kva.example.com", "{unicode:?}");
    let listed = server.get(&format!("{path}?limit=2")).await.body;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2), "{listed:#}");
    let cursor = listed["next_cursor"].as_str().expect("a next page");
    let rest = server.get(&format!("{path}?limit=2&cursor={cursor}")).await.body;
    assert_eq!(rest["items"][0]["domain"], "site.example.com", "{rest:#}");

    assert_eq!(server.delete(&format!("{path}/www.example.com")).await.status, 204);
    assert!(world.powerdns.resolve("www.example.com", "CNAME").answers.is_empty());
    assert_problem(&server.delete(&format!("{path}/www.example.com")).await, 404, "not_found");
    assert_eq!(server.delete(&format!("{path}/b%C3%BCcher")).await.status, 204);
    Ok(())
}

async fn what_belongs_to_others_is_left_alone() -> Outcome {
    let world = World::new(10)?;
    let server = world.up().await;
    for name in ["one", "two"] {
        assert_eq!(server.post("/project", json!({ "name": name })).await.status, 201);
    }
    world.powerdns.write("mail.example.com", "A", &["198.51.100.7"], Some("by hand"));
    let refused = server.post("/projects/one/domains", json!({ "domain": "mail" })).await;
    assert_problem(&refused, 409, "record_not_ours");
    let refused = server.delete("/projects/one/domains/mail.example.com").await;
    assert_problem(&refused, 409, "record_not_ours");
    let cname = json!({ "domain": "mail", "type": "CNAME", "target": "a.example.org" });
    let refused = server.post("/projects/one/domains", cname).await;
    assert_problem(&refused, 409, "record_not_ours");
    let found = world.powerdns.resolve("mail.example.com", "A").answers;
    assert_eq!(found[0].content, "198.51.100.7", "{found:?}");
    let kept = server.get("/projects/one/domains").await.body;
    assert_eq!(kept["items"], json!([]), "nothing is half made");

    let mut body = wanted("late");
    body["domain"] = json!({ "domain": "mail" });
    let refused = server.post("/project", body).await;
    assert_problem(&refused, 409, "record_not_ours");
    let project = server.get("/projects/late").await.body;
    assert_eq!(project["state"], "provisioning_failed", "{project:#}");

    let shared = json!({ "domain": "shared" });
    assert_eq!(server.post("/projects/one/domains", shared.clone()).await.status, 201);
    assert_problem(&server.post("/projects/two/domains", shared).await, 409, "domain_taken");
    let refused = server.delete("/projects/two/domains/shared.example.com").await;
    assert_problem(&refused, 409, "domain_taken");
    let mut body = wanted("three");
    body["domain"] = json!({ "domain": "shared" });
    assert_problem(&server.post("/project", body).await, 409, "domain_taken");
    assert_problem(&server.get("/projects/three").await, 404, "not_found");

    // What somebody has put there in our record's place stays too.
    world.powerdns.write("shared.example.com", "A", &["198.51.100.8"], Some("by hand"));
    let refused = server.delete("/projects/one/domains/shared.example.com").await;
    assert_problem(&refused, 409, "record_not_ours");
    let found = world.powerdns.resolve("shared.example.com", "A").answers;
    assert_eq!(found[0].content, "198.51.100.8", "{found:?}");
    Ok(())
}

async fn the_zone_itself_wildcards_and_underscores_need_a_scope_of_their_own() -> Outcome {
    let world = World::new(10)?;
    let mut server = world.up().await;
    assert_eq!(server.post("/project", json!({ "name": "site" })).await.status, 201);
    let key = |scopes: serde_json::Value| json!({ "name": "test", "scopes": scopes });
    let plain = server.post("/keys", key(json!(["domains:read", "domains:write"]))).await.body;
    let scopes = json!(["domains:read", "domains:write", "domains:admin"]);
    let admin = server.post("/keys", key(scopes)).await.body;
    let reserved = ["example.com", "*.example.com", "_acme-challenge.site"];
    let body =
        |name: &str| json!({ "domain": format!("{name}"), "type": "A", "target": "93.184.216.34" });
    let names = reserved.map(|name| name.replace(".site", ".site.example.com"));
    server.key = plain["key"].as_str().expect("a key").to_owned();
    for name in &names {
        let refused = server.post("/projects/site/domains", body(name)).await;
        assert_problem(&refused, 403, "missing_scope");
    }
    server.key = admin["key"].as_str().expect("a key").to_owned();
    for name in &names {
        let added = server.post("/projects/site/domains", body(name)).await;
        assert_eq!(added.status, 201, "{name}: {added:?}");
    }
    server.key = plain["key"].as_str().expect("a key").to_owned();
    let refused = server.delete("/projects/site/domains/*.example.com").await;
    assert_problem(&refused, 403, "missing_scope");
    let found = world.powerdns.resolve("anything.example.com", "A").answers;
    assert_eq!(found.len(), 1, "{found:?}");
    Ok(())
}
