//! Known secrets are replaced before anything is logged or stored.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use rdev_domain::secret::Secret;
use serde_json::Value;

/// What stands in a secret's place.
const MASK: &str = "[secret]";

/// Secrets shorter than this are not looked for: they would hide half of every text.
const SHORTEST: usize = 6;

/// Shorter pieces of base64 say little and match by chance.
const SHORTEST_ENCODED: usize = 8;

/// Knows every form in which the secrets may show.
#[derive(Default)]
pub struct Redactor {
    /// Longest first, so that a secret that holds another is replaced whole.
    needles: RwLock<Vec<String>>,
}

impl Redactor {
    /// Looks for each secret of six bytes or more: as it is, as base64 (both
    /// alphabets, at any place within a longer text that was encoded), percent-encoded,
    /// and as it stands within a JSON string.
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        let redactor = Self::default();
        redactor.add(secrets);
        redactor
    }

    /// Looks for these as well from now on.
    pub fn add(&self, secrets: impl IntoIterator<Item = Secret>) {
        // A panic elsewhere leaves the list whole: it is replaced at once.
        let mut known = self.needles.write().unwrap_or_else(PoisonError::into_inner);
        let mut needles: BTreeSet<String> = known.drain(..).collect();
        for secret in secrets {
            let text = secret.expose().trim();
            if text.len() < SHORTEST {
                continue;
            }
            needles.insert(text.to_owned());
            let [upper, lower] = [percent_encoded(text, false), percent_encoded(text, true)];
            needles.insert(upper.replace("%20", "+"));
            needles.extend([upper, lower]);
            needles.insert(within_json(text));
            needles.extend(encoded(text));
        }
        let mut needles: Vec<_> = needles.into_iter().collect();
        needles.sort_by_key(|needle| std::cmp::Reverse(needle.len()));
        *known = needles;
    }

    /// `text` with every secret replaced by `[secret]`.
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut clean = Cow::Borrowed(text);
        let needles = self.needles.read().unwrap_or_else(PoisonError::into_inner);
        for needle in needles.iter() {
            if clean.contains(needle.as_str()) {
                clean = Cow::Owned(clean.replace(needle.as_str(), MASK));
            }
        }
        clean
    }

    /// The same for every text within `value`, keys of objects too.
    pub fn redact_json(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Cow::Owned(clean) = self.redact(text) {
                    *text = clean;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.redact_json(item)),
            Value::Object(fields) => {
                if fields.keys().any(|key| matches!(self.redact(key), Cow::Owned(_))) {
                    *fields = std::mem::take(fields)
                        .into_iter()
                        .map(|(key, value)| (self.redact(&key).into_owned(), value))
                        .collect();
                }
                fields.values_mut().for_each(|value| self.redact_json(value));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let needles = self.needles.read().map_or(0, |needles| needles.len());
        f.debug_struct("Redactor").field("needles", &needles).finish()
    }
}

/// The part of the base64 text that is the same whatever stands before and
/// after the secret, for each of the three places where it may begin.
fn encoded(text: &str) -> impl Iterator<Item = String> {
    let forms = (0..3).flat_map(|before| {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(text.as_bytes());
        [STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)].map(move |whole| {
            // A character of base64 holds six bits: those that hold bits of
            // a neighbour are left out.
            let first = (before * 8).div_ceil(6);
            let last = bytes.len() * 8 / 6;
            whole[first..last].to_owned()
        })
    });
    forms.filter(|form| form.len() >= SHORTEST_ENCODED).collect::<Vec<_>>().into_iter()
}

fn percent_encoded(text: &str, lower: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else if lower {
            encoded.push_str(&format!("%{byte:02x}"));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn within_json(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}
