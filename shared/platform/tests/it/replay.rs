//! The test servers against the record of the real ones: each recorded request is asked again, in
//! order, with the names that things have here, and the answer must be the recorded one.
//!
//! Between two requests the real servers' world moved on: commits were pushed, pipelines ran.
//! `replay/gitea.rs` and `replay/woodpecker.rs` do the same to the test servers.

mod compare;
mod gitea;
mod names;
mod people;
mod woodpecker;

use rdev_testkit::captures::{self, Exchange};
use rdev_testkit::tools::trial::Trial;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use compare::{Answer, differences};
use names::Names;

rdev_testkit::trials! {
    async whatever_is_wrong_in_an_answer_is_found;
}

pub(crate) fn all() -> Vec<Trial> {
    [trials(), gitea::trials(), woodpecker::trials()].into_iter().flatten().collect()
}

/// Each recorded answer agrees with itself, and with nothing that is spoiled in one place.
async fn whatever_is_wrong_in_an_answer_is_found() {
    for exchange in captures::gitea().iter().chain(&captures::woodpecker()) {
        let answer = |status, body| {
            let headers = exchange.answer_headers.clone();
            Answer { status, headers, body }
        };
        let found = |ours: &Answer| differences(&mut Names::default(), exchange, ours);
        let (status, body) = (exchange.status, &exchange.answer);
        assert_eq!(found(&answer(status, body.clone())), Vec::<String>::new());
        assert!(!found(&answer(299, body.clone())).is_empty());
        let headers = vec![("x-total-count".to_owned(), "77".to_owned())];
        assert!(!found(&Answer { headers, ..answer(status, body.clone()) }).is_empty());
        for spoiled in spoiled(body) {
            let name = exchange.name();
            assert!(!found(&answer(status, spoiled.clone())).is_empty(), "{name}: {spoiled}");
        }
    }
}

/// A body with one thing wrong: of another type, missing, too much.
fn spoiled(body: &Value) -> Vec<Value> {
    let mut all = vec![json!({ "bogus": [1.5] })];
    match body {
        Value::Object(fields) => {
            let with = |name: &str, value: Option<Value>| {
                let mut fields = fields.clone();
                fields.remove(name);
                fields.extend(value.map(|value| (name.to_owned(), value)));
                Value::Object(fields)
            };
            all.push(with("bogus", Some(json!(1))));
            for (name, value) in fields {
                all.push(with(name, None));
                all.extend(spoiled(value).into_iter().map(|value| with(name, Some(value))));
            }
        }
        Value::Array(items) => {
            all.push(items.iter().cloned().chain([json!("bogus")]).collect());
            // One is like the other.
            if let [first, rest @ ..] = items.as_slice() {
                all.push(rest.iter().cloned().collect());
                all.extend(spoiled(first).into_iter().map(|first| {
                    std::iter::once(first).chain(rest.iter().cloned()).collect::<Value>()
                }));
            }
        }
        Value::Null => all.push(json!("bogus")),
        Value::Bool(value) => all.extend([json!(!value), Value::Null]),
        Value::Number(_) | Value::String(_) => all.push(Value::Null),
    }
    all
}

/// A test server that is asked what a real one was.
struct Replay {
    url: String,
    names: Names,
    client: Client,
    asked: usize,
    found: Vec<String>,
}

impl Replay {
    /// The server at `url`, in whose record it is at `recorded`.
    fn new(recorded: &str, url: &str) -> Self {
        // The adapters do the same; whoever is first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut names = Names::default();
        names.text(recorded, url);
        Self { url: url.to_owned(), names, client: Client::new(), asked: 0, found: Vec::new() }
    }

    /// Asks one request again, and notes what of the answer is not as recorded.
    async fn ask(&mut self, authorization: Option<&str>, exchange: &Exchange) {
        let method: Method = exchange.method.parse().expect("a method");
        let path = self.names.to_ours(&exchange.path);
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        for (name, value) in &exchange.headers {
            if name == "content-type" || name.starts_with("x-") {
                request = request.header(name, self.names.to_ours(value));
            }
        }
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        if !exchange.body.is_null() {
            request = request.body(self.body(&exchange.body).to_string());
        }
        let answer = request.send().await.expect("an answer");
        let answer = read(answer).await;
        let differences = differences(&mut self.names, exchange, &answer);
        let name = format!("{} {}", self.asked, exchange.name());
        self.found.extend(differences.into_iter().map(|it| format!("{name}: {it}")));
        self.asked += 1;
    }

    /// A recorded body with the names of here.
    fn body(&self, recorded: &Value) -> Value {
        match recorded {
            Value::String(text) => Value::String(self.names.to_ours(text)),
            Value::Array(items) => items.iter().map(|item| self.body(item)).collect(),
            Value::Object(fields) => {
                let label = |label: &Value| match label.as_u64() {
                    Some(id) => self.names.number("label", id).into(),
                    None => self.body(label),
                };
                let field = |(key, value): (&String, &Value)| {
                    let value = match (key.as_str(), value) {
                        ("labels", Value::Array(labels)) => labels.iter().map(label).collect(),
                        ("repository", Value::Object(of)) if of.contains_key("clone_url") => {
                            let mut of = self.body(value);
                            let id = value["id"].as_u64().unwrap_or_default();
                            of["id"] = self.names.number("repository", id).into();
                            of
                        }
                        _ => self.body(value),
                    };
                    (key.clone(), value)
                };
                fields.iter().map(field).collect()
            }
            other => other.clone(),
        }
    }

    /// Forgets what was asked so far, but not what was learnt.
    fn forget(&mut self) {
        self.asked = 0;
        self.found.clear();
    }

    /// Says all that differs.
    fn end(self, recorded: usize) {
        let Self { asked, found, .. } = self;
        assert_eq!(asked, recorded, "each recorded request is asked");
        assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
    }
}

async fn read(answer: reqwest::Response) -> Answer {
    let status = answer.status().as_u16();
    let text = |value: &reqwest::header::HeaderValue| {
        String::from_utf8_lossy(value.as_bytes()).into_owned()
    };
    let headers: Vec<(String, String)> =
        answer.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let json = headers
        .iter()
        .any(|(name, value)| name == "content-type" && value.starts_with("application/json"));
    let body = answer.text().await.expect("a body");
    let body = match body.as_str() {
        "" => Value::Null,
        body if json => serde_json::from_str(body).expect("JSON"),
        body => Value::String(body.to_owned()),
    };
    Answer { status, headers, body }
}
