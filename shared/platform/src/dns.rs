//! What both DNS providers have in common.

use rdev_domain::Invalid;
use rdev_domain::dns::{DomainName, DomainSpec};
use rdev_domain::hostname::Hostname;

/// What messages call the system.
pub(crate) const WHAT: &str = "the DNS provider";

/// How often a change begins anew because somebody else was faster.
pub(crate) const ROUNDS: usize = 8;

/// The longest mark, in characters: what Cloudflare keeps beside a record on its free plan.
/// The mark of a domain has 72 at most.
const LONGEST_MARK: usize = 100;

pub(crate) fn check_name(name: &DomainName, zone: &Hostname) -> Result<(), Invalid> {
    if name.is_in(zone) {
        return Ok(());
    }
    Err(Invalid::new("domain", format!("must be in the zone {zone}")))
}

pub(crate) fn check_mark(mark: &str) -> Result<(), Invalid> {
    let fits = (1..=LONGEST_MARK).contains(&mark.chars().count());
    if fits && !mark.contains(char::is_control) && mark.trim() == mark {
        return Ok(());
    }
    Err(Invalid::new("mark", format!("must have 1 to {LONGEST_MARK} characters in one line")))
}

pub(crate) fn check(spec: &DomainSpec, zone: &Hostname, mark: &str) -> Result<(), Invalid> {
    check_name(&spec.domain, zone)?;
    check_mark(mark)?;
    spec.check()
}
