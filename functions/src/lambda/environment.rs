//! What a function's environment sets: `RDEV_DEFAULT_AGENT`, `RDEV_ALLOW_PRIVATE_ADDRESSES`, and
//! below `RDEV_API__` and `RDEV_RETENTION__` what `rdev.toml` has in `[api]` and `[retention]`.

use std::fmt;

use rdev_domain::retention::Retention;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::Settings;

/// A variable that has a wrong value, or a name that means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong(String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

/// Reads the settings out of `variables`. Event streams are finite: no gateway streams them.
///
/// # Errors
/// The first variable that is wrong; its value is not repeated.
pub fn settings(variables: &[(String, String)]) -> Result<(Settings, Retention), Wrong> {
    let mut settings: Settings = section(variables, "RDEV_API__")?;
    let retention = section(variables, "RDEV_RETENTION__")?;
    settings.sse_finite = true;
    if let Some(agent) = text(variables, "RDEV_DEFAULT_AGENT") {
        settings.default_agent =
            agent.parse().map_err(|_| Wrong("RDEV_DEFAULT_AGENT is no agent's name".to_owned()))?;
    }
    settings.url_policy.allow_private = match text(variables, "RDEV_ALLOW_PRIVATE_ADDRESSES") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => {
            let why = "RDEV_ALLOW_PRIVATE_ADDRESSES must be true or false";
            return Err(Wrong(why.to_owned()));
        }
    };
    Ok((settings, retention))
}

fn text<'a>(variables: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = variables.iter().find(|(known, text)| known == name && !text.is_empty());
    found.map(|(_, text)| text.as_str())
}

/// The variables that begin with `prefix`, as the value that their section of `rdev.toml` makes.
fn section<T: DeserializeOwned>(variables: &[(String, String)], prefix: &str) -> Result<T, Wrong> {
    let mut fields = Map::new();
    for (name, text) in variables {
        if let Some(field) = name.strip_prefix(prefix) {
            let value = serde_json::from_str(text);
            let value = value.unwrap_or_else(|_| Value::String(text.clone()));
            fields.insert(field.to_ascii_lowercase(), value);
        }
    }
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
        let field = error.path().to_string().to_ascii_uppercase();
        Wrong(format!("{prefix}{field} has a wrong value, or means nothing"))
    })
}
