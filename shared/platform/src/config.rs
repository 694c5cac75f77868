//! `[forge]`, `[ci]` and `[dns]` of `rdev.toml`, and the adapters that they ask for.

use std::sync::Arc;

use rdev_domain::Invalid;
use rdev_domain::dns::{DnsDefaults, RecordKind, Target, Ttl};
use rdev_domain::git_url::GitUrl;
use rdev_domain::hostname::Hostname;
use rdev_domain::ports::{Dns, PortResult};
use rdev_domain::secret::Secret;
use rdev_domain::token::Token;
use serde::Deserialize;

use crate::Finding;
use crate::cloudflare::{self, Cloudflare};
use crate::gitea::{self, Gitea};
use crate::http;
use crate::powerdns::{self, PowerDns};
use crate::woodpecker::{self, Woodpecker};

/// What is configured; a system that is absent is not used.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlatformConfig {
    /// Where others reach this rdev, as `https://rdev.example.com`: for webhooks and links.
    pub public_url: Option<String>,
    /// Where repositories are made.
    pub forge: Option<ForgeConfig>,
    /// Where pipelines run.
    pub ci: Option<CiConfig>,
    /// Where names are.
    pub dns: Option<DnsConfig>,
}

/// `[forge]`: Gitea or Forgejo.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgeConfig {
    /// Its address, as `https://git.example.com`.
    pub url: String,
    /// The organisation (or user) that repositories are made in.
    pub owner: String,
    /// A token with `write:repository`, `write:organization` and `read:user`.
    #[serde(default)]
    pub token: Option<Secret>,
    /// The secret in AWS Secrets Manager that holds the token; only for the functions on AWS.
    #[serde(default)]
    pub token_arn: Option<String>,
    /// New repositories are private: no.
    #[serde(default)]
    pub private: bool,
    /// Seconds that an answer may take: 10.
    #[serde(default = "timeout_s")]
    pub timeout_s: u64,
    /// What signs the webhooks that it sends to `<public_url>/hooks/gitea`; none are asked for
    /// without it.
    #[serde(default)]
    pub webhook_secret: Option<Secret>,
    /// The secret in AWS Secrets Manager that holds it; only for the functions on AWS.
    #[serde(default)]
    pub webhook_secret_arn: Option<String>,
}

/// `[ci]`: Woodpecker.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CiConfig {
    /// Its address, as `https://ci.example.com`.
    pub url: String,
    /// A personal token of a user who may activate the repositories.
    #[serde(default)]
    pub token: Option<Secret>,
    /// The secret in AWS Secrets Manager that holds the token; only for the functions on AWS.
    #[serde(default)]
    pub token_arn: Option<String>,
    /// Seconds that an answer may take: 10.
    #[serde(default = "timeout_s")]
    pub timeout_s: u64,
    /// What signs the messages of pipelines to `<public_url>/hooks/woodpecker`.
    #[serde(default)]
    pub webhook_secret: Option<Secret>,
    /// The secret in AWS Secrets Manager that holds it; only for the functions on AWS.
    #[serde(default)]
    pub webhook_secret_arn: Option<String>,
}

/// `[dns]`: Cloudflare or PowerDNS.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsConfig {
    /// Which.
    pub provider: DnsProvider,
    /// The zone that every name lies in, as `example.com`.
    pub zone: Hostname,
    /// Its address: needed for PowerDNS (`http://127.0.0.1:8081`).
    #[serde(default)]
    pub url: Option<String>,
    /// An API token (Cloudflare: `Zone.DNS:Edit` of the zone) or key (PowerDNS).
    #[serde(default)]
    pub token: Option<Secret>,
    /// The secret in AWS Secrets Manager that holds the token; only for the functions on AWS.
    #[serde(default)]
    pub token_arn: Option<String>,
    /// Seconds that an answer may take: 10.
    #[serde(default = "timeout_s")]
    pub timeout_s: u64,
    /// The kind of a record whose request says nothing: `A` or `CNAME`. Given with `target`.
    #[serde(default, rename = "type")]
    pub kind: Option<RecordKind>,
    /// Where a name leads whose request says nothing: the ingress, usually.
    #[serde(default)]
    pub target: Option<String>,
    /// Whether the provider's proxy stands before it, unless the request says so: no.
    #[serde(default)]
    pub proxied: bool,
    /// Seconds that answers may be kept, unless the request says: 1, the provider's own choice.
    #[serde(default)]
    pub ttl: Ttl,
    /// A records may lead to loopback and private addresses: no.
    #[serde(default)]
    pub allow_private_addresses: bool,
}

/// A DNS provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsProvider {
    /// Cloudflare.
    Cloudflare,
    /// PowerDNS, self-hosted.
    Powerdns,
}

/// The adapters of what is configured.
#[derive(Debug, Default)]
pub struct Platform {
    /// The forge.
    pub forge: Option<Arc<Gitea>>,
    /// The CI server.
    pub ci: Option<Arc<Woodpecker>>,
    /// The DNS provider.
    pub dns: Option<AnyDns>,
    /// How names are read, where there is a DNS provider.
    pub names: Option<DnsDefaults>,
    /// What signs the webhooks of the forge.
    pub forge_signs_with: Option<Token>,
    /// What signs the messages of pipelines.
    pub ci_signs_with: Option<Token>,
}

