//! `infra/template.yaml`: valid, and in step with the API and the functions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use rdev_aws::schema;
use rdev_domain::spec::AgentName;
use rdev_functions::lambda::families::{self, Route};
use serde_json::{Value, json};

use crate::infra::tools::{resources, root, run, sam, string, template, text};
use rdev_testkit::tools::trial::Outcome;

rdev_testkit::trials! {
    fn sam_and_cfn_lint_have_nothing_to_say;
    fn the_other_spelling_of_samconfig_is_a_link_to_it;
    fn every_operation_of_the_api_has_a_route_to_its_function_and_there_are_no_others;
    fn cargo_lambda_serves_the_same_paths_as_the_gateway;
    fn every_program_is_a_function_with_a_role_and_a_log_of_its_own;
    fn what_a_local_aws_lacks_hangs_on_the_switch;
    fn the_table_and_the_queues_are_as_the_protocol_wants_them;
    fn every_agent_may_have_a_queue_of_its_own_and_every_program_knows_it;
    fn the_runners_of_one_agent_are_as_the_others_but_for_their_queue;
}

/// What a part of the stack hangs on that a local AWS does not have.
const SWITCH: &str = "RunnerOnEcs";

/// The kinds of resources that only the runners on ECS need, by what their types begin with.
const ON_ECS: [&str; 3] = ["AWS::ECS::", "AWS::EC2::", "AWS::ApplicationAutoScaling::"];

fn sam_and_cfn_lint_have_nothing_to_say() -> Outcome {
    let (sam, cfn_lint) = (sam("sam")?, sam("cfn-lint")?);
    for environment in ["dev", "prod"] {
        // Which template, samconfig.toml says.
        let mut validate = Command::new(&sam);
        let output = run(validate.args(["validate", "--lint", "--config-env", environment]));
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("is a valid SAM Template"), "{said}");
    }
    assert_eq!(text(Command::new(cfn_lint).arg("infra/template.yaml")), "");
    Ok(())
}

fn the_other_spelling_of_samconfig_is_a_link_to_it() {
    let link = fs::read_link(root().join("samplconfig.toml")).expect("a symbolic link");
    assert_eq!(link.to_str(), Some("samconfig.toml"));
}

fn every_operation_of_the_api_has_a_route_to_its_function_and_there_are_no_others() -> Outcome {
    let template = template()?;
    let mut routes = BTreeMap::new();
    for (name, route) in resources(template, &["AWS::ApiGatewayV2::Route"]) {
        let properties = &route["Properties"];
        let target = string(&properties["Target"], "Fn::Sub");
        let integration = target.strip_prefix("integrations/${").and_then(|t| t.strip_suffix('}'));
        let integration = integration.unwrap_or_else(|| panic!("{name} goes to {target}"));
        let known = routes.insert(string(properties, "RouteKey"), function(template, integration));
        assert!(known.is_none(), "{name} is there twice");
    }

    let api = fs::read_to_string(root().join("docs/openapi.json")).expect("a file");
    let api: Value = serde_json::from_str(&api).expect("JSON");
    let paths = api["paths"].as_object().expect("paths").iter();
    let operations: BTreeSet<String> = paths
        .flat_map(|(path, operations)| {
            let methods = operations.as_object().expect("operations").keys();
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let keys: BTreeSet<String> = routes.keys().map(|key| (*key).to_owned()).collect();
    assert_eq!(keys, operations);

    for Route { method, path, function } in families::routes() {
        assert_eq!(routes.get(format!("{method} {path}").as_str()), Some(&function));
    }
    Ok(())
}

fn cargo_lambda_serves_the_same_paths_as_the_gateway() {
    let text = fs::read_to_string(root().join("infra/localstack/cargo-lambda.toml"));
    let text = text.expect("a file");
    let pair = |line: &str| {
        let (path, function) = line.strip_prefix('"')?.split_once("\" = \"")?;
        Some((path.to_owned(), function.strip_suffix('"')?.to_owned()))
    };
    let served: BTreeSet<_> = text.lines().filter_map(pair).collect();
    let routes = families::routes().into_iter();
    let wanted = routes.map(|route| (route.path, route.function.to_owned())).collect();
    assert_eq!(served, wanted);
}

/// The program behind an integration; the gateway may call it.
fn function<'a>(template: &'a Value, integration: &str) -> &'a str {
    let all = &template["Resources"];
    let properties = &all[integration]["Properties"];
    assert_eq!(properties["PayloadFormatVersion"], "2.0", "{integration}");
    let function = properties["IntegrationUri"]["Fn::GetAtt"][0].as_str().expect("a function");
    let allowed = resources(template, &["AWS::Lambda::Permission"]).into_iter().any(|(_, one)| {
        one["Properties"]["FunctionName"]["Ref"] == function
            && one["Properties"]["Principal"] == "apigateway.amazonaws.com"
    });
    assert!(allowed, "the gateway may not call {function}");
    let code = string(&all[function]["Properties"], "CodeUri");
    let name = code.strip_prefix("../target/lambda/").and_then(|code| code.strip_suffix('/'));
    name.unwrap_or_else(|| panic!("{function} has its code at {code}"))
}

