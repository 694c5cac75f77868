//! The stores that are compared with the one in memory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{Credentials, Region};
use aws_sdk_dynamodb::types::AttributeValue;
use rdev_aws::DynamoStore;
use rdev_aws::schema::create_table;
use rdev_domain::ids::TaskId;
use rdev_domain::ports::Store;
use rdev_domain::retention::Retention;
use rdev_embedded::{Options, open};
use rdev_lab::memory::MemoryStore;
use rdev_testkit::conformance::Keep;
use rdev_testkit::conformance::store::ReplaceRecord;
use rdev_testkit::servers::emulator::{Emulator, REGION};
use rusqlite::Connection;

use super::call::Outbox;
use super::flaws::Flaw;
use super::op::CLOCKS;
use super::seen::Look;

const TABLE: &str = "rdev";

/// A store that is compared.
pub(crate) struct Subject {
    /// One for each process that uses it: the workers' and, last, that of requests and
    /// maintenance. All of them see the same records.
    pub(crate) processes: Vec<Arc<dyn Store>>,
    pub(crate) outbox: Outbox,
    pub(crate) replace: ReplaceRecord,
    /// The sweep deletes what has expired, and counts it; elsewhere the database does it.
    pub(crate) deletes: bool,
    /// What is read after most of the operations; the rest after every eighth.
    pub(crate) look: Look,
    pub(crate) flaw: Option<Flaw>,
    #[expect(dead_code, reason = "what must outlive the store's use")]
    keep: Keep,
}

/// The store in memory, one more; with a flaw the comparison must find a difference.
pub(crate) fn memory(flaw: Option<Flaw>) -> Subject {
    let store = Arc::new(MemoryStore::new(Retention::default()));
    Subject {
        processes: vec![store.clone()],
        outbox: Vec::new(),
        replace: Arc::new(move |task, kind, body| {
            store.replace_record(task, kind, &body);
            Box::pin(std::future::ready(()))
        }),
        deletes: true,
        look: Look::Whole,
        flaw,
        keep: Box::new(()),
    }
}

impl Subject {
    pub(crate) fn process(&self, clock: usize) -> &dyn Store {
        &*self.processes[clock % self.processes.len()]
    }
}

pub(crate) async fn sqlite() -> Subject {
    // In memory where the system has such a folder: it waits for no disk.
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let folder = tempfile::tempdir_in(parent).expect("a folder");
    let data = open(&folder.path().join("data"), Options::default()).expect("a data folder");
    let file = data.folder.join("rdev.db");
    Subject {
        processes: vec![data.store.clone()],
        outbox: Vec::new(),
        replace: Arc::new(move |task, kind, body| {
            let conn = Connection::open(&file).expect("a second connection");
            conn.busy_timeout(Duration::from_secs(30)).expect("a timeout");
            let sql = "UPDATE tasks SET kind = ?2, body = ?3 WHERE id = ?1";
            let changed = conn.execute(sql, (task.0.to_bytes(), kind, body));
            assert_eq!(changed.expect("it is written"), 1);
            Box::pin(std::future::ready(()))
        }),
        deletes: true,
        look: Look::Whole,
        flaw: None,
        keep: Box::new((data, folder)),
    }
}

pub(crate) async fn dynamodb(emulator: &Emulator) -> Subject {
    let account = emulator.account();
    let config = rdev_aws::config::loader()
        .endpoint_url(&account.endpoint)
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new(&account.id, "test", None, None, "test"))
        .load()
        .await;
    let client = Client::new(&config);
    create_table(&client, TABLE).await.expect("a table");
    let process = || -> Arc<dyn Store> {
        let store = DynamoStore::new(client.clone(), TABLE.to_owned(), Retention::default());
        // The other stores choose the first of several equal projects.
        Arc::new(store.choosing_by(|| 0))
    };
    Subject {
        processes: (0..CLOCKS).map(|_| process()).collect(),
        outbox: Vec::new(),
        replace: Arc::new(move |task, kind, body| {
            Box::pin(replace_record(client.clone(), task, kind, body))
        }),
        deletes: false,
        look: Look::Tasks,
        flaw: None,
        keep: Box::new(()),
    }
}

/// Replaces the type and the body of a task, as another version would: with another `rev`.
async fn replace_record(client: Client, task: TaskId, kind: &'static str, body: String) {
    let pointer = client
        .get_item()
        .table_name(TABLE)
        .key("pk", AttributeValue::S(format!("T#{task}")))
        .key("sk", AttributeValue::S("PROJECT".to_owned()))
        .send()
        .await
        .expect("an answer");
    let project = pointer.item().and_then(|item| item.get("project")).expect("its project");
    client
        .update_item()
        .table_name(TABLE)
        .key("pk", AttributeValue::S(format!("P#{}", project.as_s().expect("a text"))))
        .key("sk", AttributeValue::S(format!("T#{task}")))
        .update_expression("SET body = :body, kind = :kind, rev = rev + :one")
        .condition_expression("attribute_exists(body)")
        .expression_attribute_values(":body", AttributeValue::S(body))
        .expression_attribute_values(":kind", AttributeValue::S(kind.to_owned()))
        .expression_attribute_values(":one", AttributeValue::N("1".to_owned()))
        .send()
        .await
        .expect("it exists");
}
