//! Idempotent requests: a repeated POST is answered once.
//!
//! The record is written before the handler runs and holds a `nonce` from which
//! the handler makes every id it needs. A repeat after a crash gets the same
//! nonce, so that what was already done is found and not done twice.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::time::Timestamp;

/// How long a request may be in flight before a repeat continues it.
pub const IN_FLIGHT: Duration = Duration::from_secs(60);

/// SHA-256, in hexadecimal, of key id, method, path and `Idempotency-Key`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestKey(pub String);

/// What a request finds when it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// Run the request. `nonce` is the first try's, also after a crash of that try.
    Go {
        /// The ULID to make ids from.
        nonce: Ulid,
        /// An earlier try may have done some of it.
        resumed: bool,
    },
    /// It was answered before.
    Replay(StoredAnswer),
    /// Another try is running.
    InFlight,
    /// The key was used with another body.
    OtherBody,
}

/// An answer to be given again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAnswer {
    /// HTTP status.
    pub status: u16,
    /// The `Location` header.
    pub location: Option<String>,
    /// The body's media type.
    pub content_type: String,
    /// The body.
    pub body: String,
}

/// When a record that was begun at `now` expires.
pub fn expires_at(now: Timestamp, days: u32) -> Timestamp {
    now.plus(Duration::from_secs(u64::from(days.max(1)) * 24 * 60 * 60))
}
