//! Each function alone, under a Lambda Runtime API, as cargo-lambda built it.

use std::fs;

use rdev_functions::lambda::families::FUNCTIONS;
use rdev_testkit::emulator::Emulator;
use rdev_testkit::faults;
use rdev_testkit::gitea::{Gitea, TOKEN};
use rdev_testkit::runtime_api::Function;
use serde_json::{Value, json};

use crate::stack::{QUIET, Stack, built_functions, root};
use crate::support::http_client;

fn event(name: &str, key: &str) -> Value {
    let path = root().join("events").join(format!("{name}.json"));
    let text = fs::read_to_string(path).expect("an event").replace("RDEV_KEY", key);
    serde_json::from_str(&text).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_function_answers_its_own_event() {
    let _others = QUIET.read().await;
    let emulator = match Emulator::start() {
        Ok(emulator) => emulator,
        Err(not_run) => return not_run.report(),
    };
    let stack = match Stack::deploy(&emulator).await {
        Ok(stack) => stack,
        Err(not_run) => return not_run.report(),
    };
    let programs = built_functions().expect("they are built");
    stack.project("site", 1).await;
    let variables = stack.variables(&stack.account.endpoint);
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let start = async |name: &str| {
        let program = programs.join(name).join("bootstrap");
        let started = Function::start(&program, &variables).await;
        started.unwrap_or_else(|ended| panic!("{name} ended: {ended:?}"))
    };
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

#[tokio::test(flavor = "multi_thread")]
async fn a_function_makes_a_repository_with_the_token_that_its_secret_holds() {
    let _others = QUIET.read().await;
    let emulator = match Emulator::start() {
        Ok(emulator) => emulator,
        Err(not_run) => return not_run.report(),
    };
    let stack = match Stack::deploy(&emulator).await {
        Ok(stack) => stack,
        Err(not_run) => return not_run.report(),
    };
    let gitea = Gitea::start(&["acme"]);
    let forge = faults::Server::before(&gitea.url());
    let arn = secret(&stack, "rdev/gitea", &format!("{TOKEN}\n")).await;
    let program = built_functions().expect("they are built").join("projects").join("bootstrap");
    let known = stack.variables(&stack.account.endpoint);
    let start = async |arn: &str| {
        let url = forge.url();
        let mut variables: Vec<(&str, &str)> =
            known.iter().map(|(name, value)| (*name, value.as_str())).collect();
        variables.extend([
            ("RDEV_FORGE__URL", url.as_str()),
            ("RDEV_FORGE__OWNER", "acme"),
            ("RDEV_FORGE__TOKEN_ARN", arn),
        ]);
        let started = Function::start(&program, &variables).await;
        started.unwrap_or_else(|ended| panic!("projects ended: {ended:?}"))
    };
    let create = |name: &str| {
        let mut event = event("projects", &stack.key);
        event["headers"]["idempotency-key"] = json!(name);
        event["body"] = json!(json!({ "name": name, "template": "static" }).to_string());
        let length = event["body"].as_str().map_or(0, str::len);
        event["headers"]["content-length"] = json!(length.to_string());
        event
    };
    let function = start(&arn).await;
    assert!(forge.requests().is_empty(), "nothing is asked for at the start");
    let answer = function.invoke(&create("bakery")).await.expect("an answer");
    assert_eq!(answer["statusCode"], 201, "{answer:#}\n{}", function.log());
    let made = gitea.repositories();
    assert_eq!((made.len(), made[0].full_name.as_str()), (1, "acme/bakery"));
    let sent = format!("token {TOKEN}");
    assert!(forge.requests().iter().all(|one| one.authorization() == Some(&sent)));
    assert!(!function.log().contains(TOKEN), "{}", function.log());

    // A forge that is away, and a secret that is not there, are told and leave a record.
    forge.answer_with(faults::Fault::Refused);
    let answer = function.invoke(&create("late")).await.expect("an answer");
    assert_eq!(answer["statusCode"], 503, "{answer:#}");
    forge.heal();
    let missing = start("arn:aws:secretsmanager:us-east-1:000000000000:secret:none-AbCdEf").await;
    let answer = missing.invoke(&create("never")).await.expect("an answer");
    assert_eq!(answer["statusCode"], 502, "{answer:#}");
    let body = answer["body"].as_str().expect("a body");
    assert!(body.contains("secretsmanager:GetSecretValue"), "{body}");
    let late = stack.expect(200, "GET", "/projects/late", None).await;
    assert_eq!(late["state"], "provisioning_failed", "{late:#}");
}
