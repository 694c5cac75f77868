//! The failure class of a model API's error.

use std::time::Duration;

use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::time::Timestamp;

/// An error of a model API, as an agent reports it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ModelError<'a> {
    /// The HTTP status.
    pub(super) status: Option<u16>,
    /// The message of the API or of the agent.
    pub(super) text: &'a str,
    /// When to try again.
    pub(super) retry_at: Option<Timestamp>,
}

impl<'a> ModelError<'a> {
    /// An error of which only the agent's text is known.
    pub(super) fn from_text(text: &'a str) -> Self {
        Self { status: status_in(text), text, retry_at: None }
    }
}

/// Words that identify an error whatever its status is, in lower case.
const QUOTA: [&str; 6] = [
    "usage limit",
    "usage_limit",
    "insufficient_quota",
    "exceeded your current quota",
    "credit balance",
    "out of credits",
];
const RATE: [&str; 5] = ["rate limit", "rate_limit", "overloaded", "high demand", "at capacity"];
const AUTH: [&str; 5] = [
    "invalid api key",
    "authentication",
    "not logged in",
    "please run /login",
    "missing environment variable",
];
const NETWORK: [&str; 10] = [
    "connection error",
    "connection refused",
    "econnrefused",
    "econnreset",
    "unable to connect",
    "fetch failed",
    "error sending request",
    "stream disconnected",
    "timed out",
    "socket",
];

/// The failure of a build with this error.
pub(super) fn failure(error: ModelError<'_>, now: Timestamp) -> Failure {
    let text = error.text.to_lowercase();
    let contains = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let class = match error.status {
        Some(401 | 403) => FailureClass::Auth,
        Some(402) => FailureClass::Quota,
        _ if contains(&QUOTA) => FailureClass::Quota,
        Some(429 | 503 | 529) => FailureClass::RateLimited,
        Some(404) => FailureClass::Invalid,
        _ if contains(&RATE) => FailureClass::RateLimited,
        Some(408 | 500..=599) => FailureClass::Infra,
        Some(_) => FailureClass::AgentFailed,
        None if contains(&AUTH) => FailureClass::Auth,
        None if contains(&NETWORK) => FailureClass::Infra,
        None => FailureClass::AgentFailed,
    };
    let mut failure = Failure::new(class, format!("the model answered: {}", error.text));
    if class.rules().names_a_time {
        failure.retry_at = error.retry_at.or_else(|| retry_in(&text, now));
    }
    failure
}

/// The status in "unexpected status 401 Unauthorized", "last status: 429", "API Error: 401 …".
fn status_in(text: &str) -> Option<u16> {
    ["status", "API Error"].iter().find_map(|word| {
        let (_, after) = text.split_once(word)?;
        let after = after.trim_start_matches(" code").trim_start_matches([':', ' ']);
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok().filter(|status| (400..600).contains(status))
    })
}

/// A time that a provider sent as a number: seconds since the epoch, or milliseconds, which some
/// send instead. `None` when it cannot be one of our time.
pub(super) fn epoch_time(number: i64) -> Option<Timestamp> {
    // Seconds from 2001 to 2286, or the same as milliseconds.
    let millis = match number {
        1_000_000_000..10_000_000_000 => number * 1000,
        1_000_000_000_000..10_000_000_000_000 => number,
        _ => return None,
    };
    Timestamp::try_from(millis).ok()
}

/// The time in "limit reached|1735689600" and "try again in 2 days 3 hours 5 minutes".
fn retry_in(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Some((_, after)) = text.rsplit_once('|') {
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        if let Some(at) = digits.parse().ok().and_then(epoch_time) {
            return Some(at);
        }
    }
    let (_, after) = text.split_once("again in ")?;
    let mut seconds = 0.0;
    let mut rest = after.trim_start();
    loop {
        let number =
            rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let Ok(count) = rest[..number].trim_end_matches('.').parse::<f64>() else { break };
        rest = rest[number..].trim_start();
        let word = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        seconds += count
            * match &rest[..word] {
                "ms" => 0.001,
                unit if unit.starts_with('s') => 1.0,
                unit if unit.starts_with('m') => 60.0,
                unit if unit.starts_with('h') => 3600.0,
                unit if unit.starts_with('d') => 86_400.0,
                _ => break,
            };
        rest = rest[word..].trim_start_matches([' ', ',']);
    }
    let wait = Duration::try_from_secs_f64(seconds).ok().filter(|wait| !wait.is_zero())?;
    Some(now.plus(wait))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn class(status: Option<u16>, text: &str) -> FailureClass {
        failure(ModelError { status, text, retry_at: None }, NOW).class
    }

    #[test]
    fn statuses_and_words_give_the_class() {
        for (status, text, expected) in [
            (Some(401), "", FailureClass::Auth),
            (Some(403), "overloaded", FailureClass::Auth),
            (Some(429), "slow down", FailureClass::RateLimited),
            (Some(429), "You've hit your usage limit", FailureClass::Quota),
            (Some(529), "", FailureClass::RateLimited),
            (Some(500), "We’re currently experiencing high demand", FailureClass::RateLimited),
            (Some(500), "boom", FailureClass::Infra),
            (Some(404), "no such model", FailureClass::Invalid),
            (Some(400), "bad body", FailureClass::AgentFailed),
            (None, "Missing environment variable: `OPENAI_API_KEY`", FailureClass::Auth),
            (None, "error sending request for url", FailureClass::Infra),
            (None, "what", FailureClass::AgentFailed),
        ] {
            assert_eq!(class(status, text), expected, "{status:?} {text}");
        }
    }

    #[test]
    fn a_status_is_found_in_the_agents_words() {
        for (text, status) in [
            ("unexpected status 401 Unauthorized: x, url: y", Some(401)),
            ("exceeded retry limit, last status: 429 Too Many Requests", Some(429)),
            ("Failed to authenticate. API Error: 401 scripted", Some(401)),
            ("status 12", None),
            ("all is well", None),
        ] {
            assert_eq!(ModelError::from_text(text).status, status, "{text}");
        }
    }

    #[test]
    fn a_number_is_a_time_in_seconds_or_in_milliseconds_or_none() {
        for (number, millis) in [
            (1_800_003_600, Some(1_800_003_600_000)),
            (1_800_003_600_250, Some(1_800_003_600_250)),
            (1_000_000_000, Some(1_000_000_000_000)),
            (9_999_999_999, Some(9_999_999_999_000)),
            (999_999_999, None),
            (10_000_000_000, None),
            (1_800_003_600_000_000, None),
            (0, None),
            (-1, None),
            (i64::MIN, None),
            (i64::MAX, None),
        ] {
            assert_eq!(epoch_time(number).map(Timestamp::as_millis), millis, "{number}");
        }
    }

    #[test]
    fn the_time_to_try_again_is_read_from_words() {
        for (text, millis) in [
            ("usage limit reached|1735689600", Some(1_735_689_600_000)),
            ("usage limit. try again in 1 day 2 hours 3 minutes.", Some(1_000_000 + 93_780_000)),
            ("rate limit: please try again in 1.5s.", Some(1_001_500)),
            ("try again in a while", None),
            ("usage limit", None),
            ("usage limit reached|1735689600123", Some(1_735_689_600_123)),
            ("usage limit reached|17356896001", None),
            ("usage limit reached|1", None),
            ("usage limit reached|99999999999999999999", None),
            ("usage limit. try again in 99999999999999999999 days", None),
        ] {
            assert_eq!(retry_in(text, NOW).map(Timestamp::as_millis), millis, "{text}");
        }
    }
}
