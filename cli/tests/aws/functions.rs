//! Each function alone, under a Lambda Runtime API, as cargo-lambda built it.

use std::fs;
use std::time::{Duration, Instant};

use rdev_functions::lambda::families::FUNCTIONS;
use rdev_testkit::servers::faults;
use rdev_testkit::servers::gitea::{Gitea, TOKEN};
use rdev_testkit::servers::proxy::Proxy;
use rdev_testkit::servers::runtime_api::Function;
use rdev_testkit::tools::trial::Outcome;
use serde_json::{Value, json};

use crate::aws::stack::{PATIENCE, Stack, built_functions, deployed, root};
use crate::support::http_client;

rdev_testkit::trials! {
    async each_function_answers_its_own_event;
    async functions_use_the_forge_with_secrets_that_they_read_when_they_need_them;
    async the_function_of_the_schedule_tells_webhooks_how_builds_ended;
}

/// What signs the forge's webhooks.
const HOOK_SECRET: &str = "a-secret-between-systems";

fn event(name: &str, key: &str) -> Value {
    let path = root().join("events").join(format!("{name}.json"));
    let text = fs::read_to_string(path).expect("an event").replace("RDEV_KEY", key);
    serde_json::from_str(&text).expect("JSON")
}

async fn each_function_answers_its_own_event() -> Outcome {
    let (_emulator, stack) = deployed().await?;
    stack.project("site", 1).await;
    let endpoint = stack.account.endpoint.clone();
    let start = async |name: &str| start(&stack, &endpoint, name, &[]).await;
    for (name, _) in FUNCTIONS {
        let function = start(name).await;
        let answer = function.invoke(&event(name, &stack.key)).await.expect("an answer");
        let status = answer["statusCode"].as_u64().expect("a status");
        // What needs what is not configured here says so.
        let expected: &[u64] = match name {
            "ci" | "domains" => &[409],
            "projects" => &[200, 201, 409],
            _ => &[200, 202],
        };
        assert!(expected.contains(&status), "{name}: {answer:#}\n{}", function.log());
        let refused = function.invoke(&event(name, "rdev_nobody")).await.expect("an answer");
        let open = name == "ops";
        assert!(open || refused["statusCode"] == 401, "{name}: {refused:#}");
    }
    let dead = start("dead_letters").await;
    let answer = dead.invoke(&event("dead_letters", &stack.key)).await.expect("an answer");
    assert_eq!(answer["batchItemFailures"], json!([]), "{answer:#}");
    let letters = stack.expect(200, "GET", "/work/dead", None).await;
    assert!(letters["items"].as_array().is_some_and(|all| all.len() >= 2), "{letters:#}");
    let maintenance = start("maintenance").await;
    maintenance.invoke(&event("maintenance", &stack.key)).await.expect("an answer");
    Ok(())
}

/// Puts a text into the account's Secrets Manager; its ARN.
async fn secret(stack: &Stack, name: &str, text: &str) -> String {
    // The emulator reads the account from the key's id and checks no signature.
    let [(_, id), ..] = stack.account.variables();
    let scope = format!("{id}/20260101/us-east-1/secretsmanager/aws4_request");
    let signed = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0");
    let body = json!({ "Name": name, "SecretString": text, "ClientRequestToken": "0".repeat(32) });
    let answer = http_client()
        .post(&stack.account.endpoint)
        .header("x-amz-target", "secretsmanager.CreateSecret")
        .header("content-type", "application/x-amz-json-1.1")
        .header("authorization", signed)
        .body(body.to_string())
        .send()
        .await
        .expect("an answer");
    let text = answer.text().await.expect("a body");
    let made: Value = serde_json::from_str(&text).expect("JSON");
    made["ARN"].as_str().unwrap_or_else(|| panic!("no secret: {text}")).to_owned()
}

/// The event of a request with this body.
fn asked(stack: &Stack, method: &str, path: &str, body: &str) -> Value {
    let mut event = event("projects", &stack.key);
    event["routeKey"] = json!(format!("{method} {path}"));
    event["rawPath"] = json!(path);
    event["requestContext"]["http"]["method"] = json!(method);
    event["requestContext"]["http"]["path"] = json!(path);
    let headers = event["headers"].as_object_mut().expect("headers");
    headers.remove("idempotency-key");
    headers.insert("content-length".to_owned(), json!(body.len().to_string()));
    event["body"] = json!(body);
    event
}

