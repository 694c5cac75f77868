//! Reading whole parts of the two indexes.

use rdev_domain::ports::PortResult;
use rdev_domain::time::Timestamp;

use super::context::Context;
use super::item::{Item, key_of, text};
use super::table::Query;
use crate::schema::{DUE, LISTS, sortable};

/// All items of a list that is always short.
pub(super) async fn all_of_list(context: &Context, list: &'static str) -> PortResult<Vec<Item>> {
    let found = context.table.query_all(|| Query {
        index: Some(LISTS.0),
        keys: "#lpk = :list",
        with: vec![(":list", text(list))],
        ..Query::default()
    });
    context.table.get_all(found.await?.iter().map(key_of).collect()).await
}

/// The keys in a part of the index of due records: all, or those up to a time.
pub(super) async fn due_keys(
    context: &Context,
    part: String,
    until: Option<Timestamp>,
) -> PortResult<Vec<Item>> {
    let query = || Query {
        index: Some(DUE.0),
        keys: if until.is_some() { "#dpk = :part AND #dsk <= :until" } else { "#dpk = :part" },
        with: [(":part", text(part.as_str()))]
            .into_iter()
            .chain(until.map(|until| (":until", text(format!("{}~", sortable(until))))))
            .collect(),
        ..Query::default()
    };
    context.table.query_all(query).await
}
