//! `[api]` of `rdev.toml`, and settings that the caller adds.

use std::collections::BTreeMap;

use rdev_domain::dns::DnsDefaults;
use rdev_domain::git_url::UrlPolicy;
use rdev_domain::spec::AgentName;
use rdev_domain::token::Token;
use serde::Deserialize;

/// Limits and defaults of the API.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Requests per second and key, in the long run: 100; 0 means no limit. Each
    /// process counts by itself.
    pub rate_limit_per_s: u32,
    /// Requests that a key may make at once: 1,000 (0 is 1).
    pub rate_limit_burst: u32,
    /// Bytes that a request's body may have: 256 KiB.
    pub body_limit_bytes: usize,
    /// Bytes that a message from the forge or the CI may have: 8 MiB. Gitea names every file of
    /// each commit that a push brings, and those of the last one twice.
    pub hook_limit_bytes: usize,
    /// The template of a project whose request names no template: `static`.
    pub default_template: String,
    /// Answer event streams with one finite batch, which waits up to 20 s for its first event, for
    /// gateways that cannot stream: no.
    pub sse_finite: bool,
    /// Seconds after which an event stream ends and the client comes back: 900.
    pub sse_max_s: u32,
    /// The agent of a build whose request names no agent. Filled by the caller.
    #[serde(skip)]
    pub default_agent: AgentName,
    /// Hosts that the `git_url` of a project or build may name; empty: every host that the
    /// addresses of `[git]` allow.
    pub git_hosts: Vec<String>,
    /// Templates that are repositories on the forge, as `shop = "acme/shop-template"`.
    pub template_repositories: BTreeMap<String, String>,
    /// Webhooks may go to loopback and private addresses: no.
    pub webhooks_to_private_addresses: bool,
    /// Which clone URLs are accepted. Filled by the caller.
    #[serde(skip)]
    pub url_policy: UrlPolicy,
    /// How domain names are read, if there is a DNS provider. Filled by the caller.
    #[serde(skip)]
    pub dns: Option<DnsDefaults>,
    /// The container registry that templates push to, as `registry.example.com/acme`.
    #[serde(skip)]
    pub registry: Option<String>,
    /// As whom runners push to the forge. Filled by the caller.
    #[serde(skip)]
    pub git_user: GitUser,
    /// The secrets that sign incoming webhooks. Filled by the caller.
    #[serde(skip)]
    pub hooks: HookSecrets,
}

/// As whom runners push. What the forge tells of rights is true of the user of its own token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum GitUser {
    /// The runners have settings of their own, which are not known here.
    #[default]
    Unknown,
    /// As the user of the forge's token at this origin, and as others elsewhere.
    OfForgeAt(String),
    /// Nowhere as the user of the forge's token.
    Another,
}

/// The secrets that sign incoming webhooks; without one, its webhooks are refused.
#[derive(Debug, Clone, Default)]
pub struct HookSecrets {
    pub gitea: Option<Token>,
    pub ci: Option<Token>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rate_limit_per_s: 100,
            rate_limit_burst: 1000,
            body_limit_bytes: 256 * 1024,
            hook_limit_bytes: 8 << 20,
            default_template: "static".to_owned(),
            sse_finite: false,
            sse_max_s: 900,
            default_agent: AgentName::default(),
            git_hosts: Vec::new(),
            template_repositories: BTreeMap::new(),
            webhooks_to_private_addresses: false,
            url_policy: UrlPolicy::default(),
            dns: None,
            registry: None,
            git_user: GitUser::default(),
            hooks: HookSecrets::default(),
        }
    }
}
