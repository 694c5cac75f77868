//! The configuration: file, environment and command line in one [`Config`].
//!
//! The command line overrides the environment, and the environment overrides the file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use rdev_configuration::{ConfigError, Environment, Layers, Names, default_data_dir, find_file};
use rdev_domain::retention::Retention;
use rdev_domain::spec::AgentName;
use rdev_platform::config::{CiConfig, DnsConfig, ForgeConfig, PlatformConfig};
use rdev_runner::config::{AgentSettings, GitSettings, RunnerConfig, RunnerSettings};
use serde::Deserialize;

use crate::args::Common;

/// The variables of `rdev` that belong to no section.
pub(crate) const NAMES: Names = Names {
    top: &["LISTEN", "DATA_DIR", "DEFAULT_AGENT", "PUBLIC_URL", "REGISTRY"],
    others: &["URL", "KEY", "LOCAL_FUNCTIONS", "LOCAL_RUNNER"],
};

/// All settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The address that the API listens on; default: 127.0.0.1:7777.
    pub(crate) listen: SocketAddr,
    /// The data folder.
    pub(crate) data_dir: Option<PathBuf>,
    /// The agent of builds that give none; default: the first one that is installed and has a key.
    pub(crate) default_agent: Option<AgentName>,
    /// The HTTP API.
    pub(crate) api: rdev_functions::Settings,
    /// Author, addresses and credentials.
    pub(crate) git: GitSettings,
    /// Slots, caps and times.
    pub(crate) runner: RunnerSettings,
    /// Per agent: program, arguments, environment, prices.
    pub(crate) agents: BTreeMap<AgentName, AgentSettings>,
    /// How long rdev keeps records.
    pub(crate) retention: Retention,
    /// The public address of this server, such as `https://rdev.example.com`: for webhooks and
    /// links.
    pub(crate) public_url: Option<String>,
    /// The container registry that templates push to, such as `registry.example.com/acme`.
    pub(crate) registry: Option<String>,
    /// Gitea or Forgejo; by default repositories are folders below the data folder.
    pub(crate) forge: Option<ForgeConfig>,
    /// Woodpecker.
    pub(crate) ci: Option<CiConfig>,
    /// Cloudflare or PowerDNS.
    pub(crate) dns: Option<DnsConfig>,
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
            public_url: None,
            registry: None,
            forge: None,
            ci: None,
            dns: None,
        }
    }
}

/// The settings of the command line.
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

impl Config {
    /// Reads the configuration file, the environment and the flags.
    ///
    /// # Errors
    /// The first setting that is unknown or has a wrong value; the error names its source.
    pub(crate) fn load(flags: &Flags, environment: &Environment) -> Result<Self, ConfigError> {
        let mut layers = Layers::default();
        if let Some(path) =
            find_file(flags.file.as_deref(), flags.data_dir.as_deref(), environment)?
        {
            layers = layers.file(&path)?;
        }
        layers = layers.environment(environment, &NAMES);
        if let Some(listen) = flags.listen {
            layers = layers.value("listen", listen.to_string());
        }
        if let Some(folder) = &flags.data_dir {
            layers = layers.value("data_dir", folder);
        }
        layers.extract()
    }

    /// The data folder: the configured one, else the user's own.
    ///
    /// # Errors
    /// When none is configured and the user has no home folder.
    pub(crate) fn data_dir(&self, environment: &Environment) -> Result<PathBuf, ConfigError> {
        match &self.data_dir {
            Some(folder) => Ok(folder.clone()),
            None => default_data_dir(environment),
        }
    }

    /// The configuration of the runner.
    pub(crate) fn for_runner(&self) -> RunnerConfig {
        let mut git = self.git.clone();
        if let Some(forge) = &self.forge
            && let Some(origin) = forge.origin()
        {
            git.log_in_at_forge(origin, forge.token.as_ref());
        }
        RunnerConfig {
            public_url: self.public_url.clone(),
            runner: self.runner.clone(),
            git,
            agents: self.agents.clone(),
            ..RunnerConfig::default()
        }
    }

    /// The configuration of the systems around a build.
    pub(crate) fn platform(&self) -> PlatformConfig {
        PlatformConfig {
            public_url: self.public_url.clone(),
            forge: self.forge.clone(),
            ci: self.ci.clone(),
            dns: self.dns.clone(),
        }
    }
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
    fn the_command_line_overrides_the_environment_and_that_overrides_the_file() {
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
        assert_eq!(config.git.email, "file", "settings that the environment does not set stay");
        let config = load(text, &environment, Some("127.0.0.1:3")).expect("the flag");
        assert_eq!(port(&config), 3);
    }

    #[test]
    fn the_environment_can_set_agents_by_their_names() {
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
        assert_eq!(claude.set_env["MY_TOKEN"], "0123", "as it is written, not as a number");
        assert_eq!(config.agents[&AgentName::Command].args, ["-c", "cat"]);
        assert_eq!(config.runner.slots, Some(3));
        assert!(config.git.allow_private_addresses);
    }

    #[test]
    fn an_error_names_the_setting_and_its_source_but_not_its_value() {
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
    fn the_data_folder_is_the_users_own_unless_one_is_configured() {
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
    fn misspelt_variables_are_found() {
        let environment = Environment::from([
            ("RDEV_LISTEN", "x"),
            ("RDEV_LISTN", "x"),
            ("RDEV_KEY", "x"),
            ("RDEV_GIT__NMAE", "x"),
            ("PATH", "x"),
        ]);
        assert_eq!(environment.unknown_variables(&NAMES), ["RDEV_LISTN"]);
    }
}
