//! Lists, newest first: of one project from its own partition, of all from the index, whose
//! parts are read side by side. A page costs the same however much is stored.

use std::collections::HashMap;

use futures_util::future::try_join_all;
use rdev_domain::ids::{ProjectId, TaskId};
use rdev_domain::page::{Listed, Page};
use rdev_domain::ports::{PortResult, TaskFilter, TaskRecord};
use ulid::Ulid;

use super::DynamoStore;
use super::calls::Query;
use super::item::{Item, Values, expired, get_number, get_text, key_of, text};
use super::rows::{self, Row};
use super::tasks::agree;
use crate::schema::{Key, LIST_SHARDS, LISTS, partition, ulid_of};

/// How many pages of one part are read for one page of a filtered list. Beyond, the page is
/// shorter than it was asked for, and the next one goes on from there.
const PAGES: usize = 10;

/// The keys of one page.
pub(super) struct Newest {
    pub(super) keys: Vec<Key>,
    pub(super) next: Option<Ulid>,
}

/// A part of a list.
struct Part {
    /// What was found, newest first, each with its id.
    found: Vec<(Ulid, Item)>,
    /// Where the reading was given up: all that is above has been read.
    read_to: Option<Ulid>,
}

/// Below which id a page begins.
pub(super) fn bound(page: &Page) -> String {
    page.before.map_or_else(|| "~".to_owned(), |before| before.to_string())
}

/// One page of the lists of these names together.
pub(super) async fn newest(
    store: &DynamoStore,
    lists: Vec<String>,
    filter: &'static str,
    with: Values,
    page: &Page,
) -> PortResult<Newest> {
    let part = |list: String| {
        let with = with.clone();
        async move {
            let mut values = vec![(":list", text(list)), (":below", text(bound(page)))];
            values.extend(with);
            let keys = "#lpk = :list AND #lsk < :below";
            read_part(store, Some(LISTS.0), keys, filter, values, page.limit).await
        }
    };
    let parts = try_join_all(lists.into_iter().map(part)).await?;
    let (found, next) = merge(parts, page.limit as usize);
    Ok(Newest { keys: found.iter().map(|(_, item)| key_of(item)).collect(), next })
}

/// One page of the items in a project's partition whose sort keys are `prefix` and an id, and
/// where the next one begins.
pub(super) async fn newest_between(
    store: &DynamoStore,
    project: &ProjectId,
    prefix: &'static str,
    page: &Page,
    filter: &'static str,
    with: Values,
) -> PortResult<(Vec<Item>, Option<Ulid>)> {
    let mut values = vec![
        (":pk", text(partition(project))),
        (":from", text(prefix)),
        (":below", text(format!("{prefix}{}", bound(page)))),
    ];
    values.extend(with);
    // BETWEEN takes both ends: what is at the upper one is left out below.
    let keys = "#pk = :pk AND #sk BETWEEN :from AND :below";
    let mut part = read_part(store, None, keys, filter, values, page.limit + 1).await?;
    part.found.retain(|(id, _)| page.before.is_none_or(|before| *id < before));
    let (found, next) = merge(vec![part], page.limit as usize);
    Ok((found.into_iter().map(|(_, item)| item).collect(), next))
}

/// Reads a part until it has one more than `limit`, or all.
async fn read_part(
    store: &DynamoStore,
    index: Option<&'static str>,
    keys: &'static str,
    filter: &'static str,
    with: Values,
    limit: u32,
) -> PortResult<Part> {
    let (mut found, mut after) = (Vec::new(), None);
    let sort_key = if index.is_some() { LISTS.2 } else { "sk" };
    for page in 1.. {
        // With a filter nobody knows how many have to be read.
        let want = filter.is_empty().then_some(limit + 1);
        let with = with.clone();
        let newest_first = true;
        let query = Query { index, keys, filter, with, newest_first, limit: want, after };
        let answer = store.query(query).await?;
        let id = |item: &Item| get_text(item, sort_key).and_then(ulid_of);
        found.extend(answer.items.into_iter().filter_map(|item| Some((id(&item)?, item))));
        match answer.last {
            Some(last) if found.len() <= limit as usize => {
                if page == PAGES {
                    return Ok(Part { found, read_to: id(&last) });
                }
                after = Some(last);
            }
            _ => break,
        }
    }
    Ok(Part { found, read_to: None })
}

