//! What the adapters' self-checks find, for `rdev doctor`.

use std::error::Error;
use std::time::{Duration, SystemTime};

use rdev_domain::ports::PortError;

use crate::http::Answer;

/// How far a system's clock may be from ours.
const MAX_SKEW: Duration = Duration::from_secs(60);

/// One thing that an adapter looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, as `the forge's token`.
    pub what: String,
    /// What is wrong and how to mend it; `None` when it is well.
    pub problem: Option<String>,
}

impl Finding {
    /// It is well.
    pub fn fine(what: impl Into<String>) -> Self {
        Self { what: what.into(), problem: None }
    }

    /// It is not well: `problem` says what is wrong and how to mend it.
    pub fn problem(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { what: what.into(), problem: Some(problem.into()) }
    }

    /// It could not be looked at: the error with its sources, then how to mend it.
    pub fn failed(what: impl Into<String>, error: &PortError, mend: &str) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        Self::problem(what, format!("{text}; {mend}"))
    }

    /// Whether the clock of the system agrees with ours, as far as the `Date` header of an
    /// answer that came at `now` shows.
    pub fn clock(of: &str, answer: &Answer, now: SystemTime) -> Self {
        let what = format!("the clock of {of}");
        let Some(date) = answer.date() else {
            return Self::problem(what, "its answer has no Date header; is a proxy in between?");
        };
        let ahead = date.duration_since(now).unwrap_or_default();
        let behind = now.duration_since(date).unwrap_or_default();
        let (skew, way) = if ahead > behind { (ahead, "ahead of") } else { (behind, "behind") };
        if skew <= MAX_SKEW {
            return Self::fine(what);
        }
        let problem = format!(
            "it is {} s {way} this machine's; set both by a time server (NTP)",
            skew.as_secs()
        );
        Self::problem(what, problem)
    }
}
