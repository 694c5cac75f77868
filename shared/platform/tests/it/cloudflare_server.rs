//! The Cloudflare that the tests run against, held to what Cloudflare documents: the fields of
//! its answers, the codes of its errors, and its transactions.

use rdev_testkit::servers::cloudflare::{Cloudflare, TOKEN};
use reqwest::{Client, Method};
use serde_json::{Value, json};

rdev_testkit::trials! {
    async its_answers_have_the_documented_fields;
    async its_refusals_have_the_documented_codes;
    async a_batch_is_done_as_a_whole_with_its_deletes_first_or_not_at_all;
    async a_name_that_does_not_end_with_the_zone_is_put_into_it;
}

/// The fields of a record in every answer (`dns_response`); `comment_modified_on` and
/// `tags_modified_on` are there only where there is something.
const RECORD: [&str; 13] = [
    "comment",
    "content",
    "created_on",
    "id",
    "meta",
    "modified_on",
    "name",
    "proxiable",
    "proxied",
    "settings",
    "tags",
    "ttl",
    "type",
];

/// The fields of a zone, those for resellers and the deprecated ones included.
const ZONE: [&str; 20] = [
    "account",
    "activated_on",
    "created_on",
    "development_mode",
    "id",
    "meta",
    "modified_on",
    "name",
    "name_servers",
    "original_dnshost",
    "original_name_servers",
    "original_registrar",
    "owner",
    "paused",
    "permissions",
    "plan",
    "status",
    "tenant",
    "tenant_unit",
    "type",
];

const PAGES: [&str; 5] = ["count", "page", "per_page", "total_count", "total_pages"];

struct Caller {
    client: Client,
    server: Cloudflare,
}

impl Caller {
    fn new() -> Self {
        // An adapter does this when it is made; here there is none.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { client: Client::new(), server: Cloudflare::start(&["example.com"]) }
    }

    async fn call_with(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> (u16, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.server.url()));
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.headers()["content-type"], "application/json");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let token = format!("Bearer {TOKEN}");
        self.call_with(method, path, Some(&token), body).await
    }

    /// The result of a call that goes well.
    async fn result(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, mut answer) = self.call(method, path, body).await;
        assert_eq!((status, &answer["success"]), (200, &json!(true)), "{answer}");
        assert_eq!(answer["errors"], json!([]));
        answer["result"].take()
    }

    /// The path of the zone's records.
    async fn records(&self) -> String {
        let zones = self.result(Method::GET, "/zones?name=example.com", None).await;
        format!("/zones/{}/dns_records", zones[0]["id"].as_str().expect("an id"))
    }
}

fn fields(object: &Value) -> Vec<&str> {
    let mut fields: Vec<&str> =
        object.as_object().expect("an object").keys().map(String::as_str).collect();
    fields.sort_unstable();
    fields
}

/// The code of an error, and the one in its chain that says it more exactly.
fn codes((status, answer): &(u16, Value)) -> (u16, u64, Option<u64>) {
    assert_eq!(fields(answer), ["errors", "messages", "result", "success"]);
    assert_eq!((&answer["success"], &answer["result"]), (&json!(false), &Value::Null));
    let error = &answer["errors"][0];
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer}");
    let code = error["code"].as_u64().expect("a code");
    (*status, code, error["error_chain"][0]["code"].as_u64())
}

fn a(name: &str, address: &str) -> Value {
    json!({ "type": "A", "name": name, "content": address, "ttl": 1, "comment": "an ownership tag" })
}

async fn its_answers_have_the_documented_fields() {
    let caller = Caller::new();
    let (_, zones) = caller.call(Method::GET, "/zones?name=example.com", None).await;
    assert_eq!(fields(&zones), ["errors", "messages", "result", "result_info", "success"]);
    assert_eq!(fields(&zones["result_info"]), PAGES);
    assert_eq!(fields(&zones["result"][0]), ZONE);
    let verified = caller.result(Method::GET, "/user/tokens/verify", None).await;
    assert_eq!(fields(&verified), ["id", "status"]);

    let records = caller.records().await;
    let mut commented = RECORD.to_vec();
    commented.insert(1, "comment_modified_on");
    let made = caller.result(Method::POST, &records, Some(a("site", "192.0.2.1"))).await;
    assert_eq!(fields(&made), commented);
    assert_eq!(made["name"], "site.example.com");
    let id = made["id"].as_str().expect("an id");
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    let one = format!("{records}/{id}");
    assert_eq!(caller.result(Method::GET, &one, None).await, made);
    let bare = caller.result(Method::PATCH, &one, Some(json!({ "comment": "" }))).await;
    assert_eq!(fields(&bare), RECORD);
    let (_, list) = caller.call(Method::GET, &records, None).await;
    assert_eq!(fields(&list["result_info"]), PAGES);
    assert_eq!(list["result"], json!([bare]));

    let batch = json!({
        "deletes": [{ "id": id }],
        "posts": [{ "type": "CNAME", "name": "site.example.com", "content": "web.example.net", "ttl": 1 }],
    });
    let done = caller.result(Method::POST, &format!("{records}/batch"), Some(batch)).await;
    assert_eq!(fields(&done), ["deletes", "patches", "posts", "puts"]);
    assert_eq!(done["deletes"], json!([bare]));
    assert_eq!(fields(&done["posts"][0]), RECORD);
    let last = done["posts"][0]["id"].as_str().expect("an id");
    let gone = caller.result(Method::DELETE, &format!("{records}/{last}"), None).await;
    assert_eq!(gone, json!({ "id": last }));
}

