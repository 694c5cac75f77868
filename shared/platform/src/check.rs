//! The findings of the adapters' checks, for `rdev doctor`.

use std::time::{Duration, SystemTime};

use rdev_domain::chain;
use rdev_domain::ports::PortError;

use crate::http::Answer;

/// How far a system's clock may be from ours.
const MAX_SKEW: Duration = Duration::from_secs(60);

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The thing that was checked, such as `the forge's token`.
    pub what: String,
    /// What is wrong and how to fix it; `None` if nothing is.
    pub problem: Option<String>,
}

impl Finding {
    /// Nothing is wrong.
    pub fn fine(what: impl Into<String>) -> Self {
        Self { what: what.into(), problem: None }
    }

    /// `problem` says what is wrong and how to fix it.
    pub fn problem(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { what: what.into(), problem: Some(problem.into()) }
    }

    /// The check failed: the error with its sources, then how to fix it.
    pub fn failed(what: impl Into<String>, error: &PortError, fix: &str) -> Self {
        Self::problem(what, format!("{}; {fix}", chain(error)))
    }

    /// Whether the clock of the system agrees with ours, by the `Date` header of an answer that
    /// came at `now`.
    pub fn clock(of: &str, answer: &Answer, now: SystemTime) -> Self {
        let what = format!("the clock of {of}");
        let Some(date) = answer.date() else {
            return Self::problem(what, "its answer has no Date header; is a proxy in between?");
        };
        let ahead = date.duration_since(now).unwrap_or_default();
        let behind = now.duration_since(date).unwrap_or_default();
        let (skew, direction) =
            if ahead > behind { (ahead, "ahead of") } else { (behind, "behind") };
        if skew <= MAX_SKEW {
            return Self::fine(what);
        }
        let problem = format!(
            "it is {} s {direction} this machine's; set both by a time server (NTP)",
            skew.as_secs()
        );
        Self::problem(what, problem)
    }
}
