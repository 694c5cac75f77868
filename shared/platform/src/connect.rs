//! The adapters of the systems that are configured.

use std::sync::Arc;

use rdev_domain::Invalid;
use rdev_domain::dns::{DnsDefaults, Target};
use rdev_domain::secret::Secret;
use rdev_domain::token::Token;

use crate::cloudflare::{self, Cloudflare};
use crate::config::{CiConfig, DnsConfig, DnsProvider, ForgeConfig, PlatformConfig};
use crate::dns::DnsAdapter;
use crate::gitea::{self, Gitea};
use crate::powerdns::{self, PowerDns};
use crate::woodpecker::{self, Woodpecker};

/// The adapters of the systems that are configured.
#[derive(Default)]
pub struct Platform {
    /// The forge.
    pub forge: Option<Arc<Gitea>>,
    /// The CI server.
    pub ci: Option<Arc<Woodpecker>>,
    /// The DNS provider.
    pub dns: Option<Arc<dyn DnsAdapter>>,
    /// The zone and the defaults of its records, if there is a DNS provider.
    pub dns_defaults: Option<DnsDefaults>,
    /// The key that signs the webhooks of the forge.
    pub forge_webhook_key: Option<Token>,
    /// The key that signs the messages of pipelines.
    pub ci_webhook_key: Option<Token>,
}

/// A setting has a wrong value.
#[derive(Debug, thiserror::Error)]
#[error("{setting}")]
pub struct WrongSetting {
    /// Its name, such as `forge.url`.
    setting: &'static str,
    /// The rule that it breaks.
    #[source]
    rule: Invalid,
}

/// Reads a secret of AWS Secrets Manager by its ARN.
pub type ReadSecret<'a> = &'a dyn Fn(&str) -> Token;

/// Makes the adapters that `config` describes. It sends nothing yet. `read_secret` is for
/// programs that may read AWS Secrets Manager.
///
/// # Errors
/// The first setting that has a wrong value.
pub fn connect(
    config: &PlatformConfig,
    read_secret: Option<ReadSecret<'_>>,
) -> Result<Platform, WrongSetting> {
    let mut platform = Platform::default();
    if let Some(forge) = &config.forge {
        let key = optional(
            "forge.webhook_secret",
            forge.webhook_secret.as_ref(),
            forge.webhook_secret_arn.as_deref(),
            read_secret,
        )?;
        let hook = hook(config.public_url.as_deref(), key.as_ref())?;
        platform.forge = Some(connect_forge(forge, hook, read_secret)?);
        platform.forge_webhook_key = key;
    }
    if let Some(ci) = &config.ci {
        if config.forge.is_none() {
            let rule = "must be set: the CI server gets its repositories from the forge";
            return Err(wrong("forge", rule));
        }
        platform.ci_webhook_key = optional(
            "ci.webhook_secret",
            ci.webhook_secret.as_ref(),
            ci.webhook_secret_arn.as_deref(),
            read_secret,
        )?;
        platform.ci = Some(connect_ci(ci, read_secret)?);
    }
    if let Some(dns) = &config.dns {
        platform.dns_defaults = Some(dns_defaults(dns)?);
        platform.dns = Some(connect_dns(dns, read_secret)?);
    }
    Ok(platform)
}

impl WrongSetting {
    /// `setting` breaks a rule.
    pub fn new(setting: &'static str, rule: Invalid) -> Self {
        Self { setting, rule }
    }
}

fn connect_forge(
    forge: &ForgeConfig,
    hook: Option<gitea::Hook>,
    read_secret: Option<ReadSecret<'_>>,
) -> Result<Arc<Gitea>, WrongSetting> {
    let (text, arn) = (forge.token.as_ref(), forge.token_arn.as_deref());
    let token = required("forge.token", text, arn, read_secret)?;
    let settings = gitea::Settings {
        url: forge.url.clone(),
        owner: forge.owner.clone(),
        private: forge.private,
        timeout_s: forge.timeout_s,
        hook,
    };
    let gitea = Gitea::new(settings, token).map_err(|rule| WrongSetting::new("forge.url", rule))?;
    Ok(Arc::new(gitea))
}

/// The webhook that the forge sends, if there is a key to sign it.
fn hook(
    public_url: Option<&str>,
    key: Option<&Token>,
) -> Result<Option<gitea::Hook>, WrongSetting> {
    match (public_url, key) {
        (Some(url), Some(key)) => {
            let url = format!("{}/hooks/gitea", url.trim_end_matches('/'));
            Ok(Some(gitea::Hook { url, secret: key.clone() }))
        }
        (None, Some(_)) => Err(wrong("public_url", "must be set for webhooks")),
        (_, None) => Ok(None),
    }
}

