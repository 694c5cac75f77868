//! The environment of an agent: an allow-list, never the runner's whole environment.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::Path;

use rdev_domain::secret::Secret;
use rdev_domain::spec::AgentName;

use super::{Agent, AgentRequest};
use crate::config::AgentSettings;

/// The variables that every program gets from the runner's environment.
const COMMON: [&str; 5] = ["PATH", "LANG", "LC_ALL", "TERM", "TZ"];

/// Variables with credentials of the machine and of rdev. They are never passed on, whatever is
/// configured.
const FORBIDDEN_PREFIXES: [&str; 3] = ["AWS_", "ECS_", "RDEV_"];

/// Endings of the names of variables whose values are secrets.
const SECRET_ENDINGS: [&str; 4] = ["_KEY", "_TOKEN", "_SECRET", "_PASSWORD"];

/// The environment of a program that is not an agent (the verify phase).
pub fn base_environment(home: &Path, tmp: &Path) -> Vec<(OsString, OsString)> {
    let mut all: Vec<(OsString, OsString)> =
        COMMON.iter().filter_map(|name| Some((name.into(), env::var_os(name)?))).collect();
    if env::var_os("PATH").is_none() {
        all.push(("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()));
    }
    all.push(("HOME".into(), home.into()));
    all.push(("TMPDIR".into(), tmp.into()));
    all
}

/// The environment of an agent. Later entries override earlier ones: first what the runner passes
/// on, then what the agent's file sets, then what the operator sets.
pub(super) fn of(
    agent: &dyn Agent,
    settings: &AgentSettings,
    request: &AgentRequest<'_>,
    own: Vec<(&'static str, String)>,
) -> Vec<(OsString, OsString)> {
    let listed = settings.env.iter().map(String::as_str);
    let known = agent.keys().iter().chain(agent.variables()).copied();
    let passed = known.chain(listed).filter(|name| allowed(name));
    let set = settings.set_env.iter().filter(|(name, _)| allowed(name));
    let mut all = base_environment(request.home, request.tmp);
    all.extend(passed.filter_map(|name| Some((name.into(), env::var_os(name)?))));
    all.extend(own.into_iter().map(|(name, value)| (name.into(), value.into())));
    all.extend(set.map(|(name, value)| (name.into(), value.into())));
    all
}

/// The value of a variable in the agent's environment.
pub(super) fn value(name: &str, settings: &AgentSettings) -> Option<String> {
    let set = settings.set_env.get(name).cloned();
    set.or_else(|| env::var(name).ok()).filter(|value| !value.is_empty())
}

/// Whether the agent has credentials for a model.
pub fn has_credentials(agent: AgentName, settings: &AgentSettings) -> bool {
    super::of(agent).keys().iter().any(|name| value(name, settings).is_some())
}

/// All secrets in the agents' environments. They must not appear in logs and events.
pub fn secrets(settings: &BTreeMap<AgentName, AgentSettings>) -> Vec<Secret> {
    let default = AgentSettings::default();
    let mut found = Vec::new();
    for agent in AgentName::ALL {
        let settings = settings.get(&agent).unwrap_or(&default);
        let keys = super::of(agent).keys().iter().copied();
        let named = settings.env.iter().chain(settings.set_env.keys()).map(String::as_str);
        let named = named.filter(|name| is_secret(name));
        found.extend(keys.chain(named).filter_map(|name| value(name, settings)).map(Secret::new));
    }
    found
}

fn allowed(name: &str) -> bool {
    !FORBIDDEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn is_secret(name: &str) -> bool {
    SECRET_ENDINGS.iter().any(|ending| name.ends_with(ending))
}
