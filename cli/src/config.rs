//! The configuration: file, environment and command line in one [`Config`].
//!
//! The command line goes over the environment, the environment over the file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::error::Kind;
use figment::providers::{Format, Toml};
use rdev_domain::retention::Retention;
use rdev_domain::spec::AgentName;
use rdev_runner::config::{AgentSettings, GitSettings, RunnerConfig, RunnerSettings};
use serde::Deserialize;

use crate::args::Common;
use crate::environment::{Environment, Settings};

/// Everything that can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The address the API listens on: 127.0.0.1:7777.
    pub(crate) listen: SocketAddr,
    /// Where everything is kept.
    pub(crate) data_dir: Option<PathBuf>,
    /// The agent of builds that name none; else the first that is installed and has a key.
    pub(crate) default_agent: Option<AgentName>,
    /// The HTTP API.
    pub(crate) api: rdev_functions::Settings,
    /// Author, addresses and credentials.
    pub(crate) git: GitSettings,
    /// Slots, caps and times.
    pub(crate) runner: RunnerSettings,
    /// Per agent: program, arguments, environment, prices.
    pub(crate) agents: BTreeMap<AgentName, AgentSettings>,
    /// How long records are kept.
    pub(crate) retention: Retention,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7777)),
            data_dir: None,
            default_agent: None,
            api: rdev_functions::Settings::default(),
            git: GitSettings::default(),
            runner: RunnerSettings::default(),
            agents: BTreeMap::new(),
            retention: Retention::default(),
        }
    }
}

/// What the command line sets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags {
    /// `--config`.
    pub(crate) file: Option<PathBuf>,
    /// `--data-dir`.
    pub(crate) data_dir: Option<PathBuf>,
    /// `--listen`.
    pub(crate) listen: Option<SocketAddr>,
}

impl From<&Common> for Flags {
    fn from(common: &Common) -> Self {
        Self { file: common.config.clone(), data_dir: common.data_dir.clone(), listen: None }
    }
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
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

impl Config {
    /// Reads the file that applies, the environment and the flags.
    ///
    /// # Errors
    /// The first setting that is unknown or wrong, with the file or variable it stands in.
    pub(crate) fn load(flags: &Flags, environment: &Environment) -> Result<Self, ConfigError> {
        let mut figment = Figment::new();
        if let Some(path) = file(flags, environment)? {
            // Figment takes a file that is not there for an empty one.
            std::fs::File::open(&path)
                .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            figment = figment.merge(Toml::file_exact(path));
        }
        figment = figment.merge(Settings(environment));
        if let Some(listen) = flags.listen {
            figment = figment.merge(("listen", listen.to_string()));
        }
        if let Some(folder) = &flags.data_dir {
            figment = figment.merge(("data_dir", folder));
        }
        figment.extract().map_err(|error| ConfigError::Setting(explain(error)))
    }

    /// The data folder: the one that is set, else the user's own.
    ///
    /// # Errors
    /// When none is set and there is no home folder.
    pub(crate) fn data_dir(&self, environment: &Environment) -> Result<PathBuf, ConfigError> {
        match &self.data_dir {
            Some(folder) => Ok(folder.clone()),
            None => default_data_dir(environment).ok_or(ConfigError::NoHome),
        }
    }

