//! The sections `[forge]`, `[ci]` and `[dns]` of `rdev.toml`.

use rdev_domain::dns::{RecordKind, Ttl};
use rdev_domain::git_url::GitUrl;
use rdev_domain::hostname::Hostname;
use rdev_domain::secret::Secret;
use serde::Deserialize;

use crate::http;

/// The systems that rdev uses; a section that is absent means that rdev does without it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlatformConfig {
    /// The public address of this rdev, such as `https://rdev.example.com`: for webhooks and links.
    pub public_url: Option<String>,
    /// Hosts repositories.
    pub forge: Option<ForgeConfig>,
    /// Runs pipelines.
    pub ci: Option<CiConfig>,
    /// Hosts the zone of the projects' domains.
    pub dns: Option<DnsConfig>,
}

/// `[forge]`: Gitea or Forgejo.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgeConfig {
    /// Its address, such as `https://git.example.com`.
    pub url: String,
    /// The organisation (or user) that owns new repositories.
    pub owner: String,
    /// A token with `write:repository`, `write:organization` and `read:user`.
    #[serde(default)]
    pub token: Option<Secret>,
    /// The secret in AWS Secrets Manager that holds the token; only for the functions on AWS.
    #[serde(default)]
    pub token_arn: Option<String>,
    /// Whether new repositories are private; default: yes.
    #[serde(default = "private")]
    pub private: bool,
    /// Seconds to wait for an answer; default: 10.
    #[serde(default = "timeout_s")]
    pub timeout_s: u64,
    /// The key that signs the webhooks that the forge sends to `<public_url>/hooks/gitea`. Without
    /// it rdev registers no webhooks.
    #[serde(default)]
    pub webhook_secret: Option<Secret>,
    /// The secret in AWS Secrets Manager that holds this key; only for the functions on AWS.
    #[serde(default)]
    pub webhook_secret_arn: Option<String>,
}

/// `[ci]`: Woodpecker.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CiConfig {
    /// Its address, such as `https://ci.example.com`.
    pub url: String,
    /// A personal token of a user who may activate the repositories.
    #[serde(default)]
    pub token: Option<Secret>,
    /// The secret in AWS Secrets Manager that holds the token; only for the functions on AWS.
    #[serde(default)]
    pub token_arn: Option<String>,
    /// Seconds to wait for an answer; default: 10.
    #[serde(default = "timeout_s")]
    pub timeout_s: u64,
    /// The key that signs the messages of pipelines to `<public_url>/hooks/woodpecker`.
    #[serde(default)]
    pub webhook_secret: Option<Secret>,
    /// The secret in AWS Secrets Manager that holds this key; only for the functions on AWS.
    #[serde(default)]
    pub webhook_secret_arn: Option<String>,
}

/// `[dns]`: Cloudflare or PowerDNS.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsConfig {
    /// The provider.
    pub provider: DnsProvider,
    /// The zone of all names, such as `example.com`.
    pub zone: Hostname,
    /// Its address; required for PowerDNS (`http://127.0.0.1:8081`).
    #[serde(default)]
    pub url: Option<String>,
    /// An API token (Cloudflare: `Zone.DNS:Edit` of the zone) or key (PowerDNS).
    #[serde(default)]
    pub token: Option<Secret>,
    /// The secret in AWS Secrets Manager that holds the token; only for the functions on AWS.
    #[serde(default)]
    pub token_arn: Option<String>,
    /// Seconds to wait for an answer; default: 10.
    #[serde(default = "timeout_s")]
    pub timeout_s: u64,
    /// The type of records that are created without one: `A` or `CNAME`. Requires `target`.
    #[serde(default, rename = "type")]
    pub kind: Option<RecordKind>,
    /// The target of records that are created without one: usually the ingress.
    #[serde(default)]
    pub target: Option<String>,
    /// Whether new records use the provider's proxy unless the request says otherwise; default: no.
    #[serde(default)]
    pub proxied: bool,
    /// The time to live of records that are created without one; default: 1, the provider's choice.
    #[serde(default)]
    pub ttl: Ttl,
    /// Whether A records may point to loopback and private addresses; default: no.
    #[serde(default)]
    pub allow_private_addresses: bool,
}

/// A DNS provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsProvider {
    Cloudflare,
    /// Self-hosted.
    Powerdns,
}

impl PlatformConfig {
    /// The secrets in it, which no log may show.
    pub fn secrets(&self) -> Vec<Secret> {
        let forge = self.forge.iter().flat_map(|one| [&one.token, &one.webhook_secret]);
        let ci = self.ci.iter().flat_map(|one| [&one.token, &one.webhook_secret]);
        let dns = self.dns.iter().map(|one| &one.token);
        forge.chain(ci).chain(dns).flatten().cloned().collect()
    }
}

impl ForgeConfig {
    /// `scheme://host:port`: git credentials are bound to it.
    pub fn origin(&self) -> Option<String> {
        format!("{}/a/b", self.url.trim_end_matches('/')).parse::<GitUrl>().ok()?.origin()
    }
}

fn timeout_s() -> u64 {
    http::TIMEOUT.as_secs()
}

/// What a prompt or an agent has written is shown to nobody unless somebody decides so.
fn private() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn new_repositories_are_private_unless_the_configuration_says_otherwise() {
        let private = |more: serde_json::Value| {
            let mut forge = json!({ "url": "https://git.example.com", "owner": "acme" });
            forge
                .as_object_mut()
                .expect("a table")
                .extend(more.as_object().cloned().into_iter().flatten());
            serde_json::from_value::<ForgeConfig>(forge).expect("a forge").private
        };
        assert!(private(json!({})));
        assert!(private(json!({ "private": true })));
        assert!(!private(json!({ "private": false })));
    }
}
