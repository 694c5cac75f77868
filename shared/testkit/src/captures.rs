//! What a real Gitea and a real Woodpecker were asked, and what they answered: the contract of the
//! test servers, and what the adapters' parsers must read. `captures/forge/README.md` says where
//! it comes from.

use std::path::Path;

use serde_json::{Map, Value};

/// A request and its answer.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub method: String,
    /// With the query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    /// Null where there was none.
    pub body: Value,
    pub status: u16,
    pub answer_headers: Vec<(String, String)>,
    /// A text where it was not JSON, null where there was none.
    pub answer: Value,
}

/// A message of a forge to a webhook.
#[derive(Debug, Clone)]
pub struct Message {
    /// `X-Gitea-Event`.
    pub event: String,
    /// `X-Gitea-Event-Type`, which tells more.
    pub kind: String,
    pub headers: Vec<(String, String)>,
    pub body: Value,
}

impl Exchange {
    /// As `GET /api/v1/version`.
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The answer's body as it was sent.
    pub fn answer_bytes(&self) -> Vec<u8> {
        match &self.answer {
            Value::Null => Vec::new(),
            Value::String(text) => text.clone().into_bytes(),
            json => json.to_string().into_bytes(),
        }
    }
}

/// The exchanges with Gitea's API, in their order.
pub fn gitea() -> Vec<Exchange> {
    exchanges("gitea-api.jsonl")
}

/// The exchanges with Woodpecker, in their order.
pub fn woodpecker() -> Vec<Exchange> {
    exchanges("woodpecker-api.jsonl")
}

/// The messages of Gitea, in their order.
pub fn messages() -> Vec<Message> {
    let message = |line: Value| Message {
        event: text(&line["event"]),
        kind: text(&line["type"]),
        headers: headers(&line["headers"]),
        body: line["body"].clone(),
    };
    lines("gitea-hooks.jsonl").into_iter().map(message).collect()
}

fn exchanges(file: &str) -> Vec<Exchange> {
    let exchange = |line: Value| Exchange {
        method: text(&line["request"]["method"]),
        path: text(&line["request"]["path"]),
        headers: headers(&line["request"]["headers"]),
        body: line["request"]["body"].clone(),
        status: line["response"]["status"].as_u64().and_then(|it| it.try_into().ok()).expect(file),
        answer_headers: headers(&line["response"]["headers"]),
        answer: line["response"]["body"].clone(),
    };
    lines(file).into_iter().map(exchange).collect()
}

fn lines(file: &str) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures/forge");
    let all = std::fs::read_to_string(folder.join(file)).expect(file);
    all.lines().map(|line| serde_json::from_str(line).expect(file)).collect()
}

fn headers(of: &Value) -> Vec<(String, String)> {
    let all: Map<String, Value> = of.as_object().cloned().unwrap_or_default();
    all.into_iter().map(|(name, value)| (name, text(&value))).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
