//! The self-check for `rdev doctor`.

use std::time::SystemTime;

use rdev_domain::ports::PortError;
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::{SYSTEM, Woodpecker, refused};
use crate::check::Finding;

/// The oldest version that has the calls and fields in use here.
const OLDEST: u32 = 3;

#[derive(Debug, Deserialize)]
pub(super) struct Version {
    pub(super) version: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct User {
    pub(super) login: String,
}

impl Woodpecker {
    /// Checks that the server answers, is recent enough, agrees with our clock, and accepts the
    /// token. What the token's user may do shows only when a repository is activated.
    pub async fn check(&self) -> Vec<Finding> {
        let health = match self.http.send(Method::GET, &["healthz"], &[], None).await {
            Ok(answer) if answer.status == StatusCode::NO_CONTENT => answer,
            Ok(answer) if answer.status == StatusCode::OK => {
                let problem = "what is there is not Woodpecker, or not its root; set its URL to \
                               the root, without /api";
                return vec![Finding::problem(SYSTEM, problem)];
            }
            Ok(answer) => {
                let fix = "look into its log; if something else is there, correct its URL";
                return vec![Finding::failed(SYSTEM, &refused(&answer), fix)];
            }
            Err(error) => {
                let fix = "is it running, and is its URL right?";
                return vec![Finding::failed(SYSTEM, &error, fix)];
            }
        };
        vec![
            Finding::fine(SYSTEM),
            self.check_version().await,
            Finding::clock(SYSTEM, &health, SystemTime::now()),
            self.check_token().await,
        ]
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
        let fix = "make a personal token there (user settings, CLI & API) and configure it";
        let user = self.call(Method::GET, &["user"], &[]).await;
        let user = user.and_then(|answer| match answer.status {
            StatusCode::OK => answer.json::<User>(),
            _ => Err(refused(&answer)),
        });
        match user {
            Ok(user) if user.login.is_empty() => {
                let error = PortError::upstream(SYSTEM, "the token is of no user");
                Finding::failed(what, &error, fix)
            }
            Ok(_) => Finding::fine(what),
            Err(error) => Finding::failed(what, &error, fix),
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
