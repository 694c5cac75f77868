//! Pages of a list, newest first.

use ulid::Ulid;

/// Which part of a list to return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// How many items at most: 1 to 100.
    pub limit: u32,
    /// Only items with a ULID below this one.
    pub before: Option<Ulid>,
}

/// One page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// The items, newest first.
    pub items: Vec<T>,
    /// Where the next page begins, when there is one: the last item's ULID.
    pub next: Option<Ulid>,
}

impl<T> Listed<T> {
    /// A page from up to `limit + 1` items: the last one only shows that there are more.
    pub fn from_one_more(mut items: Vec<T>, page: &Page, id: impl Fn(&T) -> Ulid) -> Self {
        let limit = page.limit as usize;
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(id) } else { None };
        Self { items, next }
    }
}
