//! Reading the two indexes, page by page.

use futures_util::future::try_join_all;
use rdev_domain::ports::PortResult;
use rdev_domain::time::Timestamp;

use super::context::Context;
use super::item::{Item, key_of, text};
use super::table::Query;
use crate::schema::{DUE, LISTS, sortable};

/// How many items a page has that are read one page after the other.
pub(super) const PAGE: u32 = 100;

/// All items of a list that is always short.
pub(super) async fn all_of_list(context: &Context, list: &'static str) -> PortResult<Vec<Item>> {
    let query = Query {
        index: Some(LISTS.0),
        keys: "#lpk = :list",
        with: vec![(":list", text(list))],
        ..Query::default()
    };
    let mut items = Vec::new();
    let mut pages = Pages::of(context, query);
    while let Some(page) = pages.next().await? {
        items.extend(context.table.get_all(page.iter().map(key_of).collect()).await?);
    }
    Ok(items)
}

/// The keys in a part of the index of due records, those first that are due first: all, or those up
/// to a time.
pub(super) fn due(part: String, until: Option<Timestamp>) -> Query {
    Query {
        index: Some(DUE.0),
        keys: if until.is_some() { "#dpk = :part AND #dsk <= :until" } else { "#dpk = :part" },
        with: [(":part", text(part))]
            .into_iter()
            .chain(until.map(|until| (":until", text(format!("{}~", sortable(until))))))
            .collect(),
        ..Query::default()
    }
}

/// The keys that [`due`] leaves out: those in a part that are due after a time.
pub(super) fn due_after(part: String, time: Timestamp) -> Query {
    let with = vec![(":part", text(part)), (":time", text(format!("{}~", sortable(time))))];
    let keys = "#dpk = :part AND #dsk > :time";
    Query { index: Some(DUE.0), keys, with, ..Query::default() }
}

/// How many items several queries find.
pub(super) async fn count(
    context: &Context,
    queries: impl IntoIterator<Item = Query>,
) -> PortResult<u64> {
    let counts = queries.into_iter().map(|query| context.table.count(query, usize::MAX));
    Ok(try_join_all(counts).await?.into_iter().flatten().sum())
}

/// The pages of a query, of which one is in memory at a time.
pub(super) struct Pages<'a> {
    context: &'a Context,
    /// The query for the next page, if there may be one.
    next: Option<Query>,
}

impl<'a> Pages<'a> {
    pub(super) fn of(context: &'a Context, query: Query) -> Self {
        Self { context, next: Some(Query { limit: Some(PAGE), ..query }) }
    }

    /// The next page; it may be empty.
    pub(super) async fn next(&mut self) -> PortResult<Option<Vec<Item>>> {
        let Some(query) = self.next.take() else { return Ok(None) };
        let found = self.context.table.query(query.clone()).await?;
        if found.last.is_some() {
            self.next = Some(Query { after: found.last, ..query });
        }
        Ok(Some(found.items))
    }
}