/// A program as Lambda starts it: with what the stack is, at an endpoint, and `more`.
async fn start(stack: &Stack, endpoint: &str, name: &str, more: &[(&str, &str)]) -> Function {
    let program = built_functions().expect("they are built").join(name).join("bootstrap");
    let known = stack.variables(endpoint);
    let known = known.iter().map(|(name, value)| (*name, value.as_str()));
    let variables: Vec<_> = known.chain(more.iter().copied()).collect();
    let started = Function::start(&program, &variables).await;
    started.unwrap_or_else(|ended| panic!("{name} ended: {ended:?}"))
}

async fn functions_use_the_forge_with_secrets_that_they_read_when_they_need_them() -> Outcome {
    let (emulator, stack) = deployed().await?;
    let proxy = Proxy::start(&emulator.endpoint(), 1);
    let read = || proxy.seen().iter().filter(|one| one.call.operation == "GetSecretValue").count();
    let gitea = Gitea::start(&["acme"]);
    let forge = faults::Server::before(&gitea.url());
    let (url, public) = (forge.url(), faults::Server::start());
    public.answer_with(faults::Fault::Status(200));
    let token = secret(&stack, "rdev/gitea", &format!("{TOKEN}\n")).await;
    let signs = secret(&stack, "rdev/gitea-hook", HOOK_SECRET).await;
    let public_url = public.url();
    let variables = [
        ("RDEV_FORGE__URL", url.as_str()),
        ("RDEV_FORGE__OWNER", "acme"),
        ("RDEV_FORGE__TOKEN_ARN", &token),
        ("RDEV_FORGE__WEBHOOK_SECRET_ARN", &signs),
        ("RDEV_PUBLIC_URL", &public_url),
    ];
    let create = |name: &str| asked(&stack, "POST", "/project", &json!({"name": name}).to_string());

    let projects = start(&stack, &proxy.endpoint(), "projects", &variables).await;
    assert!(forge.requests().is_empty() && read() == 0, "nothing is asked for at the start");
    for name in ["bakery", "brewery"] {
        let answer = projects.invoke(&create(name)).await.expect("an answer");
        assert_eq!(answer["statusCode"], 201, "{answer:#}\n{}", projects.log());
        let hooks = gitea.hooks(&format!("acme/{name}"));
        assert_eq!(hooks.len(), 1, "{hooks:?}");
        assert_eq!(hooks[0].url, format!("{public_url}/hooks/gitea"));
        assert_eq!(hooks[0].secret, HOOK_SECRET);
    }
    assert_eq!(read(), 2, "each secret once");
    let sent = format!("token {TOKEN}");
    assert!(forge.requests().iter().all(|one| one.authorization() == Some(&sent)));

    // A push, as the forge tells it.
    push(&gitea, "acme/bakery").await;
    let pushed = public.requests().into_iter().next_back().expect("a webhook");
    let body = String::from_utf8(pushed.body.clone()).expect("text");
    let mut told = asked(&stack, "POST", "/hooks/gitea", &body);
    let headers = pushed
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), json!(value.to_str().expect("text"))));
    told["headers"] = Value::Object(headers.collect());
    let ci = start(&stack, &proxy.endpoint(), "ci", &variables).await;
    let mut forged = told.clone();
    forged["body"] = json!(format!("{body} "));
    let answer = ci.invoke(&forged).await.expect("an answer");
    assert_eq!(answer["statusCode"], 401, "{answer:#}");
    for _ in 0..2 {
        let answer = ci.invoke(&told).await.expect("an answer");
        assert_eq!(answer["statusCode"], 204, "{answer:#}\n{}", ci.log());
    }
    assert_eq!(read(), 3, "what signs, once, and no token");
    let bakery = stack.expect(200, "GET", "/projects/bakery", None).await;
    let folder = &gitea.repositories()[0].folder;
    let tip = crate::support::git(folder, &["rev-parse", "main"]);
    assert_eq!(bakery["pushed"]["commit"], tip.trim(), "{bakery:#}");

    // A forge that is away, and a secret that is not there, are told and leave a record.
    forge.answer_with(faults::Fault::Refused);
    let answer = projects.invoke(&create("late")).await.expect("an answer");
    assert_eq!(answer["statusCode"], 503, "{answer:#}");
    assert_eq!(answer["headers"]["content-type"], "application/problem+json");
    forge.heal();
    let mut variables = variables;
    variables[2].1 = "arn:aws:secretsmanager:us-east-1:000000000000:secret:none-AbCdEf";
    let missing = start(&stack, &proxy.endpoint(), "projects", &variables).await;
    let answer = missing.invoke(&create("never")).await.expect("an answer");
    assert_eq!(answer["statusCode"], 502, "{answer:#}");
    let body = answer["body"].as_str().expect("a body");
    assert!(body.contains("secretsmanager:GetSecretValue"), "{body}");
    for name in ["late", "never"] {
        let project = stack.expect(200, "GET", &format!("/projects/{name}"), None).await;
        assert_eq!(project["state"], "provisioning_failed", "{project:#}");
    }
    for log in [projects.log(), ci.log(), missing.log()] {
        assert!(!log.contains(TOKEN) && !log.contains(HOOK_SECRET), "{log}");
    }
    Ok(())
}

