//! Layers of settings, and the errors in them.

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::error::Kind;
use figment::providers::{Format, Toml};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::environment::{Environment, Names, Settings};

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A configuration file does not exist or cannot be read.
    #[error("cannot read the configuration {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// A setting is unknown or has a wrong value.
    #[error("{0}")]
    Setting(String),
    /// There is no home folder to put the data folder in.
    #[error("cannot determine the data folder: HOME is not set; use --data-dir or RDEV_DATA_DIR")]
    NoHome,
}

/// Layers of settings; later layers override earlier ones.
#[derive(Debug, Clone, Default)]
pub struct Layers(Figment);

impl Layers {
    /// Adds one setting by its path, such as `runner.slots`.
    #[must_use]
    pub fn value(self, place: &str, value: impl Serialize) -> Self {
        Self(self.0.merge((place, value)))
    }

    /// Adds the settings of a TOML file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn file(self, path: &Path) -> Result<Self, ConfigError> {
        // Figment treats a missing file as an empty one.
        std::fs::File::open(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Ok(Self(self.0.merge(Toml::file_exact(path))))
    }

    /// Adds the settings of the environment.
    #[must_use]
    pub fn environment(self, environment: &Environment, names: &Names) -> Self {
        Self(self.0.merge(Settings { environment, names }))
    }

    /// Reads the merged settings into `T`.
    ///
    /// # Errors
    /// The first setting that is unknown or has a wrong value; the error names its source.
    pub fn extract<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        self.0.extract().map_err(|error| ConfigError::Setting(explain(error)))
    }
}

/// One line that names the source and the setting. It repeats no value: a value may be a secret.
fn explain(error: figment::Error) -> String {
    let key = error.path.join(".");
    let place = error.metadata.as_ref().map(|metadata| {
        match metadata.source.as_ref().and_then(|source| source.file_path()) {
            Some(path) => path.display().to_string(),
            None => metadata.name.to_string(),
        }
    });
    let what = match error.kind {
        Kind::Message(message) => syntax_only(&message),
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => {
            format!("must be {expected}")
        }
        Kind::InvalidLength(length, expected) => {
            format!("has {length} entries, must be {expected}")
        }
        Kind::UnknownVariant(_, known) => format!("must be one of {}", known.join(", ")),
        Kind::UnknownField(field, known) => {
            let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
            format!("unknown setting '{field}'; known here: {known}")
        }
        Kind::MissingField(field) => format!("'{field}' is missing"),
        Kind::DuplicateField(field) => format!("'{field}' is set twice"),
        Kind::ISizeOutOfRange(_) | Kind::USizeOutOfRange(_) => "is out of range".to_owned(),
        Kind::Unsupported(_) | Kind::UnsupportedKey(..) => {
            "has a type that is not supported".to_owned()
        }
    };
    let mut text = String::from("the configuration is wrong: ");
    if let Some(place) = place {
        text.push_str(&place);
        text.push_str(": ");
    }
    if !key.is_empty() {
        text.push_str(&key);
        text.push_str(": ");
    }
    text + &what
}

/// Drops the quoted source line from a syntax error: the line may hold a secret.
fn syntax_only(message: &str) -> String {
    let kept: Vec<&str> = message
        .lines()
        .map(str::trim)
        .filter(|line| {
            let quoted = line.split_once('|').map(|(number, _)| number.trim());
            let quoted = quoted.is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()));
            !line.is_empty() && !quoted
        })
        .collect();
    kept.join(": ")
}
