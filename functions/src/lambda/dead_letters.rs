//! The batches that Lambda reads from the dead-letter queue. Lambda deletes what the answer
//! does not name.

use futures_util::future::join_all;
use rdev_domain::chain;
use rdev_domain::ports::{DeadMessage, PortError, Queue, Receipt, Store};
use rdev_domain::time::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::clock::now;
use crate::services::maintenance;

#[derive(Deserialize)]
struct Batch {
    #[serde(rename = "Records")]
    records: Vec<Message>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message {
    message_id: String,
    #[serde(default)]
    receipt_handle: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    attributes: Attributes,
}

/// Numbers that SQS writes as text.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Attributes {
    approximate_receive_count: String,
    sent_timestamp: String,
}

/// Records every message of a batch. The answer names those that are to be delivered again.
///
/// # Errors
/// When `event` is not a batch of SQS messages.
pub async fn batch(
    store: &dyn Store,
    queue: &dyn Queue,
    event: Value,
) -> Result<Value, serde_json::Error> {
    let batch: Batch = serde_json::from_value(event)?;
    // Concurrently: when the store is unavailable, each of them waits for it.
    let recorded = batch.records.into_iter().map(async |message| {
        let id = message.message_id.clone();
        let recorded = maintenance::record(store, queue, &message.into(), now()).await;
        recorded.map_err(|error| failed(&id, &error))
    });
    let failures: Vec<Value> =
        join_all(recorded).await.into_iter().filter_map(Result::err).collect();
    Ok(json!({ "batchItemFailures": failures }))
}

fn failed(message: &str, error: &PortError) -> Value {
    tracing::warn!(message, error = %chain(error), "a dead message was not recorded");
    json!({ "itemIdentifier": message })
}

impl From<Message> for DeadMessage {
    fn from(message: Message) -> Self {
        // Without its time a message still has one record, at the end of the list.
        let sent_at = message.attributes.sent_timestamp.parse().unwrap_or(0);
        Self {
            receipt: Receipt(message.receipt_handle),
            body: message.body,
            receive_count: message.attributes.approximate_receive_count.parse().unwrap_or(0),
            sent_at: Timestamp::from_millis(sent_at),
        }
    }
}
