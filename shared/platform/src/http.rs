//! The one HTTP client of all adapters.
//!
//! A request goes to the configured base URL only: no redirect is followed, so that a token
//! never reaches another host. Answers are read up to [`MAX_BODY`]. What went wrong becomes a
//! [`PortError`] here: refused connections and 5xx are `Unavailable`, silence is `TimedOut`,
//! 429 is `Limited` (and until its time has come nothing more is sent), anything that should
//! not be is `Upstream`. Nothing is sent twice: whether a repeat is safe only the adapter knows.

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

/// The most bytes of an answer that are read: 16 MiB.
pub const MAX_BODY: usize = 16 << 20;

/// How long an answer is waited for, unless configured otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(10);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest time for which a 429 is believed.
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

/// In which header the token goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// `Authorization: Bearer …`.
    Bearer,
    /// `Authorization: token …`, Gitea's own.
    Token,
    /// `X-API-Key: …`, of PowerDNS.
    ApiKey,
}

/// A client of one system.
#[derive(Debug)]
pub struct Http {
    client: Client,
    /// What messages call the system, as `the forge`.
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
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

impl Http {
    /// A client of the system at `base`, as `https://git.example.com/api/v1`.
    ///
    /// # Errors
    /// When `base` is no HTTP URL, or holds credentials, a query or a fragment.
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
        // So that paths are added to it and do not replace its last part.
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        // Another part of the process may have installed it before.
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

    /// Sends a request and reads the answer. `segments` are added to the base URL's path, each
    /// escaped; a status is no error yet, but for 429.
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
        if let Some(left) = self.paused() {
            return Err(PortError::Limited { what: self.what, retry_after: Some(left) });
        }
        // A URL drops the dots, and the request would go to something else.
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
            return Err(PortError::upstream(self.what, "the token cannot stand in a header"));
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
        // The URL is ours and known; without it no path ends in a log twice.
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
    /// The body, which must be JSON by its type and by itself.
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

    /// When the system answered, by its own clock, to the second.
    pub fn date(&self) -> Option<SystemTime> {
        httpdate::parse_http_date(self.headers.get(DATE)?.to_str().ok()?).ok()
    }

    /// The error of a status that the adapter does not expect; `said` is what the body says, cut
    /// to one line of 200 characters.
    pub fn unexpected(&self, said: &str) -> PortError {
        let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
        let colon = if said.is_empty() { "" } else { ": " };
        match self.status {
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                let why =
                    format!("it refused the token with status {}{colon}{said}", status.as_u16());
                PortError::upstream(self.what, why)
            }
            status if status.is_server_error() => PortError::unavailable(
                self.what,
                format!("status {}{colon}{said}", status.as_u16()),
            ),
            status if status.is_redirection() => {
                let why = format!("status {}: redirects are not followed", status.as_u16());
                PortError::upstream(self.what, why)
            }
            status => {
                PortError::upstream(self.what, format!("status {}{colon}{said}", status.as_u16()))
            }
        }
    }

    /// Takes the token out of an error that repeats it, as some proxies do: such texts are shown.
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

    /// `Retry-After` in seconds; dates are not read.
    fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(RETRY_AFTER)?.to_str().ok()?;
        text.trim().parse().ok().map(Duration::from_secs)
    }
}
