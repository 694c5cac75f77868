//! The check of Cloudflare's configuration, for `rdev doctor`.

use std::time::SystemTime;

use async_trait::async_trait;
use rdev_domain::ports::PortError;
use reqwest::Method;

use super::wire::{Record, Refusal, Verified, Zone, read, read_list};
use super::{Cloudflare, Listed};
use crate::Finding;
use crate::dns::{DnsAdapter, SYSTEM};

const TOKEN: &str = "the DNS provider's token";
const RIGHTS: &str = "the token's rights";

/// How to make the right token.
const MAKE_TOKEN: &str = "make an API token with Zone / DNS / Edit for the zone at \
                        https://dash.cloudflare.com/profile/api-tokens";

#[async_trait]
impl DnsAdapter for Cloudflare {
    /// Beyond that: whether the token may read records and (as far as Cloudflare says) write
    /// them, and whether the clocks agree.
    async fn check(&self) -> Vec<Finding> {
        let verify = ["user", "tokens", "verify"];
        let answer = match self.http.send(Method::GET, &verify, &[], None).await {
            Ok(answer) => answer,
            Err(error) => return vec![unreachable(&error)],
        };
        let now = SystemTime::now();
        let mut findings = vec![Finding::fine(SYSTEM), Finding::clock(SYSTEM, &answer, now)];
        let verified = read::<Verified>(&answer);
        let zone = match self.find_zone().await {
            Ok(zone) => zone,
            Err(error) => {
                findings.push(Finding::failed(TOKEN, &error, MAKE_TOKEN));
                return findings;
            }
        };
        findings.push(self.token(verified, zone.is_some()));
        let Some(zone) = zone else {
            let what = format!("the zone {}", self.zone);
            findings.push(Finding::problem(
                what,
                "the token does not see it; add the site to the account, and the zone to the token",
            ));
            return findings;
        };
        findings.push(self.zone(&zone));
        findings.push(self.rights(&zone).await);
        findings
    }
}

impl Cloudflare {
    /// `/user/tokens/verify` does not know the tokens of accounts; such a token is good if it sees
    /// the zone.
    fn token(&self, verified: Result<Verified, Refusal>, sees_zone: bool) -> Finding {
        match verified {
            Ok(Verified { status }) if status == "active" => Finding::fine(TOKEN),
            Ok(Verified { status }) => {
                Finding::problem(TOKEN, format!("it is {status}; {MAKE_TOKEN}"))
            }
            Err(_) if sees_zone => Finding::fine(TOKEN),
            Err(refusal) => Finding::failed(TOKEN, &refusal.into_error(), MAKE_TOKEN),
        }
    }

    fn zone(&self, zone: &Zone) -> Finding {
        let what = format!("the zone {}", self.zone);
        match zone.status.as_deref() {
            None | Some("active") => Finding::fine(what),
            Some(status) => Finding::problem(
                what,
                format!(
                    "it is {status}: resolvers do not ask Cloudflare yet; set Cloudflare's name \
                     servers at the registrar"
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
            return Finding::failed(RIGHTS, &error, MAKE_TOKEN);
        }
        let edit = "#dns_records:edit";
        // Cloudflare does not show every token its rights.
        if !zone.permissions.is_empty() && !zone.permissions.iter().any(|right| right == edit) {
            return Finding::problem(RIGHTS, format!("it may read records only; {MAKE_TOKEN}"));
        }
        Finding::fine(RIGHTS)
    }
}

fn unreachable(error: &PortError) -> Finding {
    Finding::failed(SYSTEM, error, "look at the URL, the network, and www.cloudflarestatus.com")
}
