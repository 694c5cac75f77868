//! The one HTTP client of all adapters.
//!
//! The client sends requests to the configured base URL only and follows no redirect, so that a
//! token never reaches another host. It reads answers up to [`MAX_BODY`]. It turns failures into a
//! [`PortError`]: refused connections and 5xx are `Unavailable`, silence is `TimedOut`, 401 and 403
//! are `Denied`, 429 is `Limited` (and the client sends nothing more until the time in the answer is
//! over), and every other unexpected answer is `Upstream`. The client never retries: only the adapter knows whether a
//! request can be sent twice.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rdev_domain::Invalid;
use rdev_domain::ports::{PortError, PortResult};
use rdev_domain::token::Token;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

/// The largest answer in bytes: 16 MiB.
pub const MAX_BODY: usize = 16 << 20;

/// How long to wait for an answer unless configured otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(10);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest pause after a 429, whatever it asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

/// The header of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// `Authorization: Bearer …`.
    Bearer,
    /// `Authorization: token …`, for Gitea.
    Token,
    /// `X-API-Key: …`, for PowerDNS.
    ApiKey,
}

/// A client of one system.
#[derive(Debug)]
pub struct Http {
    client: Client,
    /// The name of the system in messages, such as `the forge`.
    what: &'static str,
    base: Url,
    auth: Auth,
    token: Token,
    timeout: Duration,
    paused_until: Mutex<Option<Instant>>,
}

