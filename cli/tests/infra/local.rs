//! `infra/local/deploy.sh`: the template itself, deployed through CloudFormation to an emulator.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use rdev_testkit::servers::emulator::{Account, Emulator};
use rdev_testkit::tools::python::{MINISTACK, installed, path_with};
use rdev_testkit::tools::trial::Outcome;
use serde_json::Value;
use tempfile::TempDir;

use crate::infra::tools::{root, run, string, template, text};

rdev_testkit::trials! {
    fn the_whole_template_is_deployed_to_a_local_aws_and_again;
    fn a_system_is_told_to_its_functions_and_half_of_one_is_refused_at_the_deployment;
    fn a_function_that_was_not_built_is_named;
}

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

/// Each function's variables, and the inline policies of its role.
const LOOK_AT_FUNCTIONS: &str = r#"
import boto3, json, sys
iam, told = boto3.client("iam"), {}
for function in boto3.client("lambda").list_functions()["Functions"]:
    role = function["Role"].rsplit("/", 1)[1]
    told[function["FunctionName"].removeprefix("site-")] = {
        "variables": function["Environment"]["Variables"],
        "policies": sorted(iam.list_role_policies(RoleName=role)["PolicyNames"]),
    }
json.dump(told, sys.stdout)
"#;

fn python(account: &Account, programs: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command.envs(account.variables()).env("PATH", path_with(programs));
    command
}

/// A folder of functions that nobody calls; the real ones are called in the tests of the whole.
fn functions() -> TempDir {
    let functions = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(root().join("functions/src/bin")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let folder = functions.path().join(path.file_stem().expect("a name"));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("bootstrap"), "#!/bin/sh\nexit 1\n").expect("written");
    }
    functions
}

fn the_whole_template_is_deployed_to_a_local_aws_and_again() -> Outcome {
    let (emulator, programs, template) = (Emulator::shared()?, installed(MINISTACK)?, template()?);
    let account = emulator.account();
    let functions = functions();
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
    let wanted =
        crate::infra::tools::resources(template, &["AWS::ApiGatewayV2::Route"]).into_iter();
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
    Ok(())
}

fn a_system_is_told_to_its_functions_and_half_of_one_is_refused_at_the_deployment() -> Outcome {
    let (emulator, programs) = (Emulator::shared()?, installed(MINISTACK)?);
    let account = emulator.account();
    let functions = functions();
    let deploy = |parameters: &[&str]| {
        let script = root().join("infra/local/deploy.sh");
        let mut command = python(&account, &programs, script.to_str().expect("UTF-8"));
        command.args([account.endpoint.as_str(), "site"]).arg(functions.path()).args(parameters);
        run(&mut command)
    };
    for (given, asked_for) in [
        ("GiteaUrl=https://git.example.com", "GiteaSecretArn"),
        ("WoodpeckerUrl=https://ci.example.com", "WoodpeckerSecretArn"),
        ("CloudflareZone=example.com", "CloudflareSecretArn"),
    ] {
        let output = deploy(&[given]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(asked_for), "{given}: {said}");
    }
    let output = deploy(&[
        "GiteaUrl=https://git.example.com",
        "GiteaOwner=acme",
        "GiteaSecretArn=arn:gitea",
        "GiteaWebhookSecretArn=arn:gitea-hook",
        "WoodpeckerUrl=https://ci.example.com",
        "WoodpeckerSecretArn=arn:ci",
        "CloudflareZone=example.com",
        "CloudflareSecretArn=arn:dns",
        "DomainTarget=ingress.example.com",
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut look = python(&account, &programs, programs.join("python").to_str().expect("UTF-8"));
    let told = text(look.args(["-c", LOOK_AT_FUNCTIONS]));
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let projects = &told["projects"];
    for (name, value) in [
        ("RDEV_FORGE__URL", "https://git.example.com"),
        ("RDEV_FORGE__OWNER", "acme"),
        ("RDEV_FORGE__PRIVATE", "true"),
        ("RDEV_FORGE__TOKEN_ARN", "arn:gitea"),
        ("RDEV_FORGE__WEBHOOK_SECRET_ARN", "arn:gitea-hook"),
        ("RDEV_CI__URL", "https://ci.example.com"),
        ("RDEV_CI__TOKEN_ARN", "arn:ci"),
        ("RDEV_DNS__PROVIDER", "cloudflare"),
        ("RDEV_DNS__ZONE", "example.com"),
        ("RDEV_DNS__TOKEN_ARN", "arn:dns"),
        ("RDEV_DNS__TYPE", "CNAME"),
        ("RDEV_DNS__TARGET", "ingress.example.com"),
    ] {
        assert_eq!(projects["variables"][name], value, "{projects:#}");
    }
    let public = string(&projects["variables"], "RDEV_PUBLIC_URL");
    assert!(public.starts_with("http"), "{public}");
    let policies = |function: &str| {
        let all = told[function]["policies"].as_array().expect("policies").iter();
        let all = all.map(|name| name.as_str().expect("a name"));
        all.filter(|name| name.starts_with("read-")).collect::<Vec<_>>()
    };
    let (gitea, hook) = ("read-gitea-token", "read-gitea-webhook-secret");
    let (ci, dns) = ("read-woodpecker-token", "read-cloudflare-token");
    assert_eq!(policies("projects"), [dns, gitea, hook, ci]);
    assert_eq!(policies("builds"), [ci]);
    assert_eq!(policies("ci"), [hook, ci]);
    assert_eq!(policies("domains"), [dns]);
    assert_eq!(policies("maintenance"), [dns, gitea, ci], "it ends deletions");
    assert_eq!(told["maintenance"]["variables"]["RDEV_FORGE__TOKEN_ARN"], "arn:gitea");
    assert!(policies("work").is_empty());
    Ok(())
}

fn a_function_that_was_not_built_is_named() -> Outcome {
    let (emulator, programs) = (Emulator::shared()?, installed(MINISTACK)?);
    let account = emulator.account();
    let empty = tempfile::tempdir().expect("a folder");
    let script = root().join("infra/local/deploy.sh");
    let mut command = python(&account, &programs, script.to_str().expect("UTF-8"));
    let output = run(command.args([account.endpoint.as_str(), "site"]).arg(empty.path()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("run cargo lambda build first"), "{said}");
    Ok(())
}
