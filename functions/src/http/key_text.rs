//! The text of an API key: `rdev_` + 12 + 52 + 8 characters of `[a-z0-9]`.
//!
//! The first 12 are the key's public id, the next 52 its 256-bit secret in
//! base32 (RFC 4648, lower case, no padding), the last 8 a checksum: the first
//! 40 bits of the SHA-256 of everything before them. A text that was cut or
//! mistyped is recognised without asking the store, and scanners for leaked
//! secrets can distinguish a key from a random word.

use rdev_domain::ids::KeyId;
use rdev_domain::key::{ApiKey, Scope};
use rdev_domain::secret::Secret;
use rdev_domain::time::Timestamp;
use sha2::{Digest, Sha256};

const PREFIX: &str = "rdev_";
const ID: usize = 12;
const SECRET: usize = 52;
const CHECKSUM: usize = 8;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Generates a key: its text, to be shown once, and the record to store. Without `id` the id is
/// random.
pub fn generate(
    name: impl Into<String>,
    scopes: Vec<Scope>,
    now: Timestamp,
    id: Option<KeyId>,
) -> (Secret, ApiKey) {
    let id = id.unwrap_or_else(|| key_id(&rand::random::<[u8; 8]>()));
    let text = KeyText { id: id.clone(), secret: rand::random() };
    let key = ApiKey {
        id,
        name: name.into(),
        scopes,
        secret_sha256: text.secret_sha256(),
        created_at: now,
        revoked_at: None,
    };
    (text.write(), key)
}

/// The public id of a key, of 8 random bytes.
pub(crate) fn key_id(random: &[u8]) -> KeyId {
    let text = base32(random);
    text[..12].parse().expect("base32 has only a-z and 2-7, and 8 bytes make 13 characters of it")
}

/// What a key's text holds.
pub(crate) struct KeyText {
    pub(crate) id: KeyId,
    pub(crate) secret: [u8; 32],
}

impl KeyText {
    /// The text to show once.
    pub(crate) fn write(&self) -> Secret {
        let body = format!("{PREFIX}{}{}", self.id, base32(&self.secret));
        let checksum = checksum(&body);
        Secret::new(body + &checksum)
    }

    /// Reads a text; `None` when it is not a key's, or was damaged.
    pub(crate) fn read(text: &str) -> Option<Self> {
        if !text.is_ascii() || text.len() != PREFIX.len() + ID + SECRET + CHECKSUM {
            return None;
        }
        let (body, sum) = text.split_at(text.len() - CHECKSUM);
        if checksum(body) != sum {
            return None;
        }
        let (id, secret) = body.strip_prefix(PREFIX)?.split_at(ID);
        Some(Self { id: id.parse().ok()?, secret: unbase32(secret)? })
    }

    /// What is stored of the secret.
    pub(crate) fn secret_sha256(&self) -> String {
        hex(&Sha256::digest(self.secret))
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |n: u8| char::from(DIGITS[usize::from(n)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Lower-case base32 without padding.
pub(crate) fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut bits, mut count) = (0_u16, 0);
    for byte in bytes {
        bits = (bits << 8) | u16::from(*byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            text.push(char::from(ALPHABET[usize::from((bits >> count) & 31)]));
        }
        bits &= (1 << count) - 1;
    }
    if count > 0 {
        text.push(char::from(ALPHABET[usize::from((bits << (5 - count)) & 31)]));
    }
    text
}

/// Reads 32 bytes; one value has one spelling.
fn unbase32(text: &str) -> Option<[u8; 32]> {
    let mut bytes = Vec::with_capacity(32);
    let (mut bits, mut count) = (0_u16, 0);
    for letter in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == letter)?;
        bits = (bits << 5) | u16::try_from(value).ok()?;
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count).ok()?);
            bits &= (1 << count) - 1;
        }
    }
    if bits != 0 {
        return None;
    }
    bytes.try_into().ok()
}

fn checksum(body: &str) -> String {
    base32(&Sha256::digest(body)[..5])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> KeyText {
        KeyText { id: "abcdefghij01".parse().expect("a key id"), secret: [0xa5; 32] }
    }

    #[test]
    fn a_key_reads_back_what_it_writes() {
        let text = sample().write();
        assert_eq!(text.expose().len(), 77);
        let read = KeyText::read(text.expose()).expect("its own text");
        assert_eq!((read.id, read.secret), (sample().id, sample().secret));
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
    }

    #[test]
    fn any_one_character_changed_is_noticed() {
        let text = sample().write();
        for place in 0..text.expose().len() {
            let mut bytes = text.expose().as_bytes().to_vec();
            bytes[place] = if bytes[place] == b'q' { b'r' } else { b'q' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            assert!(KeyText::read(&changed).is_none(), "{place}");
        }
    }

    #[test]
    fn a_second_spelling_of_a_secret_is_refused() {
        let text = sample().write();
        let (body, _) = text.expose().split_at(69);
        // The last letter of the secret carries one bit of it and four that must be 0.
        let last = body.chars().last().expect("not empty");
        let other = if last == 'q' { 'r' } else { 'b' };
        let body = format!("{}{other}", &body[..68]);
        let respelt = format!("{body}{}", checksum(&body));
        assert!(KeyText::read(&respelt).is_none());
    }
}
