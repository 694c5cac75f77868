//! Settings of the AWS shape from the environment, beside those that the SDK reads itself.

use std::env::{self, VarError};

pub const TABLE: &str = "RDEV_TABLE";
pub const QUEUE_URL: &str = "RDEV_QUEUE_URL";
pub const DEAD_QUEUE_URL: &str = "RDEV_DEAD_QUEUE_URL";

/// The table and the queues of this installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The table's name, from [`TABLE`].
    pub table: String,
    /// The queue's URL, from [`QUEUE_URL`].
    pub queue_url: String,
    /// The dead-letter queue's URL, from [`DEAD_QUEUE_URL`]. Without one, dead letters are neither
    /// counted nor read.
    pub dead_queue_url: Option<String>,
}

/// A setting is missing or invalid. The program exits with code 78.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A required variable is not set, or is empty.
    #[error("{0} is not set: the stack's outputs give its value")]
    Missing(&'static str),
    /// A variable is not valid UTF-8.
    #[error("{0} is not valid UTF-8")]
    NotText(&'static str),
}

impl Settings {
    /// Reads [`TABLE`], [`QUEUE_URL`] and [`DEAD_QUEUE_URL`].
    ///
    /// # Errors
    /// For the first variable that is missing or not valid UTF-8.
    pub fn from_env() -> Result<Self, SettingsError> {
        Self::from_variables(env::var)
    }

    fn from_variables(
        read: impl Fn(&'static str) -> Result<String, VarError>,
    ) -> Result<Self, SettingsError> {
        let optional = |name| match read(name) {
            Ok(value) if value.trim().is_empty() => Ok(None),
            Ok(value) => Ok(Some(value)),
            Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(_)) => Err(SettingsError::NotText(name)),
        };
        let required = |name| optional(name)?.ok_or(SettingsError::Missing(name));
        Ok(Self {
            table: required(TABLE)?,
            queue_url: required(QUEUE_URL)?,
            dead_queue_url: optional(DEAD_QUEUE_URL)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::from_variables(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned()).ok_or(VarError::NotPresent)
        })
    }

    #[test]
    fn the_table_and_the_queue_must_be_named_and_the_dead_letter_queue_need_not() {
        let both = from(&[(TABLE, "rdev"), (QUEUE_URL, "https://sqs/1/rdev")]);
        let both = both.expect("enough");
        assert_eq!((both.table.as_str(), both.dead_queue_url), ("rdev", None));
        assert_eq!(from(&[(TABLE, "rdev")]), Err(SettingsError::Missing(QUEUE_URL)));
        assert_eq!(from(&[(TABLE, " "), (QUEUE_URL, "x")]), Err(SettingsError::Missing(TABLE)));
        let dead = [(TABLE, "rdev"), (QUEUE_URL, "x"), (DEAD_QUEUE_URL, "y")];
        assert_eq!(from(&dead).map(|all| all.dead_queue_url), Ok(Some("y".to_owned())));
    }
}