/// The DNS provider that is configured.
#[derive(Debug, Clone)]
pub enum AnyDns {
    /// Cloudflare.
    Cloudflare(Arc<Cloudflare>),
    /// PowerDNS.
    PowerDns(Arc<PowerDns>),
}

/// A setting that is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{setting}")]
pub struct Wrong {
    /// Its name, as `forge.url`.
    setting: &'static str,
    /// The rule that it breaks.
    #[source]
    why: Invalid,
}

/// The adapters that `config` asks for; nothing is sent yet. `fetch` makes the token that a
/// secret of AWS Secrets Manager holds, where that is offered.
///
/// # Errors
/// The first setting that is wrong.
pub fn connect(
    config: &PlatformConfig,
    fetch: Option<&dyn Fn(&str) -> Token>,
) -> Result<Platform, Wrong> {
    let wrong = |setting| move |why| Wrong { setting, why };
    let missing = |setting, why: &str| Wrong { setting, why: Invalid::new("setting", why) };
    let given = |setting, text: &Option<Secret>, arn: &Option<String>| match (text, arn, fetch) {
        (None, None, _) => Ok(None),
        (Some(text), None, _) => Ok(Some(Token::known(text.clone()))),
        (None, Some(arn), Some(fetch)) => Ok(Some(fetch(arn))),
        (None, Some(_), None) => Err(missing(setting, "cannot be read from AWS here")),
        (Some(_), Some(_), _) => Err(missing(setting, "must be given once")),
    };
    let token = |setting, text: &Option<Secret>, arn: &Option<String>| {
        given(setting, text, arn)?.ok_or_else(|| missing(setting, "must be given"))
    };
    let mut platform = Platform::default();
    if let Some(forge) = &config.forge {
        let (text, arn) = (&forge.webhook_secret, &forge.webhook_secret_arn);
        platform.forge_signs_with = given("forge.webhook_secret", text, arn)?;
        let hook = match (&config.public_url, &platform.forge_signs_with) {
            (Some(url), Some(secret)) => {
                let url = format!("{}/hooks/gitea", url.trim_end_matches('/'));
                Some(gitea::Hook { url, secret: secret.clone() })
            }
            (None, Some(_)) => return Err(missing("public_url", "must be given for webhooks")),
            (_, None) => None,
        };
        let settings = gitea::Settings {
            url: forge.url.clone(),
            owner: forge.owner.clone(),
            private: forge.private,
            timeout_s: forge.timeout_s,
            hook,
        };
        let token = token("forge.token", &forge.token, &forge.token_arn)?;
        let gitea = Gitea::new(settings, token).map_err(wrong("forge.url"))?;
        platform.forge = Some(Arc::new(gitea));
    }
    if let Some(ci) = &config.ci {
        if config.forge.is_none() {
            return Err(missing(
                "forge",
                "must be given: the CI knows its repositories from there",
            ));
        }
        let (text, arn) = (&ci.webhook_secret, &ci.webhook_secret_arn);
        platform.ci_signs_with = given("ci.webhook_secret", text, arn)?;
        let token = token("ci.token", &ci.token, &ci.token_arn)?;
        let settings = woodpecker::Settings { url: ci.url.clone(), timeout_s: ci.timeout_s };
        let woodpecker = Woodpecker::new(settings, token).map_err(wrong("ci.url"))?;
        platform.ci = Some(Arc::new(woodpecker));
    }
    if let Some(dns) = &config.dns {
        let token = token("dns.token", &dns.token, &dns.token_arn)?;
        let target = match (dns.kind, &dns.target) {
            (None, None) => None,
            (Some(kind), Some(target)) => Some(
                Target::parse(kind, target, dns.allow_private_addresses)
                    .map_err(wrong("dns.target"))?,
            ),
            _ => return Err(missing("dns.target", "must be given together with `type`")),
        };
        platform.names = Some(DnsDefaults {
            zone: dns.zone.clone(),
            target,
            proxied: dns.proxied,
            ttl: dns.ttl,
            allow_private: dns.allow_private_addresses,
        });
        platform.dns = Some(provider(dns, token)?);
    }
    Ok(platform)
}

fn provider(dns: &DnsConfig, token: Token) -> Result<AnyDns, Wrong> {
    let wrong = |why| Wrong { setting: "dns.url", why };
    let (zone, timeout_s) = (dns.zone.clone(), dns.timeout_s);
    Ok(match dns.provider {
        DnsProvider::Cloudflare => {
            let url = dns.url.clone().unwrap_or_else(|| cloudflare::API.to_owned());
            let settings = cloudflare::Settings { url, zone, timeout_s };
            AnyDns::Cloudflare(Arc::new(Cloudflare::new(settings, token).map_err(wrong)?))
        }
        DnsProvider::Powerdns => {
            let Some(url) = dns.url.clone() else {
                return Err(wrong(Invalid::new("setting", "must be given for PowerDNS")));
            };
            let server = "localhost".to_owned();
            let settings = powerdns::Settings { url, zone, server, timeout_s };
            AnyDns::PowerDns(Arc::new(PowerDns::new(settings, token).map_err(wrong)?))
        }
    })
}