fn connect_ci(
    ci: &CiConfig,
    read_secret: Option<ReadSecret<'_>>,
) -> Result<Arc<Woodpecker>, WrongSetting> {
    let token = required("ci.token", ci.token.as_ref(), ci.token_arn.as_deref(), read_secret)?;
    let settings = woodpecker::Settings { url: ci.url.clone(), timeout_s: ci.timeout_s };
    let woodpecker =
        Woodpecker::new(settings, token).map_err(|rule| WrongSetting::new("ci.url", rule))?;
    Ok(Arc::new(woodpecker))
}

fn connect_dns(
    dns: &DnsConfig,
    read_secret: Option<ReadSecret<'_>>,
) -> Result<Arc<dyn DnsAdapter>, WrongSetting> {
    let token = required("dns.token", dns.token.as_ref(), dns.token_arn.as_deref(), read_secret)?;
    let (zone, timeout_s) = (dns.zone.clone(), dns.timeout_s);
    let wrong_url = |rule| WrongSetting::new("dns.url", rule);
    Ok(match dns.provider {
        DnsProvider::Cloudflare => {
            let url = dns.url.clone().unwrap_or_else(|| cloudflare::API.to_owned());
            let settings = cloudflare::Settings { url, zone, timeout_s };
            Arc::new(Cloudflare::new(settings, token).map_err(wrong_url)?)
        }
        DnsProvider::Powerdns => {
            let Some(url) = dns.url.clone() else {
                return Err(wrong("dns.url", "must be set for PowerDNS"));
            };
            let server = "localhost".to_owned();
            let retry_for = powerdns::RETRY_FOR;
            let settings = powerdns::Settings { url, zone, server, timeout_s, retry_for };
            Arc::new(PowerDns::new(settings, token).map_err(wrong_url)?)
        }
    })
}

fn dns_defaults(dns: &DnsConfig) -> Result<DnsDefaults, WrongSetting> {
    let target = match (dns.kind, &dns.target) {
        (None, None) => None,
        (Some(kind), Some(target)) => {
            let target = Target::parse(kind, target, dns.allow_private_addresses);
            Some(target.map_err(|rule| WrongSetting::new("dns.target", rule))?)
        }
        _ => return Err(wrong("dns.target", "must be set together with `type`")),
    };
    Ok(DnsDefaults {
        zone: dns.zone.clone(),
        target,
        proxied: dns.proxied,
        ttl: dns.ttl,
        allow_private: dns.allow_private_addresses,
    })
}

/// A secret that the configuration holds as a text or names by its ARN.
fn optional(
    setting: &'static str,
    text: Option<&Secret>,
    arn: Option<&str>,
    read_secret: Option<ReadSecret<'_>>,
) -> Result<Option<Token>, WrongSetting> {
    match (text, arn, read_secret) {
        (None, None, _) => Ok(None),
        (Some(text), None, _) => Ok(Some(Token::known(text.clone()))),
        (None, Some(arn), Some(read)) => Ok(Some(read(arn))),
        (None, Some(_), None) => Err(wrong(setting, "cannot be read from AWS by this program")),
        (Some(_), Some(_), _) => Err(wrong(setting, "must be set once, as text or as ARN")),
    }
}

fn required(
    setting: &'static str,
    text: Option<&Secret>,
    arn: Option<&str>,
    read_secret: Option<ReadSecret<'_>>,
) -> Result<Token, WrongSetting> {
    optional(setting, text, arn, read_secret)?.ok_or_else(|| wrong(setting, "must be set"))
}

fn wrong(setting: &'static str, rule: &str) -> WrongSetting {
    WrongSetting::new(setting, Invalid::new("setting", rule))
}

#[cfg(test)]
mod tests {
    use rdev_domain::dns::Ttl;

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
            private: true,
            timeout_s: 1,
            webhook_secret: Some(Secret::new("open")),
            webhook_secret_arn: None,
        }
    }

    fn error_text(config: &PlatformConfig) -> String {
        let error = connect(config, None).err().expect("refused");
        let rule = std::error::Error::source(&error).expect("a rule").to_string();
        format!("{error}: {rule}")
    }

    #[test]
    fn an_error_names_the_wrong_setting_and_repeats_no_secret() {
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
            let text = error_text(&wrong);
            assert!(text.starts_with(setting), "{setting}: {text}");
            assert!(!text.contains("sesame") && !format!("{wrong:?}").contains("open"), "{text}");
        }
    }
}
