//! What DynamoDB does and its emulator does not: an index that is behind its table, and
//! transactions that meet.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use hyper::StatusCode;
use serde_json::{Value, json};

use super::call::{Call, Service};
use super::host::locked;

/// How the proxy differs from the emulator.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// The table whose indexes answer instead of those of the table that is asked.
    indexes_of: Mutex<Option<String>>,
    /// Whether writes that meet in an item are refused.
    exclusive: Mutex<bool>,
    /// The items that are being written, if so.
    written: Mutex<HashSet<Item>>,
}

/// The table, the partition key and the sort key of an item.
type Item = (String, String, String);

/// The items that a call writes. They are free again when this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    tables: Arc<Tables>,
    items: Vec<Item>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut written = locked(&self.tables.written);
        for item in &self.items {
            written.remove(item);
        }
    }
}

impl Tables {
    pub(super) fn answer_indexes_from(&self, table: Option<&str>) {
        *locked(&self.indexes_of) = table.map(str::to_owned);
    }

    pub(super) fn refuse_writes_that_meet(&self) {
        *locked(&self.exclusive) = true;
    }

    /// The body of a call as it goes on, if it is not the one that came.
    pub(super) fn redirected(&self, call: &Call, body: &[u8]) -> Option<Vec<u8>> {
        let table = locked(&self.indexes_of).clone()?;
        if (call.service, call.operation.as_str()) != (Service::DynamoDb, "Query") {
            return None;
        }
        let mut query: Value = serde_json::from_slice(body).ok()?;
        query.get("IndexName")?;
        query["TableName"] = Value::String(table);
        serde_json::to_vec(&query).ok()
    }

    /// Takes the items that a call writes or checks, for as long as it lasts. `Err` is the answer
    /// if another call has one of them.
    pub(super) fn hold(
        self: &Arc<Self>,
        call: &Call,
        body: &[u8],
    ) -> Result<Option<Held>, (StatusCode, String)> {
        if !*locked(&self.exclusive) {
            return Ok(None);
        }
        let items = items(call, body);
        if items.is_empty() {
            return Ok(None);
        }
        let mut written = locked(&self.written);
        let meets: Vec<bool> = items.iter().map(|item| written.contains(item)).collect();
        if meets.contains(&true) {
            return Err(conflict(call, &meets));
        }
        written.extend(items.iter().cloned());
        Ok(Some(Held { tables: Arc::clone(self), items }))
    }
}

fn items(call: &Call, body: &[u8]) -> Vec<Item> {
    if call.service != Service::DynamoDb {
        return Vec::new();
    }
    let Ok(request) = serde_json::from_slice::<Value>(body) else { return Vec::new() };
    let item = |write: &Value| {
        let key = write.get("Key").or_else(|| write.get("Item"))?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some((text(&write["TableName"])?, text(&key["pk"]["S"])?, text(&key["sk"]["S"])?))
    };
    match call.operation.as_str() {
        "PutItem" | "UpdateItem" | "DeleteItem" => item(&request).into_iter().collect(),
        "TransactWriteItems" => {
            let writes = request["TransactItems"].as_array().into_iter().flatten();
            writes.filter_map(|write| write.as_object()?.values().find_map(item)).collect()
        }
        _ => Vec::new(),
    }
}

fn conflict(call: &Call, meets: &[bool]) -> (StatusCode, String) {
    let of = |code: &str| format!("com.amazonaws.dynamodb.v20120810#{code}");
    let answer = if call.operation == "TransactWriteItems" {
        let reason =
            |&meets: &bool| json!({"Code": if meets { "TransactionConflict" } else { "None" }});
        let reasons: Vec<Value> = meets.iter().map(reason).collect();
        json!({
            "__type": of("TransactionCanceledException"),
            "message": "the proxy has another transaction of the item",
            "CancellationReasons": reasons,
        })
    } else {
        json!({
            "__type": of("TransactionConflictException"),
            "message": "the proxy has another transaction of the item",
        })
    };
    (StatusCode::BAD_REQUEST, answer.to_string())
}
