//! The calls to DynamoDB: reads are consistent, conditions that do not hold are answers, and
//! what is busy is tried again for a while.

use std::time::Duration;

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    DeleteRequest, KeysAndAttributes, ReturnValue, ReturnValuesOnConditionCheckFailure,
    WriteRequest,
};
use futures_util::future::try_join_all;
use rdev_domain::ports::{Conflict, PortResult};
use ulid::Ulid;

use super::DynamoStore;
use super::item::{Item, Values, key_item, names, values};
use super::writes::{Lost, Writes};
use crate::error::{busy, defect, failed};
use crate::schema::Key;

/// How often what is busy is tried again, beside what the SDK itself does.
const TRIES: u32 = 8;

/// What one `BatchGetItem` takes.
const GETS: usize = 100;

/// What one `BatchWriteItem` takes.
const DELETES: usize = 25;

/// A query. Its conditions are expressions in which `#word` stands for `word`.
#[derive(Debug, Default)]
pub(super) struct Query {
    /// The index; the table itself, and consistently, without one.
    pub(super) index: Option<&'static str>,
    pub(super) keys: &'static str,
    pub(super) filter: &'static str,
    pub(super) with: Values,
    pub(super) newest_first: bool,
    pub(super) limit: Option<u32>,
    /// Where an earlier page ended.
    pub(super) after: Option<Item>,
}

/// A page of a query.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) items: Vec<Item>,
    /// Where it ended, if there may be more.
    pub(super) last: Option<Item>,
}

/// Waits for a moment that grows with each try, and is never the same for two that race.
pub(super) async fn pause(tries: u32) {
    let most = 20.0 * f64::from(1 << tries.min(6));
    let wait = Duration::from_secs_f64(most * (0.25 + 0.75 * rand::random::<f64>()) / 1000.0);
    tokio::time::sleep(wait).await;
}

impl DynamoStore {
    /// One item.
    pub(super) async fn get(&self, key: Key) -> PortResult<Option<Item>> {
        let get = self.client.get_item().table_name(&self.table).set_key(Some(key_item(key)));
        let answer = get.consistent_read(true).send().await;
        Ok(answer.map_err(|error| failed(&self.table, "dynamodb:GetItem", error))?.item)
    }

    /// Those of the items that are there, in no order. No key may be named twice.
    pub(super) async fn get_all(&self, keys: Vec<Key>) -> PortResult<Vec<Item>> {
        let parts = keys.chunks(GETS).map(|keys| self.get_some(keys.to_vec()));
        Ok(try_join_all(parts).await?.into_iter().flatten().collect())
    }

    async fn get_some(&self, keys: Vec<Key>) -> PortResult<Vec<Item>> {
        let mut keys: Vec<Item> = keys.into_iter().map(key_item).collect();
        let mut items = Vec::with_capacity(keys.len());
        let mut tries = 0;
        while !keys.is_empty() {
            let wanted =
                KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build();
            let get = self.client.batch_get_item();
            let answer = get.request_items(&self.table, wanted.map_err(defect)?).send().await;
            let answer =
                answer.map_err(|error| failed(&self.table, "dynamodb:BatchGetItem", error))?;
            let before = items.len();
            items.extend(answer.responses.into_iter().flatten().flat_map(|(_, items)| items));
            // Too large for one answer, or too much at once.
            let left = answer.unprocessed_keys.into_iter().flatten();
            keys = left.flat_map(|(_, left)| left.keys).collect();
            if !keys.is_empty() && items.len() == before {
                tries += 1;
                self.again(tries, "dynamodb:BatchGetItem", "it left keys out").await?;
            }
        }
        Ok(items)
    }

    pub(super) async fn query(&self, query: Query) -> PortResult<Found> {
        let Query { index, keys, filter, with, newest_first, limit, after } = query;
        let answer = self
            .client
            .query()
            .table_name(&self.table)
            .set_index_name(index.map(str::to_owned))
            .consistent_read(index.is_none())
            .key_condition_expression(keys)
            .set_filter_expression((!filter.is_empty()).then(|| filter.to_owned()))
            .set_expression_attribute_names(names(&[keys, filter]))
            .set_expression_attribute_values(values(with))
            .scan_index_forward(!newest_first)
            .set_limit(limit.map(|limit| i32::try_from(limit).unwrap_or(i32::MAX)))
            .set_exclusive_start_key(after)
            .send()
            .await
            .map_err(|error| failed(&self.table, "dynamodb:Query", error))?;
        let last = answer.last_evaluated_key.filter(|key| !key.is_empty());
        Ok(Found { items: answer.items.unwrap_or_default(), last })
    }

