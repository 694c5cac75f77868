//! A client of rdev's API that lives through restarts of the server.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// The pause before a request is sent again.
const PAUSE: Duration = Duration::from_millis(50);

/// Where the API is, and the key for it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) key: String,
}

/// The client.
#[derive(Debug)]
pub(crate) struct Api {
    http: reqwest::Client,
    place: Mutex<Place>,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Api {
    /// `timeout` is for one request.
    pub(crate) fn new(timeout: Duration) -> Result<Self> {
        // An error says that it was installed before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Everything is on loopback, which no proxy leads to.
        let http = reqwest::Client::builder().no_proxy().timeout(timeout).build()?;
        Ok(Self { http, place: Mutex::default() })
    }

    /// The server is at another place from now on.
    pub(crate) fn moved(&self, place: Place) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }

    /// One request; `None` when there was no answer, or the server could not serve it.
    pub(crate) async fn try_ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        idempotency_key: Option<&str>,
    ) -> Option<Answer> {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let request = self.http.request(method, format!("{}{path}", place.url));
        let mut request = request.bearer_auth(&place.key);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(key) = idempotency_key {
            request = request.header("Idempotency-Key", key);
        }
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        let text = response.text().await.ok()?;
        // A gateway's own answers are not JSON.
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        (status < 500 && status != 429).then_some(Answer { status, body })
    }

    /// Asks until there is an answer, for at most `patience`.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        idempotency_key: Option<&str>,
        patience: Duration,
    ) -> Result<Answer> {
        let end = Instant::now() + patience;
        loop {
            let answer = self.try_ask(method.clone(), path, body, idempotency_key).await;
            match answer {
                // The first try is in flight, or its process died with it.
                Some(answer) if answer.body["code"] == "request_in_flight" => {}
                Some(answer) => return Ok(answer),
                None => {}
            }
            if Instant::now() > end {
                bail!("{method} {path} was not answered within {patience:?}");
            }
            sleep(PAUSE).await;
        }
    }

    /// Reads something that has to be there.
    pub(crate) async fn get(&self, path: &str, patience: Duration) -> Result<Value> {
        let answer = self.ask(Method::GET, path, None, None, patience).await?;
        if answer.status != 200 {
            bail!("GET {path}: {} {}", answer.status, answer.body);
        }
        Ok(answer.body)
    }

    /// All items of a list.
    pub(crate) async fn list(&self, path: &str, patience: Duration) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut next = format!("{path}?limit=100");
        loop {
            let page = self.get(&next, patience).await?;
            let found = page["items"].as_array().with_context(|| format!("{next}: no list"))?;
            items.extend(found.iter().cloned());
            match page["next_cursor"].as_str() {
                Some(cursor) => next = format!("{path}?limit=100&cursor={cursor}"),
                None => return Ok(items),
            }
        }
    }
}
