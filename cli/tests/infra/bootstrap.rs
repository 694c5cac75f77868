//! `rdev key bootstrap`: the first key of an AWS stack.

use aws_sdk_dynamodb::config::{Credentials, Region};
use rdev_domain::ports::Store as _;
use rdev_domain::retention::Retention;
use rdev_testkit::servers::emulator::{Account, Emulator, REGION};
use rdev_testkit::tools::python::{CARGO_LAMBDA, MINISTACK};
use rdev_testkit::tools::trial::Outcome;
use serde_json::Value;

use crate::infra::rdev::Place;

rdev_testkit::trials! {
    async the_first_key_is_written_into_the_table_of_the_stack_and_shown_once;
    fn it_needs_a_stack_or_a_table_and_never_both;
    fn a_local_aws_outside_of_a_checkout_says_what_it_needs;
    fn the_local_aws_installs_the_versions_that_the_tests_use;
}

/// A place whose programs use the account, and nothing else of AWS.
fn place(account: &Account) -> Place {
    account.variables().iter().fold(Place::new(), |place, (name, value)| place.with(name, value))
}

async fn the_first_key_is_written_into_the_table_of_the_stack_and_shown_once() -> Outcome {
    let emulator = Emulator::shared()?;
    let account = emulator.account();
    let sdk = rdev_aws::config::loader()
        .endpoint_url(&account.endpoint)
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new(&account.id, "test", None, None, "test"))
        .load()
        .await;
    let tables = aws_sdk_dynamodb::Client::new(&sdk);
    for table in ["site-Table-1ABC", "site-dev-Table-2ABC", "two-Table-1", "two-Table-2"] {
        rdev_aws::schema::create_table(&tables, table).await.expect("a table");
    }
    let place = place(&account);

    let ran = place.run(&["--json", "key", "bootstrap", "--stack", "site"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let made: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!((&made["table"], &made["name"]), (&"site-Table-1ABC".into(), &"bootstrap".into()));
    let ran = place.run(&[
        "key",
        "bootstrap",
        "--table",
        "site-Table-1ABC",
        "--name",
        "ci",
        "--scope",
        "builds:read,builds:write",
    ]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stdout.starts_with("rdev_") && ran.stdout.lines().count() == 1, "{}", ran.stdout);

    let table = "site-Table-1ABC".to_owned();
    let store = rdev_aws::stack::store(&sdk, table, Retention::default());
    let mut keys = store.keys().await.expect("the keys");
    keys.sort_by_key(|key| key.created_at);
    let kept: Vec<(&str, usize)> =
        keys.iter().map(|key| (key.name.as_str(), key.scopes.len())).collect();
    assert_eq!(kept, [("bootstrap", 1), ("ci", 2)]);
    assert_eq!(keys[0].id.as_str(), made["id"]);

    for (stack, part) in [("other", "no table of a stack other"), ("two", "two-Table-2")] {
        let ran = place.run(&["key", "bootstrap", "--stack", stack]);
        assert_eq!((ran.status, ran.stdout.as_str()), (78, ""), "{}", ran.stderr);
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
    let ran = place.run(&["key", "bootstrap", "--table", "other"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (78, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("other"), "{}", ran.stderr);
    Ok(())
}

fn it_needs_a_stack_or_a_table_and_never_both() {
    let place = Place::new();
    for args in [
        &["key", "bootstrap"][..],
        &["key", "bootstrap", "--stack", "a", "--table", "b"],
        &["key", "bootstrap", "--stack", "a", "--scope", "everything"],
        &["local-aws"],
    ] {
        let ran = place.run(args);
        assert_eq!((ran.status, ran.stdout.as_str()), (64, ""), "{args:?}: {}", ran.stderr);
    }
}

fn a_local_aws_outside_of_a_checkout_says_what_it_needs() {
    let ran = Place::new().run(&["local-aws", "up"]);
    assert_eq!(ran.status, 64, "{}", ran.stderr);
    assert!(ran.stderr.contains("checkout"), "{}", ran.stderr);
}

fn the_local_aws_installs_the_versions_that_the_tests_use() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../infra/local/tools.py");
    let script = std::fs::read_to_string(script).expect("a script");
    for tool in [MINISTACK, CARGO_LAMBDA] {
        for text in std::iter::once(&tool.name).chain(tool.packages) {
            assert!(script.contains(&format!("\"{text}\"")), "{text} is not in tools.py");
        }
    }
}
