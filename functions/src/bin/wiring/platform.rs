//! The systems around a build, as the function's environment names them: below `RDEV_FORGE__`,
//! `RDEV_CI__` and `RDEV_DNS__` what `rdev.toml` has in `[forge]`, `[ci]` and `[dns]`, with
//! `…_ARN` for each secret, and `RDEV_PUBLIC_URL`.

use std::sync::Arc;

use rdev_aws::secrets::Secrets;
use rdev_domain::ports::{Ci, Dns, Forge};
use rdev_functions::lambda::environment::{section, text};
use rdev_functions::{Context, HookSecrets};
use rdev_platform::config::PlatformConfig;
use rdev_platform::connect::connect;

/// What is configured. A system whose first variable is absent or empty is not.
pub(super) fn read(variables: &[(String, String)]) -> anyhow::Result<PlatformConfig> {
    let named = |name| text(variables, name).is_some();
    Ok(PlatformConfig {
        public_url: text(variables, "RDEV_PUBLIC_URL").map(str::to_owned),
        forge: named("RDEV_FORGE__URL").then(|| section(variables, "RDEV_FORGE__")).transpose()?,
        ci: named("RDEV_CI__URL").then(|| section(variables, "RDEV_CI__")).transpose()?,
        dns: named("RDEV_DNS__PROVIDER").then(|| section(variables, "RDEV_DNS__")).transpose()?,
    })
}

/// `context` with these systems. Nothing is sent and no secret is read before it is needed.
pub(super) fn add(
    context: Context,
    config: &PlatformConfig,
    secrets: &Secrets,
) -> anyhow::Result<Context> {
    let platform = connect(config, Some(&|arn| secrets.token(arn)))?;
    let mut settings = context.settings;
    settings.dns = platform.dns_defaults;
    settings.hooks = HookSecrets { gitea: platform.forge_webhook_key, ci: platform.ci_webhook_key };
    Ok(Context {
        forge: platform.forge.map_or(context.forge, |forge| forge as Arc<dyn Forge>),
        ci: platform.ci.map(|ci| ci as Arc<dyn Ci>),
        dns: platform.dns.map(|dns| dns as Arc<dyn Dns>),
        settings,
        ..context
    })
}
