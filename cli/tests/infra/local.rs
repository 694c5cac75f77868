//! `infra/local/deploy.sh`: the template itself, deployed through CloudFormation to an emulator.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use rdev_testkit::emulator::{Account, Emulator};
use rdev_testkit::python::{MINISTACK, installed, path_with};
use serde_json::Value;

use crate::tools::{root, run, string, template, text};

/// What is there after a deployment, asked from the services themselves.
const LOOK: &str = r#"
import boto3, json, sys
account, stack, api, table, queue = sys.argv[1:]
client = lambda name: boto3.client(name)
routes = client("apigatewayv2").get_routes(ApiId=api, MaxResults="500")["Items"]
sources = client("lambda").list_event_source_mappings()["EventSourceMappings"]
rules = client("events").list_rules(NamePrefix=stack)["Rules"]
described = client("dynamodb").describe_table(TableName=table)["Table"]
attributes = client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
json.dump({
    "routes": [route["RouteKey"] for route in routes],
    "sources": [[one["EventSourceArn"], one["FunctionArn"], one["FunctionResponseTypes"]] for one in sources],
    "rules": [[one["ScheduleExpression"], one["State"]] for one in rules],
    "indexes": [one["IndexName"] for one in described["GlobalSecondaryIndexes"]],
    "redrive": json.loads(attributes["RedrivePolicy"]),
}, sys.stdout)
"#;

fn python(account: &Account, programs: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command.envs(account.variables()).env("PATH", path_with(programs));
    command
}

#[test]
fn the_whole_template_is_deployed_to_a_local_aws_and_again() {
    let (emulator, programs, template) =
        match (Emulator::shared(), installed(MINISTACK), template()) {
            (Ok(emulator), Ok(programs), Ok(template)) => (emulator, programs, template),
            (Err(not_run), ..) | (_, Err(not_run), _) | (.., Err(not_run)) => {
                return not_run.report();
            }
        };
    let account = emulator.account();
    let functions = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(root().join("functions/src/bin")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let folder = functions.path().join(path.file_stem().expect("a name"));
        fs::create_dir_all(&folder).expect("a folder");
        // Nobody calls it; the real ones are called in the tests of the whole.
        fs::write(folder.join("bootstrap"), "#!/bin/sh\nexit 1\n").expect("written");
    }
    let deploy = |more: &[&str]| {
        let script = root().join("infra/local/deploy.sh");
        let mut command = python(&account, &programs, script.to_str().expect("UTF-8"));
        command.args([account.endpoint.as_str(), "site"]).arg(functions.path()).args(more);
        serde_json::from_str::<Value>(&text(&mut command)).expect("JSON")
    };
    let first = deploy(&[]);
    let api = string(&first, "ApiId");
    assert_eq!(first["ApiUrl"], format!("{}/_aws/execute-api/{api}", account.endpoint));

    let mut look = python(&account, &programs, programs.join("python").to_str().expect("UTF-8"));
    look.args(["-c", LOOK, &account.id, "site", api]);
    look.args([string(&first, "TableName"), string(&first, "QueueUrl")]);
    let there: Value = serde_json::from_str(&text(&mut look)).expect("JSON");
    let texts = |value: &Value| -> BTreeSet<String> {
        let all = value.as_array().expect("a list").iter();
        all.map(|one| one.as_str().expect("a text").to_owned()).collect()
    };
    let wanted = crate::tools::resources(template, &["AWS::ApiGatewayV2::Route"]).into_iter();
    let wanted: BTreeSet<String> =
        wanted.map(|(_, route)| string(&route["Properties"], "RouteKey").to_owned()).collect();
    assert_eq!(texts(&there["routes"]), wanted);
    assert_eq!(there["rules"], serde_json::json!([["rate(1 minute)", "ENABLED"]]));
    let source = &there["sources"][0];
    assert!(source[0].as_str().is_some_and(|arn| arn.ends_with(":site-dead-letters")), "{there}");
    assert!(source[1].as_str().is_some_and(|arn| arn.ends_with(":site-dead-letters")), "{there}");
    assert_eq!(source[2], serde_json::json!(["ReportBatchItemFailures"]));
    assert_eq!(texts(&there["indexes"]), ["due", "lists"].map(str::to_owned).into());
    assert_eq!(there["redrive"]["maxReceiveCount"], 10);

    assert_eq!(deploy(&[]), first, "nothing changes");
    assert_eq!(deploy(&["LogLevel=debug"]), first, "what changes is no resource's name");
}

#[test]
fn a_function_that_was_not_built_is_named() {
    let (emulator, programs) = match (Emulator::shared(), installed(MINISTACK)) {
        (Ok(emulator), Ok(programs)) => (emulator, programs),
        (Err(not_run), _) | (_, Err(not_run)) => return not_run.report(),
    };
    let account = emulator.account();
    let empty = tempfile::tempdir().expect("a folder");
    let script = root().join("infra/local/deploy.sh");
    let mut command = python(&account, &programs, script.to_str().expect("UTF-8"));
    let output = run(command.args([account.endpoint.as_str(), "site"]).arg(empty.path()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("run cargo lambda build first"), "{said}");
}
