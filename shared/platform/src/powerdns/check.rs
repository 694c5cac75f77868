//! Whether PowerDNS can be used, for `rdev doctor`.

use rdev_domain::ports::PortResult;
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::PowerDns;
use crate::Finding;
use crate::dns::WHAT;
use crate::http::Answer;

const KEY: &str = "the DNS provider's API key";

#[derive(Deserialize)]
struct Server {
    daemon_type: String,
}

#[derive(Deserialize)]
struct Zone {
    name: String,
    kind: String,
}

impl PowerDns {
    /// Looks at whether it answers, takes the key (which may do everything: PowerDNS has no
    /// scopes), is an authoritative server and has the zone as one that can be written. Its
    /// clock decides nothing, and its answers do not show it. Nothing is changed.
    ///
    /// # Errors
    /// None of its own: what is wrong is a finding.
    pub async fn check(&self) -> PortResult<Vec<Finding>> {
        let path = self.path();
        let mend = "is the server running, and its `webserver` and `api` on, at this URL?";
        let answer = match self.http.send(Method::GET, &path[..4], &[], None).await {
            Ok(answer) => answer,
            Err(error) => return Ok(vec![Finding::failed(WHAT, &error, mend)]),
        };
        let refused = matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if refused {
            let mend = "set the key to the server's `api-key`, and `webserver-allow-from` so that \
                        it lets this machine in";
            let problem = Finding::failed(KEY, &answer.unexpected(""), mend);
            return Ok(vec![Finding::fine(WHAT), problem]);
        }
        let server = match read::<Server>(&answer) {
            Ok(server) => server,
            Err(error) => return Ok(vec![Finding::failed(WHAT, &error, mend)]),
        };
        if server.daemon_type != "authoritative" {
            let problem =
                format!("it is a {}; an authoritative server is needed", server.daemon_type);
            return Ok(vec![Finding::problem(WHAT, problem)]);
        }
        Ok(vec![Finding::fine(WHAT), Finding::fine(KEY), self.zone().await])
    }

    async fn zone(&self) -> Finding {
        let what = format!("the zone {}", self.zone);
        let query = [("zone", self.zone_id.as_str())];
        let answer = self.http.send(Method::GET, &self.path()[..5], &query, None).await;
        let zones = answer.and_then(|answer| read::<Vec<Zone>>(&answer));
        let zones = match zones {
            Ok(zones) => zones,
            Err(error) => return Finding::failed(what, &error, "look at the server's log"),
        };
        match zones.iter().find(|zone| zone.name.eq_ignore_ascii_case(&self.zone_id)) {
            None => {
                let make = format!("make it: pdnsutil create-zone {}", self.zone);
                Finding::problem(what, format!("the server does not have it; {make}"))
            }
            // What they are called now, and were called before.
            Some(zone) if ["Slave", "Secondary", "Consumer"].contains(&zone.kind.as_str()) => {
                let why = "it is a copy of another server's; name that one in the configuration";
                Finding::problem(what, why)
            }
            Some(_) => Finding::fine(what),
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(answer: &Answer) -> PortResult<T> {
    if answer.status == StatusCode::OK { answer.json() } else { Err(answer.unexpected("")) }
}
