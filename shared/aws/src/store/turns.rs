//! Whose turn it is. The item of a project's slots is in the index of due records while something of
//! the project is due, by the time of the latest claim. So a claim finds the projects that wait.

use rdev_domain::ids::ProjectId;
use rdev_domain::ports::PortResult;
use rdev_domain::time::Timestamp;
use rdev_domain::turn::Turn;

use super::context::Context;
use super::item::{Values, get_text, key_of, number, text};
use super::projects::SlotsItem;
use super::table::Query;
use super::writes::Writes;
use crate::schema::{DUE, Key, project_of, sortable};

/// The part of the due index with the projects that have something due.
pub(super) const PART: &str = "B";

/// How many waiting projects a claim looks at, those first whose latest claim is the longest ago.
const LOOKED_AT: u32 = 100;

/// The place in the index of a project that was served then.
pub(super) fn place(served: Option<Timestamp>, project: &ProjectId) -> String {
    format!("{}#{project}", sortable(served.unwrap_or(Timestamp::from_millis(0))))
}

/// What an update of the slots' item sets when something of the project has become due.
pub(super) const SET_DUE: &str = "#dpk = :waiting, #dsk = if_not_exists(#dsk, :never)";

/// The values of [`SET_DUE`].
pub(super) fn due_values(project: &ProjectId) -> Values {
    vec![(":waiting", text(PART)), (":never", text(place(None, project)))]
}

/// Adds to the writes that something of the project has become due. The transaction must not
/// write the project's slots otherwise.
pub(super) fn mark_due(writes: &mut Writes, project: &ProjectId) {
    let mut with = due_values(project);
    with.push((":one", number(1)));
    let update = format!("SET {SET_DUE} ADD #rev :one");
    writes.update(Key::slots(project), &update, "", with);
}

/// Puts a project into the index.
pub(super) async fn mark_waiting(context: &Context, project: &ProjectId) -> PortResult<()> {
    let set = format!("SET {SET_DUE}");
    let exists = "attribute_exists(#limit)";
    // If that fails, the project was deleted meanwhile.
    let _ = context.table.update(Key::slots(project), &set, exists, due_values(project)).await?;
    Ok(())
}

/// Takes a project out of the index in which nothing was due when its slots had the rev `seen`.
pub(super) async fn mark_idle(context: &Context, project: &ProjectId, seen: u64) -> PortResult<()> {
    let with = vec![(":seen", number(seen))];
    // If that fails, something has become due meanwhile.
    let _ = context.table.update(Key::slots(project), "REMOVE #dpk", "#rev = :seen", with).await?;
    Ok(())
}

/// The projects other than `hint` that wait and have a free slot.
pub(super) async fn waiting(context: &Context, hint: Option<&ProjectId>) -> PortResult<Vec<Turn>> {
    let query = Query {
        index: Some(DUE.0),
        keys: "#dpk = :part",
        with: vec![(":part", text(PART))],
        limit: Some(LOOKED_AT),
        ..Query::default()
    };
    let found = context.table.query(query).await?.items;
    let projects = found.iter().filter_map(|item| project_of(get_text(item, "pk")?));
    let keys = projects.filter(|project| Some(project) != hint).map(|project| Key::slots(&project));
    let mut turns = Vec::new();
    for item in context.table.get_all(keys.collect()).await? {
        let slots = SlotsItem::of(&item);
        if let Some(project) = project_of(&key_of(&item).pk)
            && !slots.closed
            && slots.held() < slots.limit
        {
            turns.push(slots.turn(project));
        }
    }
    Ok(turns)
}