fn every_program_is_a_function_with_a_role_and_a_log_of_its_own() -> Outcome {
    let template = template()?;
    let mut programs: BTreeSet<String> = fs::read_dir(root().join("functions/src/bin"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    let functions = resources(template, &["AWS::Serverless::Function"]);
    let count = functions.len();
    let (mut roles, mut logs) = (BTreeSet::new(), BTreeSet::new());
    for (name, function) in functions {
        let properties = &function["Properties"];
        let code = string(properties, "CodeUri");
        let program = code.trim_start_matches("../target/lambda/").trim_end_matches('/');
        assert!(programs.remove(program), "{name} has no program {program}");
        assert_eq!(function["Metadata"]["SkipBuild"], true, "{name} is not built by SAM");
        roles.insert(properties["Role"]["Fn::GetAtt"][0].as_str().expect("a role"));
        let log = string(&properties["LoggingConfig"]["LogGroup"], "Ref");
        let retention = &template["Resources"][log]["Properties"]["RetentionInDays"];
        assert_eq!(retention["Ref"], "LogRetentionDays", "{log} is kept for a while");
        logs.insert(log);
    }
    assert!(programs.is_empty(), "no functions: {programs:?}");
    assert_eq!((count, roles.len(), logs.len()), (9, 9, 9));
    Ok(())
}

fn what_a_local_aws_lacks_hangs_on_the_switch() -> Outcome {
    let template = template()?;
    assert_eq!(template["Parameters"][SWITCH]["Default"], "false");
    let mut switched = 0;
    for (name, resource) in template["Resources"].as_object().expect("resources") {
        let kind = string(resource, "Type");
        // The emulator takes alarms on one metric only.
        let math = !resource["Properties"]["Metrics"].is_null();
        if math || ON_ECS.iter().any(|prefix| kind.starts_with(prefix)) {
            let condition = resource["Condition"].as_str().unwrap_or_default();
            assert!(implies_the_switch(template, condition), "{name} is always there");
            switched += 1;
        }
    }
    assert!(switched > 10);
    Ok(())
}

fn implies_the_switch(template: &Value, condition: &str) -> bool {
    if condition == SWITCH {
        return true;
    }
    let all = template["Conditions"][condition]["Fn::And"].as_array();
    let named = |part: &Value| part["Condition"].as_str().map(str::to_owned);
    all.is_some_and(|all| all.iter().filter_map(named).any(|c| implies_the_switch(template, &c)))
}

fn the_table_and_the_queues_are_as_the_protocol_wants_them() -> Outcome {
    let template = template()?;
    let all = &template["Resources"];
    let table = &all["Table"]["Properties"];
    let keys = |of: &Value| {
        let keys = of["KeySchema"].as_array().expect("keys").iter();
        keys.map(|key| string(key, "AttributeName").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys(table), ["pk", "sk"]);
    let indexes: Vec<_> = table["GlobalSecondaryIndexes"]
        .as_array()
        .expect("indexes")
        .iter()
        .map(|index| (string(index, "IndexName"), keys(index), &index["Projection"]))
        .collect();
    let listed = json!({"ProjectionType": "INCLUDE", "NonKeyAttributes": schema::LISTED});
    let keys_only = json!({"ProjectionType": "KEYS_ONLY"});
    let index = |(name, hash, range): (&'static str, &str, &str), projection| {
        (name, vec![hash.to_owned(), range.to_owned()], projection)
    };
    assert_eq!(indexes, [index(schema::LISTS, &listed), index(schema::DUE, &keys_only)]);
    assert_eq!(table["BillingMode"], "PAY_PER_REQUEST");
    assert_eq!(table["TimeToLiveSpecification"]["AttributeName"], schema::EXPIRES_AT);
    for (section, field) in [
        ("TimeToLiveSpecification", "Enabled"),
        ("PointInTimeRecoverySpecification", "PointInTimeRecoveryEnabled"),
        ("SSESpecification", "SSEEnabled"),
    ] {
        assert_eq!(table[section][field], true, "{section}");
    }
    assert_eq!(table["DeletionProtectionEnabled"]["Fn::If"][0], "Protected");

    let (queue, dead) = (&all["Queue"]["Properties"], &all["DeadQueue"]["Properties"]);
    assert_eq!(queue["RedrivePolicy"]["maxReceiveCount"], 10);
    assert_eq!(queue["VisibilityTimeout"], 60);
    assert_eq!(queue["MessageRetentionPeriod"], 4 * 24 * 3600);
    assert_eq!(dead["MessageRetentionPeriod"], 14 * 24 * 3600);
    assert_eq!(dead["RedriveAllowPolicy"]["redrivePermission"], "byQueue");
    let source = &all["DeadLettersSource"]["Properties"];
    assert_eq!(source["FunctionResponseTypes"][0], "ReportBatchItemFailures");
    Ok(())
}

fn every_agent_may_have_a_queue_of_its_own_and_every_program_knows_it() -> Outcome {
    let template = template()?;
    let all = &template["Resources"];
    let of_functions = &template["Globals"]["Function"]["Environment"]["Variables"];
    let of_runners = &all["RunnerTask"]["Properties"]["ContainerDefinitions"][0]["Environment"];
    let may = |policy: &str| {
        let statement = &all[policy]["Properties"]["PolicyDocument"]["Statement"][0];
        statement["Resource"].as_array().expect("queues").clone()
    };
    let sources = &all["DeadQueue"]["Properties"]["RedriveAllowPolicy"]["sourceQueueArns"];
    let sources = sources.as_array().expect("queues");
    for agent in AgentName::ALL {
        let capital = |part: &str| part[..1].to_uppercase() + &part[1..];
        let name: String = agent.as_str().split('-').map(capital).collect();
        let (parameter, queue) = (format!("{name}Queue"), format!("{name}WakeUps"));
        assert_eq!(template["Parameters"][&parameter]["Default"], "false", "{agent}");
        let condition = format!("Has{parameter}");
        assert_eq!(all[&queue]["Condition"], condition.as_str());

        // As the default queue, but for its name.
        let mut like = all["Queue"]["Properties"].clone();
        like["QueueName"]["Fn::Sub"] = format!("${{AWS::StackName}}-wake-ups-{agent}").into();
        assert_eq!(all[&queue]["Properties"], like);
        let end = format!("-wake-ups-{agent}");
        let dies_there = |arn: &Value| string(arn, "Fn::Sub").ends_with(&end);
        assert!(sources.iter().any(dies_there), "{agent} has no dead letters");

        let chosen = |value: Value| json!({"Fn::If": [condition, value, {"Ref": "AWS::NoValue"}]});
        let variable = rdev_aws::agent_queue_url(agent);
        let url = json!({"Ref": queue});
        assert_eq!(of_functions[&variable], chosen(url.clone()));
        let told = chosen(json!({"Name": variable, "Value": url}));
        assert!(of_runners.as_array().expect("variables").contains(&told), "{variable}");
        let arn = chosen(json!({"Fn::GetAtt": [queue, "Arn"]}));
        for policy in ["SendWakeUpsPolicy", "CountMessagesPolicy", "RunnerPolicy"] {
            assert!(may(policy).contains(&arn), "{policy} lacks {queue}");
        }
        let output = &template["Outputs"][format!("{name}QueueUrl")];
        assert_eq!(
            (&output["Condition"], &output["Value"]["Ref"]),
            (&condition.into(), &queue.into())
        );
    }
    Ok(())
}

fn the_runners_of_one_agent_are_as_the_others_but_for_their_queue() -> Outcome {
    let template = template()?;
    let queue = json!({"Name": "RDEV_QUEUE_AGENT", "Value": {"Ref": "AgentRunners"}});
    let mut like = 0;
    for (name, resource) in template["Resources"].as_object().expect("resources") {
        let Some(original) = name.strip_prefix("Agent").filter(|one| one.starts_with("Runner"))
        else {
            continue;
        };
        assert_eq!(resource["Condition"], "AgentRunnersOnEcs", "{name}");
        let mut own = resource["Properties"].clone();
        if let Some(variables) = own.pointer_mut("/ContainerDefinitions/0/Environment") {
            let variables = variables.as_array_mut().expect("variables");
            let before = variables.len();
            variables.retain(|variable| *variable != queue);
            assert_eq!(variables.len(), before - 1, "it receives from the agent's queue");
        }
        let mut own = own.to_string();
        let all = template["Resources"][original]["Properties"].to_string();
        for (of_one, of_all) in [
            ("Agent", ""),
            (
                r#"{"Fn::Sub":"${AWS::StackName}-wake-ups-${Runners}"}"#,
                r#"{"Fn::GetAtt":["Queue","QueueName"]}"#,
            ),
            (r#"{"Fn::Sub":"runner-${Runners}"}"#, r#""runner""#),
            ("-${Runners}", ""),
            (" for the agent", ""),
        ] {
            own = own.replace(of_one, of_all);
        }
        assert_eq!(own, all, "{name}");
        like += 1;
    }
    assert_eq!(like, 7);
    let needs = template["Rules"]["AgentRunnersHaveAQueue"]["Assertions"].to_string();
    for agent in AgentName::ALL {
        assert!(needs.contains(agent.as_str()), "{agent}");
    }
    Ok(())
}