    /// Every item of a query.
    pub(super) async fn query_all(&self, query: impl Fn() -> Query) -> PortResult<Vec<Item>> {
        let mut found = self.query(query()).await?;
        let mut items = found.items;
        while let Some(after) = found.last {
            found = self.query(Query { after: Some(after), ..query() }).await?;
            items.extend(found.items);
        }
        Ok(items)
    }

    /// Changes an item; it as it is then. Where the condition does not hold, it as it is
    /// instead, if it is there. The change must be one that may be done twice.
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
                .table_name(&self.table)
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
                Some(UpdateItemError::ConditionalCheckFailedException(lost)) => {
                    return Ok(Err(lost.item().cloned()));
                }
                Some(UpdateItemError::TransactionConflictException(_)) => {
                    tries += 1;
                    self.again_contended(tries).await?;
                }
                _ => return Err(failed(&self.table, "dynamodb:UpdateItem", error)),
            }
        }
    }

    /// Writes an item if the condition holds of the one that is there; else that one. The
    /// caller tells what it has written itself from what others have.
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
                .table_name(&self.table)
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
                Some(PutItemError::ConditionalCheckFailedException(lost)) => {
                    return Ok(Err(lost.item().cloned()));
                }
                Some(PutItemError::TransactionConflictException(_)) => {
                    tries += 1;
                    self.again_contended(tries).await?;
                }
                _ => return Err(failed(&self.table, "dynamodb:PutItem", error)),
            }
        }
    }

    /// Deletes items that may not be there.
    pub(super) async fn delete_all(&self, keys: Vec<Key>) -> PortResult<()> {
        try_join_all(keys.chunks(DELETES).map(|keys| self.delete_some(keys.to_vec()))).await?;
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
            let write = self.client.batch_write_item().request_items(&self.table, writes);
            let answer = write.send().await;
            let answer =
                answer.map_err(|error| failed(&self.table, "dynamodb:BatchWriteItem", error))?;
            let left = answer.unprocessed_items.into_iter().flatten();
            writes = left.flat_map(|(_, left)| left).collect();
            if !writes.is_empty() {
                tries += 1;
                self.again(tries, "dynamodb:BatchWriteItem", "it left writes out").await?;
            }
        }
        Ok(())
    }

    /// Writes all or nothing. A token makes the SDK's own retries one transaction.
    pub(super) async fn transact(&self, writes: Writes) -> PortResult<Result<(), Lost>> {
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
                        return Ok(Err(Lost::new(reasons)));
                    } else if has(&["TransactionConflict"]) {
                        self.again_contended(tries).await?;
                    } else if has(&["ThrottlingError", "ProvisionedThroughputExceeded"]) {
                        self.again(tries, CALL, "it is throttled").await?;
                    } else {
                        return Err(failed(&self.table, NEEDS, error));
                    }
                    // Nothing was written: this is another try.
                    token = Ulid::generate();
                }
                // An earlier try of the same is still under way.
                Some(TransactWriteItemsError::TransactionInProgressException(_)) => {
                    tries += 1;
                    self.again(tries, CALL, "an earlier try is still in progress").await?;
                }
                _ => return Err(failed(&self.table, NEEDS, error)),
            }
        }
    }

    /// Waits before the next try of a call that was too much; the last one is an error.
    async fn again(&self, tries: u32, call: &'static str, said: &str) -> PortResult<()> {
        if tries == TRIES {
            return Err(busy(&self.table, call, said));
        }
        pause(tries).await;
        Ok(())
    }

    /// Waits before the next try of a call that met another one.
    async fn again_contended(&self, tries: u32) -> PortResult<()> {
        if tries == TRIES {
            return Err(Conflict::Contended.into());
        }
        pause(tries).await;
        Ok(())
    }
}
