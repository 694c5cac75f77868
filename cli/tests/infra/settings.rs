//! What the template tells functions and runners is what they read.

use std::collections::{BTreeMap, BTreeSet};

use rdev_configuration::{Environment, Layers, Names};
use rdev_domain::secret::Secret;
use rdev_domain::token::Token;
use rdev_functions::lambda::environment::section;
use rdev_platform::config::{ForgeConfig, PlatformConfig};
use rdev_platform::connect::connect;
use rdev_runner::config::RunnerConfig;
use serde::Deserialize;
use serde_json::Value;

use crate::infra::tools::{resources, string, template};
use rdev_testkit::tools::trial::Outcome;

rdev_testkit::trials! {
    fn every_variable_of_the_ecs_task_is_one_that_the_runner_reads;
    fn a_runner_on_ecs_knows_the_forge_and_where_builds_are_seen;
    fn new_repositories_are_private_unless_whoever_deploys_says_otherwise;
    fn functions_are_told_the_systems_that_they_call_and_may_read_the_secrets_of_no_others;
    fn a_secret_with_credentials_of_git_is_read_as_the_template_describes_it;
}

/// What the runner's program reads beside the sections of its configuration.
const NAMES: Names = Names {
    top: &["HEALTH_LISTEN", "DATA_DIR", "PUBLIC_URL"],
    others: &[
        "TABLE",
        "QUEUE_URL",
        "QUEUE_URL_CLAUDE_CODE",
        "QUEUE_URL_OPENCODE",
        "QUEUE_URL_CODEX",
        "QUEUE_URL_COMMAND",
        "QUEUE_AGENT",
        "DEAD_QUEUE_URL",
    ],
};

/// What a variable may be set to, by what its name ends in.
const SAMPLES: [(&str, &str); 10] = [
    ("_ARN", "arn:aws:secretsmanager:eu-central-1:111122223333:secret:rdev/x-AbCdEf"),
    ("_URL", "https://some.example.com"),
    ("OWNER", "1234"),
    ("PRIVATE", "true"),
    ("PROVIDER", "cloudflare"),
    ("ZONE", "example.com"),
    ("TARGET", "ingress.example.com"),
    ("TYPE", "CNAME"),
    ("PROXIED", "true"),
    ("TOKEN", "sesame"),
];

/// A variable as somebody sets it who has everything.
fn set(name: &str) -> (String, String) {
    let found = SAMPLES.iter().find(|(end, _)| name.ends_with(end));
    let value = found.unwrap_or_else(|| panic!("no value for {name}")).1;
    (name.to_owned(), value.to_owned())
}

/// The names of the ECS task's variables. Those that are not always there stand in a condition.
fn of_the_task(template: &Value) -> Vec<&str> {
    let container = &template["Resources"]["RunnerTask"]["Properties"]["ContainerDefinitions"][0];
    let plain = container["Environment"].as_array().expect("variables").iter();
    let secret = container["Secrets"].as_array().expect("secrets").iter();
    let all = plain.chain(secret);
    let all = all.map(|one| if one["Name"].is_null() { &one["Fn::If"][1] } else { one });
    all.map(|one| string(one, "Name")).collect()
}

fn every_variable_of_the_ecs_task_is_one_that_the_runner_reads() -> Outcome {
    let template = template()?;
    let names = of_the_task(template);
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        let environment = Environment::from([(name, "1")]);
        assert!(environment.unknown_variables(&NAMES).is_empty(), "{name} means nothing");
    }
    Ok(())
}

fn a_runner_on_ecs_knows_the_forge_and_where_builds_are_seen() -> Outcome {
    #[derive(Deserialize)]
    struct Known {
        public_url: Option<String>,
        forge: ForgeConfig,
    }
    let template = template()?;
    let names = of_the_task(template);
    assert!(names.contains(&"RDEV_PUBLIC_URL"), "{names:?}");
    let [url, owner, token] = ["RDEV_FORGE__URL", "RDEV_FORGE__OWNER", "RDEV_FORGE__TOKEN"];
    let forge: Vec<&str> =
        names.into_iter().filter(|name| name.starts_with("RDEV_FORGE__")).collect();
    assert_eq!(forge, [url, owner, token]);
    let environment = Environment::from([
        ("RDEV_PUBLIC_URL", "https://rdev.example.com"),
        (url, "https://git.example.com"),
        (owner, "1234"),
        (token, "12e4"),
    ]);
    let known = Layers::default().environment(&environment, &NAMES).extract::<Known>();
    let Known { public_url, forge } = known.expect("a configuration");
    assert_eq!(forge.owner, "1234", "a text, whatever it looks like");
    assert_eq!(forge.token.as_ref().map(Secret::expose), Some("12e4"));
    let config = PlatformConfig { public_url, forge: Some(forge), ..PlatformConfig::default() };
    assert!(connect(&config, None).expect("adapters").forge.is_some());
    Ok(())
}

