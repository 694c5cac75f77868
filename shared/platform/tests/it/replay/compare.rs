//! An answer against the recorded one: the same status, headers, keys and types, and the same
//! values but for those that differ from run to run, which are of the same kind.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rdev_testkit::captures::Exchange;
use serde_json::{Map, Value};
use ulid::Ulid;

use super::names::{Names, is_hash};

/// The headers that mean something to a client.
const HEADERS: [&str; 5] = ["content-type", "x-total-count", "link", "etag", "pipeline-filtered"];

/// Points in time that say "never" or "not stored".
const NEVER: [&str; 2] = ["0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z"];

/// An answer of a test server.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    /// A text where it is not JSON, null where there is none.
    pub(crate) body: Value,
}

/// In what a value may differ.
enum Rule {
    /// In nothing but names.
    Same,
    /// In its number, which is always the counterpart of this one.
    Id(&'static str),
    /// A moment; `never` stays `never`.
    Moment,
    /// A number or a text of any value: what a real server finds out in the background, or counts
    /// in its own way.
    Any,
    Ulid,
    /// A line of a log, in base64.
    Line,
    /// In the order of its items.
    Set,
}

/// What of an answer is not as recorded.
pub(crate) fn differences(names: &mut Names, recorded: &Exchange, ours: &Answer) -> Vec<String> {
    let mut found = Vec::new();
    if recorded.status != ours.status {
        let status = ours.status;
        let (recorded, body) = (recorded.status, &ours.body);
        return vec![format!("status: recorded {recorded}, here {status} with {body}")];
    }
    for name in HEADERS {
        let of = |headers: &[(String, String)]| {
            headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
        };
        let (recorded, ours) = (of(&recorded.answer_headers), of(&ours.headers));
        if recorded != ours {
            found.push(format!("header {name}: recorded {recorded:?}, here {ours:?}"));
        }
    }
    let html = |body: &Value| body.as_str().is_some_and(|text| text.starts_with('<'));
    if html(&recorded.answer) && html(&ours.body) {
        return found;
    }
    learn(names, &recorded.answer, &ours.body, &mut found);
    compare(names, "$", &Rule::Same, &recorded.answer, &ours.body, &mut found);
    found
}

/// Pairs what identifies things at the same place of both bodies.
fn learn(names: &mut Names, recorded: &Value, ours: &Value, found: &mut Vec<String>) {
    match (recorded, ours) {
        (Value::Object(recorded), Value::Object(ours)) => {
            for (key, value) in recorded {
                let Some(other) = ours.get(key) else { continue };
                match (rule(key, value, recorded), value, other) {
                    (Rule::Id(kind), _, _) if id(value).is_some() && id(other).is_some() => {
                        let (value, other) = (id(value), id(other));
                        let pair = (value.unwrap_or_default(), other.unwrap_or_default());
                        found.extend(names.learn(kind, &pair.0, &pair.1).err());
                    }
                    // A file's id follows from what is in it.
                    (_, Value::String(_), _) if key == "sha" && recorded.contains_key("path") => {}
                    _ => learn(names, value, other, found),
                }
            }
        }
        (Value::Array(recorded), Value::Array(ours)) => {
            let ordered = |items: &[Value]| in_order(items.to_vec());
            for (recorded, ours) in ordered(recorded).iter().zip(&ordered(ours)) {
                learn(names, recorded, ours, found);
            }
        }
        (Value::String(recorded), Value::String(ours)) => {
            if is_hash(recorded) && is_hash(ours) {
                found.extend(names.learn("commit", recorded, ours).err());
            }
            for (before, kind) in [("/avatars/", "picture"), ("#issuecomment-", "comment")] {
                let name = |url: &str| url.split_once(before).map(|(_, name)| name.to_owned());
                if let (Some(recorded), Some(ours)) = (name(recorded), name(ours)) {
                    found.extend(names.learn(kind, &recorded, &ours).err());
                }
            }
        }
        _ => {}
    }
}

fn compare(
    names: &Names,
    at: &str,
    rule: &Rule,
    recorded: &Value,
    ours: &Value,
    found: &mut Vec<String>,
) {
    let mut differs = || found.push(format!("{at}: recorded {recorded}, here {ours}"));
    match (rule, recorded, ours) {
        (_, Value::Object(recorded), Value::Object(ours)) => {
            objects(names, at, recorded, ours, found);
        }
        (_, Value::Array(recorded), Value::Array(ours)) => {
            let (mut recorded, mut ours) = (in_order(recorded.clone()), in_order(ours.clone()));
            if matches!(rule, Rule::Set) {
                let text = |value: &Value| value.to_string();
                recorded.sort_by_key(text);
                ours.sort_by_key(text);
            }
            for (index, recorded) in recorded.iter().enumerate() {
                let at = format!("{at}[{index}]");
                match ours.get(index) {
                    Some(ours) => compare(names, &at, &Rule::Same, recorded, ours, found),
                    None => found.push(format!("{at}: recorded {recorded}, missing here")),
                }
            }
            for more in ours.iter().skip(recorded.len()) {
                found.push(format!("{at}: not recorded, here {more}"));
            }
        }
        (Rule::Moment, Value::String(recorded), Value::String(ours)) => {
            let never = |text: &str| NEVER.contains(&text);
            if !is_moment(ours) || ((never(recorded) || never(ours)) && recorded != ours) {
                differs();
            }
        }
        (Rule::Moment, Value::Number(_), Value::Number(_)) => {
            if (recorded == 0) != (ours == 0) {
                differs();
            }
        }
        (Rule::Any, Value::Number(_), Value::Number(_))
        | (Rule::Any, Value::String(_), Value::String(_)) => {}
        (Rule::Id(_), recorded, ours) if id(recorded).is_some() && id(ours).is_some() => {
            // That it is the counterpart was found out when it was learnt.
            if recorded.is_string() != ours.is_string() {
                differs();
            }
        }
        (Rule::Ulid, Value::String(_), Value::String(text)) => {
            if text.parse::<Ulid>().is_err() {
                differs();
            }
        }
        (Rule::Line, Value::String(recorded), Value::String(ours)) => {
            let text = |data: &str| {
                let bytes = STANDARD.decode(data).unwrap_or_default();
                String::from_utf8_lossy(&bytes).into_owned()
            };
            let (recorded, ours) = (text(recorded), names.shortened_to_recorded(&text(ours)));
            if recorded != ours {
                found.push(format!("{at}: recorded {recorded:?}, here {ours:?}"));
            }
        }
        (_, Value::String(text), Value::String(other)) => {
            let other = names.to_recorded(other);
            if *text != other {
                found.push(format!("{at}: recorded {text:?}, here {other:?}"));
            }
        }
        _ if recorded == ours => {}
        _ => differs(),
    }
}

fn objects(
    names: &Names,
    at: &str,
    recorded: &Map<String, Value>,
    ours: &Map<String, Value>,
    found: &mut Vec<String>,
) {
    for (key, value) in recorded {
        let at = format!("{at}.{key}");
        match ours.get(key) {
            Some(other) => {
                compare(names, &at, &rule(key, value, recorded), value, other, found);
            }
            None => found.push(format!("{at}: recorded {value}, missing here")),
        }
    }
    for (key, value) in ours.iter().filter(|(key, _)| !recorded.contains_key(*key)) {
        found.push(format!("{at}.{key}: not recorded, here {value}"));
    }
}

/// In what a field may differ.
fn rule(key: &str, value: &Value, of: &Map<String, Value>) -> Rule {
    let has = |key: &str| of.contains_key(key);
    if value.as_str().is_some_and(is_moment) {
        return Rule::Moment;
    }
    match key {
        // Each commit counts its statuses, and the record does not have them all.
        "id" if has("context") => Rule::Any,
        "id" => kind(of).map_or(Rule::Same, Rule::Id),
        "repo_id" => Rule::Id("repository"),
        "forge_remote_id" if has("login") => Rule::Id("user"),
        "forge_remote_id" => Rule::Id("repository"),
        "review_id" | "pull_request_review_id" if value != 0 => Rule::Id("review"),
        "pipeline_id" => Rule::Id("pipeline"),
        "step_id" => Rule::Id("step"),
        "created" | "updated" | "started" | "finished" | "timestamp" => Rule::Moment,
        // A repository's size on the disk, and its language, which is found out later.
        "size" | "language" if has("clone_url") => Rule::Any,
        // Seconds since a step began.
        "time" if has("step_id") => Rule::Any,
        "uuid" => Rule::Ulid,
        "data" if has("step_id") => Rule::Line,
        // A map's keys, in the order of the moment.
        "events" if has("branch_filter") => Rule::Set,
        _ => Rule::Same,
    }
}

/// What an object with an id is.
fn kind(of: &Map<String, Value>) -> Option<&'static str> {
    let has = |key: &str| of.contains_key(key);
    let ci = has("forge_id");
    // The first field that fits says it.
    let fields = [
        ("login", if ci { "ci user" } else { "user" }),
        ("forge_remote_id", "ci repository"),
        ("full_name", "repository"),
        ("branch_filter", "hook"),
        ("color", "label"),
        ("merge_base", "pull request"),
        ("submitted_at", "review"),
        ("tag_name", "release"),
        ("time_estimate", "issue"),
        ("issue_url", "comment"),
        ("diff_hunk", "comment"),
        ("children", "workflow"),
        ("ppid", "step"),
        ("rerun_count", "pipeline"),
        ("step_id", "line"),
    ];
    fields.into_iter().find(|(key, _)| has(key)).map(|(_, kind)| kind)
}

fn id(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => text.parse::<u64>().ok().map(|number| number.to_string()),
        _ => None,
    }
}

/// `2026-11-28T19:14:15Z`, also with an offset.
fn is_moment(text: &str) -> bool {
    text.len() >= 20 && text.as_bytes().get(10) == Some(&b'T') && text[..4].parse::<u16>().is_ok()
}

/// A pull request's history by kinds: a real server writes the entry of a push when its work in
/// the background comes to it.
fn in_order(mut items: Vec<Value>) -> Vec<Value> {
    if items.iter().all(|item| item.get("ref_action").is_some()) {
        items.sort_by_key(|item| item["type"].to_string());
    }
    items
}
