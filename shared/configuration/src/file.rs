//! Where the configuration file and the data folder are.

use std::path::{Path, PathBuf};

use crate::environment::Environment;
use crate::layers::ConfigError;

/// Finds the configuration file: `named`, else the one in `RDEV_CONFIG`, else `./rdev.toml`, else
/// `rdev.toml` in the data folder. Returns `None` when none of them exists. `data_dir` is the data
/// folder that the command line names.
///
/// # Errors
/// When the existence of a file cannot be checked.
pub fn find_file(
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
/// When neither `XDG_DATA_HOME` nor `HOME` is set.
pub fn default_data_dir(environment: &Environment) -> Result<PathBuf, ConfigError> {
    let absolute = |path: &PathBuf| path.is_absolute();
    let data = environment.path("XDG_DATA_HOME").filter(absolute);
    let home = || environment.path("HOME").map(|home| home.join(".local/share"));
    data.or_else(home).map(|data| data.join("rdev")).ok_or(ConfigError::NoHome)
}
