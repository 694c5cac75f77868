//! The check of PowerDNS' configuration, for `rdev doctor`.

use async_trait::async_trait;
use rdev_domain::ports::PortResult;
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::PowerDns;
use super::wire::said;
use crate::Finding;
use crate::dns::{DnsAdapter, SYSTEM};
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

#[async_trait]
impl DnsAdapter for PowerDns {
    /// PowerDNS has no scopes: a valid key may do everything. Its clock does not matter, and its
    /// answers do not show it.
    async fn check(&self) -> Vec<Finding> {
        let path = self.path();
        let fix = "is the server running, and its `webserver` and `api` on, at this URL?";
        let answer = match self.http.send(Method::GET, &path[..4], &[], None).await {
            Ok(answer) => answer,
            Err(error) => return vec![Finding::failed(SYSTEM, &error, fix)],
        };
        let refused = matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if refused {
            let fix = "set the key to the server's `api-key`, and `webserver-allow-from` so that \
                        it lets this machine in";
            let problem = Finding::failed(KEY, &answer.unexpected(&said(&answer)), fix);
            return vec![Finding::fine(SYSTEM), problem];
        }
        let server = match read::<Server>(&answer) {
            Ok(server) => server,
            Err(error) => return vec![Finding::failed(SYSTEM, &error, fix)],
        };
        if server.daemon_type != "authoritative" {
            let problem =
                format!("it is a {}; an authoritative server is needed", server.daemon_type);
            return vec![Finding::problem(SYSTEM, problem)];
        }
        vec![Finding::fine(SYSTEM), Finding::fine(KEY), self.zone().await]
    }
}

impl PowerDns {
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
            // Today's names and the old one.
            Some(zone) if ["Slave", "Secondary", "Consumer"].contains(&zone.kind.as_str()) => {
                let why = "it is a copy of another server's; name that one in the configuration";
                Finding::problem(what, why)
            }
            Some(_) => Finding::fine(what),
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(answer: &Answer) -> PortResult<T> {
    if answer.status == StatusCode::OK {
        answer.json()
    } else {
        Err(answer.unexpected(&said(answer)))
    }
}
