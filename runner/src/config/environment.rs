//! The process's environment, read once, and the settings in it.
//!
//! `RDEV_GIT__NAME` is `git.name`: two underscores separate. Agents are
//! written with an underscore for the hyphen: `RDEV_AGENTS__CLAUDE_CODE__MODEL`.
//! A program names its own settings that stand in no section ([`Names`]).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};

/// Variables of ours that are no settings of the configuration file, for any program.
const OTHERS: [&str; 5] = ["CONFIG", "REQUIRE", "ATTEMPT", "PROMPT", "PROJECT"];

/// A program's own variables, without `RDEV_`.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// Settings of the configuration file that stand in no section of it.
    pub top: &'static [&'static str],
    /// Variables that it reads itself.
    pub others: &'static [&'static str],
}

/// Settings that are always text, also when they look like a number or a list.
const TEXTS: [&str; 13] = [
    "listen",
    "health_listen",
    "data_dir",
    "default_agent",
    "name",
    "email",
    "worker_id",
    "program",
    "model",
    "base_url",
    "owner",
    "token",
    "webhook_secret",
];

/// The variables, by name.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// The process's own.
    pub fn of_process() -> Self {
        let named = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
        Self(std::env::vars_os().filter_map(named).collect())
    }

    /// A variable's text; `None` when it is not set, empty, or not UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|value| value.to_str()).filter(|text| !text.is_empty())
    }

    /// A variable's value as a path; `None` when it is not set or empty.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.get(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// Variables that look like settings of ours and are none.
    pub fn strangers(&self, names: &Names) -> Vec<&str> {
        let known = |rest: &str| {
            key(rest, names).is_some() || OTHERS.contains(&rest) || names.others.contains(&rest)
        };
        let stranger = |name: &&str| name.strip_prefix("RDEV_").is_some_and(|rest| !known(rest));
        self.0.keys().map(String::as_str).filter(stranger).collect()
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        Self(variables.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect())
    }
}

/// The settings in an environment, for figment.
pub(super) struct Settings<'a> {
    pub(super) environment: &'a Environment,
    pub(super) names: &'a Names,
}

impl Provider for Settings<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named("the environment (RDEV_…)")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut dict = Dict::new();
        for (name, value) in &self.environment.0 {
            let Some(rest) = name.strip_prefix("RDEV_") else { continue };
            let Some(path) = key(rest, self.names) else { continue };
            let Some(text) = value.to_str() else {
                return Err(figment::Error::from(format!("{name} is not UTF-8")));
            };
            insert(&mut dict, &path, value_of(&path, text));
        }
        Ok(Profile::Default.collect(dict))
    }
}

/// Where a variable's setting stands, from its name without `RDEV_`.
fn key(rest: &str, names: &Names) -> Option<Vec<String>> {
    if names.top.contains(&rest) {
        return Some(vec![rest.to_ascii_lowercase()]);
    }
    let (section, inside) = rest.split_once("__")?;
    let section = section.to_ascii_lowercase();
    if section != "agents" {
        let parts = inside.split("__").map(str::to_ascii_lowercase);
        return Some(std::iter::once(section).chain(parts).collect());
    }
    let (agent, field) = inside.split_once("__")?;
    let mut path = vec![section, agent.to_ascii_lowercase().replace('_', "-")];
    match field.split_once("__") {
        // What follows is a name of the user's own.
        Some((map, name)) => path.extend([map.to_ascii_lowercase(), name.to_owned()]),
        None => path.push(field.to_ascii_lowercase()),
    }
    Some(path)
}

fn value_of(path: &[String], text: &str) -> Value {
    let last = path.last().map_or("", String::as_str);
    let own_name = path.len() == 4 && path[2] == "set_env";
    if own_name || TEXTS.contains(&last) {
        return Value::from(text);
    }
    // Lists and tables are JSON.
    if text.trim_start().starts_with(['[', '{'])
        && let Ok(json) = serde_json::from_str::<serde_json::Value>(text)
        && let Ok(value) = Value::serialize(json)
    {
        return value;
    }
    // Numbers and booleans as in TOML; anything else is text.
    text.parse().unwrap_or_else(|never: std::convert::Infallible| match never {})
}

fn insert(dict: &mut Dict, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        dict.insert(first.clone(), value);
        return;
    }
    let inner = dict.entry(first.clone()).or_insert_with(|| Value::from(Dict::new()));
    if let Value::Dict(_, inner) = inner {
        insert(inner, rest, value);
    }
}
