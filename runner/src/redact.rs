//! Replaces known secrets in everything that is logged or stored.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use rdev_domain::secret::Secret;
use serde_json::Value;

/// The replacement for a secret.
const MASK: &str = "[secret]";

/// Shorter secrets are not searched for: they would hide half of every text.
const SHORTEST: usize = 6;

/// Shorter pieces of base64 match by chance.
const SHORTEST_ENCODED: usize = 8;

/// Finds every form in which a secret may appear.
#[derive(Default)]
pub struct Redactor {
    needles: RwLock<Needles>,
}

#[derive(Default)]
struct Needles {
    all: BTreeSet<String>,
    /// Finds all needles in one pass; `None` while there are none.
    automaton: Option<AhoCorasick>,
}

impl Redactor {
    /// Searches for each secret of six bytes or more: as it is, as base64 (both
    /// alphabets, anywhere within a longer text that was encoded), percent-encoded,
    /// and as a part of a JSON string.
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        let redactor = Self::default();
        redactor.add(secrets);
        redactor
    }

    /// Searches for these secrets as well from now on.
    pub fn add(&self, secrets: impl IntoIterator<Item = Secret>) {
        // A panic elsewhere leaves set and automaton usable: each is replaced as a whole.
        let mut needles = self.needles.write().unwrap_or_else(PoisonError::into_inner);
        for secret in secrets {
            let text = secret.expose().trim();
            if text.len() < SHORTEST {
                continue;
            }
            needles.all.insert(text.to_owned());
            let [upper, lower] = [percent_encoded(text, false), percent_encoded(text, true)];
            needles.all.insert(upper.replace("%20", "+"));
            needles.all.extend([upper, lower]);
            needles.all.insert(within_json(text));
            needles.all.extend(encoded(text));
        }
        needles.automaton = (!needles.all.is_empty()).then(|| {
            AhoCorasick::new(&needles.all)
                .expect("the secrets of a configuration are far below the limit of 2 GiB")
        });
    }

    /// `text` with every secret replaced by `[secret]`. Secrets that overlap, or one within
    /// another, are replaced together, so that no part of either remains.
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let needles = self.needles.read().unwrap_or_else(PoisonError::into_inner);
        let Some(automaton) = &needles.automaton else { return Cow::Borrowed(text) };
        let mut found: Vec<(usize, usize)> = automaton
            .find_overlapping_iter(text)
            .map(|found| (found.start(), found.end()))
            .collect();
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        // They come in the order of their ends.
        found.sort_unstable();
        let mut clean = String::with_capacity(text.len());
        let mut done = 0;
        for (start, end) in found {
            if start >= done {
                clean.push_str(&text[done..start]);
                clean.push_str(MASK);
            }
            done = done.max(end);
        }
        clean.push_str(&text[done..]);
        Cow::Owned(clean)
    }

    /// The same for every text in `value`, with the keys of objects.
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
        let needles = self.needles.read().map_or(0, |needles| needles.all.len());
        f.debug_struct("Redactor").field("needles", &needles).finish()
    }
}

/// The part of the base64 text that is the same whatever comes before and after the secret, for
/// each of the three offsets at which it may start.
fn encoded(text: &str) -> impl Iterator<Item = String> {
    let forms = (0..3).flat_map(|before| {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(text.as_bytes());
        [STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)].map(move |whole| {
            // A character of base64 has six bits: characters with bits of a neighbour are
            // left out.
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