/// The newest of all parts, as far as all have been read, and where the next page begins.
fn merge(parts: Vec<Part>, limit: usize) -> (Vec<(Ulid, Item)>, Option<Ulid>) {
    let read_to = parts.iter().filter_map(|part| part.read_to).max();
    let mut all: Vec<_> = parts.into_iter().flat_map(|part| part.found).collect();
    all.retain(|(id, _)| read_to.is_none_or(|read_to| *id >= read_to));
    all.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
    let next = if all.len() > limit { all.get(limit - 1).map(|(id, _)| *id) } else { read_to };
    all.truncate(limit);
    (all, next)
}

impl DynamoStore {
    pub(super) async fn list_tasks(
        &self,
        filter: &TaskFilter,
        page: &Page,
    ) -> PortResult<Listed<TaskRecord>> {
        let mut with = Vec::new();
        if let Some(state) = filter.state {
            with.push((":state", text(state.as_str())));
        }
        if filter.builds_only {
            with.push((":kind", text("build")));
        }
        let conditions = match (filter.state.is_some(), filter.builds_only) {
            (false, false) => "",
            (true, false) => "#state = :state",
            (false, true) => "#kind = :kind",
            (true, true) => "#state = :state AND #kind = :kind",
        };
        let (items, next) = match &filter.project {
            Some(project) => newest_between(self, project, "T#", page, conditions, with).await?,
            None => {
                let lists = (0..LIST_SHARDS).map(|shard| format!("T#{shard}")).collect();
                let found = newest(self, lists, conditions, with, page).await?;
                (self.get_all(found.keys).await?, found.next)
            }
        };
        let mut records = self.with_leases(items).await?;
        // The index may be behind the records.
        records.retain(|record| {
            filter.state.is_none_or(|state| record.task.state == state)
                && (!filter.builds_only || record.task.work.kind() == "build")
        });
        records.sort_by_key(|record| std::cmp::Reverse(record.task.id));
        Ok(Listed { items: records, next })
    }

    /// Reads tasks from their items, each with its lease; what has expired is left out.
    async fn with_leases(&self, items: Vec<Item>) -> PortResult<Vec<TaskRecord>> {
        let latest = self.latest();
        let id = |item: &Item| get_text(item, "sk").and_then(ulid_of).map(TaskId);
        let held = |item: &&Item| get_number::<u64>(item, "held").is_some();
        let keys = items.iter().filter(held).filter_map(id).map(Key::lease).collect();
        let mut leases = HashMap::new();
        for item in self.get_all(keys).await? {
            leases.insert(key_of(&item), rows::lease(&item)?);
        }
        let mut records = Vec::with_capacity(items.len());
        for item in items.into_iter().filter(|item| !expired(item, latest)) {
            let lease = id(&item).and_then(|id| leases.remove(&Key::lease(id)));
            let row = match id(&item) {
                // Something has happened between the two reads.
                Some(id) if !agree(&item, lease.as_ref()) => self.read(id).await?,
                _ => Some(Row::of(&item, lease)?),
            };
            records.extend(row.map(Row::into_record));
        }
        Ok(records)
    }

    /// The newest items of a partition whose sort keys are ids.
    pub(super) async fn newest_of(
        &self,
        pk: String,
        below: String,
        limit: u32,
    ) -> PortResult<Vec<Item>> {
        let with = vec![(":pk", text(pk)), (":below", text(below))];
        let keys = "#pk = :pk AND #sk < :below";
        let part = read_part(self, None, keys, "", with, limit).await?;
        Ok(part.found.into_iter().map(|(_, item)| item).take(limit as usize).collect())
    }
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
    fn a_page_has_the_newest_of_all_parts_and_says_where_it_ends() {
        let parts = || vec![part(&[9, 4, 1], None), part(&[8, 7], None), part(&[], None)];
        assert_eq!(merged(parts(), 2), (vec![9, 8], Some(8)));
        assert_eq!(merged(parts(), 4), (vec![9, 8, 7, 4], Some(4)));
        assert_eq!(merged(parts(), 5), (vec![9, 8, 7, 4, 1], None));
    }

    #[test]
    fn a_part_that_was_given_up_ends_the_page_where_its_reading_ended() {
        let parts = || vec![part(&[9, 2], None), part(&[8], Some(5)), part(&[], Some(3))];
        assert_eq!(merged(parts(), 10), (vec![9, 8], Some(5)));
        assert_eq!(merged(parts(), 1), (vec![9], Some(9)));
    }
}
