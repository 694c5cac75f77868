//! Whose turn it is. The item of a project's slots is in the index of due records while something
//! of the project is queued, by the time of the latest claim: in one part while something is due,
//! in another while all is due later. So a claim and the sweep find the projects that wait, one
//! item for each.

use rdev_domain::ids::ProjectId;
use rdev_domain::ports::PortResult;
use rdev_domain::time::Timestamp;
use rdev_domain::turn::Turn;

use super::context::Context;
use super::indexes;
use super::item::{Values, get_text, key_of, number, text};
use super::projects::SlotsItem;
use super::table::Query;
use crate::schema::{Key, project_of, sortable};

/// The part of the due index with the projects that have something due.
pub(super) const PART: &str = "B";

/// The part with the projects all of whose tasks are due later.
pub(super) const LATER: &str = "L";

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

/// What an update of the slots' item sets when the project has got something that is due later.
pub(super) const SET_LATER: &str =
    "#dpk = if_not_exists(#dpk, :later), #dsk = if_not_exists(#dsk, :never)";

/// The values of [`SET_LATER`].
pub(super) fn later_values(project: &ProjectId) -> Values {
    vec![(":later", text(LATER)), (":never", text(place(None, project)))]
}

/// Puts a project into the index.
pub(super) async fn mark_waiting(context: &Context, project: &ProjectId) -> PortResult<()> {
    let set = format!("SET {SET_DUE}");
    let exists = "attribute_exists(#limit)";
    // If that fails, the project was deleted meanwhile.
    let _ = context.table.update(Key::slots(project), &set, exists, due_values(project)).await?;
    Ok(())
}

/// Takes a project out of the index whose queue had no due part when its slots were read.
pub(super) async fn mark_idle(
    context: &Context,
    project: &ProjectId,
    seen: &SlotsItem,
) -> PortResult<()> {
    let mut with = vec![(":none", number(0)), (":seen", number(seen.rev))];
    let update = format!("SET #queued = :none{}", leave(seen.parked, &mut with));
    // If that fails, something has become due meanwhile.
    let _ = context.table.update(Key::slots(project), &update, "#rev = :seen", with).await?;
    Ok(())
}

/// The end of an update's `SET` with which a project leaves the part of those with something due.
pub(super) fn leave(parked: i64, with: &mut Values) -> &'static str {
    if parked > 0 {
        with.push((":later", text(LATER)));
        return ", #dpk = :later";
    }
    " REMOVE #dpk"
}

/// The projects other than `hint` that wait and have a free slot.
pub(super) async fn waiting(context: &Context, hint: Option<&ProjectId>) -> PortResult<Vec<Turn>> {
    let query = Query { limit: Some(LOOKED_AT), ..indexes::due(PART.to_owned(), None) };
    let found = context.table.query(query).await?.items;
    let projects = found.iter().filter_map(|item| project_of(get_text(item, "pk")?));
    let keys = projects.filter(|project| Some(project) != hint).map(|project| Key::slots(&project));
    let mut turns = Vec::new();
    for item in context.table.get_all(keys.collect()).await? {
        let slots = SlotsItem::of(&item);
        if let Some(project) = project_of(&key_of(&item).pk)
            && slots.has_free_slot()
        {
            turns.push(slots.turn(project));
        }
    }
    Ok(turns)
}
