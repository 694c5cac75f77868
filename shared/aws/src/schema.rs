//! The one table: its keys, its two indexes, and the place of each record.
//!
//! | pk | sk | what | lists | due |
//! | --- | --- | --- | --- | --- |
//! | `P#<project>` | `META` | the project | `P#<shard>` by nonce | `V` while it is provisioned or deleted |
//! | | `META#SLOTS` | the tasks that have a lease, how many may have one, how many are queued | | `B` by the latest claim, while something is due; `L` while all that is queued is due later |
//! | | `Q#<class>#<rank>#<task>` | queue: what is due | | `Q#<shard>` by time |
//! | | `R#<available_at>#<task>` | queue: what is due later | | `R#<shard>` by time |
//! | | `T#<task>` | the task | `T#<shard>` by id | `S#<shard>` by time, while its commit status is to be sent |
//! | | `C#<commit>` | the commit's newest known pipeline | | |
//! | | `D#<name>` | a domain that the project has | | |
//! | | `V#<delivery>` | a webhook delivery | | `N#<shard>` by time, until it has ended |
//! | | `WEBHOOK` | its webhook, with the secret | | |
//! | `T#<task>` | `PROJECT` | its project, to find it by its id alone | | |
//! | | `LEASE` | its lease | | `H#running#<shard>`, `H#pushing#<shard>` |
//! | | `E#<fence>#<last seq>` | events | | |
//! | | `F#<version>#<n>` | a part of its diff | | |
//! | `D#<name>` | `DOMAIN` | the domain: at most one project has it | | |
//! | `O#<shard>` | `<outbox entry>`: a ULID of the time to send it | an outbox entry | | |
//! | `A#<project>`, or `A#-` | `<audit event>` | an audit event | `A#<shard>` by id | |
//! | `I#<hash>` | `REQUEST` | an idempotent request | | |
//! | `K#<id>` | `KEY` | an API key | `K` by time | |
//! | `W#<id>` | `WORKER` | a worker | `W` by id | `W` until it is offline |
//! | `DEAD` | `<id>` | a dead letter | | |
//! | `G#<repository's URL>` | `LOOK` | when the repository is looked through for refs | | `G#<shard>` by time |
//! | `SWEEP` | `WALK` | how far sweeps have walked through the queues | | |
//!
//! `META`, `META#SLOTS`, `Q#` and the due part of `R#` are neighbours, so that a claim reads
//! all of them with one consistent query.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType,
};
use rdev_domain::dns::DomainName;
use rdev_domain::git::CommitId;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::{KeyId, ProjectId, TaskId, WorkerId};
use rdev_domain::ports::PortResult;
use rdev_domain::request::RequestKey;
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::OutboxEntry;
use ulid::Ulid;

use crate::error::{defect, port_error};

/// The index of lists, newest first, and its keys. [`LISTED`] is projected too.
pub const LISTS: (&str, &str, &str) = ("lists", "lpk", "lsk");

/// The attributes by which lists are filtered: [`LISTS`] has them beside the keys.
pub const LISTED: [&str; 2] = ["state", "kind"];

/// The index of records that become due at some time, and its keys. Only keys are projected.
pub const DUE: (&str, &str, &str) = ("due", "dpk", "dsk");

/// The attribute by which DynamoDB deletes expired records, in seconds since 1970.
pub const EXPIRES_AT: &str = "expires_at";

/// The number of partitions of each list.
pub(crate) const LIST_SHARDS: u128 = 4;

/// The number of partitions of each part of [`DUE`], and of the outbox.
pub(crate) const DUE_SHARDS: u128 = 2;

pub(crate) const META: &str = "META";
pub(crate) const SLOTS: &str = "META#SLOTS";

/// Creates the table as the template does, without the settings that only production needs
/// (TTL, backups, encryption). The table may not be usable at once.
///
/// # Errors
/// If DynamoDB refuses.
pub async fn create_table(client: &Client, table: &str) -> PortResult<()> {
    let names = ["pk", "sk", LISTS.1, LISTS.2, DUE.1, DUE.2];
    let mut attributes = Vec::new();
    for name in names {
        let attribute = AttributeDefinition::builder().attribute_name(name);
        attributes.push(attribute.attribute_type(ScalarAttributeType::S).build().map_err(defect)?);
    }
    let keys_only = Projection::builder().projection_type(ProjectionType::KeysOnly).build();
    let listed = Projection::builder()
        .projection_type(ProjectionType::Include)
        .set_non_key_attributes(Some(LISTED.map(String::from).to_vec()))
        .build();
    let mut indexes = Vec::new();
    for ((name, hash, range), projection) in [(LISTS, listed), (DUE, keys_only)] {
        let index = GlobalSecondaryIndex::builder().index_name(name).projection(projection);
        let index = index.set_key_schema(Some(keys(hash, range)?)).build();
        indexes.push(index.map_err(defect)?);
    }
    client
        .create_table()
        .table_name(table)
        .billing_mode(BillingMode::PayPerRequest)
        .set_attribute_definitions(Some(attributes))
        .set_key_schema(Some(keys("pk", "sk")?))
        .set_global_secondary_indexes(Some(indexes))
        .send()
        .await
        .map_err(|error| port_error(table, "dynamodb:CreateTable", error))?;
    Ok(())
}

fn keys(hash: &str, range: &str) -> PortResult<Vec<KeySchemaElement>> {
    [(hash, KeyType::Hash), (range, KeyType::Range)]
        .into_iter()
        .map(|(name, kind)| {
            let key = KeySchemaElement::builder().attribute_name(name).key_type(kind);
            key.build().map_err(defect)
        })
        .collect()
}

