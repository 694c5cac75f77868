//! Reading a request's body, up to the limit that it has.
//!
//! Messages of other systems come without a key, and nobody knows who sent one before its signature
//! is checked, which needs the whole body. So only a few large ones are in memory at once: the
//! others wait unread, and small ones never wait.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt, LengthLimitError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::problem::{ApiResult, Code, Problem};
use crate::settings::Settings;

/// How many large messages are in memory at once.
const LARGE_AT_ONCE: usize = 4;

/// How long the rest of a large message may take, so that slow senders do not keep others waiting.
const LARGE_WITHIN: Duration = Duration::from_secs(30);

/// Who sends a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// A client, with a key.
    Client,
    /// Another system, which signs its message.
    System,
}

/// The limits of bodies.
#[derive(Debug)]
pub(crate) struct Bodies {
    request: usize,
    message: usize,
    large: Arc<Semaphore>,
}

/// The right to have a large message in memory; it is given back when this is dropped.
pub(crate) type Room = Option<OwnedSemaphorePermit>;

impl Bodies {
    pub(crate) fn new(settings: &Settings) -> Self {
        let (request, message) = (settings.body_limit_bytes, settings.hook_limit_bytes);
        Self { request, message, large: Arc::new(Semaphore::new(LARGE_AT_ONCE)) }
    }

    /// Reads a whole body.
    ///
    /// # Errors
    /// It is larger than its limit, or did not come to its end.
    pub(crate) async fn read(
        &self,
        sender: Sender,
        headers: &HeaderMap,
        body: Body,
    ) -> ApiResult<(Bytes, Room)> {
        let (limit, setting) = match sender {
            Sender::Client => (self.request, "api.body_limit_bytes"),
            Sender::System => (self.message, "api.hook_limit_bytes"),
        };
        let too_large = || {
            if sender == Sender::System {
                tracing::warn!(limit, setting, "a message is too large, so what it tells is lost");
            }
            let detail = format!("the body has more than {limit} bytes ({setting})");
            Problem::new(Code::BodyTooLarge, detail)
        };
        let announced = headers.get(CONTENT_LENGTH).and_then(|n| n.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length: usize| length > limit) {
            return Err(too_large());
        }
        match sender {
            Sender::Client => {
                let bytes = to_bytes(body, limit).await.map_err(|error| {
                    let source = std::error::Error::source(&error);
                    if source.is_some_and(|source| source.is::<LengthLimitError>()) {
                        too_large()
                    } else {
                        cut_off()
                    }
                })?;
                Ok((bytes, None))
            }
            Sender::System => self.read_message(body, announced).await?.ok_or_else(too_large),
        }
    }

    /// Reads a message; `None` if it is too large.
    async fn read_message(
        &self,
        mut body: Body,
        announced: Option<usize>,
    ) -> ApiResult<Option<(Bytes, Room)>> {
        let mut read = Vec::with_capacity(announced.unwrap_or(0).min(self.request));
        if announced.is_none_or(|length| length <= self.request)
            && extend(&mut read, &mut body, self.request.min(self.message)).await? == Read::Whole
        {
            return Ok(Some((read.into(), None)));
        }
        if read.len() > self.message {
            return Ok(None);
        }
        let Ok(room) = Arc::clone(&self.large).acquire_owned().await else {
            return Err(Problem::internal());
        };
        let rest = extend(&mut read, &mut body, self.message);
        let Ok(rest) = tokio::time::timeout(LARGE_WITHIN, rest).await else {
            let detail = format!("the body did not arrive within {} s", LARGE_WITHIN.as_secs());
            return Err(Problem::new(Code::MalformedRequest, detail));
        };
        Ok((rest? == Read::Whole).then(|| (read.into(), Some(room))))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    Whole,
    /// More than the limit was read.
    Beyond,
}

/// Reads on until the body ends or more than `limit` bytes are read.
async fn extend(read: &mut Vec<u8>, body: &mut Body, limit: usize) -> ApiResult<Read> {
    while read.len() <= limit {
        let Some(frame) = body.frame().await else { return Ok(Read::Whole) };
        if let Ok(data) = frame.map_err(|_| cut_off())?.into_data() {
            read.extend_from_slice(&data);
        }
    }
    Ok(Read::Beyond)
}

fn cut_off() -> Problem {
    Problem::new(Code::MalformedRequest, "the body could not be read to its end")
}
