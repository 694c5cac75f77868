//! The process's environment, read once, and the settings in it.
//!
//! `RDEV_GIT__NAME` is `git.name`: two underscores separate section and setting. The names of
//! agents have an underscore instead of the hyphen: `RDEV_AGENTS__CLAUDE_CODE__MODEL`. Each program
//! lists its variables that belong to no section ([`Names`]).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};

/// The variables of one program that belong to no section, without `RDEV_`.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// Top-level settings of the configuration file.
    pub top: &'static [&'static str],
    /// Variables that are no settings; the program reads them itself.
    pub others: &'static [&'static str],
}

/// Environment variables by name.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Self {
        let named = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
        Self(std::env::vars_os().filter_map(named).collect())
    }

    /// A variable's text; `None` when it is unset, empty, or not UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|value| value.to_str()).filter(|text| !text.is_empty())
    }

    /// A variable's value as a path; `None` when it is unset or empty.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.get(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// `RDEV_` variables that no program of rdev reads: probably misspelt settings.
    pub fn unknown_variables(&self, names: &Names) -> Vec<&str> {
        let known = |rest: &str| {
            key(rest, names).is_some() || OTHERS.contains(&rest) || names.others.contains(&rest)
        };
        let unknown = |name: &&str| name.strip_prefix("RDEV_").is_some_and(|rest| !known(rest));
        self.0.keys().map(String::as_str).filter(unknown).collect()
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        Self(variables.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect())
    }
}

/// Variables of rdev that are no settings, whatever the program.
const OTHERS: [&str; 5] = ["CONFIG", "REQUIRE", "ATTEMPT", "PROMPT", "PROJECT"];

/// Settings that are always text, even when the value looks like a number or a list.
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

/// The settings in an environment, for figment.
pub(crate) struct Settings<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) names: &'a Names,
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

/// The path of the setting that a variable sets. `rest` is its name without `RDEV_`.
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
        // The rest is a name that the user chose, such as a key of `set_env`.
        Some((map, name)) => path.extend([map.to_ascii_lowercase(), name.to_owned()]),
        None => path.push(field.to_ascii_lowercase()),
    }
    Some(path)
}

fn value_of(path: &[String], text: &str) -> Value {
    let last = path.last().map_or("", String::as_str);
    let chosen_name = path.len() == 4 && path[2] == "set_env";
    if chosen_name || TEXTS.contains(&last) {
        return Value::from(text);
    }
    // Lists and tables are JSON.
    if text.trim_start().starts_with(['[', '{'])
        && let Ok(json) = serde_json::from_str::<serde_json::Value>(text)
        && let Ok(value) = Value::serialize(json)
    {
        return value;
    }
    // Numbers and booleans are written as in TOML; anything else is text.
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
