//! A part of all queues at each sweep, so that all of them are met in the course of time, however
//! long they are. It finds what no transaction of this version leaves behind, and an earlier one
//! has left: entries whose sort key has another form, and projects that the index of those with
//! something queued does not have.

use std::collections::BTreeSet;

use rdev_domain::ids::ProjectId;
use rdev_domain::ports::PortResult;

use super::context::Change;
use super::item::{Item, Values, get_text, key_of, text};
use super::projects::SlotsItem;
use super::table::Query;
use super::{counts, queue_entry, turns};
use crate::error::alone;
use crate::schema::{DUE, DUE_SHARDS, Key, project_of};

/// The parts of the index that are walked, and the names under which the places are kept up to
/// which they have been.
const PARTS: [(&str, &str); 4] = [("Q#0", "q0"), ("Q#1", "q1"), ("R#0", "r0"), ("R#1", "r1")];

const _: () = assert!(PARTS.len() == 2 * DUE_SHARDS as usize, "a part for each shard of both");

/// How many keys of a part a step reads: 200,000 entries are met within four hours.
const STEP: u32 = 500;

/// Walks on in all parts.
pub(super) async fn step(change: &Change<'_>) -> PortResult<()> {
    let context = change.context;
    let place = context.table.get(Key::walk()).await?.unwrap_or_default();
    let (mut set, mut with) = (Vec::new(), Values::new());
    let (mut due, mut later, mut misplaced) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for ((part, name), holder) in PARTS.into_iter().zip([":a", ":b", ":c", ":d"]) {
        let from = get_text(&place, name).unwrap_or_default();
        let keys = read(change, part, from).await?;
        let projects = keys.iter().filter_map(|item| project_of(get_text(item, "pk")?));
        if part.starts_with('Q') {
            due.extend(projects)
        } else {
            later.extend(projects)
        }
        misplaced.extend(keys.iter().filter(|item| queue_entry::is_misplaced(item)).map(key_of));
        // Behind the end it begins again.
        let last = if keys.len() == STEP as usize { keys.last() } else { None };
        let to = last.and_then(|item| get_text(item, DUE.2)).unwrap_or_default();
        if to != from {
            set.push(format!("#{name} = {holder}"));
            with.push((holder, text(to)));
        }
    }
    for item in context.table.get_all(misplaced).await? {
        alone(&key_of(&item), queue_entry::promote_one(change, &item).await)?;
    }
    let met_all = meet(change, &due, &later).await?;
    if met_all && !set.is_empty() {
        let update = format!("SET {}", set.join(", "));
        let _ = context.table.update(Key::walk(), &update, "", with).await?;
    }
    Ok(())
}

async fn read(change: &Change<'_>, part: &str, from: &str) -> PortResult<Vec<Item>> {
    let query = Query {
        index: Some(DUE.0),
        keys: "#dpk = :part AND #dsk > :from",
        // An empty text is no key.
        with: vec![
            (":part", text(part)),
            (":from", text(if from.is_empty() { "0" } else { from })),
        ],
        limit: Some(STEP),
        ..Query::default()
    };
    Ok(change.context.table.query(query).await?.items)
}

/// Counts the queues of those projects that are not where the index should have them, or were not
/// counted for long. Returns whether that is all of them.
async fn meet(
    change: &Change<'_>,
    due: &BTreeSet<ProjectId>,
    later: &BTreeSet<ProjectId>,
) -> PortResult<bool> {
    let projects: Vec<&ProjectId> = due.union(later).collect();
    let mut counted = 0;
    for projects in projects.chunks(100) {
        let keys = projects.iter().map(|project| Key::slots(project)).collect();
        for item in change.context.table.get_all(keys).await? {
            let Some(project) = project_of(&key_of(&item).pk) else { continue };
            let slots = SlotsItem::of(&item);
            let is_later = get_text(&item, "dpk") == Some(turns::LATER);
            let is_known = slots.waits || (is_later && !due.contains(&project));
            if is_known && !counts::is_old(&slots, change.now) {
                continue;
            }
            if counted == counts::MAX_COUNTED {
                return Ok(false);
            }
            counts::count(change, &project, &slots).await?;
            counted += 1;
        }
    }
    Ok(true)
}