fn new_repositories_are_private_unless_whoever_deploys_says_otherwise() -> Outcome {
    let template = template()?;
    assert_eq!(template["Parameters"]["GiteaPrivate"]["Default"], "true");
    let variables = &template["Resources"]["ProjectsFunction"]["Properties"]["Environment"];
    assert_eq!(variables["Variables"]["RDEV_FORGE__PRIVATE"]["Ref"], "GiteaPrivate");
    Ok(())
}

fn functions_are_told_the_systems_that_they_call_and_may_read_the_secrets_of_no_others() -> Outcome
{
    let template = template()?;
    let mut told = BTreeMap::new();
    for (name, function) in resources(template, &["AWS::Serverless::Function"]) {
        let names = function["Properties"]["Environment"]["Variables"].as_object();
        let names: Vec<&str> = names.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let systems = ["RDEV_PUBLIC_", "RDEV_FORGE__", "RDEV_CI__", "RDEV_DNS__"];
        let set: Vec<_> = names
            .into_iter()
            .filter(|name| systems.iter().any(|system| name.starts_with(system)))
            .map(set)
            .collect();
        let Some((forge, ci, dns, signed)) = understood(&set) else { continue };
        told.insert(name, (forge, ci, dns, signed, secrets_of(template, name)));
    }
    let (gitea, gitea_hook) = ("GiteaSecretArn", "GiteaWebhookSecretArn");
    let (ci, ci_hook) = ("WoodpeckerSecretArn", "WoodpeckerWebhookSecretArn");
    let dns = "CloudflareSecretArn";
    let wanted = [
        // Only named, as whose repositories the CI builds: no token, no right to it.
        ("BuildsFunction", (true, true, false, [false, false], set_of(&[ci]))),
        ("CiFunction", (true, true, false, [true, true], set_of(&[gitea_hook, ci, ci_hook]))),
        ("DomainsFunction", (false, false, true, [false, false], set_of(&[dns]))),
        // It ends deletions that were cut short.
        ("MaintenanceFunction", (true, true, true, [false, false], set_of(&[gitea, ci, dns]))),
        (
            "ProjectsFunction",
            (true, true, true, [true, false], set_of(&[gitea, gitea_hook, ci, dns])),
        ),
    ];
    assert_eq!(told, wanted.into());
    Ok(())
}

/// Which systems a function gets out of its variables (forge, CI, DNS), and whether it knows what
/// signs the webhooks of the first two. `None` without any of them.
fn understood(variables: &[(String, String)]) -> Option<(bool, bool, bool, [bool; 2])> {
    let named = |name: &str| variables.iter().any(|(known, _)| known == name);
    let config = PlatformConfig {
        public_url: named("RDEV_PUBLIC_URL").then(|| "https://rdev.example.com".to_owned()),
        forge: named("RDEV_FORGE__URL")
            .then(|| section(variables, "RDEV_FORGE__").expect("a forge")),
        ci: named("RDEV_CI__URL").then(|| section(variables, "RDEV_CI__").expect("a CI")),
        dns: named("RDEV_DNS__PROVIDER")
            .then(|| section(variables, "RDEV_DNS__").expect("a DNS provider")),
    };
    let fetch = |_: &str| Token::known(Secret::new("sesame"));
    let platform = connect(&config, Some(&fetch)).expect("the adapters");
    let has = (platform.forge.is_some(), platform.ci.is_some(), platform.dns.is_some());
    let signed = [platform.forge_webhook_key.is_some(), platform.ci_webhook_key.is_some()];
    (has != (false, false, false)).then_some((has.0, has.1, has.2, signed))
}

/// The parameters whose secrets a function's role may read.
fn secrets_of<'a>(template: &'a Value, function: &str) -> BTreeSet<&'a str> {
    let role = &template["Resources"][function]["Properties"]["Role"]["Fn::GetAtt"][0];
    let of_it = |policy: &Value| {
        let roles = policy["Properties"]["Roles"].as_array().expect("roles");
        roles.iter().any(|one| one["Ref"] == *role)
    };
    let policies = resources(template, &["AWS::IAM::Policy"]).into_iter();
    policies
        .filter(|(_, policy)| of_it(policy))
        .map(|(_, policy)| {
            let statement = &policy["Properties"]["PolicyDocument"]["Statement"][0];
            assert_eq!(statement["Action"], "secretsmanager:GetSecretValue");
            string(&statement["Resource"], "Ref")
        })
        .collect()
}

fn set_of<'a>(names: &[&'a str]) -> BTreeSet<&'a str> {
    names.iter().copied().collect()
}

fn a_secret_with_credentials_of_git_is_read_as_the_template_describes_it() {
    let text = r#"[{origin = "https://git.example.org", username = "oauth2", token = "a1,b]2"}]"#;
    let environment = Environment::from([("RDEV_GIT__CREDENTIALS", text)]);
    let layers = Layers::default().environment(&environment, &NAMES);
    let config: RunnerConfig = layers.extract().expect("a configuration");
    let [one] = &config.git.credentials[..] else { panic!("one of them") };
    assert_eq!((one.origin.as_str(), one.username.as_str()), ("https://git.example.org", "oauth2"));
    assert_eq!(one.token.expose(), "a1,b]2");
}
