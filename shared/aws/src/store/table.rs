//! The calls to DynamoDB. Reads are consistent. A condition that does not hold is a result and
//! no error. A call is tried again for a while if the table is busy.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::query::QueryOutput;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    DeleteRequest, KeysAndAttributes, ReturnValue, ReturnValuesOnConditionCheckFailure, Select,
    WriteRequest,
};
use futures_util::future::try_join_all;
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{Conflict, PortResult};
use ulid::Ulid;

use super::item::{Item, Values, key_item, names, text, values};
use super::writes::{Cancellation, Writes};
use crate::error::{busy, defect, port_error};
use crate::schema::{Key, partition};

/// How many times a busy call is tried, beside the retries of the SDK.
const MAX_TRIES: u32 = 8;

/// How many times a write is tried that meets another one of the same item: each of fifty that are
/// made at the same moment gets its turn, within about 10 s.
const MAX_MEETINGS: u32 = 16;

/// The most keys of one `BatchGetItem`.
const MAX_GETS: usize = 100;

/// The most deletes of one `BatchWriteItem`.
const MAX_DELETES: usize = 25;

/// A query. Its conditions are expressions in which `#word` stands for `word`.
#[derive(Debug, Clone, Default)]
pub(super) struct Query {
    /// The index. Without one, the query reads the table itself, consistently.
    pub(super) index: Option<&'static str>,
    pub(super) keys: &'static str,
    pub(super) filter: String,
    pub(super) with: Values,
    pub(super) newest_first: bool,
    pub(super) limit: Option<u32>,
    /// The last key of the previous page.
    pub(super) after: Option<Item>,
}

impl Query {
    /// The items of a project whose sort keys lie between these two, both included.
    pub(super) fn between(project: &ProjectId, from: &str, to: &str) -> Self {
        Self {
            keys: "#pk = :pk AND #sk BETWEEN :from AND :to",
            with: vec![(":pk", text(partition(project))), (":from", text(from)), (":to", text(to))],
            ..Self::default()
        }
    }
}

/// A page of a query.
#[derive(Debug)]
pub(super) struct QueryPage {
    pub(super) items: Vec<Item>,
    /// The last key of this page, if there may be more.
    pub(super) last: Option<Item>,
}

/// Waits for a random time that grows with each try, so that two racing writers do not meet
/// again.
pub(super) async fn pause(tries: u32) {
    let most = 20.0 * f64::from(1 << tries.min(6));
    let wait = Duration::from_secs_f64(most * (0.25 + 0.75 * rand::random::<f64>()) / 1000.0);
    tokio::time::sleep(wait).await;
}

/// The table, and a client for it.
#[derive(Debug)]
pub(super) struct Table {
    client: Client,
    name: String,
}

impl Table {
    pub(super) fn new(client: Client, name: String) -> Self {
        Self { client, name }
    }

    /// The writes of a new transaction: none yet.
    pub(super) fn writes(&self) -> Writes {
        Writes::new(&self.name)
    }

    /// One item.
    pub(super) async fn get(&self, key: Key) -> PortResult<Option<Item>> {
        let get = self.client.get_item().table_name(&self.name).set_key(Some(key_item(key)));
        let answer = get.consistent_read(true).send().await;
        Ok(answer.map_err(|error| port_error(&self.name, "dynamodb:GetItem", error))?.item)
    }

    /// Those of the items that exist, in no order. No key may be given twice.
    pub(super) async fn get_all(&self, keys: Vec<Key>) -> PortResult<Vec<Item>> {
        let parts = keys.chunks(MAX_GETS).map(|keys| self.get_some(keys.to_vec()));
        Ok(try_join_all(parts).await?.into_iter().flatten().collect())
    }

    async fn get_some(&self, keys: Vec<Key>) -> PortResult<Vec<Item>> {
        let mut keys: Vec<Item> = keys.into_iter().map(key_item).collect();
        let mut items = Vec::with_capacity(keys.len());
        let mut tries = 0;
        while !keys.is_empty() {
            let request =
                KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build();
            let get = self.client.batch_get_item();
            let answer = get.request_items(&self.name, request.map_err(defect)?).send().await;
            let answer =
                answer.map_err(|error| port_error(&self.name, "dynamodb:BatchGetItem", error))?;
            let before = items.len();
            items.extend(answer.responses.into_iter().flatten().flat_map(|(_, items)| items));
            // The answer would be too large, or the call is throttled.
            let unprocessed = answer.unprocessed_keys.into_iter().flatten();
            keys = unprocessed.flat_map(|(_, keys)| keys.keys).collect();
            if !keys.is_empty() && items.len() == before {
                tries += 1;
                self.pause_while_busy(
                    tries,
                    "dynamodb:BatchGetItem",
                    "it did not process all keys",
                )
                .await?;
            }
        }
        Ok(items)
    }

