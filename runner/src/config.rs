//! The settings of runners, git and agents: the sections
//! `[runner]`, `[git]` and `[agents.<name>]` of `rdev.toml`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rdev_domain::git_url::UrlPolicy;
use rdev_domain::ids::WorkerId;
use rdev_domain::secret::Secret;
use rdev_domain::spec::AgentName;
use serde::Deserialize;

use crate::runner::own_queue::OwnQueue;

/// The configuration of a runner.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunnerConfig {
    /// The URL at which people see builds, as `https://rdev.example.com`.
    pub public_url: Option<String>,
    /// Slots, caps and times.
    pub runner: RunnerSettings,
    /// Author, addresses and credentials.
    pub git: GitSettings,
    /// Per agent: program, arguments, environment, prices.
    pub agents: BTreeMap<AgentName, AgentSettings>,
    /// The queue that it receives from; whoever connects the runner to its queue says it.
    #[serde(skip)]
    pub queue: OwnQueue,
}

/// `[runner]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunnerSettings {
    /// The worker's id; the host's name when absent.
    pub worker_id: Option<WorkerId>,
    /// The number of builds at once; the number of cores when absent.
    pub slots: Option<u32>,
    /// Files that one build may change: 50,000.
    pub max_changed_files: u64,
    /// Bytes that one build may change: 1 GiB.
    pub max_changed_bytes: u64,
    /// Bytes of a diff that are kept: 1 MiB.
    pub max_diff_bytes: usize,
    /// Bytes of events that one attempt may write: 20 MiB.
    pub max_event_bytes: usize,
    /// Bytes that the mirror cache may have: 10 GiB.
    pub max_cache_bytes: u64,
    /// Milliseconds that an event may wait before it is written: 500. On AWS
    /// every write costs; there the renewals (every 15 s) are often enough.
    pub event_flush_ms: u64,
    /// Seconds without a wake-up after which the runner looks for work by itself: 300; at least 1.
    pub look_interval_s: u64,
    /// Seconds that a stopped process gets between TERM and KILL: 10.
    pub term_grace_s: u64,
    /// Seconds that a drain waits for builds before it gives them back: 60.
    pub drain_s: u64,
    /// Seconds a finished agent session is kept for `continue_from`: 7 days.
    pub keep_sessions_s: u64,
}

impl Default for RunnerSettings {
    fn default() -> Self {
        Self {
            worker_id: None,
            slots: None,
            max_changed_files: 50_000,
            max_changed_bytes: 1 << 30,
            max_diff_bytes: 1 << 20,
            max_event_bytes: 20 << 20,
            max_cache_bytes: 10 << 30,
            event_flush_ms: 500,
            look_interval_s: 300,
            term_grace_s: 10,
            drain_s: 60,
            keep_sessions_s: 7 * 24 * 60 * 60,
        }
    }
}

/// `[git]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GitSettings {
    /// Author and committer of every commit.
    pub name: String,
    pub email: String,
    /// Loopback and private addresses may be cloned from and pushed to.
    pub allow_private_addresses: bool,
    /// The credentials, per origin.
    pub credentials: Vec<HostCredentials>,
    /// Seconds without a byte from a git server before it counts as unreachable: 60.
    pub timeout_s: u64,
    /// The origin where git logs in with the forge's own token: what the forge tells of the rights
    /// of that token's user is true of pushes there.
    #[serde(skip)]
    pub forge_user_at: Option<String>,
}

impl Default for GitSettings {
    fn default() -> Self {
        Self {
            name: "rdev".to_owned(),
            email: "rdev@localhost".to_owned(),
            allow_private_addresses: false,
            credentials: Vec::new(),
            timeout_s: 60,
            forge_user_at: None,
        }
    }
}

impl GitSettings {
    /// Uses the forge's token to clone and push its repositories, unless other credentials are set
    /// for its origin.
    pub fn log_in_at_forge(&mut self, origin: String, token: Option<&Secret>) {
        let Some(token) = token else { return };
        let known = self.credentials.iter().find(|known| known.origin == origin);
        if known.is_none_or(|known| known.token == *token) {
            self.forge_user_at = Some(origin.clone());
        }
        if known.is_none() {
            let (username, token) = ("oauth2".to_owned(), token.clone());
            self.credentials.push(HostCredentials { origin, username, token });
        }
    }
}

