//! Pages of lists, newest first. The list of one project is in its own partition. The list of
//! all projects is in the index, whose parts are read in parallel. The cost of a page does not
//! depend on how much is stored.

use futures_util::future::try_join_all;
use rdev_domain::ids::ProjectId;
use rdev_domain::page::Page;
use rdev_domain::ports::PortResult;
use ulid::Ulid;

use super::context::Context;
use super::item::{Item, Values, get_text, key_of, text};
use super::table::Query;
use crate::schema::{Key, LISTS, partition, ulid_of};

/// The most pages of one part that are read for one page of a filtered list. After these the
/// page is shorter than its limit, and the next page continues from there.
const MAX_PAGES: usize = 10;

/// Which items of a list are in its pages. An empty condition is none.
#[derive(Default)]
pub(super) struct Filter {
    pub(super) condition: String,
    pub(super) with: Values,
}

/// The keys of one page.
pub(super) struct KeyPage {
    pub(super) keys: Vec<Key>,
    /// The cursor of the next page.
    pub(super) next: Option<Ulid>,
}

/// A part of a list.
struct Part {
    /// The items that were found, newest first, each with its id.
    found: Vec<(Ulid, Item)>,
    /// Set if the reading stopped early: everything above this id has been read.
    read_to: Option<Ulid>,
}

/// The exclusive upper bound of the ids of a page.
fn bound(page: &Page) -> String {
    page.before.map_or_else(|| "~".to_owned(), |before| before.to_string())
}

/// One page of several lists of the index together.
pub(super) async fn in_lists(
    context: &Context,
    lists: Vec<String>,
    filter: Filter,
    page: &Page,
) -> PortResult<KeyPage> {
    let part = |list: String| {
        let mut with = vec![(":list", text(list)), (":below", text(bound(page)))];
        with.extend(filter.with.clone());
        let query = Query {
            index: Some(LISTS.0),
            keys: "#lpk = :list AND #lsk < :below",
            filter: filter.condition.clone(),
            with,
            ..Query::default()
        };
        read_part(context, query, page.limit)
    };
    let parts = try_join_all(lists.into_iter().map(part)).await?;
    let (found, next) = merge(parts, page.limit as usize);
    Ok(KeyPage { keys: found.iter().map(|(_, item)| key_of(item)).collect(), next })
}

/// One page of the items in a project's partition whose sort keys are `prefix` and an id, and
/// the cursor of the next page.
pub(super) async fn in_project(
    context: &Context,
    project: &ProjectId,
    prefix: &'static str,
    filter: Filter,
    page: &Page,
) -> PortResult<(Vec<Item>, Option<Ulid>)> {
    let mut with = vec![
        (":pk", text(partition(project))),
        (":from", text(prefix)),
        (":below", text(format!("{prefix}{}", bound(page)))),
    ];
    with.extend(filter.with);
    // BETWEEN includes both ends: the item at the upper end is removed below.
    let keys = "#pk = :pk AND #sk BETWEEN :from AND :below";
    let query = Query { keys, filter: filter.condition, with, ..Query::default() };
    let mut part = read_part(context, query, page.limit + 1).await?;
    part.found.retain(|(id, _)| page.before.is_none_or(|before| *id < before));
    let (found, next) = merge(vec![part], page.limit as usize);
    Ok((found.into_iter().map(|(_, item)| item).collect(), next))
}

/// The items of one page of a partition whose sort keys are ids, and one item more if there is
/// another page.
pub(super) async fn in_partition(
    context: &Context,
    pk: String,
    page: &Page,
) -> PortResult<Vec<Item>> {
    let with = vec![(":pk", text(pk)), (":below", text(bound(page)))];
    let query = Query { keys: "#pk = :pk AND #sk < :below", with, ..Query::default() };
    let part = read_part(context, query, page.limit + 1).await?;
    Ok(part.found.into_iter().map(|(_, item)| item).take(page.limit as usize + 1).collect())
}

/// Reads a part until it has one item more than `limit`, or all.
async fn read_part(context: &Context, query: Query, limit: u32) -> PortResult<Part> {
    let (mut found, mut after) = (Vec::new(), None);
    let sort_key = if query.index.is_some() { LISTS.2 } else { "sk" };
    // With a filter it is not known how many items must be read.
    let read = query.filter.is_empty().then_some(limit + 1);
    for page in 1.. {
        let query = Query { newest_first: true, limit: read, after, ..query.clone() };
        let answer = context.table.query(query).await?;
        let id = |item: &Item| get_text(item, sort_key).and_then(ulid_of);
        found.extend(answer.items.into_iter().filter_map(|item| Some((id(&item)?, item))));
        match answer.last {
            Some(last) if found.len() <= limit as usize => {
                if page == MAX_PAGES {
                    return Ok(Part { found, read_to: id(&last) });
                }
                after = Some(last);
            }
            _ => break,
        }
    }
    Ok(Part { found, read_to: None })
}

/// The newest items of all parts, down to where all parts have been read, and the cursor of the
/// next page.
fn merge(parts: Vec<Part>, limit: usize) -> (Vec<(Ulid, Item)>, Option<Ulid>) {
    let read_to = parts.iter().filter_map(|part| part.read_to).max();
    let mut all: Vec<_> = parts.into_iter().flat_map(|part| part.found).collect();
    all.retain(|(id, _)| read_to.is_none_or(|read_to| *id >= read_to));
    all.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
    let next = if all.len() > limit { all.get(limit - 1).map(|(id, _)| *id) } else { read_to };
    all.truncate(limit);
    (all, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(ids: &[u128], read_to: Option<u128>) -> Part {
        let ulid = |n| Ulid::from_parts(1, n);
        let found = ids.iter().map(|&n| (ulid(n), Item::new())).collect();
        Part { found, read_to: read_to.map(ulid) }
    }

    fn merged(parts: Vec<Part>, limit: usize) -> (Vec<u64>, Option<u64>) {
        let (found, next) = merge(parts, limit);
        let random = |id: Ulid| u64::try_from(id.random()).expect("a small number");
        (found.iter().map(|(id, _)| random(*id)).collect(), next.map(random))
    }

    #[test]
    fn a_page_has_the_newest_items_of_all_parts_and_a_cursor() {
        let parts = || vec![part(&[9, 4, 1], None), part(&[8, 7], None), part(&[], None)];
        assert_eq!(merged(parts(), 2), (vec![9, 8], Some(8)));
        assert_eq!(merged(parts(), 4), (vec![9, 8, 7, 4], Some(4)));
        assert_eq!(merged(parts(), 5), (vec![9, 8, 7, 4, 1], None));
    }

    #[test]
    fn a_page_ends_where_the_reading_of_a_part_stopped() {
        let parts = || vec![part(&[9, 2], None), part(&[8], Some(5)), part(&[], Some(3))];
        assert_eq!(merged(parts(), 10), (vec![9, 8], Some(5)));
        assert_eq!(merged(parts(), 1), (vec![9], Some(9)));
    }
}
