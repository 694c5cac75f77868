//! The Gitea server of these tests against the published description of the API: every answer
//! has a declared status, and a body of the declared shape.
//!
//! It is Forgejo's. What a recorded Gitea has beyond it, the test server has, too.
//!
//! The description is a file inside the crate `forgejo-api`, which is never compiled here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use rdev_domain::ports::{Forge, SeedFile, Start};
use rdev_testkit::captures;
use rdev_testkit::servers::gitea::{self, Seen, TOKEN, USER};
use rdev_testkit::tools::needs::NotRun;
use rdev_testkit::tools::trial::Outcome;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::gitea::{acme, adapter, ours, seed, settings, wanted};
use crate::gitea_around::{pull_of, status};

rdev_testkit::trials! {
    async the_test_server_answers_as_the_api_is_described;
}

/// How many routes are asked here. The others are asked by the record (`replay/gitea.rs`).
const ROUTES: usize = 25;

/// What the real server answers too, though nobody has declared it.
const UNDECLARED: &[(&str, &str, u16)] = &[
    // The name is taken; the name is none.
    ("post", "/orgs/{org}/repos", 409),
    ("post", "/orgs/{org}/repos", 422),
    // A bad token, which concerns all calls alike, and too few rights.
    ("post", "/orgs/{org}/repos", 401),
    ("delete", "/repos/{owner}/{repo}", 401),
    ("post", "/repos/{owner}/{repo}/hooks", 401),
    ("post", "/repos/{owner}/{repo}/hooks", 403),
    ("post", "/repos/{owner}/{repo}/pulls", 401),
    ("post", "/repos/{owner}/{repo}/pulls", 403),
    // An unknown kind of hook.
    ("post", "/repos/{owner}/{repo}/hooks", 422),
    // A commit that is not there.
    ("post", "/repos/{owner}/{repo}/statuses/{sha}", 500),
];

/// The description of the API.
fn description() -> Result<Value, NotRun> {
    let needs =
        |why: String| NotRun::needs(format!("the crate forgejo-api (cargo fetch gets it): {why}"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .map_err(|error| needs(error.to_string()))?;
    if !output.status.success() {
        return Err(needs(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages.iter().find(|package| package["name"] == "forgejo-api");
    let manifest = package.expect("a locked dependency")["manifest_path"].as_str();
    let file = PathBuf::from(manifest.expect("a path")).with_file_name("swagger.v1.json");
    let text = std::fs::read(&file).map_err(|error| needs(error.to_string()))?;
    Ok(serde_json::from_slice(&text).expect("a description"))
}

/// The declared path (`/repos/{owner}/{repo}`) and operation of a request. A parameter at the
/// end may hold slashes, as those of branches and files do.
fn operation<'a>(description: &'a Value, seen: &Seen) -> Option<(&'a str, &'a Value)> {
    let path: Vec<&str> = seen.path.split('/').collect();
    let fits = |declared: &str| {
        let declared: Vec<&str> = declared.trim_start_matches('/').split('/').collect();
        let open = declared.last().is_some_and(|last| matches!(*last, "{branch}" | "{filepath}"));
        let long_enough =
            if open { path.len() >= declared.len() } else { path.len() == declared.len() };
        long_enough
            && declared
                .iter()
                .zip(&path)
                .all(|(declared, part)| declared.starts_with('{') || declared == part)
    };
    let method = seen.method.to_lowercase();
    let paths = description["paths"].as_object().expect("paths");
    let declared =
        paths.iter().filter(|(declared, of)| fits(declared) && of.get(&method).is_some());
    // `/repos/search` before `/repos/{owner}`.
    let declared = declared.min_by_key(|(declared, _)| declared.matches('{').count());
    declared.map(|(declared, of)| (declared.as_str(), &of[&method]))
}

/// The types that a field of this name has in the recorded answers of a real Gitea.
fn recorded(name: &str) -> &'static BTreeSet<&'static str> {
    static TYPES: LazyLock<BTreeMap<String, BTreeSet<&'static str>>> = LazyLock::new(|| {
        let mut types = BTreeMap::new();
        captures::gitea().iter().for_each(|exchange| add_types(&exchange.answer, &mut types));
        types
    });
    static NONE: BTreeSet<&'static str> = BTreeSet::new();
    TYPES.get(name).unwrap_or(&NONE)
}

fn add_types(value: &Value, types: &mut BTreeMap<String, BTreeSet<&'static str>>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                types.entry(name.clone()).or_default().insert(type_of(value));
                add_types(value, types);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| add_types(item, types)),
        _ => {}
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Follows a `$ref`.
fn resolved<'a>(description: &'a Value, schema: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => {
            let found = description.pointer(reference.trim_start_matches('#'));
            resolved(description, found.unwrap_or_else(|| panic!("no {reference}")))
        }
        None => schema,
    }
}

