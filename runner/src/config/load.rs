//! Reading a configuration: file, environment and what goes over both.

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::error::Kind;
use figment::providers::{Format, Toml};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::environment::{Environment, Names, Settings};

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that was named is not there, or cannot be read.
    #[error("cannot read the configuration {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A setting is unknown or has a wrong value.
    #[error("{0}")]
    Setting(String),
    /// There is no home folder to put the data folder in.
    #[error(
        "cannot tell where the data folder is: HOME is not set; use --data-dir or RDEV_DATA_DIR"
    )]
    NoHome,
}

/// Layers of settings; a later one goes over those before it.
#[derive(Debug, Clone, Default)]
pub struct Layers(Figment);

impl Layers {
    /// One setting, by its place, as `runner.slots`.
    #[must_use]
    pub fn value(self, place: &str, value: impl Serialize) -> Self {
        Self(self.0.merge((place, value)))
    }

    /// What a TOML file says.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn file(self, path: &Path) -> Result<Self, ConfigError> {
        // Figment takes a file that is not there for an empty one.
        std::fs::File::open(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Ok(Self(self.0.merge(Toml::file_exact(path))))
    }

    /// What the environment says.
    #[must_use]
    pub fn environment(self, environment: &Environment, names: &Names) -> Self {
        Self(self.0.merge(Settings { environment, names }))
    }

    /// All of it.
    ///
    /// # Errors
    /// The first setting that is unknown or wrong, with the file or variable it stands in.
    pub fn extract<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        self.0.extract().map_err(|error| ConfigError::Setting(explain(error)))
    }
}

/// The file that applies: `named`, else the one `RDEV_CONFIG` names, else `./rdev.toml`, else
/// `rdev.toml` in the data folder; `None` when there is none. `data_dir` is the folder that
/// the command line names.
///
/// # Errors
/// When one of the places cannot be looked at.
pub fn file(
    named: Option<&Path>,
    data_dir: Option<&Path>,
    environment: &Environment,
) -> Result<Option<PathBuf>, ConfigError> {
    if let Some(named) = named.map(Path::to_owned).or_else(|| environment.path("RDEV_CONFIG")) {
        return Ok(Some(named));
    }
    let folder = data_dir
        .map(Path::to_owned)
        .or_else(|| environment.path("RDEV_DATA_DIR"))
        .or_else(|| default_data_dir(environment).ok());
    let places = [Some(PathBuf::from("rdev.toml")), folder.map(|folder| folder.join("rdev.toml"))];
    for path in places.into_iter().flatten() {
        match path.try_exists() {
            Ok(true) => return Ok(Some(path)),
            Ok(false) => {}
            Err(source) => return Err(ConfigError::Read { path, source }),
        }
    }
    Ok(None)
}

/// The user's own data folder: `$XDG_DATA_HOME/rdev`, else `~/.local/share/rdev`.
///
/// # Errors
/// When there is no home folder.
pub fn default_data_dir(environment: &Environment) -> Result<PathBuf, ConfigError> {
    let absolute = |path: &PathBuf| path.is_absolute();
    let data = environment.path("XDG_DATA_HOME").filter(absolute);
    let home = || environment.path("HOME").map(|home| home.join(".local/share"));
    data.or_else(home).map(|data| data.join("rdev")).ok_or(ConfigError::NoHome)
}

/// One line that names the place and the key, and repeats no value: it may be a secret.
fn explain(error: figment::Error) -> String {
    let key = error.path.join(".");
    let place = error.metadata.as_ref().map(|metadata| {
        match metadata.source.as_ref().and_then(|source| source.file_path()) {
            Some(path) => shown(path),
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
        Kind::DuplicateField(field) => format!("'{field}' stands there twice"),
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

/// A syntax error comes with the line it is in; the line may hold a secret.
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

fn shown(path: &Path) -> String {
    path.display().to_string()
}
