//! The writes of one transaction, and the reasons why one was cancelled.

use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::types::{
    CancellationReason, ConditionCheck, Delete, Put, ReturnValuesOnConditionCheckFailure,
    TransactWriteItem, Update,
};

use super::item::{Item, Values, key_item, names, values};
use crate::schema::Key;

/// The writes of one transaction. Each method returns the place of its write.
#[derive(Debug, Clone)]
pub(super) struct Writes {
    table: String,
    items: Result<Vec<TransactWriteItem>, String>,
}

/// A cancelled transaction: for each write, whether its condition held.
#[derive(Debug)]
pub(super) struct Cancellation(Vec<CancellationReason>);

const ALL_OLD: ReturnValuesOnConditionCheckFailure = ReturnValuesOnConditionCheckFailure::AllOld;

impl Writes {
    pub(super) fn new(table: &str) -> Self {
        Self { table: table.to_owned(), items: Ok(Vec::new()) }
    }

    /// The writes. An error is a defect of this program.
    pub(super) fn into_items(self) -> Result<Vec<TransactWriteItem>, String> {
        self.items
    }

    pub(super) fn put(&mut self, item: Item) -> usize {
        let put = Put::builder().table_name(&self.table).set_item(Some(item)).build();
        self.push(put, |write, put| write.put(put))
    }

    /// Writes an item unless its key exists.
    pub(super) fn put_new(&mut self, item: Item) -> usize {
        let condition = "attribute_not_exists(#pk)";
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression(condition)
            .set_expression_attribute_names(names(&[condition]))
            .return_values_on_condition_check_failure(ALL_OLD)
            .build();
        self.push(put, |write, put| write.put(put))
    }

    /// Updates an item. An empty condition is none.
    pub(super) fn update(
        &mut self,
        key: Key,
        update: &str,
        condition: &str,
        with: Values,
    ) -> usize {
        let update = Update::builder()
            .table_name(&self.table)
            .set_key(Some(key_item(key)))
            .update_expression(update)
            .set_condition_expression((!condition.is_empty()).then(|| condition.to_owned()))
            .set_expression_attribute_names(names(&[update, condition]))
            .set_expression_attribute_values(values(with))
            .return_values_on_condition_check_failure(ALL_OLD)
            .build();
        self.push(update, |write, update| write.update(update))
    }

    /// Deletes an item. An empty condition is none.
    pub(super) fn delete(&mut self, key: Key, condition: &str, with: Values) -> usize {
        let delete = Delete::builder()
            .table_name(&self.table)
            .set_key(Some(key_item(key)))
            .set_condition_expression((!condition.is_empty()).then(|| condition.to_owned()))
            .set_expression_attribute_names(names(&[condition]))
            .set_expression_attribute_values(values(with))
            .return_values_on_condition_check_failure(ALL_OLD)
            .build();
        self.push(delete, |write, delete| write.delete(delete))
    }

    /// Adds a condition on an item that is not written.
    pub(super) fn check(&mut self, key: Key, condition: &str, with: Values) -> usize {
        let check = ConditionCheck::builder()
            .table_name(&self.table)
            .set_key(Some(key_item(key)))
            .condition_expression(condition)
            .set_expression_attribute_names(names(&[condition]))
            .set_expression_attribute_values(values(with))
            .return_values_on_condition_check_failure(ALL_OLD)
            .build();
        self.push(check, |write, check| write.condition_check(check))
    }

    fn push<T>(
        &mut self,
        built: Result<T, BuildError>,
        into: impl FnOnce(
            aws_sdk_dynamodb::types::builders::TransactWriteItemBuilder,
            T,
        ) -> aws_sdk_dynamodb::types::builders::TransactWriteItemBuilder,
    ) -> usize {
        match (built, &mut self.items) {
            (Ok(write), Ok(items)) => {
                items.push(into(TransactWriteItem::builder(), write).build());
                items.len() - 1
            }
            (Err(error), items) => {
                *items = Err(error.to_string());
                0
            }
            (Ok(_), Err(_)) => 0,
        }
    }
}

impl Cancellation {
    pub(super) fn new(reasons: Vec<CancellationReason>) -> Self {
        Self(reasons)
    }

    /// Whether the condition of the write in this place did not hold.
    pub(super) fn failed_at(&self, place: usize) -> bool {
        let reason = self.0.get(place).and_then(|reason| reason.code());
        reason == Some("ConditionalCheckFailed")
    }

    /// The present item of a write whose condition did not hold. `None` if there is no item.
    pub(super) fn item(&self, place: usize) -> Option<&Item> {
        self.0.get(place)?.item().filter(|item| !item.is_empty())
    }
}