/// What of a body is not as declared.
fn broken(description: &Value, schema: &Value, body: &Value, at: &str) -> Vec<String> {
    // Pointers of the server's language are null when there is nothing.
    let pointer = schema.get("$ref").is_some() || schema["format"] == "date-time";
    let schema = resolved(description, schema);
    let kind = schema["type"].as_str().unwrap_or_default();
    let name = at.rsplit('.').next().unwrap_or_default();
    if body.is_null() && (pointer || recorded(name).contains("null")) {
        return Vec::new();
    }
    let wrong = |what: &str| vec![format!("{at}: {body} is {what}")];
    match kind {
        "string" => match (body.as_str(), schema["enum"].as_array()) {
            (None, _) => wrong("no text"),
            (Some(_), Some(allowed)) if !allowed.contains(body) => wrong("not in the list"),
            (Some(text), _) if schema["format"] == "date-time" && !text.contains('T') => {
                wrong("no time")
            }
            _ => Vec::new(),
        },
        "boolean" if !body.is_boolean() => wrong("no flag"),
        "integer" if !body.is_i64() && !body.is_u64() => wrong("no number"),
        "array" => match body.as_array() {
            None => wrong("no list"),
            Some(items) => items
                .iter()
                .flat_map(|item| broken(description, &schema["items"], item, &format!("{at}[]")))
                .collect(),
        },
        "object" => object(description, schema, body, at),
        _ => Vec::new(),
    }
}

fn object(description: &Value, schema: &Value, body: &Value, at: &str) -> Vec<String> {
    let Some(fields) = body.as_object() else { return vec![format!("{at}: {body} is no object")] };
    let mut found = Vec::new();
    for (name, value) in fields {
        let at = format!("{at}.{name}");
        // A map has one shape for all of its values.
        match schema["properties"].get(name).or_else(|| schema.get("additionalProperties")) {
            Some(schema) => found.extend(broken(description, schema, value, &at)),
            None if recorded(name).contains(type_of(value)) => {}
            None => found.push(format!("{at} is not declared")),
        }
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        if !fields.contains_key(required.as_str().unwrap_or_default()) {
            found.push(format!("{at}: {required} is missing"));
        }
    }
    found
}

/// What of an exchange is not as declared.
fn check(description: &Value, seen: &Seen) -> Vec<String> {
    let name = format!("{} /{} {}", seen.method, seen.path, seen.status);
    let Some((path, operation)) = operation(description, seen) else {
        // An unknown path answers like one.
        let unknown = seen.status == 404 && seen.answer.is_none();
        return if unknown { Vec::new() } else { vec![format!("{name}: no such operation")] };
    };
    let method = seen.method.to_lowercase();
    let schema = match operation["responses"].get(seen.status.to_string()) {
        Some(response) => &resolved(description, response)["schema"],
        None if UNDECLARED.contains(&(method.as_str(), path, seen.status)) => {
            &description["responses"]["error"]["schema"]
        }
        None => return vec![format!("{name}: the status is not declared")],
    };
    match (&seen.answer, schema) {
        // A conflict is declared in words, without a shape: it is an error like others.
        (Some(body), Value::Null) if seen.status >= 400 => {
            broken(description, &description["responses"]["error"]["schema"], body, &name)
        }
        (Some(_), Value::Null) => vec![format!("{name}: a body is not declared")],
        (None, Value::Null) => Vec::new(),
        (Some(body), schema) => broken(description, schema, body, &name),
        (None, _) => vec![format!("{name}: the body is missing")],
    }
}

/// Sends a request and says what it should be answered with.
struct Caller<'a> {
    gitea: &'a gitea::Gitea,
    client: Client,
}

impl Caller<'_> {
    async fn call(&self, token: &str, method: Method, path: &str, body: &Value, expected: u16) {
        let url = format!("{}/api/v1/{path}", self.gitea.url());
        let request = self.client.request(method, url).json(body);
        let request = request.header("authorization", format!("Bearer {token}"));
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), expected, "{path} {body}: {:?}", answer.text().await);
    }

    async fn get(&self, path: &str, expected: u16) {
        self.call(TOKEN, Method::GET, path, &Value::Null, expected).await;
    }

    async fn post(&self, path: &str, body: Value, expected: u16) {
        self.call(TOKEN, Method::POST, path, &body, expected).await;
    }
}