    pub(super) async fn query(&self, query: Query) -> PortResult<QueryPage> {
        let answer = self.send_query(query, None).await?;
        let last = answer.last_evaluated_key.filter(|key| !key.is_empty());
        Ok(QueryPage { items: answer.items.unwrap_or_default(), last })
    }

    /// How many items a query finds. They are counted where they are stored, in pages of 1 MB;
    /// `None` if there are more than `max_pages` of these.
    pub(super) async fn count(
        &self,
        mut query: Query,
        max_pages: usize,
    ) -> PortResult<Option<u64>> {
        let mut count = 0;
        for _ in 0..max_pages {
            let answer = self.send_query(query.clone(), Some(Select::Count)).await?;
            count += u64::try_from(answer.count).unwrap_or_default();
            query.after = answer.last_evaluated_key.filter(|key| !key.is_empty());
            if query.after.is_none() {
                return Ok(Some(count));
            }
        }
        Ok(None)
    }

    async fn send_query(&self, query: Query, select: Option<Select>) -> PortResult<QueryOutput> {
        let Query { index, keys, filter, with, newest_first, limit, after } = query;
        self.client
            .query()
            .table_name(&self.name)
            .set_index_name(index.map(str::to_owned))
            .consistent_read(index.is_none())
            .key_condition_expression(keys)
            .set_filter_expression((!filter.is_empty()).then(|| filter.to_owned()))
            .set_expression_attribute_names(names(&[keys, &filter]))
            .set_expression_attribute_values(values(with))
            .scan_index_forward(!newest_first)
            .set_limit(limit.map(|limit| i32::try_from(limit).unwrap_or(i32::MAX)))
            .set_exclusive_start_key(after)
            .set_select(select)
            .send()
            .await
            .map_err(|error| port_error(&self.name, "dynamodb:Query", error))
    }

    /// Every item of a query.
    pub(super) async fn query_all(&self, mut query: Query) -> PortResult<Vec<Item>> {
        let mut items = Vec::new();
        loop {
            let found = self.query(query.clone()).await?;
            items.extend(found.items);
            match found.last {
                Some(last) => query.after = Some(last),
                None => return Ok(items),
            }
        }
    }

