//! What the adapters of all DNS providers share.

use async_trait::async_trait;
use rdev_domain::Invalid;
use rdev_domain::dns::{DomainName, DomainSpec};
use rdev_domain::hostname::Hostname;
use rdev_domain::ports::Dns;

use crate::Finding;

/// The adapter of a DNS provider: the port, and a check of its configuration.
#[async_trait]
pub trait DnsAdapter: Dns {
    /// Checks that the provider answers, accepts the token, and has the zone. It changes nothing.
    async fn check(&self) -> Vec<Finding>;
}

/// The name of the system in messages.
pub(crate) const SYSTEM: &str = "the DNS provider";

/// How often a change starts again because somebody else made another one first.
pub(crate) const ROUNDS: usize = 8;

/// The longest ownership tag, in characters: the limit of Cloudflare's record comments on its free
/// plan. The ownership tag of a domain has at most 72.
const LONGEST_OWNERSHIP_TAG: usize = 100;

pub(crate) fn check_name(name: &DomainName, zone: &Hostname) -> Result<(), Invalid> {
    if name.is_in(zone) {
        return Ok(());
    }
    Err(Invalid::new("domain", format!("must be in the zone {zone}")))
}

pub(crate) fn check_ownership_tag(tag: &str) -> Result<(), Invalid> {
    let fits = (1..=LONGEST_OWNERSHIP_TAG).contains(&tag.chars().count());
    if fits && !tag.contains(char::is_control) && tag.trim() == tag {
        return Ok(());
    }
    Err(Invalid::new(
        "ownership_tag",
        format!("must have 1 to {LONGEST_OWNERSHIP_TAG} characters in one line"),
    ))
}

pub(crate) fn check(spec: &DomainSpec, zone: &Hostname, tag: &str) -> Result<(), Invalid> {
    check_name(&spec.domain, zone)?;
    check_ownership_tag(tag)?;
    spec.check()
}
