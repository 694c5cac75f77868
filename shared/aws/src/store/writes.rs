//! The writes of one transaction, and what was in the way of one that did not come about.

use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::types::{
    CancellationReason, ConditionCheck, Delete, Put, ReturnValuesOnConditionCheckFailure,
    TransactWriteItem, Update,
};

use super::item::{Item, Values, key_item, names, values};
use crate::schema::Key;

/// Collects the writes of one transaction. Each answers its place in it.
#[derive(Debug, Clone)]
pub(super) struct Writes {
    table: String,
    items: Result<Vec<TransactWriteItem>, String>,
}

/// A transaction whose conditions did not hold: for each write, the reason.
#[derive(Debug)]
pub(super) struct Lost(Vec<CancellationReason>);

const ALL_OLD: ReturnValuesOnConditionCheckFailure = ReturnValuesOnConditionCheckFailure::AllOld;

impl Writes {
    pub(super) fn new(table: &str) -> Self {
        Self { table: table.to_owned(), items: Ok(Vec::new()) }
    }

    /// The writes; an error is a defect of this program.
    pub(super) fn into_items(self) -> Result<Vec<TransactWriteItem>, String> {
        self.items
    }

    pub(super) fn put(&mut self, item: Item) -> usize {
        let put = Put::builder().table_name(&self.table).set_item(Some(item)).build();
        self.push(put, |write, put| write.put(put))
    }

    /// Writes an item unless one of its key is there.
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

    /// Changes an item, under a condition unless that is empty.
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

    /// Deletes an item, under a condition unless that is empty.
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

    /// Demands something of an item that is not written.
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

impl Lost {
    pub(super) fn new(reasons: Vec<CancellationReason>) -> Self {
        Self(reasons)
    }

    /// Whether the condition of the write in that place did not hold.
    pub(super) fn at(&self, place: usize) -> bool {
        let reason = self.0.get(place).and_then(|reason| reason.code());
        reason == Some("ConditionalCheckFailed")
    }

    /// The item as it is, of a write whose condition did not hold; `None` also where there is
    /// no item.
    pub(super) fn item(&self, place: usize) -> Option<&Item> {
        self.0.get(place)?.item().filter(|item| !item.is_empty())
    }
}
