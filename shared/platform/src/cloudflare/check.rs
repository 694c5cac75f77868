//! Whether Cloudflare can be used, for `rdev doctor`.

use std::time::SystemTime;

use rdev_domain::ports::{PortError, PortResult};
use reqwest::Method;

use super::wire::{Record, Refusal, Verified, Zone, read, read_list};
use super::{Cloudflare, Listed};
use crate::Finding;
use crate::dns::WHAT;

const TOKEN: &str = "the DNS provider's token";
const RIGHTS: &str = "the token's rights";

/// Where tokens are made, and which one is wanted.
const MAKE_ONE: &str = "make an API token with Zone / DNS / Edit for the zone at \
                        https://dash.cloudflare.com/profile/api-tokens";

impl Cloudflare {
    /// Looks at whether it answers, takes the token, shows the zone and lets its records be read
    /// and (as far as it tells) written, and at its clock. Nothing is changed.
    ///
    /// # Errors
    /// None of its own: what is wrong is a finding.
    pub async fn check(&self) -> PortResult<Vec<Finding>> {
        let verify = ["user", "tokens", "verify"];
        let answer = match self.http.send(Method::GET, &verify, &[], None).await {
            Ok(answer) => answer,
            Err(error) => return Ok(vec![unreachable(&error)]),
        };
        let now = SystemTime::now();
        let mut findings = vec![Finding::fine(WHAT), Finding::clock(WHAT, &answer, now)];
        let verified = read::<Verified>(&answer);
        let zone = match self.find_zone().await {
            Ok(zone) => zone,
            Err(error) => {
                findings.push(Finding::failed(TOKEN, &error, MAKE_ONE));
                return Ok(findings);
            }
        };
        findings.push(self.token(verified, zone.is_some()));
        let Some(zone) = zone else {
            let what = format!("the zone {}", self.zone);
            findings.push(Finding::problem(
                what,
                "the token does not see it; add the site to the account, and the zone to the token",
            ));
            return Ok(findings);
        };
        findings.push(self.zone(&zone));
        findings.push(self.rights(&zone).await);
        Ok(findings)
    }

    /// A token of an account is not known to `/user/tokens/verify`; that it sees the zone shows
    /// that it is good.
    fn token(&self, verified: Result<Verified, Refusal>, sees_zone: bool) -> Finding {
        match verified {
            Ok(Verified { status }) if status == "active" => Finding::fine(TOKEN),
            Ok(Verified { status }) => {
                Finding::problem(TOKEN, format!("it is {status}; {MAKE_ONE}"))
            }
            Err(_) if sees_zone => Finding::fine(TOKEN),
            Err(refusal) => Finding::failed(TOKEN, &refusal.into_error(), MAKE_ONE),
        }
    }

    fn zone(&self, zone: &Zone) -> Finding {
        let what = format!("the zone {}", self.zone);
        match zone.status.as_deref() {
            None | Some("active") => Finding::fine(what),
            Some(status) => Finding::problem(
                what,
                format!(
                    "it is {status}: nobody asks Cloudflare for its names yet; set the name \
                     servers that Cloudflare names at the registrar"
                ),
            ),
        }
    }

    async fn rights(&self, zone: &Zone) -> Finding {
        let path = ["zones", zone.id.as_str(), "dns_records"];
        let listed = match self.http.send(Method::GET, &path, &[("per_page", "5")], None).await {
            Ok(answer) => read_list::<Record>(&answer).map_err(Refusal::into_error),
            Err(error) => Err(error),
        };
        if let Err(error) = listed.map(|Listed { .. }| ()) {
            return Finding::failed(RIGHTS, &error, MAKE_ONE);
        }
        let edit = "#dns_records:edit";
        // Not every token is told its rights.
        if !zone.permissions.is_empty() && !zone.permissions.iter().any(|right| right == edit) {
            return Finding::problem(RIGHTS, format!("it may read records only; {MAKE_ONE}"));
        }
        Finding::fine(RIGHTS)
    }
}

fn unreachable(error: &PortError) -> Finding {
    Finding::failed(WHAT, error, "look at the URL, the network, and www.cloudflarestatus.com")
}