    /// Updates an item and returns the new one. If the condition does not hold, returns the
    /// present item, if there is one. The update must have the same result when it is applied
    /// twice.
    pub(super) async fn update(
        &self,
        key: Key,
        update: &str,
        condition: &str,
        with: Values,
    ) -> PortResult<Result<Item, Option<Item>>> {
        let mut tries = 0;
        loop {
            let answer = self
                .client
                .update_item()
                .table_name(&self.name)
                .set_key(Some(key_item(key.clone())))
                .update_expression(update)
                .set_condition_expression((!condition.is_empty()).then(|| condition.to_owned()))
                .set_expression_attribute_names(names(&[update, condition]))
                .set_expression_attribute_values(values(with.clone()))
                .return_values(ReturnValue::AllNew)
                .return_values_on_condition_check_failure(
                    ReturnValuesOnConditionCheckFailure::AllOld,
                )
                .send()
                .await;
            let error = match answer {
                Ok(answer) => return Ok(Ok(answer.attributes.unwrap_or_default())),
                Err(error) => error,
            };
            match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                    return Ok(Err(failed.item().cloned()));
                }
                Some(UpdateItemError::TransactionConflictException(_)) => {
                    tries += 1;
                    self.pause_after_conflict(tries).await?;
                }
                _ => return Err(port_error(&self.name, "dynamodb:UpdateItem", error)),
            }
        }
    }

    /// Writes an item if the condition holds for the present one; otherwise returns the present
    /// one. The caller must recognise an item that an earlier try of its own has written.
    pub(super) async fn put_if(
        &self,
        item: Item,
        condition: &str,
        with: Values,
    ) -> PortResult<Result<(), Option<Item>>> {
        let mut tries = 0;
        loop {
            let answer = self
                .client
                .put_item()
                .table_name(&self.name)
                .set_item(Some(item.clone()))
                .condition_expression(condition)
                .set_expression_attribute_names(names(&[condition]))
                .set_expression_attribute_values(values(with.clone()))
                .return_values_on_condition_check_failure(
                    ReturnValuesOnConditionCheckFailure::AllOld,
                )
                .send()
                .await;
            let Err(error) = answer else { return Ok(Ok(())) };
            match error.as_service_error() {
                Some(PutItemError::ConditionalCheckFailedException(failed)) => {
                    return Ok(Err(failed.item().cloned()));
                }
                Some(PutItemError::TransactionConflictException(_)) => {
                    tries += 1;
                    self.pause_after_conflict(tries).await?;
                }
                _ => return Err(port_error(&self.name, "dynamodb:PutItem", error)),
            }
        }
    }

    /// Deletes those of the items that exist.
    pub(super) async fn delete_all(&self, keys: Vec<Key>) -> PortResult<()> {
        try_join_all(keys.chunks(MAX_DELETES).map(|keys| self.delete_some(keys.to_vec()))).await?;
        Ok(())
    }

    async fn delete_some(&self, keys: Vec<Key>) -> PortResult<()> {
        let mut writes = Vec::with_capacity(keys.len());
        for key in keys {
            let delete = DeleteRequest::builder().set_key(Some(key_item(key))).build();
            let delete = delete.map_err(defect)?;
            writes.push(WriteRequest::builder().delete_request(delete).build());
        }
        let mut tries = 0;
        while !writes.is_empty() {
            let write = self.client.batch_write_item().request_items(&self.name, writes);
            let answer = write.send().await;
            let answer =
                answer.map_err(|error| port_error(&self.name, "dynamodb:BatchWriteItem", error))?;
            let unprocessed = answer.unprocessed_items.into_iter().flatten();
            writes = unprocessed.flat_map(|(_, writes)| writes).collect();
            if !writes.is_empty() {
                tries += 1;
                self.pause_while_busy(
                    tries,
                    "dynamodb:BatchWriteItem",
                    "it did not process all writes",
                )
                .await?;
            }
        }
        Ok(())
    }

    /// Writes all or nothing. A token makes all retries of the SDK the same transaction.
    pub(super) async fn transact(&self, writes: Writes) -> PortResult<Result<(), Cancellation>> {
        const CALL: &str = "dynamodb:TransactWriteItems";
        const NEEDS: &str = "dynamodb:PutItem, UpdateItem, DeleteItem and ConditionCheckItem";
        let writes = writes.into_items().map_err(defect)?;
        let (mut tries, mut token) = (0, Ulid::generate());
        loop {
            let write = self.client.transact_write_items();
            let write = write.set_transact_items(Some(writes.clone()));
            let answer = write.client_request_token(token.to_string()).send().await;
            let Err(error) = answer else { return Ok(Ok(())) };
            match error.as_service_error() {
                Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
                    let has = |codes: &[&str]| {
                        let mut reasons = cancelled.cancellation_reasons().iter();
                        reasons.any(|reason| reason.code().is_some_and(|c| codes.contains(&c)))
                    };
                    tries += 1;
                    if has(&["ConditionalCheckFailed"]) {
                        let reasons = cancelled.cancellation_reasons().to_vec();
                        return Ok(Err(Cancellation::new(reasons)));
                    } else if has(&["TransactionConflict"]) {
                        self.pause_after_conflict(tries).await?;
                    } else if has(&["ThrottlingError", "ProvisionedThroughputExceeded"]) {
                        self.pause_while_busy(tries, CALL, "it is throttled").await?;
                    } else {
                        return Err(port_error(&self.name, NEEDS, error));
                    }
                    // Nothing was written: the next try is another transaction.
                    token = Ulid::generate();
                }
                // An earlier try of the same transaction is still in progress.
                Some(TransactWriteItemsError::TransactionInProgressException(_)) => {
                    tries += 1;
                    self.pause_while_busy(tries, CALL, "an earlier try is still in progress")
                        .await?;
                }
                _ => return Err(port_error(&self.name, NEEDS, error)),
            }
        }
    }

    /// Waits before the next try of a call to a busy table. After the last try it is an error.
    async fn pause_while_busy(
        &self,
        tries: u32,
        call: &'static str,
        reason: &str,
    ) -> PortResult<()> {
        if tries == MAX_TRIES {
            return Err(busy(&self.name, call, reason));
        }
        pause(tries).await;
        Ok(())
    }

    /// Waits before the next try of a write that met another one.
    async fn pause_after_conflict(&self, tries: u32) -> PortResult<()> {
        if tries == MAX_MEETINGS {
            return Err(Conflict::Contended.into());
        }
        pause(tries).await;
        Ok(())
    }
}