/// What the adapter does, well and badly.
async fn adapt(gitea: &gitea::Gitea) {
    let forge = acme(&gitea.url());
    forge.check().await;
    let new = wanted("made", seed());
    forge.create_repository(&new).await.expect("a repository");
    forge.create_repository(&new).await.expect("the repository");
    let file = SeedFile { path: "..".to_owned(), content: Vec::new() };
    assert!(forge.create_repository(&wanted("bad", Start::Seed(vec![file]))).await.is_err());
    gitea.create("acme/template", "A template", &[("a", b"a")]);
    gitea.set_template("acme/template", true);
    let copied = wanted("copied", Start::Generate("acme/template".to_owned()));
    forge.create_repository(&copied).await.expect("a repository");
    forge.create_repository(&copied).await.expect("the repository");
    gitea.create("acme/site", "", &[("a", b"a")]);
    let request = pull_of(gitea, &gitea.url(), "deep/branch");
    forge.pull_request(&request).await.expect("a pull request");
    forge.set_status(&status(&request)).await.expect("a status");
    forge.delete_repository(&ours(&copied.project, copied.nonce)).await.expect("gone");
    adapter(settings(&gitea.url(), USER), TOKEN)
        .create_repository(&new)
        .await
        .expect("a user's own repository");
}

/// Asks for what is there and what is not.
async fn read(caller: &Caller<'_>) {
    let commit = caller.gitea.git("acme/site", &["rev-parse", "deep/branch"]);
    for (path, status) in [
        ("version", 200),
        ("user", 200),
        ("orgs/acme", 200),
        ("orgs/nobody", 404),
        ("orgs/acme/repos?limit=2&page=2", 200),
        ("orgs/nobody/repos", 404),
        ("users/mallory/orgs/acme/permissions", 200),
        ("users/nobody/orgs/acme/permissions", 404),
        ("repos/acme/site", 200),
        ("repos/acme/nothing", 404),
        ("repos/acme/site/contents/a", 200),
        ("repos/acme/site/contents/none", 404),
        ("repos/acme/site/branches", 200),
        ("repos/acme/site/branches/deep/branch", 200),
        ("repos/acme/site/branches/deep%2Fbranch", 200),
        ("repos/acme/site/branches/none", 404),
        ("repos/acme/site/commits?sha=deep/branch", 200),
        ("repos/acme/site/commits?sha=none", 404),
        ("repos/acme/empty/commits", 409),
        ("repos/acme/made/hooks", 200),
        ("repos/acme/site/pulls?state=all", 200),
        ("repos/acme/site/pulls/1", 200),
        ("repos/acme/site/pulls/7", 404),
        (&format!("repos/acme/site/statuses/{commit}"), 200),
        ("repos/acme/site/statuses/none", 404),
        ("repos/acme/site/commits/deep%2Fbranch/status", 200),
        ("repos/acme/site/commits/deep%2Fbranch/statuses", 200),
        ("repos/acme/site/commits/none/status", 404),
        ("no/such/route", 404),
    ] {
        caller.get(path, status).await;
    }
}

/// Changes what may be changed, and tries what may not.
async fn write(caller: &Caller<'_>, mallory: &str) {
    let name = |name: &str| json!({ "name": name, "auto_init": true });
    caller.post("orgs/acme/repos", name("posted"), 201).await;
    caller.post("orgs/acme/repos", name("posted"), 409).await;
    caller.post("orgs/acme/repos", name("a b"), 422).await;
    caller.post("orgs/acme/repos", name("-"), 422).await;
    caller.post("orgs/nobody/repos", name("posted"), 404).await;
    caller.post("user/repos", name("posted"), 201).await;
    caller.post("user/repos", name("posted"), 409).await;
    caller.post("user/repos", name(""), 422).await;
    let copy = |owner: &str| json!({ "owner": owner, "name": "posted", "git_content": true });
    caller.post("repos/acme/template/generate", copy("acme"), 409).await;
    caller.post("repos/acme/site/generate", copy("acme"), 422).await;
    caller.post("repos/acme/template/generate", copy("nobody"), 404).await;

    let blob = caller.gitea.git("acme/site", &["rev-parse", "main:a"]);
    let files = |operation: &str, path: &str, sha: &str| {
        json!({
            "branch": "main",
            "files": [{ "operation": operation, "path": path, "content": "YQ==", "sha": sha }],
        })
    };
    let contents = "repos/acme/site/contents";
    caller.post(contents, files("create", "a", ""), 422).await;
    caller.post(contents, files("create", "a/b", ""), 201).await;
    caller.post(contents, files("update", "c", ""), 422).await;
    caller.post(contents, files("delete", "a", &blob), 422).await;
    caller.post("repos/acme/site/contents", json!({ "branch": "none", "files": [] }), 404).await;
    caller.post("repos/acme/nothing/contents", files("create", "a", ""), 404).await;

    let hook = json!({ "type": "gitea", "config": { "url": "http://127.0.0.1:9", "content_type": "json" } });
    caller.post("repos/acme/site/hooks", hook.clone(), 201).await;
    let id = caller.gitea.hooks("acme/site").remove(0).id;
    caller.post("repos/acme/site/hooks", json!({ "type": "other" }), 422).await;
    let path = format!("repos/acme/site/hooks/{id}");
    caller.call(TOKEN, Method::DELETE, &path, &Value::Null, 204).await;
    caller.call(TOKEN, Method::DELETE, &path, &Value::Null, 404).await;

    let pull = |head: &str| json!({ "head": head, "base": "main", "title": "x" });
    let pulls = "repos/acme/site/pulls";
    caller.post(pulls, pull("deep/branch"), 409).await;
    caller.post(pulls, pull("main"), 422).await;
    caller.post(pulls, pull("none"), 404).await;
    let state = |state: &str| json!({ "state": state });
    caller.post("repos/acme/made/statuses/trunk", state("warning"), 201).await;
    caller.post("repos/acme/site/statuses/main", state("odd"), 400).await;
    caller
        .post(&format!("repos/acme/site/statuses/{}", "0".repeat(40)), state("success"), 500)
        .await;

    for (token, status) in [(mallory, 403), ("none", 401)] {
        caller.call(token, Method::POST, "orgs/acme/repos", &name("other"), status).await;
        caller.call(token, Method::POST, "repos/acme/site/hooks", &hook, status).await;
        caller.call(token, Method::POST, pulls, &pull("main"), status).await;
        caller.call(token, Method::DELETE, "repos/acme/site", &Value::Null, status).await;
    }
}

