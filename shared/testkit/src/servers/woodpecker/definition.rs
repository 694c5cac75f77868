//! `.woodpecker.yaml`: the part of its syntax that is run here. The rest is an error and not
//! passed over, so that a test never believes that it has run.

use std::collections::BTreeMap;

use serde_norway::{Mapping, Value};

use super::condition::When;
use super::substitute::substitute;

#[derive(Debug)]
pub(super) struct Definition {
    pub(super) when: When,
    pub(super) skip_clone: bool,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) image: String,
    /// None: it is a plugin.
    pub(super) commands: Vec<String>,
    pub(super) environment: Vec<(String, Setting)>,
    /// The secrets that a plugin's settings ask for.
    pub(super) secrets: Vec<String>,
    /// Below the workspace.
    pub(super) directory: Option<String>,
    pub(super) when: When,
    pub(super) may_fail: bool,
}

/// The value of an environment variable.
#[derive(Debug)]
pub(super) enum Setting {
    Text(String),
    Secret(String),
}

/// Reads a definition; `known` is what `${…}` stands for.
pub(super) fn read(text: &str, known: &BTreeMap<String, String>) -> Result<Definition, String> {
    let text = substitute(text, known)?;
    let mut value: Value = serde_norway::from_str(&text).map_err(|error| error.to_string())?;
    value.apply_merge().map_err(|error| error.to_string())?;
    let Value::Mapping(top) = &value else { return Err("it is not a mapping".to_owned()) };
    for name in top.keys().map(|name| name.as_str().unwrap_or_default()) {
        if !matches!(name, "steps" | "when" | "skip_clone" | "variables" | "labels" | "$schema") {
            return Err(format!("this server does not run `{name}`"));
        }
    }
    let steps = top.get("steps").ok_or("`steps` is missing")?;
    Ok(Definition {
        when: When::read(top.get("when"), known)?,
        skip_clone: top.get("skip_clone").and_then(Value::as_bool).unwrap_or_default(),
        steps: read_steps(steps, known)?,
    })
}

/// Steps are a list, or a mapping by their names.
fn read_steps(steps: &Value, known: &BTreeMap<String, String>) -> Result<Vec<Step>, String> {
    let named: Vec<(String, &Value)> = match steps {
        Value::Sequence(list) => {
            let name = |at: usize, step: &Value| match step.get("name").and_then(Value::as_str) {
                Some(name) => name.to_owned(),
                None => format!("step_{at}"),
            };
            list.iter().enumerate().map(|(at, step)| (name(at, step), step)).collect()
        }
        Value::Mapping(by_name) => by_name
            .iter()
            .map(|(name, step)| Ok((text(name)?, step)))
            .collect::<Result<_, String>>()?,
        _ => return Err("`steps` must be a list or a mapping".to_owned()),
    };
    let mut read: Vec<Step> = Vec::new();
    for (name, step) in named {
        let Value::Mapping(step) = step else {
            return Err(format!("step `{name}` is not a mapping"));
        };
        let earlier: Vec<&str> = read.iter().map(|step| step.name.as_str()).collect();
        let step = read_step(name.clone(), step, &earlier, known);
        read.push(step.map_err(|why| format!("step `{name}`: {why}"))?);
    }
    if read.is_empty() { Err("there are no steps".to_owned()) } else { Ok(read) }
}