async fn its_refusals_have_the_documented_codes() {
    let caller = Caller::new();
    let records = caller.records().await;
    let post = |body: Value| caller.call(Method::POST, &records, Some(body));
    let with = |field: &str, value: Value| {
        let mut body = a("other", "192.0.2.1");
        body[field] = value;
        body
    };
    let cname = |name: &str| json!({ "type": "CNAME", "name": name, "content": "web.example.net", "ttl": 1 });
    caller.result(Method::POST, &records, Some(a("site", "192.0.2.1"))).await;
    caller.result(Method::POST, &records, Some(cname("alias"))).await;
    for (body, status, code, chain) in [
        (cname("site"), 400, 81053, None),
        (cname("alias"), 400, 81053, None),
        (a("alias", "192.0.2.1"), 400, 81054, None),
        (a("site", "192.0.2.1"), 400, 81058, None),
        (with("name", json!("a..b")), 400, 9000, None),
        (with("name", json!("x".repeat(64))), 400, 9000, None),
        (with("content", json!("192.0.2.256")), 400, 9005, None),
        (with("ttl", json!(0)), 400, 1004, Some(9021)),
        (with("ttl", json!(10_u64.pow(10))), 400, 1004, Some(9021)),
        (with("comment", json!("x".repeat(101))), 400, 1004, None),
        (with("nonsense", json!(1)), 400, 9207, None),
    ] {
        let answer = post(body.clone()).await;
        assert_eq!(codes(&answer), (status, code, chain), "{body}");
    }
    let nowhere = format!("{records}/{}", "0".repeat(32));
    let gone = caller.call(Method::DELETE, &nowhere, None).await;
    assert_eq!(codes(&gone), (404, 81044, None));
    let no_zone = caller.call(Method::GET, "/zones/nonsense/dns_records", None).await;
    assert_eq!(codes(&no_zone), (404, 7003, None));

    let asked = |path: &'static str, token: Option<&'static str>| {
        caller.call_with(Method::GET, path, token, None)
    };
    assert_eq!(codes(&asked("/zones", None).await), (400, 9106, None));
    assert_eq!(codes(&asked("/zones", Some("token x")).await), (400, 6003, Some(6111)));
    assert_eq!(codes(&asked("/zones", Some("Bearer x")).await), (403, 9109, None));
    let verified = asked("/user/tokens/verify", Some("Bearer x")).await;
    assert_eq!(codes(&verified), (401, 1000, None));
    caller.server.token_may_edit(false);
    assert_eq!(codes(&post(a("more", "192.0.2.1")).await), (403, 10000, None));
    caller.server.limit(0, 300);
    assert_eq!(codes(&asked("/zones", Some("Bearer x")).await), (429, 971, None));
}

async fn a_batch_is_done_as_a_whole_with_its_deletes_first_or_not_at_all() {
    let caller = Caller::new();
    let records = caller.records().await;
    let batch = format!("{records}/batch");
    let made = caller.result(Method::POST, &records, Some(a("site", "192.0.2.1"))).await;
    let cname = json!({ "type": "CNAME", "name": "site", "content": "web.example.net", "ttl": 1 });
    // The second of them does not fit beside the first, and so nothing is done.
    let body = json!({ "deletes": [{ "id": made["id"] }], "posts": [cname, cname] });
    let refused = caller.call(Method::POST, &batch, Some(body)).await;
    assert_eq!(codes(&refused), (400, 81053, None));
    let body = json!({ "deletes": [{ "id": "0".repeat(32) }], "posts": [cname] });
    let refused = caller.call(Method::POST, &batch, Some(body)).await;
    assert_eq!(codes(&refused), (404, 81044, None));
    assert_eq!(caller.server.look_up("site.example.com"), ["192.0.2.1"]);
    // Whatever stands first in the request.
    let body = json!({ "posts": [cname], "deletes": [{ "id": made["id"] }] });
    caller.result(Method::POST, &batch, Some(body)).await;
    let history = caller.server.history("site.example.com");
    assert_eq!(history, [vec![], vec!["192.0.2.1"], vec!["web.example.net"]]);
}

async fn a_name_that_does_not_end_with_the_zone_is_put_into_it() {
    let caller = Caller::new();
    let records = caller.records().await;
    for (name, whole) in [
        ("@", "example.com"),
        ("site", "site.example.com"),
        ("Site2.Example.com.", "site2.example.com"),
        ("www.example.org", "www.example.org.example.com"),
    ] {
        let made = caller.result(Method::POST, &records, Some(a(name, "192.0.2.1"))).await;
        assert_eq!(made["name"], whole);
    }
}
