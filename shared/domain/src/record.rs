//! The format of stored task records: which of them this program reads, and which it leaves alone.
//!
//! A record has its format's version in the field `v`; without it, the version is 1. A program
//! does not run, fail or change a task whose record has a newer version than its own: the newer
//! program that wrote it is there to do so. Other records that cannot be read are `poison`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::spec::{BuildSpec, CheckSpec, UnreadableSpec, Work};
use crate::task::Task;

/// The version of the records that this program writes. Since version 2 a task has tickets, since
/// version 3 its project's nonce, since version 4 tickets whose work is not verified yet and what is
/// set on its pull request. An older program knows nothing of them: it would drop them, deliver such
/// work, or not read the task.
pub const VERSION: u64 = 4;

/// The version of a record that this program reads: this one or an older one. It writes this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Version;

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        VERSION.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            1..=VERSION => Ok(Self),
            _ => Err(serde::de::Error::custom("the record has another version")),
        }
    }
}

/// The format of a program: the version that it writes, and the newest one that it reads. Every
/// program has [`Format::CURRENT`]; in a test an older or a newer one works beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format(u64);

impl Format {
    /// This program's own.
    pub const CURRENT: Self = Self(VERSION);

    /// The format of the programs of a version.
    pub const fn of(version: u64) -> Self {
        Self(version)
    }

    /// Whether a program of this format leaves a record of the version alone.
    pub fn leaves(self, version: u64) -> bool {
        version > self.0
    }

    /// The version that is written.
    pub fn version(self) -> u64 {
        self.0
    }

    /// Writes the body of a task's record.
    ///
    /// # Errors
    /// When the task cannot be written as JSON, which would be a defect.
    pub fn encode(self, task: &Task) -> serde_json::Result<String> {
        if self == Self::CURRENT {
            return serde_json::to_string(task);
        }
        let mut fields = serde_json::to_value(task)?;
        fields["v"] = json!(self.0);
        serde_json::to_string(&fields)
    }

    /// Reads the body of a task's record.
    pub fn decode(self, body: &[u8]) -> Decoded {
        if self == Self::CURRENT {
            return decode(body);
        }
        let Ok(mut fields) = serde_json::from_slice::<Map<String, Value>>(body) else {
            return decode(body);
        };
        match fields.get("v").and_then(Value::as_u64) {
            Some(version) if self.leaves(version) => Decoded::Newer,
            Some(version) if Self::CURRENT.leaves(version) => {
                fields.insert("v".to_owned(), json!(VERSION));
                decode(Value::Object(fields).to_string().as_bytes())
            }
            _ => decode(body),
        }
    }
}

/// What a record's body holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded {
    /// A task.
    Task(Box<Task>),
    /// A task whose type or spec cannot be read; it has [`Work::Unreadable`].
    UnreadableWork(Box<Task>),
    /// A record in a newer format.
    Newer,
    /// Anything else.
    Undecodable,
}

fn decode(body: &[u8]) -> Decoded {
    match serde_json::from_slice(body) {
        Ok(task) => Decoded::Task(Box::new(task)),
        Err(_) => serde_json::from_slice(body).map_or(Decoded::Undecodable, decode_fields),
    }
}

fn decode_fields(mut fields: Map<String, Value>) -> Decoded {
    if fields.get("v").and_then(Value::as_u64).is_some_and(|version| version > VERSION) {
        return Decoded::Newer;
    }
    let Some(Value::String(kind)) = fields.remove("type") else { return Decoded::Undecodable };
    let spec = fields.remove("spec").unwrap_or_default();
    // A spec that can be read, to read the other fields.
    fields.insert("type".to_owned(), json!(CheckSpec::KIND));
    fields.insert("spec".to_owned(), json!({ "commands": [] }));
    match serde_json::from_value::<Task>(Value::Object(fields)) {
        Ok(task) => {
            let work = Work::Unreadable(UnreadableSpec { kind, spec });
            Decoded::UnreadableWork(Box::new(Task { work, ..task }))
        }
        Err(_) => Decoded::Undecodable,
    }
}

/// The work of a task whose body cannot be read, from the type and the agent that a store keeps
/// beside the body.
pub fn work_beside_body(kind: &str, agent: &str) -> Work {
    match kind {
        BuildSpec::KIND => {
            let agent = agent.parse().unwrap_or_default();
            Work::Build(BuildSpec { agent, ..BuildSpec::of("") })
        }
        CheckSpec::KIND => Work::Check(CheckSpec::of(vec![])),
        unknown => unreadable_work(unknown),
    }
}

