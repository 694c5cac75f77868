//! The client of the HTTP API. Every command except `up` uses it.

mod follow;
mod problem;
mod sse;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use rand::distr::{Alphanumeric, SampleString};
use rdev_configuration::Environment;
use rdev_domain::secret::Secret;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde_json::Value;

use crate::args::Common;
use crate::config::{Config, Flags};
use crate::folder::Local;
use crate::usage::UsageError;

pub(crate) use follow::{End, Event, follow};
pub(crate) use problem::ApiError;

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a server may be silent. Event streams send something every 15 s.
const SILENCE: Duration = Duration::from_secs(60);

/// Talks to one server with one key.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
}

/// Finds the server and the key.
///
/// `--url` and `RDEV_URL` take precedence over the file in the data folder. The key in that file is
/// used only for the server in that file.
///
/// # Errors
/// When no server or no key is found; the error says what to do.
pub(crate) fn connect(common: &Common, environment: &Environment) -> anyhow::Result<Client> {
    let url = common.url.clone().or_else(|| environment.text("RDEV_URL").map(str::to_owned));
    let key = environment.text("RDEV_KEY").map(Secret::new);
    if let (Some(url), Some(key)) = (&url, &key) {
        return Client::new(url, key);
    }
    let config = Config::load(&Flags::from(common), environment)?;
    let folder: PathBuf = config.data_dir(environment)?;
    let local = Local::read(&folder)?;
    match (url, key, local) {
        (None, key, Some(local)) => {
            if local.pid.is_none() {
                anyhow::bail!(
                    "no server uses the data folder {}; start one with `rdev up`, or set RDEV_URL and RDEV_KEY",
                    folder.display()
                );
            }
            Client::new(&local.url, key.as_ref().unwrap_or(&local.admin_key))
        }
        (Some(url), None, Some(local)) if same_origin(&url, &local.url) => {
            Client::new(&url, &local.admin_key)
        }
        (Some(_), None, _) => {
            Err(UsageError("there is no key for this server; set RDEV_KEY".to_owned()).into())
        }
        (None, _, None) => anyhow::bail!(
            "no rdev has run on the data folder {}; start one with `rdev up`, or set RDEV_URL and RDEV_KEY",
            folder.display()
        ),
        (Some(url), Some(key), _) => Client::new(&url, &key),
    }
}

fn same_origin(a: &str, b: &str) -> bool {
    matches!((Url::parse(a), Url::parse(b)), (Ok(a), Ok(b)) if a.origin() == b.origin())
}

impl Client {
    /// A client of the server at `url`.
    ///
    /// # Errors
    /// When the URL or the key cannot be used.
    pub(crate) fn new(url: &str, key: &Secret) -> anyhow::Result<Self> {
        let wrong = |why: &str| UsageError(format!("RDEV_URL (or --url) {why}"));
        let mut base = Url::parse(url).map_err(|_| wrong("is not a URL"))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(wrong("must begin with http:// or https://").into());
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(wrong("must not hold credentials; set RDEV_KEY").into());
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
            .map_err(|_| UsageError("RDEV_KEY is not a valid key".to_owned()))?;
        bearer.set_sensitive(true);
        let headers = HeaderMap::from_iter([(reqwest::header::AUTHORIZATION, bearer)]);
        let mut http = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("rdev/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE);
        if base.scheme() == "http" {
            // Plain HTTP needs no certificates, and the machine may have none.
            http = http.tls_certs_only([]);
        }
        if is_loopback(&base) {
            http = http.no_proxy();
        }
        let http = http.build().context("cannot set up the HTTP client")?;
        Ok(Self { http, base })
    }

    /// The server's address, without a final slash.
    pub(crate) fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// `GET` of a JSON answer. `path` has no leading slash and needs no escaping: it consists of
    /// ids.
    pub(crate) async fn get(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<Value> {
        self.json(self.request(Method::GET, path, query)).await
    }

    /// `GET` of a text.
    pub(crate) async fn get_text(&self, path: &str) -> anyhow::Result<String> {
        let answer = self.send(self.request(Method::GET, path, &[])).await?;
        answer.text().await.map_err(|error| self.cut_off(error).into())
    }

    /// `POST` of a body, with the `Idempotency-Key` `key` or a random one.
    pub(crate) async fn post(
        &self,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> anyhow::Result<Value> {
        let key = match key {
            Some(key) => key.to_owned(),
            None => Alphanumeric.sample_string(&mut rand::rng(), 24),
        };
        let mut request = self.request(Method::POST, path, &[]).header("Idempotency-Key", key);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.json(request).await
    }

    /// `DELETE`; the answer is null if it is empty.
    pub(crate) async fn delete(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> anyhow::Result<Value> {
        self.json(self.request(Method::DELETE, path, query)).await
    }

    /// Opens a stream of server-sent events that starts after the event `after`.
    pub(crate) async fn stream(
        &self,
        path: &str,
        after: Option<&str>,
    ) -> Result<Response, ApiError> {
        let mut request = self.request(Method::GET, path, &[]).header(ACCEPT, "text/event-stream");
        if let Some(after) = after {
            request = request.header("Last-Event-ID", after);
        }
        self.send(request).await
    }

    fn request(&self, method: Method, path: &str, query: &[(&str, String)]) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.http.request(method, url)
    }

    async fn json(&self, request: RequestBuilder) -> anyhow::Result<Value> {
        let answer = self.send(request).await?;
        let body = answer.bytes().await.map_err(|error| self.cut_off(error))?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        let not_rdev = || ApiError::NotRdev { url: self.url().to_owned() };
        Ok(serde_json::from_slice(&body).map_err(|_| not_rdev())?)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ApiError> {
        let answer = request.send().await.map_err(|error| ApiError::Unreachable {
            url: self.url().to_owned(),
            source: error.without_url(),
        })?;
        if answer.status().is_success() { Ok(answer) } else { Err(problem::read(answer).await) }
    }

    fn cut_off(&self, error: reqwest::Error) -> ApiError {
        ApiError::CutOff { url: self.url().to_owned(), source: error.without_url() }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback()),
        None => false,
    }
}
