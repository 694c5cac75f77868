//! What both DNS providers have in common.

use rdev_domain::Invalid;
use rdev_domain::dns::{DomainName, DomainSpec};
use rdev_domain::hostname::Hostname;

/// What messages call the system.
pub(crate) const WHAT: &str = "the DNS provider";

/// How often a change begins anew because somebody else was faster.
pub(crate) const ROUNDS: usize = 8;

/// The longest ownership tag, in characters: what Cloudflare keeps beside a record on its free plan.
/// The ownership tag of a domain has 72 at most.
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
