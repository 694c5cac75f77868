//! How many entries each part of a project's queue has. The item of the project's slots counts
//! them, in the transactions that move them, and is in the index of due records while there are
//! any.
//!
//! A version before this one did not count, and may run beside it. So the sweep counts the entries
//! of a project itself if nobody has done so for a day; and a queue that a claim or a sweep finds
//! empty is at 0.

use std::time::Duration;

use rdev_domain::ids::ProjectId;
use rdev_domain::ports::PortResult;
use rdev_domain::time::Timestamp;

use super::context::Change;
use super::item::{Item, Values, millis, number};
use super::projects::SlotsItem;
use super::queue_entry::is_due;
use super::table::Query;
use super::turns;
use super::writes::Writes;
use crate::schema::Key;

/// For how long counted numbers are trusted.
const TRUSTED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// The most projects that one pass of a sweep counts. It runs again a minute later.
pub(super) const MAX_COUNTED: usize = 50;

/// The most pages of a queue that are counted at once: about a million entries.
const MAX_PAGES: usize = 250;

/// What a transaction does to the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moved {
    queued: i64,
    /// How many entries the later part gets, or loses.
    pub(super) parked: i64,
    /// What the project has afterwards, as far as this entry tells.
    after: After,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Due,
    Later,
    Gone,
}

impl Moved {
    /// An entry goes from one place to another; `None` is no entry.
    pub(super) fn between(before: Option<&str>, after: Option<&str>) -> Self {
        let one = |place: Option<&str>, due: bool| {
            i64::from(place.is_some_and(|place| is_due(place) == due))
        };
        Self {
            queued: one(after, true) - one(before, true),
            parked: one(after, false) - one(before, false),
            after: match after {
                Some(place) if is_due(place) => After::Due,
                Some(_) => After::Later,
                None => After::Gone,
            },
        }
    }

    /// Whether the transaction has to write this.
    pub(super) fn is_written(self) -> bool {
        self.after == After::Due || (self.queued, self.parked) != (0, 0)
    }

    /// The parts of an update of the slots' item, after `SET` and after `ADD`. A claim sets the
    /// place in the index by itself.
    pub(super) fn update(
        self,
        project: &ProjectId,
        claim: bool,
    ) -> (Vec<&'static str>, Vec<&'static str>, Values) {
        let (mut set, mut add, mut with) = (Vec::new(), Vec::new(), Values::new());
        if !claim && self.after != After::Gone {
            let due = self.after == After::Due;
            set.push(if due { turns::SET_DUE } else { turns::SET_LATER });
            with.extend(if due {
                turns::due_values(project)
            } else {
                turns::later_values(project)
            });
        }
        if self.queued != 0 {
            add.push("#queued :queued");
            with.push((":queued", number(self.queued)));
        }
        if self.parked != 0 {
            add.push("#parked :parked");
            with.push((":parked", number(self.parked)));
        }
        (set, add, with)
    }

    /// The same, where the number of due entries is set otherwise.
    pub(super) fn without_queued(self) -> Self {
        Self { queued: 0, ..self }
    }
}

/// Adds to the writes what moves. The transaction must not write the project's slots otherwise.
pub(super) fn write(writes: &mut Writes, project: &ProjectId, moved: Moved) {
    if !moved.is_written() {
        return;
    }
    let (set, mut add, mut with) = moved.update(project, false);
    add.push("#rev :one");
    with.push((":one", number(1)));
    let mut update = format!("ADD {}", add.join(", "));
    if !set.is_empty() {
        update.push_str(&format!(" SET {}", set.join(", ")));
    }
    writes.update(Key::slots(project), &update, "", with);
}

/// Whether the entries of a project are to be counted.
pub(super) fn is_old(slots: &SlotsItem, now: Timestamp) -> bool {
    let negative = slots.queued < 0 || slots.parked < 0;
    negative || slots.counted.is_none_or(|counted| counted.plus(TRUSTED_FOR) <= now)
}

/// Counts the entries of a project, and writes the numbers if its slots have not changed meanwhile.
/// Otherwise a later sweep tries again.
pub(super) async fn count(
    change: &Change<'_>,
    project: &ProjectId,
    slots: &SlotsItem,
) -> PortResult<()> {
    let table = &change.context.table;
    let (queued, parked) = tokio::try_join!(
        table.count(Query::between(project, "Q#", "Q$"), MAX_PAGES),
        table.count(Query::between(project, "R#", "R$"), MAX_PAGES),
    )?;
    let (Some(queued), Some(parked)) = (queued, parked) else {
        tracing::warn!(%project, "a queue is too long to be counted");
        return Ok(());
    };
    let mut set = "SET #queued = :queued, #parked = :parked, #counted = :now".to_owned();
    let mut with = vec![
        (":queued", number(queued)),
        (":parked", number(parked)),
        (":now", millis(change.now)),
        (":seen", number(slots.rev)),
    ];
    if queued > 0 {
        set.push_str(&format!(", {}", turns::SET_DUE));
        with.extend(turns::due_values(project));
    } else if parked > 0 {
        set.push_str(", #dpk = :later, #dsk = if_not_exists(#dsk, :never)");
        with.extend(turns::later_values(project));
    } else {
        set.push_str(" REMOVE #dpk");
    }
    // The first update of an item has no rev to compare.
    let unchanged = "attribute_exists(#limit) AND #rev = :seen";
    let _ = table.update(Key::slots(project), &set, unchanged, with).await?;
    Ok(())
}

/// The numbers of an item; never below 0.
pub(super) fn of(item: &Item) -> (u64, u64) {
    let slots = SlotsItem::of(item);
    let number = |number: i64| u64::try_from(number).unwrap_or_default();
    (number(slots.queued), number(slots.parked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_moves_is_counted_where_it_is() {
        let (due, other, later) = (Some("Q#1#0#a"), Some("Q#1#4#a"), Some("R#0#a"));
        let numbers = |before, after| {
            let moved = Moved::between(before, after);
            (moved.queued, moved.parked, moved.is_written())
        };
        assert_eq!(numbers(None, due), (1, 0, true));
        assert_eq!(numbers(None, later), (0, 1, true));
        assert_eq!(numbers(later, due), (1, -1, true));
        assert_eq!(numbers(due, later), (-1, 1, true));
        assert_eq!(numbers(due, None), (-1, 0, true));
        assert_eq!(numbers(later, None), (0, -1, true));
        assert_eq!(numbers(other, due), (0, 0, true), "the project is due");
        assert_eq!(numbers(later, later), (0, 0, false));
        assert_eq!(numbers(None, None), (0, 0, false));
    }
}