/// Work of which only the type's name is known.
pub fn unreadable_work(kind: &str) -> Work {
    Work::Unreadable(UnreadableSpec { kind: kind.to_owned(), spec: json!({}) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TaskId;
    use crate::step::retry;
    use crate::task::TaskState;
    use crate::time::Timestamp;

    const NOW: Timestamp = Timestamp::from_millis(0);

    fn task() -> Task {
        let work = Work::Build(BuildSpec::of("make it blue"));
        let id = TaskId(ulid::Ulid::from_parts(1, 1));
        Task { attempt: 2, ..Task::new(id, "site".parse().expect("a slug"), work, NOW) }
    }

    /// The task's record with a field changed.
    fn with(field: &str, value: Value) -> Vec<u8> {
        let mut record = serde_json::to_value(task()).expect("a record");
        record[field] = value;
        serde_json::to_vec(&record).expect("JSON")
    }

    #[test]
    fn a_record_has_this_version_and_is_read_with_an_older_one_or_none() {
        let mut body = serde_json::to_value(task()).expect("a record");
        assert_eq!(body["v"], json!(VERSION));
        for version in 1..=VERSION {
            assert_eq!(decode(&with("v", json!(version))), Decoded::Task(Box::new(task())));
        }
        body.as_object_mut().expect("an object").remove("v");
        assert_eq!(decode(body.to_string().as_bytes()), Decoded::Task(Box::new(task())));
    }

    #[test]
    fn a_record_of_a_newer_version_is_newer_whether_or_not_the_rest_can_be_read() {
        for body in [
            with("v", json!(VERSION + 1)),
            with("v", json!(u64::MAX)),
            format!(r#"{{"v":{},"x":1}}"#, VERSION + 1).into_bytes(),
        ] {
            assert_eq!(decode(&body), Decoded::Newer);
        }
    }

    #[test]
    fn each_format_reads_its_own_records_and_older_ones_and_leaves_newer_ones() {
        for writer in VERSION - 1..=VERSION + 1 {
            let body = Format::of(writer).encode(&task()).expect("JSON");
            for reader in VERSION - 1..=VERSION + 1 {
                let read = Format::of(reader).decode(body.as_bytes());
                let expected =
                    if writer > reader { Decoded::Newer } else { Decoded::Task(Box::new(task())) };
                assert_eq!(read, expected, "{writer}, read by {reader}");
            }
        }
        assert_eq!(Format::of(VERSION + 1).decode(b"x"), Decoded::Undecodable);
    }

    #[test]
    fn any_other_record_is_undecodable() {
        for body in [&b""[..], b"x", b"[]", b"{}", b"{\"v\":1}", b"{\"type\":\"build\"}", &[0xff]] {
            assert_eq!(decode(body), Decoded::Undecodable);
        }
        for version in [json!(0), json!("2"), json!(-2), json!(null), json!(1.5)] {
            assert_eq!(decode(&with("v", version)), Decoded::Undecodable);
        }
        assert_eq!(decode(&with("attempt", json!("many"))), Decoded::Undecodable);
        assert_eq!(decode(&with("type", json!(7))), Decoded::Undecodable);
    }

    #[test]
    fn an_unknown_type_keeps_the_rest_of_its_record_and_reads_back() {
        for (field, kind) in [("type", "deploy"), ("spec", "build")] {
            let Decoded::UnreadableWork(read) = decode(&with(field, json!("deploy"))) else {
                panic!("the work cannot be read");
            };
            assert_eq!((read.work.kind(), read.work.agent()), (kind, None));
            assert_eq!((read.id, read.attempt), (task().id, 2));
            assert!(read.work.check().is_err());
            let body = serde_json::to_vec(&read).expect("JSON");
            assert_eq!(body.len(), with(field, json!("deploy")).len());
            assert_eq!(decode(&body), Decoded::UnreadableWork(read.clone()));
            let failed = Task { state: TaskState::Failed, ..*read };
            assert!(retry(&failed, task().id, NOW).is_err(), "no program can do its work");
        }
    }

    #[test]
    fn what_stands_beside_a_body_says_its_type_and_never_another() {
        let of = work_beside_body;
        assert_eq!(of("build", "codex").agent(), Some(crate::spec::AgentName::Codex));
        assert_eq!(of("build", "a new one").agent(), Some(crate::spec::AgentName::Command));
        for kind in ["build", "check", "deploy", ""] {
            assert_eq!(of(kind, "codex").kind(), kind);
        }
        assert!(matches!(of("deploy", ""), Work::Unreadable(_)));
    }
}
