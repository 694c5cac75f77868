//! What nobody should send, at the endpoints of this page.

use serde_json::{Value, json};

use crate::platform::world::{World, assert_problem};
use rdev_testkit::tools::trial::Outcome;

rdev_testkit::trials! {
    async bad_domains_are_refused_field_by_field_and_nothing_is_asked_of_the_provider;
    async bad_projects_webhooks_and_pipelines_are_refused;
}

async fn bad_domains_are_refused_field_by_field_and_nothing_is_asked_of_the_provider() -> Outcome {
    let world = World::new(10)?;
    let server = world.up().await;
    assert_eq!(server.post("/project", json!({ "name": "site" })).await.status, 201);
    world.dns.forget();
    let (label, name) = ("a".repeat(64), format!("{}example.com", "a.".repeat(130)));
    let bad_names: [&str; 14] = [
        &name,
        &label,
        "a..b.example.com",
        "-a",
        "a-.example.com",
        "evilexample.com",
        "example.com.evil.org",
        "site.example.org",
        "",
        "a b",
        "a\u{0}.example.com",
        "p\u{430}ypal",
        "a/../../b",
        "a.*.example.com",
    ];
    let mut cases: Vec<(Value, &str)> =
        bad_names.iter().map(|name| (json!({ "domain": name }), "domain")).collect();
    for target in ["0177.0.0.1", "::ffff:10.0.0.1", "10.0.0.1", "127.0.0.1", "169.254.169.254", "x"]
    {
        cases.push((json!({ "domain": "a", "type": "A", "target": target }), "target"));
    }
    let itself = json!({ "domain": "a", "type": "CNAME", "target": "A.example.com." });
    cases.push((itself, "target"));
    for ttl in [json!(0), json!(2), json!(10_000_000_000_u64), json!(-1), json!("x")] {
        cases.push((json!({ "domain": "a", "ttl": ttl }), "ttl"));
    }
    cases.push((json!({ "domain": "a", "type": "MX", "target": "b.example.com" }), "type"));
    cases.push((json!({ "domain": "a", "type": "A" }), "target"));
    cases.push((json!({ "domain": "a", "target": "93.184.216.34" }), "type"));
    cases.push((json!({ "domain": "a", "unknown": 1 }), "unknown"));
    for (body, field) in cases {
        let refused = server.post("/projects/site/domains", body.clone()).await;
        assert_problem(&refused, 422, "invalid_request");
        let fields = refused.body["errors"].as_array().expect("errors");
        let named = fields.iter().any(|error| error["field"] == field);
        assert!(named, "{body}: {refused:?}");
        let whole = json!({ "name": "other", "domain": body });
        let refused = server.post("/project", whole).await;
        assert_problem(&refused, 422, "invalid_request");
    }
    assert!(world.dns.requests().is_empty(), "{:?}", world.dns.requests());
    assert_problem(&server.get("/projects/other").await, 404, "not_found");
    Ok(())
}

async fn bad_projects_webhooks_and_pipelines_are_refused() -> Outcome {
    let world = World::new(10)?;
    let server = world.up().await;
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    for (field, more) in [
        ("template", json!({ "template": "none-of-these" })),
        ("webhook_secret", json!({ "webhook_url": "https://hooks.example.org/" })),
        ("webhook_url", json!({ "webhook_secret": secret })),
        ("webhook_secret", json!({ "webhook_url": "https://a.b/", "webhook_secret": "sesame" })),
        ("webhook_url", json!({ "webhook_url": "http://127.0.0.1/", "webhook_secret": secret })),
        (
            "webhook_url",
            json!({ "webhook_url": "http://[::ffff:10.0.0.1]/", "webhook_secret": secret }),
        ),
        ("webhook_url", json!({ "webhook_url": "ftp://a.b/", "webhook_secret": secret })),
    ] {
        let mut body = json!({ "name": "site" });
        for (name, value) in more.as_object().expect("fields") {
            body[name] = value.clone();
        }
        let refused = server.post("/project", body).await;
        assert_problem(&refused, 422, "invalid_request");
        assert_eq!(refused.body["errors"][0]["field"], field, "{refused:?}");
        assert!(!refused.body.to_string().contains(secret), "{refused:?}");
    }
    assert!(world.forge.requests().is_empty());
    assert_eq!(server.post("/project", json!({ "name": "site" })).await.status, 201);
    let pipelines = "/projects/site/ci/pipelines";
    for (path, status, code) in [
        (format!("{pipelines}?limit=0"), 422, "invalid_request"),
        (format!("{pipelines}?cursor=x"), 400, "invalid_cursor"),
        (format!("{pipelines}?branch="), 422, "invalid_request"),
        (format!("{pipelines}/0"), 404, "not_found"),
        (format!("{pipelines}/999999"), 404, "not_found"),
        (format!("{pipelines}/x"), 404, "not_found"),
        (format!("{pipelines}/1/log"), 422, "invalid_request"),
    ] {
        assert_problem(&server.get(&path).await, status, code);
    }
    let list = "/projects/site/deliveries";
    let foreign = server.get("/projects?limit=1").await.body["next_cursor"].clone();
    assert!(foreign.is_null());
    assert_problem(&server.get(&format!("{list}?cursor=e30")).await, 400, "invalid_cursor");
    Ok(())
}