impl AnyDns {
    /// As the port.
    pub fn port(&self) -> Arc<dyn Dns> {
        match self {
            Self::Cloudflare(dns) => dns.clone(),
            Self::PowerDns(dns) => dns.clone(),
        }
    }

    /// Whether it answers, takes the token, and has the zone.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn check(&self) -> PortResult<Vec<Finding>> {
        match self {
            Self::Cloudflare(dns) => dns.check().await,
            Self::PowerDns(dns) => dns.check().await,
        }
    }
}

impl Wrong {
    /// `setting` breaks a rule.
    pub fn new(setting: &'static str, why: Invalid) -> Self {
        Self { setting, why }
    }
}

impl PlatformConfig {
    /// Everything in it that must show in no log.
    pub fn secrets(&self) -> Vec<Secret> {
        let forge = self.forge.iter().flat_map(|one| [&one.token, &one.webhook_secret]);
        let ci = self.ci.iter().flat_map(|one| [&one.token, &one.webhook_secret]);
        let dns = self.dns.iter().map(|one| &one.token);
        forge.chain(ci).chain(dns).flatten().cloned().collect()
    }
}

impl ForgeConfig {
    /// `scheme://host:port`, which git credentials belong to.
    pub fn origin(&self) -> Option<String> {
        format!("{}/a/b", self.url.trim_end_matches('/')).parse::<GitUrl>().ok()?.origin()
    }
}

fn timeout_s() -> u64 {
    http::TIMEOUT.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(zone: &str) -> DnsConfig {
        DnsConfig {
            provider: DnsProvider::Powerdns,
            zone: zone.parse().expect("a zone"),
            url: Some("http://127.0.0.1:8081".to_owned()),
            token: Some(Secret::new("sesame")),
            token_arn: None,
            timeout_s: 1,
            kind: None,
            target: None,
            proxied: false,
            ttl: Ttl::default(),
            allow_private_addresses: false,
        }
    }

    fn ci() -> CiConfig {
        CiConfig {
            url: "https://ci.example.com".to_owned(),
            token: Some(Secret::new("sesame")),
            token_arn: None,
            timeout_s: 1,
            webhook_secret: None,
            webhook_secret_arn: None,
        }
    }

    fn forge() -> ForgeConfig {
        ForgeConfig {
            url: "https://git.example.com".to_owned(),
            owner: "acme".to_owned(),
            token: Some(Secret::new("sesame")),
            token_arn: None,
            private: false,
            timeout_s: 1,
            webhook_secret: Some(Secret::new("open")),
            webhook_secret_arn: None,
        }
    }

    fn told(config: &PlatformConfig) -> String {
        let wrong = connect(config, None).expect_err("refused");
        let why = std::error::Error::source(&wrong).expect("why").to_string();
        format!("{wrong}: {why}")
    }

    #[test]
    fn a_setting_that_is_wrong_is_named_and_no_secret_is_repeated() {
        let public_url = Some("https://rdev.example.com".to_owned());
        let good = PlatformConfig {
            public_url,
            forge: Some(forge()),
            ci: Some(ci()),
            dns: Some(dns("example.com")),
        };
        let platform = connect(&good, None).expect("all of it");
        assert!(platform.forge.is_some() && platform.ci.is_some() && platform.dns.is_some());
        assert_eq!(good.secrets().len(), 4);
        let config = |change: &dyn Fn(&mut PlatformConfig)| {
            let mut config = good.clone();
            change(&mut config);
            config
        };
        let forge_is = |change: &dyn Fn(&mut ForgeConfig)| {
            config(&|all| change(all.forge.as_mut().expect("a forge")))
        };
        let dns_is = |change: &dyn Fn(&mut DnsConfig)| {
            config(&|all| change(all.dns.as_mut().expect("a provider")))
        };
        for (wrong, setting) in [
            (config(&|all| all.public_url = None), "public_url"),
            (config(&|all| all.forge = None), "forge"),
            (forge_is(&|forge| forge.token = None), "forge.token"),
            (forge_is(&|forge| "x".clone_into(&mut forge.url)), "forge.url"),
            (forge_is(&|forge| forge.token_arn = Some("arn".to_owned())), "forge.token"),
            (dns_is(&|dns| dns.url = None), "dns.url"),
            (dns_is(&|dns| dns.target = Some("1.2.3.4".to_owned())), "dns.target"),
            (dns_is(&|dns| dns.url = Some("http://u:sesame@h/".to_owned())), "dns.url"),
        ] {
            let told = told(&wrong);
            assert!(told.starts_with(setting), "{setting}: {told}");
            assert!(!told.contains("sesame") && !format!("{wrong:?}").contains("open"), "{told}");
        }
    }
}
