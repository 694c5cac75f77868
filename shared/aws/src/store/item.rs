//! Attributes of items, and the expressions that use them.

use std::collections::HashMap;
use std::str::FromStr;

use aws_sdk_dynamodb::types::AttributeValue;
use rdev_domain::ports::PortResult;
use rdev_domain::time::Timestamp;
use serde::de::DeserializeOwned;

use crate::error;
use crate::schema::{DUE, EXPIRES_AT, Key, LISTS};

/// A record in DynamoDB.
pub(super) type Item = HashMap<String, AttributeValue>;

/// The values of an expression, each with its placeholder.
pub(super) type Values = Vec<(&'static str, AttributeValue)>;

pub(super) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(super) fn number(value: impl ToString + Copy) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// A time in milliseconds.
pub(super) fn millis(at: Timestamp) -> AttributeValue {
    number(at.as_millis())
}

/// A time in seconds as TTL reads it, rounded up: no item expires too early.
pub(super) fn seconds(at: Timestamp) -> AttributeValue {
    number(at.as_millis().div_euclid(1000) + i64::from(at.as_millis().rem_euclid(1000) > 0))
}

/// An item with these attributes.
pub(super) fn item(
    key: Key,
    attributes: impl IntoIterator<Item = (&'static str, AttributeValue)>,
) -> Item {
    let mut item = key_item(key);
    item.extend(attributes.into_iter().map(|(name, value)| (name.to_owned(), value)));
    item
}

pub(super) fn key_item(key: Key) -> Item {
    Item::from([("pk".to_owned(), text(key.pk)), ("sk".to_owned(), text(key.sk))])
}

/// The key of an item, which every one has.
pub(super) fn key_of(item: &Item) -> Key {
    let part = |name| get_text(item, name).unwrap_or_default().to_owned();
    Key { pk: part("pk"), sk: part("sk") }
}

/// Adds an item to a list.
pub(super) fn add_to_list(item: &mut Item, list: String, by: String) {
    item.insert(LISTS.1.to_owned(), text(list));
    item.insert(LISTS.2.to_owned(), text(by));
}

/// Adds an item to a part of the index of due records.
pub(super) fn add_to_due(item: &mut Item, part: String, by: String) {
    item.insert(DUE.1.to_owned(), text(part));
    item.insert(DUE.2.to_owned(), text(by));
}

pub(super) fn get_text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

pub(super) fn get_number<T: FromStr>(item: &Item, name: &str) -> Option<T> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

pub(super) fn get_flag(item: &Item, name: &str) -> bool {
    item.get(name).and_then(|value| value.as_bool().ok()).copied().unwrap_or(false)
}

pub(super) fn get_millis(item: &Item, name: &str) -> Option<Timestamp> {
    get_number(item, name).map(Timestamp::from_millis)
}

/// Decodes the record in an item.
pub(super) fn body<T: DeserializeOwned>(item: &Item) -> PortResult<T> {
    let body = get_text(item, "body").ok_or_else(|| corrupt(item))?;
    serde_json::from_str(body).map_err(error::defect)
}

/// An item that this program has not written in this form.
pub(super) fn corrupt(item: &Item) -> rdev_domain::ports::PortError {
    let Key { pk, sk } = key_of(item);
    error::corrupt_record(&pk, &sk)
}

/// Whether an item has expired. DynamoDB deletes it some time later.
pub(super) fn expired(item: &Item, latest: Timestamp) -> bool {
    get_number::<i64>(item, EXPIRES_AT)
        .is_some_and(|at| at.saturating_mul(1000) <= latest.as_millis())
}

/// A time as the first part of a ULID.
pub(super) fn ulid_time(at: Timestamp) -> u64 {
    const LATEST: i64 = (1 << 48) - 1;
    u64::try_from(at.as_millis().clamp(0, LATEST)).unwrap_or(0)
}

/// The names in expressions: every `#word` stands for `word`, because `word` may be one of
/// DynamoDB's 573 reserved words.
pub(super) fn names(expressions: &[&str]) -> Option<HashMap<String, String>> {
    let mut names = HashMap::new();
    for expression in expressions {
        for after in expression.split('#').skip(1) {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let name = &after[..end.unwrap_or(after.len())];
            names.insert(format!("#{name}"), name.to_owned());
        }
    }
    (!names.is_empty()).then_some(names)
}

pub(super) fn values(values: Values) -> Option<HashMap<String, AttributeValue>> {
    (!values.is_empty())
        .then(|| values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_an_expression_is_found() {
        let names = names(&["SET #body = :body, #rev = :rev", "#rev = :seen AND size(#held) < :n"]);
        let mut names: Vec<_> = names.expect("three").into_iter().collect();
        names.sort();
        let pairs: Vec<_> = names.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(pairs, [("#body", "body"), ("#held", "held"), ("#rev", "rev")]);
    }

    #[test]
    fn no_item_expires_too_early() {
        let second = |millis| seconds(Timestamp::from_millis(millis));
        assert_eq!(second(1000), number(1));
        assert_eq!(second(1001), number(2));
        let item = Item::from([(EXPIRES_AT.to_owned(), number(2))]);
        assert!(!expired(&item, Timestamp::from_millis(1999)));
        assert!(expired(&item, Timestamp::from_millis(2000)));
        assert!(!expired(&Item::new(), Timestamp::from_millis(i64::MAX)));
    }
}
