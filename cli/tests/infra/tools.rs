//! Running the tools, and reading YAML with theirs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use rdev_testkit::tools::needs::NotRun;
use rdev_testkit::tools::python::{SAM, installed};
use serde_json::Value;

/// The template with its tags in their long form, as JSON.
const READ: &str = "import json, sys; from cfnlint.decode import decode; \
    template, problems = decode(sys.argv[1]); assert not problems, problems; \
    json.dump(template, sys.stdout, default=str)";

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("cli is in the repository")
}

/// `infra/template.yaml`.
pub(crate) fn template() -> Result<&'static Value, NotRun> {
    static TEMPLATE: OnceLock<Result<Value, NotRun>> = OnceLock::new();
    let read = || {
        let python = installed(SAM)?.join("python");
        let mut command = Command::new(python);
        let said = text(command.args(["-c", READ]).arg(root().join("infra/template.yaml")));
        Ok(serde_json::from_str(&said).expect("JSON"))
    };
    TEMPLATE.get_or_init(read).as_ref().map_err(Clone::clone)
}

/// `name` of `value`, which must be a text.
pub(crate) fn string<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} is a text in {value}"))
}

/// The resources of `template` that have one of these types, by their names.
pub(crate) fn resources<'a>(template: &'a Value, types: &[&str]) -> Vec<(&'a str, &'a Value)> {
    let all = template["Resources"].as_object().expect("resources");
    let found = all.iter().filter(|(_, resource)| types.contains(&string(resource, "Type")));
    found.map(|(name, resource)| (name.as_str(), resource)).collect()
}

/// What a program prints; it must succeed.
pub(crate) fn text(command: &mut Command) -> String {
    let output = run(command);
    let said = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{command:?} fails: {printed}{said}");
    printed
}

/// A program with nobody at its terminal, who counts nothing and asks nobody.
pub(crate) fn run(command: &mut Command) -> Output {
    command
        .env("SAM_CLI_TELEMETRY", "0")
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .current_dir(root())
        .stdin(Stdio::null());
    command.output().unwrap_or_else(|error| panic!("{command:?} starts: {error}"))
}

/// Where a tool's program is.
pub(crate) fn sam(program: &str) -> Result<PathBuf, NotRun> {
    Ok(installed(SAM)?.join(program))
}
