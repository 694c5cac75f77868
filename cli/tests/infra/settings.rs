//! What the template tells the runner is what the runner reads.

use rdev_runner::config::RunnerConfig;
use rdev_runner::config::environment::{Environment, Names};
use rdev_runner::config::load::Layers;

use crate::tools::{string, template};

/// What the runner's program reads beside the sections of its configuration.
const NAMES: Names = Names {
    top: &["HEALTH_LISTEN", "DATA_DIR"],
    others: &["TABLE", "QUEUE_URL", "DEAD_QUEUE_URL"],
};

#[test]
fn every_variable_of_the_ecs_task_is_one_that_the_runner_reads() {
    let template = match template() {
        Ok(template) => template,
        Err(not_run) => return not_run.report(),
    };
    let container = &template["Resources"]["RunnerTask"]["Properties"]["ContainerDefinitions"][0];
    let plain = container["Environment"].as_array().expect("variables").iter();
    let secret = container["Secrets"].as_array().expect("secrets").iter();
    let secret = secret.map(|one| &one["Fn::If"][1]);
    let names: Vec<&str> = plain.chain(secret).map(|one| string(one, "Name")).collect();
    assert!(names.len() > 5);
    for name in names {
        let environment = Environment::from([(name, "1")]);
        assert!(environment.strangers(&NAMES).is_empty(), "{name} means nothing");
    }
}

#[test]
fn a_secret_with_credentials_of_git_is_read_as_the_template_describes_it() {
    let text = r#"[{origin = "https://git.example.org", username = "oauth2", token = "a1,b]2"}]"#;
    let environment = Environment::from([("RDEV_GIT__CREDENTIALS", text)]);
    let layers = Layers::default().environment(&environment, &NAMES);
    let config: RunnerConfig = layers.extract().expect("a configuration");
    let [one] = &config.git.credentials[..] else { panic!("one of them") };
    assert_eq!((one.origin.as_str(), one.username.as_str()), ("https://git.example.org", "oauth2"));
    assert_eq!(one.token.expose(), "a1,b]2");
}