/// An item's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) pk: String,
    pub(crate) sk: String,
}

impl Key {
    fn new(pk: impl Into<String>, sk: impl Into<String>) -> Self {
        Self { pk: pk.into(), sk: sk.into() }
    }

    pub(crate) fn project(id: &ProjectId) -> Self {
        Self::new(partition(id), META)
    }

    pub(crate) fn slots(id: &ProjectId) -> Self {
        Self::new(partition(id), SLOTS)
    }

    pub(crate) fn queue_entry(id: &ProjectId, place: &str) -> Self {
        Self::new(partition(id), place)
    }

    pub(crate) fn task(project: &ProjectId, id: TaskId) -> Self {
        Self::new(partition(project), format!("T#{id}"))
    }

    pub(crate) fn webhook(project: &ProjectId) -> Self {
        Self::new(partition(project), "WEBHOOK")
    }

    pub(crate) fn delivery(project: &ProjectId, id: Ulid) -> Self {
        Self::new(partition(project), format!("V#{id}"))
    }

    pub(crate) fn pipeline(project: &ProjectId, commit: &CommitId) -> Self {
        Self::new(partition(project), format!("C#{commit}"))
    }

    /// The domain itself.
    pub(crate) fn domain(name: &DomainName) -> Self {
        Self::new(format!("D#{name}"), "DOMAIN")
    }

    /// Records that the project has the domain.
    pub(crate) fn domain_of(project: &ProjectId, name: &DomainName) -> Self {
        Self::new(partition(project), format!("D#{name}"))
    }

    pub(crate) fn pointer(id: TaskId) -> Self {
        Self::new(task_partition(id), "PROJECT")
    }

    pub(crate) fn lease(id: TaskId) -> Self {
        Self::new(task_partition(id), "LEASE")
    }

    /// A chunk of events, by its last event: the chunks with later events sort above.
    pub(crate) fn events(task: TaskId, last: u64) -> Self {
        Self::new(task_partition(task), events_above(last))
    }

    pub(crate) fn diff(task: TaskId, version: u64, part: u32) -> Self {
        Self::new(task_partition(task), format!("F#{version:010}#{part:04}"))
    }

    pub(crate) fn outbox_entry(entry: &OutboxEntry) -> Self {
        let id = entry.id;
        Self::new(format!("O#{}", due_shard(id)), id.to_string())
    }

    pub(crate) fn audit(project: Option<&ProjectId>, id: Ulid) -> Self {
        Self::new(audit_partition(project), id.to_string())
    }

    pub(crate) fn request(key: &RequestKey) -> Self {
        Self::new(format!("I#{}", key.0), "REQUEST")
    }

    pub(crate) fn api_key(id: &KeyId) -> Self {
        Self::new(format!("K#{id}"), "KEY")
    }

    pub(crate) fn worker(id: &WorkerId) -> Self {
        Self::new(format!("W#{id}"), "WORKER")
    }

    pub(crate) fn dead_letter(id: Ulid) -> Self {
        Self::new(DEAD_LETTERS, id.to_string())
    }

    pub(crate) fn ref_look(repository: &GitUrl) -> Self {
        Self::new(format!("G#{repository}"), "LOOK")
    }

    /// How far sweeps have walked through the queues.
    pub(crate) fn walk() -> Self {
        Self::new("SWEEP", "WALK")
    }

    /// A key that is never written: reading it shows that the table answers.
    pub(crate) fn nothing() -> Self {
        Self::new("PING", "PING")
    }
}

pub(crate) const DEAD_LETTERS: &str = "DEAD";

pub(crate) fn partition(id: &ProjectId) -> String {
    format!("P#{id}")
}

/// The project of a partition, see [`partition`].
pub(crate) fn project_of(pk: &str) -> Option<ProjectId> {
    pk.strip_prefix("P#")?.parse().ok()
}

pub(crate) fn task_partition(id: TaskId) -> String {
    format!("T#{id}")
}

pub(crate) fn audit_partition(project: Option<&ProjectId>) -> String {
    format!("A#{}", project.map_or("-", ProjectId::as_str))
}

/// The sort key of the chunk that ends with `seq`.
pub(crate) fn events_above(seq: u64) -> String {
    let fence = seq / rdev_domain::event::MAX_EVENTS_PER_CLAIM;
    format!("E#{fence:010}#{seq:020}")
}

/// A time as a text that sorts in the order of time.
pub(crate) fn sortable(at: Timestamp) -> String {
    format!("{:015}", at.as_millis().max(0))
}

/// The ULID at the end of a sort key.
pub(crate) fn ulid_of(sk: &str) -> Option<Ulid> {
    Ulid::from_string(sk.rsplit('#').next()?).ok()
}

pub(crate) fn list_shard(id: Ulid) -> u128 {
    id.random() % LIST_SHARDS
}

pub(crate) fn due_shard(id: Ulid) -> u128 {
    id.random() % DUE_SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_finds_what_it_needs_between_two_sort_keys() {
        let due = format!("R#{}~", sortable(Timestamp::from_millis(1_795_424_624_940)));
        for near in [META, SLOTS, "Q#0#001795424624940#01", "Q#1#9#01", "R#000000000000001#01"] {
            assert!((META..=due.as_str()).contains(&near), "{near}");
        }
        for far in [
            "C#0123456789abcdef0123456789abcdef01234567",
            "D#www.example.com",
            "R#001795424624941#01",
            "T#01JDGZ2V9QK8M3T5X7Y9ABCDEF",
            "V#01JDGZ2V9QK8M3T5X7Y9ABCDEF",
            "WEBHOOK",
        ] {
            assert!(!(META..=due.as_str()).contains(&far), "{far}");
        }
    }
}
