//! What a function's environment sets: `RDEV_DEFAULT_AGENT`, `RDEV_ALLOW_PRIVATE_ADDRESSES`,
//! `RDEV_REGISTRY`, and below `RDEV_API__` and `RDEV_RETENTION__` what `rdev.toml` has in `[api]`
//! and `[retention]`. An empty variable counts as absent.

use std::collections::BTreeMap;
use std::fmt;

use rdev_domain::retention::Retention;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::Settings;
use crate::services::templates::check_registry;

/// A variable with an invalid value or an unknown name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidVariable(String);

impl fmt::Display for InvalidVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidVariable {}

/// Reads the settings out of `variables`. Event streams are finite: no gateway streams them.
///
/// # Errors
/// The first invalid variable; its value is not repeated.
pub fn settings(variables: &[(String, String)]) -> Result<(Settings, Retention), InvalidVariable> {
    let mut settings: Settings = section(variables, "RDEV_API__")?;
    let retention = section(variables, "RDEV_RETENTION__")?;
    settings.sse_finite = true;
    if let Some(agent) = text(variables, "RDEV_DEFAULT_AGENT") {
        settings.default_agent = agent.parse().map_err(|_| {
            InvalidVariable("RDEV_DEFAULT_AGENT is not the name of an agent".to_owned())
        })?;
    }
    settings.url_policy.allow_private = match text(variables, "RDEV_ALLOW_PRIVATE_ADDRESSES") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => {
            let why = "RDEV_ALLOW_PRIVATE_ADDRESSES must be true or false";
            return Err(InvalidVariable(why.to_owned()));
        }
    };
    if let Some(registry) = text(variables, "RDEV_REGISTRY") {
        check_registry(registry)
            .map_err(|invalid| InvalidVariable(format!("RDEV_REGISTRY {}", invalid.why)))?;
        settings.registry = Some(registry.to_owned());
    }
    Ok((settings, retention))
}

/// A variable that is set.
pub fn text<'a>(variables: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = variables.iter().find(|(known, text)| known == name && !text.is_empty());
    found.map(|(_, text)| text.as_str())
}

/// The variables that begin with `prefix`, as the value that their section of `rdev.toml` makes.
///
/// # Errors
/// The first invalid variable; its value is not repeated.
pub fn section<T: DeserializeOwned>(
    variables: &[(String, String)],
    prefix: &str,
) -> Result<T, InvalidVariable> {
    let given: BTreeMap<String, &str> = variables
        .iter()
        .filter(|(_, text)| !text.is_empty())
        .filter_map(|(name, text)| Some((name.strip_prefix(prefix)?.to_ascii_lowercase(), text)))
        .map(|(field, text)| (field, text.as_str()))
        .collect();
    let read = |text: &&str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(*text));
    let mut fields: Map<String, Value> =
        given.iter().map(|(field, text)| (field.clone(), read(text))).collect();
    loop {
        let error = match serde_path_to_error::deserialize(Value::Object(fields.clone())) {
            Ok(section) => return Ok(section),
            Err(error) => error,
        };
        let field = error.path().to_string();
        if field == "." {
            // Something is missing: the message contains no value.
            return Err(InvalidVariable(format!("{prefix}…: {}", error.into_inner())));
        }
        match (fields.get_mut(&field), given.get(&field)) {
            // A text that looks like a number, as an owner called 1234.
            (Some(value), Some(text)) if !value.is_string() => *value = Value::from(*text),
            _ => {
                let field = field.to_ascii_uppercase();
                return Err(InvalidVariable(format!(
                    "{prefix}{field} has an invalid value or is unknown"
                )));
            }
        }
    }
}