fn read_step(
    name: String,
    step: &Mapping,
    earlier: &[&str],
    known: &BTreeMap<String, String>,
) -> Result<Step, String> {
    for key in step.keys().map(|key| key.as_str().unwrap_or_default()) {
        match key {
            "name" | "image" | "commands" | "environment" | "directory" | "when" | "failure"
            | "depends_on" | "settings" | "pull" | "privileged" | "volumes" | "backend_options" => {
            }
            "secrets" => return Err("`secrets` is gone in 3; use `from_secret`".to_owned()),
            _ => return Err(format!("this server does not run `{key}`")),
        }
    }
    let list = |key: &str| step.get(key).map_or(Ok(Vec::new()), texts);
    let image = step.get("image").ok_or("`image` is missing")?;
    let commands = list("commands")?;
    if !commands.is_empty() && step.contains_key("settings") {
        return Err("a plugin (with `settings`) has no `commands`".to_owned());
    }
    // They run one after the other, which is right as long as each follows those it needs.
    if let Some(later) = list("depends_on")?.iter().find(|it| !earlier.contains(&it.as_str())) {
        return Err(format!("this server runs steps in order, and `{later}` does not come before"));
    }
    let environment = match step.get("environment") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Mapping(variables)) => {
            variables.iter().map(read_variable).collect::<Result<_, _>>()?
        }
        Some(_) => return Err("`environment` must be a mapping".to_owned()),
    };
    Ok(Step {
        name,
        image: text(image)?,
        commands,
        environment,
        secrets: secrets(step.get("settings").unwrap_or(&Value::Null))?,
        directory: step.get("directory").map(text).transpose()?,
        when: When::read(step.get("when"), known)?,
        may_fail: match step.get("failure").and_then(Value::as_str) {
            None | Some("fail") => false,
            Some("ignore") => true,
            Some(_) => return Err("`failure` is `fail` or `ignore`".to_owned()),
        },
    })
}

fn read_variable((name, value): (&Value, &Value)) -> Result<(String, Setting), String> {
    let setting = match value.get("from_secret") {
        Some(secret) => Setting::Secret(text(secret)?),
        None => Setting::Text(text(value)?),
    };
    Ok((text(name)?, setting))
}

/// The secrets that plugin settings refer to.
fn secrets(settings: &Value) -> Result<Vec<String>, String> {
    let inner: Vec<&Value> = match settings {
        Value::Mapping(parts) => match parts.get("from_secret") {
            Some(secret) => return Ok(vec![text(secret)?]),
            None => parts.values().collect(),
        },
        Value::Sequence(parts) => parts.iter().collect(),
        _ => Vec::new(),
    };
    inner.into_iter().try_fold(Vec::new(), |mut found, part| {
        found.extend(secrets(part)?);
        Ok(found)
    })
}

/// A text, or what is one as soon as a shell reads it.
fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        _ => Err("a text was expected".to_owned()),
    }
}

/// A text or a list of them.
pub(super) fn texts(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Sequence(list) => list.iter().map(text).collect(),
        one => Ok(vec![text(one)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_as_a_list_or_by_name_and_with_anchors() {
        let by_name = "
variables:
  - &node 'node:22'
  - &env {environment: {A: 1, B: {from_secret: b}}}
steps:
  build:
    image: *node
    <<: *env
    commands: [npm ci, npm run build]
  publish:
    image: woodpeckerci/plugin-kaniko
    settings: {repo: x}
    depends_on: [build]
";
        let read = read(by_name, &BTreeMap::new()).expect("it is understood");
        let [build, publish] = read.steps.as_slice() else { panic!("{read:?}") };
        assert_eq!((build.image.as_str(), build.commands.len()), ("node:22", 2));
        assert!(matches!(&build.environment[0].1, Setting::Text(one) if one == "1"));
        assert!(matches!(&build.environment[1].1, Setting::Secret(name) if name == "b"));
        assert!(publish.commands.is_empty());
    }

    #[test]
    fn what_is_not_run_here_is_an_error() {
        for bad in [
            "[]",
            "steps: []",
            "steps: [{name: a, commands: [b]}]",
            "steps: [{name: a, image: b, detach: true}]",
            "steps: [{name: a, image: b, secrets: [c]}]",
            "steps: [{name: a, image: b, settings: {c: d}, commands: [e]}]",
            "steps: [{name: a, image: b, depends_on: [c]}]",
            "{steps: [{name: a, image: b}], services: [{name: c, image: d}]}",
            "steps: [{name: a, image: b, when: [{path: c}]}]",
            "{steps: [",
        ] {
            assert!(read(bad, &BTreeMap::new()).is_err(), "{bad}");
        }
    }
}