/// Webhooks are not described, but what is in them is.
async fn check_webhooks(description: &Value, gitea: &gitea::Gitea) {
    gitea.commit("acme/made", "trunk", &[("b", b"b")], "Add b");
    gitea.settled().await;
    let sent = gitea.deliveries();
    let events: BTreeSet<&str> = sent.iter().map(|sent| sent.event.as_str()).collect();
    assert_eq!(events, BTreeSet::from(["push", "status"]));
    for delivery in &sent {
        for (name, definition) in [
            ("repository", "Repository"),
            ("sender", "User"),
            ("pusher", "User"),
            ("commit", "PayloadCommit"),
            ("head_commit", "PayloadCommit"),
            ("commits", "PayloadCommit"),
        ] {
            let schema = json!({ "$ref": format!("#/definitions/{definition}") });
            let found = match &delivery.payload[name] {
                Value::Null => continue,
                Value::Array(items) => items.clone(),
                one => vec![one.clone()],
            };
            for item in &found {
                assert_eq!(broken(description, &schema, item, name), Vec::<String>::new());
            }
        }
    }
}

/// The same exchanges with something wrong in each.
fn spoiled(seen: &Seen) -> Vec<Seen> {
    let mut spoiled = vec![Seen { status: 299, ..seen.clone() }];
    let field = ("bogus".to_owned(), json!(1));
    match &seen.answer {
        Some(Value::Object(fields)) => {
            let more = fields.clone().into_iter().chain([field]).collect();
            spoiled.push(Seen { answer: Some(Value::Object(more)), ..seen.clone() });
            for name in fields.keys() {
                let mut other = fields.clone();
                other[name] = json!({ "a": [1.5] });
                spoiled.push(Seen { answer: Some(Value::Object(other)), ..seen.clone() });
            }
        }
        Some(_) => spoiled.push(Seen { answer: Some(json!([{ "bogus": 1 }])), ..seen.clone() }),
        None => {}
    }
    spoiled
}

async fn the_test_server_answers_as_the_api_is_described() -> Outcome {
    let description = description()?;
    let gitea = gitea::Gitea::start(&["acme"]);
    let mallory = gitea.user("mallory");
    gitea.create("acme/empty", "", &[]);
    // The adapter does the same; whoever is first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let caller = Caller { gitea: &gitea, client: Client::new() };
    adapt(&gitea).await;
    read(&caller).await;
    write(&caller, &mallory).await;
    let seen = gitea.seen();
    let broken: BTreeSet<String> = seen.iter().flat_map(|seen| check(&description, seen)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    check_webhooks(&description, &gitea).await;

    // Each route was asked, and each entry of the list is needed.
    let used: BTreeSet<(String, u16)> = seen
        .iter()
        .filter_map(|seen| {
            let (path, _) = operation(&description, seen)?;
            Some((format!("{} {path}", seen.method.to_lowercase()), seen.status))
        })
        .collect();
    let operations: BTreeSet<&str> = used.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(operations.len(), ROUTES, "{operations:#?}");
    for &(method, path, status) in UNDECLARED {
        assert!(used.contains(&(format!("{method} {path}"), status)), "{method} {path} {status}");
    }

    // And what would be wrong is found.
    for seen in seen.iter().filter(|seen| operation(&description, seen).is_some()) {
        for spoiled in spoiled(seen) {
            assert!(!check(&description, &spoiled).is_empty(), "{spoiled:#?}");
        }
    }
    Ok(())
}