    /// What the runner is told.
    pub(crate) fn for_runner(&self) -> RunnerConfig {
        RunnerConfig {
            runner: self.runner.clone(),
            git: self.git.clone(),
            agents: self.agents.clone(),
        }
    }
}

/// The file that applies; `None` when there is none.
fn file(flags: &Flags, environment: &Environment) -> Result<Option<PathBuf>, ConfigError> {
    if let Some(named) = flags.file.clone().or_else(|| environment.path("RDEV_CONFIG")) {
        return Ok(Some(named));
    }
    let folder = flags
        .data_dir
        .clone()
        .or_else(|| environment.path("RDEV_DATA_DIR"))
        .or_else(|| default_data_dir(environment));
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

fn default_data_dir(environment: &Environment) -> Option<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    let data = environment.path("XDG_DATA_HOME").filter(absolute);
    let home = || environment.path("HOME").map(|home| home.join(".local/share"));
    data.or_else(home).map(|data| data.join("rdev"))
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A configuration from a file's text, variables and the `--listen` flag.
    fn load(text: &str, environment: &Environment, listen: Option<&str>) -> Result<Config, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("some.toml");
        fs::write(&file, text).expect("a file");
        let listen = listen.map(|address| address.parse().expect("an address"));
        let flags = Flags { file: Some(file), data_dir: None, listen };
        Config::load(&flags, environment).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_goes_over_the_environment_and_that_over_the_file() {
        let text = "listen = '127.0.0.1:1'\n[git]\nname = 'file'\nemail = 'file'\n";
        let variables = [("RDEV_LISTEN", "127.0.0.1:2"), ("RDEV_GIT__NAME", "1234")];
        let none = Environment::from([]);
        let environment = Environment::from(variables);
        let port = |config: &Config| config.listen.port();

        let config = load("", &none, None).expect("the defaults");
        assert_eq!((port(&config), config.git.name.as_str()), (7777, "rdev"));
        let config = load(text, &none, None).expect("the file");
        assert_eq!((port(&config), config.git.name.as_str()), (1, "file"));
        let config = load(text, &environment, None).expect("the environment");
        assert_eq!((port(&config), config.git.name.as_str()), (2, "1234"));
        assert_eq!(config.git.email, "file", "what the environment does not set stays");
        let config = load(text, &environment, Some("127.0.0.1:3")).expect("the flag");
        assert_eq!(port(&config), 3);
    }

    #[test]
    fn agents_are_set_by_their_names_in_the_environment_too() {
        let environment = Environment::from([
            ("RDEV_AGENTS__CLAUDE_CODE__MODEL", "opus"),
            ("RDEV_AGENTS__CLAUDE_CODE__SET_ENV__MY_TOKEN", "0123"),
            ("RDEV_AGENTS__COMMAND__ARGS", r#"["-c", "cat"]"#),
            ("RDEV_RUNNER__SLOTS", "3"),
            ("RDEV_GIT__ALLOW_PRIVATE_ADDRESSES", "true"),
            ("RDEV_URL", "http://x"),
            ("RDEV_KEY", "k"),
        ]);
        let text = "[agents.claude-code]\nargs = ['--verbose']\nmodel = 'sonnet'\n";
        let config = load(text, &environment, None).expect("good");
        let claude = &config.agents[&AgentName::ClaudeCode];
        assert_eq!(
            (claude.model.as_deref(), claude.args.as_slice()),
            (Some("opus"), &["--verbose".to_owned()][..])
        );
        assert_eq!(claude.set_env["MY_TOKEN"], "0123", "as it is written, no number");
        assert_eq!(config.agents[&AgentName::Command].args, ["-c", "cat"]);
        assert_eq!(config.runner.slots, Some(3));
        assert!(config.git.allow_private_addresses);
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_place_and_without_its_value() {
        let of = |text: &str| load(text, &Environment::from([]), None).expect_err("refused");
        for (text, parts) in [
            ("[gti]\nx = 1\n", &["some.toml", "gti"][..]),
            ("[git]\nnmae = 'sesame'\n", &["some.toml", "nmae", "known here", "name"]),
            ("[runner]\nslots = 'sesame'\n", &["some.toml", "runner.slots", "must be"]),
            (
                "[[git.credentials]]\norigin = 'x'\nusername = 'x'\ntoken = 12345\n",
                &["some.toml", "token"],
            ),
            ("[git]\nname = sesame\n", &["some.toml", "line 2"]),
        ] {
            let error = of(text);
            for part in parts {
                assert!(error.contains(part), "no {part:?} in {error:?}");
            }
            assert!(!error.contains("sesame") && !error.contains("12345"), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        let environment = Environment::from([("RDEV_RUNNER__SLOTS", "many")]);
        let error = load("", &environment, None).expect_err("refused");
        assert!(error.contains("environment") && error.contains("runner.slots"), "{error}");
    }

    #[test]
    fn the_data_folder_is_the_users_own_unless_one_is_set() {
        let of = |environment: &Environment| Config::default().data_dir(environment).ok();
        let home = Environment::from([("HOME", "/home/me")]);
        assert_eq!(of(&home), Some("/home/me/.local/share/rdev".into()));
        let xdg = Environment::from([("HOME", "/home/me"), ("XDG_DATA_HOME", "/data")]);
        assert_eq!(of(&xdg), Some("/data/rdev".into()));
        assert_eq!(of(&Environment::from([("HOME", "")])), None);
        let set = Environment::from([("RDEV_DATA_DIR", "/set"), ("HOME", "/home/me")]);
        let config = load("", &set, None).expect("good");
        assert_eq!(config.data_dir(&set).ok(), Some("/set".into()));
    }

    #[test]
    fn variables_that_are_none_of_ours_are_told_apart() {
        let environment = Environment::from([
            ("RDEV_LISTEN", "x"),
            ("RDEV_LISTN", "x"),
            ("RDEV_KEY", "x"),
            ("RDEV_GIT__NMAE", "x"),
            ("PATH", "x"),
        ]);
        assert_eq!(environment.strangers(), ["RDEV_LISTN"]);
    }
}
