//! The self-check for `rdev doctor`.

use std::time::SystemTime;

use rdev_domain::ports::{PortError, PortResult};
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::{WHAT, Woodpecker, refused};
use crate::check::Finding;

/// The oldest version that has the calls and fields in use here.
const OLDEST: u32 = 3;

#[derive(Debug, Deserialize)]
struct Version {
    version: String,
}

#[derive(Debug, Deserialize)]
struct User {
    login: String,
}

impl Woodpecker {
    /// Looks whether the server is there and well, is recent enough, has our time, and takes the
    /// token. What its user may do with a repository is known only when one is activated.
    ///
    /// # Errors
    /// Never: what goes wrong is a finding.
    pub async fn check(&self) -> PortResult<Vec<Finding>> {
        let health = match self.http.send(Method::GET, &["healthz"], &[], None).await {
            Ok(answer) if answer.status == StatusCode::NO_CONTENT => answer,
            Ok(answer) if answer.status == StatusCode::OK => {
                let problem = "what is there is not Woodpecker, or not its root; set its URL to \
                               the root, without /api";
                return Ok(vec![Finding::problem(WHAT, problem)]);
            }
            Ok(answer) => {
                let mend = "look into its log; if something else is there, correct its URL";
                return Ok(vec![Finding::failed(WHAT, &refused(&answer), mend)]);
            }
            Err(error) => {
                let mend = "is it running, and is its URL right?";
                return Ok(vec![Finding::failed(WHAT, &error, mend)]);
            }
        };
        Ok(vec![
            Finding::fine(WHAT),
            self.check_version().await,
            Finding::clock(WHAT, &health, SystemTime::now()),
            self.check_token().await,
        ])
    }

    async fn check_version(&self) -> Finding {
        let what = "the CI server's version";
        let answer = self.http.send(Method::GET, &["version"], &[], None).await;
        let version = answer.and_then(|answer| match answer.status {
            StatusCode::OK => answer.json::<Version>(),
            _ => Err(refused(&answer)),
        });
        match version {
            Err(error) => Finding::failed(what, &error, "is its URL that of its root?"),
            Ok(Version { version }) => match major(&version) {
                Some(major) if major < OLDEST => Finding::problem(
                    what,
                    format!("it is Woodpecker {version}; update it to {OLDEST}.0 or later"),
                ),
                // `next-…` and other builds of its developers have no number.
                _ => Finding::fine(what),
            },
        }
    }

    async fn check_token(&self) -> Finding {
        let what = "the CI server's token";
        let mend = "make a personal token there (user settings, CLI & API) and configure it";
        let user = self.call(Method::GET, &["user"], &[]).await;
        let user = user.and_then(|answer| match answer.status {
            StatusCode::OK => answer.json::<User>(),
            _ => Err(refused(&answer)),
        });
        match user {
            Ok(user) if user.login.is_empty() => {
                let error = PortError::upstream(WHAT, "the token is of no user");
                Finding::failed(what, &error, mend)
            }
            Ok(_) => Finding::fine(what),
            Err(error) => Finding::failed(what, &error, mend),
        }
    }
}

fn major(version: &str) -> Option<u32> {
    version.trim_start_matches('v').split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_without_a_number_is_not_too_old() {
        assert_eq!(major("3.13.0"), Some(3));
        assert_eq!(major("v2.8.3"), Some(2));
        assert_eq!(major("next-dfc2c265b1"), None);
    }
}