/// A whole answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    what: &'static str,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Http {
    /// A client of the system at `base`, such as `https://git.example.com/api/v1`.
    ///
    /// # Errors
    /// When `base` is not an HTTP URL, or has credentials, a query or a fragment.
    pub fn new(
        what: &'static str,
        base: &str,
        auth: Auth,
        token: Token,
        timeout: Duration,
    ) -> Result<Self, Invalid> {
        let invalid = |why: &str| Err(Invalid::new("URL", why));
        let Ok(mut url) = Url::parse(base) else { return invalid("is not a URL") };
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return invalid("must begin with http:// or https://");
        }
        let extra = url.query().is_some() || url.fragment().is_some();
        if !url.username().is_empty() || url.password().is_some() || extra {
            return invalid("must not have credentials, a query or a fragment");
        }
        // With the slash, paths extend the URL instead of replacing its last segment.
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        // Another part of the process may have installed a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("rdev/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(20))
            .build();
        let Ok(client) = client else { return invalid("cannot be used: no TLS on this machine") };
        Ok(Self { client, what, base: url, auth, token, timeout, paused_until: Mutex::new(None) })
    }

    /// The base URL, with a final slash.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Sends a request and reads the answer. `segments` extend the path of the base URL; each one
    /// is escaped. Of all statuses only 429 is an error here.
    ///
    /// # Errors
    /// See the module. `Invalid` for a segment that would change the path: an empty one, `.`, `..`.
    pub async fn send(
        &self,
        method: Method,
        segments: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> PortResult<Answer> {
        if let Some(remaining) = self.paused() {
            return Err(PortError::Limited { what: self.what, retry_after: Some(remaining) });
        }
        // URL parsers drop dot segments, so the request would reach another path.
        if segments.iter().any(|part| matches!(*part, "" | "." | "..")) {
            return Err(Invalid::new("name", "must not be empty, '.' or '..'").into());
        }
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        let token = self.token.get().await?;
        let mut request = self.client.request(method, url).timeout(self.timeout);
        if !query.is_empty() {
            request = request.query(query);
        }
        let (name, text) = match self.auth {
            Auth::Bearer => (AUTHORIZATION.as_str(), format!("Bearer {}", token.expose())),
            Auth::Token => (AUTHORIZATION.as_str(), format!("token {}", token.expose())),
            Auth::ApiKey => ("x-api-key", token.expose().to_owned()),
        };
        let Ok(mut value) = HeaderValue::from_str(&text) else {
            return Err(PortError::upstream(
                self.what,
                "the token has characters that a header cannot hold",
            ));
        };
        value.set_sensitive(true);
        request = request.header(name, value);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.failed(error))?;
        let mut answer = self.read(response).await?;
        answer.hide(token.expose());
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            let retry_after = answer.retry_after();
            self.pause(retry_after);
            return Err(PortError::Limited { what: self.what, retry_after });
        }
        Ok(answer)
    }

    async fn read(&self, mut response: reqwest::Response) -> PortResult<Answer> {
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(error))? {
            if body.len() + chunk.len() > MAX_BODY {
                let why = format!("the answer has more than {MAX_BODY} bytes");
                return Err(PortError::upstream(self.what, why));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { what: self.what, status, headers, body })
    }

    fn failed(&self, error: reqwest::Error) -> PortError {
        // The URL is known; without it logs do not repeat its path.
        let error = error.without_url();
        if error.is_timeout() {
            return PortError::TimedOut { what: self.what };
        }
        if error.is_builder() {
            return PortError::upstream(self.what, error);
        }
        PortError::unavailable(self.what, error)
    }

    fn paused(&self) -> Option<Duration> {
        let until = *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.and_then(|until| until.checked_duration_since(Instant::now()))
    }

    fn pause(&self, retry_after: Option<Duration>) {
        let Some(pause) = retry_after else { return };
        let until = Instant::now() + pause.min(LONGEST_PAUSE);
        *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

impl Answer {
    /// A recorded one.
    #[cfg(test)]
    pub(crate) fn recorded(what: &'static str, of: &rdev_testkit::captures::Exchange) -> Self {
        let mut headers = HeaderMap::new();
        for (name, value) in &of.answer_headers {
            let name: reqwest::header::HeaderName = name.parse().expect("a header's name");
            headers.insert(name, value.parse().expect("a header's value"));
        }
        let status = StatusCode::from_u16(of.status).expect("a status");
        Self { what, status, headers, body: of.answer_bytes() }
    }

    /// Parses the body. Its content type must be JSON too.
    ///
    /// # Errors
    /// `Upstream`.
    pub fn json<T: DeserializeOwned>(&self) -> PortResult<T> {
        let kind = self.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !(essence == "application/json" || essence.ends_with("+json")) {
            let why = format!("status {} with {essence:?} where JSON was expected", self.status);
            return Err(PortError::upstream(self.what, why));
        }
        serde_json::from_slice(&self.body).map_err(|error| PortError::upstream(self.what, error))
    }

    /// The first line of a body of plain text, cut to 200 characters; empty for other bodies.
    pub fn text_line(&self) -> String {
        let kind = self.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("text/plain")) {
            return String::new();
        }
        let text = String::from_utf8_lossy(&self.body);
        let line = text.trim().lines().next().unwrap_or_default();
        line.chars().filter(|c| !c.is_control()).take(200).collect()
    }

    /// The time of the answer by the system's clock, to the second.
    pub fn date(&self) -> Option<SystemTime> {
        httpdate::parse_http_date(self.headers.get(DATE)?.to_str().ok()?).ok()
    }

    /// The error of a status that the adapter does not expect. `reason` comes from the body; it is
    /// cut to one line of 200 characters.
    pub fn unexpected(&self, reason: &str) -> PortError {
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
        let colon = if reason.is_empty() { "" } else { ": " };
        match self.status {
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => PortError::Denied {
                what: format!("{} (status {}{colon}{reason})", self.what, status.as_u16()),
            },
            status if status.is_server_error() => PortError::unavailable(
                self.what,
                format!("status {}{colon}{reason}", status.as_u16()),
            ),
            status if status.is_redirection() => {
                let why = format!("status {}: redirects are not followed", status.as_u16());
                PortError::upstream(self.what, why)
            }
            status => {
                PortError::upstream(self.what, format!("status {}{colon}{reason}", status.as_u16()))
            }
        }
    }

    /// Removes the token from an error body: some proxies repeat it, and people see these texts.
    fn hide(&mut self, token: &str) {
        if self.status.is_success() || token.is_empty() {
            return;
        }
        let found =
            |body: &[u8]| body.windows(token.len()).position(|part| part == token.as_bytes());
        let mut shown = Vec::with_capacity(self.body.len());
        let mut rest = self.body.as_slice();
        while let Some(at) = found(rest) {
            shown.extend_from_slice(&rest[..at]);
            shown.extend_from_slice(b"[secret]");
            rest = &rest[at + token.len()..];
        }
        shown.extend_from_slice(rest);
        self.body = shown;
    }

    /// `Retry-After` in seconds; a date counts as absent.
    fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(RETRY_AFTER)?.to_str().ok()?;
        text.trim().parse().ok().map(Duration::from_secs)
    }
}
