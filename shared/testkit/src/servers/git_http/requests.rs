//! The requests that a git server has seen.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::{StatusCode, header};
use axum::response::Response;
use futures_util::StreamExt;

use crate::servers::host::locked;

/// A request as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `GET` or `POST`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Whether it had an `Authorization` header.
    pub authorized: bool,
    /// The client's address: the same port is the same connection.
    pub from: SocketAddr,
    /// When it came.
    pub at: SystemTime,
    /// When its answer had ended, or was given up; `None` before that.
    pub ended: Option<SystemTime>,
}

impl Seen {
    /// Whether it was a push, and not the question for what there is to push to.
    pub fn is_push(&self) -> bool {
        self.method == "POST" && self.target.ends_with("/git-receive-pack")
    }
}

/// The requests so far.
#[derive(Debug, Default)]
pub(crate) struct Requests(Mutex<Log>);

/// The requests since `first`, which is a number that no earlier request has.
#[derive(Debug, Default)]
struct Log {
    first: usize,
    seen: Vec<Seen>,
}

/// A request whose answer has not ended.
#[derive(Debug)]
pub(crate) struct UnderWay {
    requests: Arc<Requests>,
    number: usize,
}

impl Requests {
    /// Notes a request as it comes.
    pub(crate) fn begin(self: &Arc<Self>, request: &Request) -> UnderWay {
        let from = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let ConnectInfo(from) = *from.expect("the hosts of test servers tell the address");
        let target = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
        let mut log = locked(&self.0);
        log.seen.push(Seen {
            method: request.method().to_string(),
            target,
            authorized: request.headers().contains_key(header::AUTHORIZATION),
            from,
            at: SystemTime::now(),
            ended: None,
        });
        let number = log.first + log.seen.len() - 1;
        UnderWay { requests: Arc::clone(self), number }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        locked(&self.0).seen.clone()
    }

    /// Forgets the requests so far. The ends of those under way are not noted any more.
    pub(crate) fn forget(&self) {
        let mut log = locked(&self.0);
        log.first += log.seen.len();
        log.seen.clear();
    }
}

impl UnderWay {
    /// The same answer; its end is noted.
    pub(crate) fn until_sent(self, response: Response) -> Response {
        if response.status() != StatusCode::OK {
            return response;
        }
        let (parts, body) = response.into_parts();
        let pieces = (body.into_data_stream(), self);
        let pieces = futures_util::stream::unfold(pieces, |(mut pieces, under_way)| async {
            let piece = pieces.next().await?;
            Some((piece, (pieces, under_way)))
        });
        Response::from_parts(parts, Body::from_stream(pieces))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut log = locked(&self.requests.0);
        let found = self.number.checked_sub(log.first);
        if let Some(seen) = found.and_then(|index| log.seen.get_mut(index)) {
            seen.ended = Some(SystemTime::now());
        }
    }
}
