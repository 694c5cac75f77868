//! Each function alone, under a Lambda Runtime API, as cargo-lambda built it.

use std::fs;

use rdev_functions::lambda::families::FUNCTIONS;
use rdev_testkit::emulator::Emulator;
use rdev_testkit::runtime_api::Function;
use serde_json::{Value, json};

use crate::stack::{QUIET, Stack, built_functions, root};

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