/// `[[git.credentials]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostCredentials {
    /// `scheme://host[:port]`; the credentials go nowhere else.
    pub origin: String,
    /// The user name; `oauth2` and `x-access-token` are common for tokens.
    pub username: String,
    /// The password or token.
    pub token: Secret,
}

/// `[agents.<name>]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentSettings {
    /// The program: a path, or a name to look for in `PATH`. For `command` it must be set.
    pub program: Option<PathBuf>,
    /// Arguments before all others (for `command`: all arguments).
    pub args: Vec<String>,
    /// Names of variables that the agent gets from the runner's environment,
    /// beside those that every agent gets (`PATH`, `LANG`, `TERM`, `TZ`, `HOME`, `TMPDIR`)
    /// and those that it is known to need (`ANTHROPIC_API_KEY` …).
    pub env: Vec<String>,
    /// Variables with their values; `AWS_*`, `ECS_*` and `RDEV_*` are refused. They count as
    /// secrets and are redacted when their name ends in `_KEY`, `_TOKEN`, `_SECRET` or `_PASSWORD`.
    pub set_env: BTreeMap<String, String>,
    /// The model for builds that do not name one.
    pub model: Option<String>,
    /// The model API's base URL, for agents that get it by configuration.
    pub base_url: Option<String>,
    /// US dollars per million tokens, by model, for agents that report no cost. Without it a
    /// build's `max_cost_usd` cannot be enforced for them.
    pub prices: BTreeMap<String, Price>,
}

/// US dollars per million tokens.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Sent.
    pub input: f64,
    /// Written by the model.
    pub output: f64,
    /// Read from the provider's cache.
    #[serde(default)]
    pub cached: f64,
}

/// The folders of a runner, below its data folder.
#[derive(Debug, Clone)]
pub struct Folders {
    /// One folder per running build.
    pub work: PathBuf,
    /// Mirrors of repositories.
    pub cache: PathBuf,
    /// Finished agent sessions.
    pub sessions: PathBuf,
    /// The folder that `file:` repositories must be in.
    pub repositories: Option<PathBuf>,
}

impl RunnerConfig {
    /// The clone URLs that this runner may use.
    pub fn url_policy(&self, folders: &Folders) -> UrlPolicy {
        UrlPolicy {
            allow_private: self.git.allow_private_addresses,
            file_root: folders.repositories.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forges_token_is_used_for_its_repositories_unless_their_origin_has_credentials() {
        let forge = || "https://git.example.com".to_owned();
        let logins = |settings: &GitSettings| -> Vec<(String, String, String)> {
            let all = settings.credentials.iter();
            all.map(|entry| {
                (entry.origin.clone(), entry.username.clone(), entry.token.expose().to_owned())
            })
            .collect()
        };
        let login = |username: &str, token: &str| (forge(), username.to_owned(), token.to_owned());
        let mut settings = GitSettings::default();
        settings.log_in_at_forge(forge(), None);
        assert_eq!((logins(&settings), &settings.forge_user_at), (vec![], &None));
        settings.log_in_at_forge(forge(), Some(&Secret::new("of the forge")));
        assert_eq!(logins(&settings), [login("oauth2", "of the forge")]);
        assert_eq!(settings.forge_user_at, Some(forge()));
        settings.credentials[0].username = "robot".to_owned();
        settings.forge_user_at = None;
        settings.log_in_at_forge(forge(), Some(&Secret::new("another one")));
        assert_eq!(logins(&settings), [login("robot", "of the forge")]);
        assert_eq!(settings.forge_user_at, None, "it may be another user");
        settings.log_in_at_forge(forge(), Some(&Secret::new("of the forge")));
        assert_eq!(settings.forge_user_at, Some(forge()));
    }
}