/// A commit on the forge itself; its webhooks have been sent.
async fn push(gitea: &Gitea, repository: &str) {
    let change = json!({
        "branch": "main", "message": "By hand",
        "files": [{ "operation": "create", "path": "by-hand.txt", "content": "eAo=" }],
    });
    let answer = http_client()
        .post(format!("{}/api/v1/repos/{repository}/contents", gitea.url()))
        .header("authorization", format!("token {TOKEN}"))
        .json(&change)
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status().as_u16(), 201);
    gitea.settled().await;
}

async fn the_function_of_the_schedule_tells_webhooks_how_builds_ended() -> Outcome {
    const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let (emulator, stack) = deployed().await?;
    let receiver = faults::Server::start();
    receiver.answer_with(faults::Fault::Status(200));
    let endpoint = emulator.endpoint();
    // The stack's own do not allow it: this one may be the second to try.
    let private = ("RDEV_API__WEBHOOKS_TO_PRIVATE_ADDRESSES", "true");
    let projects = start(&stack, &endpoint, "projects", &[private]).await;
    let wanted = json!({
        "name": "told", "repository": false,
        "webhook_url": format!("{}/told", receiver.url()), "webhook_secret": SECRET,
    });
    let wanted = asked(&stack, "POST", "/project", &wanted.to_string());
    let answer = projects.invoke(&wanted).await.expect("an answer");
    assert_eq!(answer["statusCode"], 201, "{answer:#}");
    let spec = json!({ "prompt": "x", "git_url": stack.git.url("none") });
    let task = stack.build("told", spec).await;
    let path = format!("/projects/told/builds/{task}");
    stack.expect(200, "POST", &format!("{path}/cancel"), None).await;

    let public = ("RDEV_PUBLIC_URL", "https://rdev.example.com/");
    let maintenance = start(&stack, &endpoint, "maintenance", &[private, public]).await;
    let end = Instant::now() + PATIENCE;
    while receiver.requests().is_empty() {
        assert!(Instant::now() < end, "nobody is told\n{}", maintenance.log());
        let minute = event("maintenance", &stack.key);
        maintenance.invoke(&minute).await.expect("an answer");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let [told] = &receiver.requests()[..] else { panic!("once") };
    let key = standardwebhooks::Webhook::new(SECRET).expect("a key");
    key.verify(&told.body, &told.headers).expect("signed as Standard Webhooks has it");
    let body: Value = serde_json::from_slice(&told.body).expect("JSON");
    assert_eq!(body["type"], "build.cancelled", "{body:#}");
    assert_eq!(body["data"]["url"], format!("https://rdev.example.com{path}"), "{body:#}");
    let list = stack.expect(200, "GET", "/projects/told/deliveries", None).await;
    assert_eq!(list["items"][0]["state"], "delivered", "{list:#}");
    Ok(())
}
