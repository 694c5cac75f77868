//! A DNS host name.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Invalid;
use crate::ids::text;

/// A fully qualified host name in ASCII, lower case, without the final dot:
/// at most 253 characters, labels of 1 to 63 characters of `[a-z0-9-]` that
/// neither begin nor end with `-`, at least two of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "site.example.com")]
pub struct Hostname(String);

impl FromStr for Hostname {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |why: &str| Err(Invalid::new("host name", why));
        if text.is_empty() || text.len() > 253 {
            return invalid("must have 1 to 253 characters");
        }
        let labels: Vec<&str> = text.split('.').collect();
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let bad = |label: &&str| {
            label.is_empty()
                || label.len() > 63
                || label.starts_with('-')
                || label.ends_with('-')
                || !label.bytes().all(allowed)
        };
        if labels.iter().any(bad) {
            return invalid("must have labels of 1 to 63 characters of a-z, 0-9 and inner '-'");
        }
        let last_is_number =
            labels.last().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        if labels.len() < 2 || last_is_number {
            return invalid("must have two labels or more, and the last must not be a number");
        }
        Ok(Self(text.to_owned()))
    }
}

text!(Hostname);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_has_labels_that_dns_takes() {
        for good in ["a.b", "site.example.com", "xn--bcher-kva.example", "1.example.com"] {
            assert!(good.parse::<Hostname>().is_ok(), "{good}");
        }
        let (long_label, long_name) = (format!("{}.com", "a".repeat(64)), "a.".repeat(127) + "aa");
        for bad in [
            "",
            "a",
            "a..b",
            "-a.b",
            "a-.b",
            "A.b",
            "a.b.",
            "a_b.c",
            "127.0.0.1",
            "a b.c",
            &long_label,
            &long_name,
        ] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad:?}");
        }
    }
}
