//! Lists: `limit`, and the opaque `cursor` that leads to the next page.
//!
//! A cursor names its list, a digest of its filters, and the last item. It is
//! not signed: a forged one only changes where a page begins, in a list that
//! its bearer may read anyway.

use std::fmt::Display;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdev_domain::page::{Listed, Page};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use ulid::Ulid;
use utoipa::{IntoParams, ToSchema};

use crate::http::key_text::hex;
use crate::http::problem::{ApiResult, Code, Problem};

/// How much JSON a page has at most, unless its first item alone has more: what a Lambda
/// function may answer, less a good margin.
pub(crate) const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    /// The items, newest first (workers by id).
    pub items: Vec<T>,
    /// Where the next page begins; `null` on the last one.
    #[schema(required = true)]
    pub next_cursor: Option<String>,
}

/// Which page to return.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// How many items at most: 1 to 100, 50 by default.
    #[param(minimum = 1, maximum = 100)]
    pub(crate) limit: Option<u32>,
    /// The `next_cursor` of the page before.
    pub(crate) cursor: Option<String>,
}

/// One request for a page.
#[derive(Debug)]
pub(crate) struct Listing {
    list: &'static str,
    filters: String,
    limit: u32,
    after: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    l: String,
    f: String,
    a: String,
}

impl Listing {
    /// The requested page of `list`; `filters` are all its filters.
    pub(crate) fn new(
        list: &'static str,
        filters: &[Option<&str>],
        limit: Option<u32>,
        cursor: Option<&str>,
    ) -> ApiResult<Self> {
        let limit = limit.unwrap_or(50);
        if !(1..=100).contains(&limit) {
            return Err(Problem::field("limit", "must lie between 1 and 100"));
        }
        let filters = serde_json::to_vec(filters).expect("strings can be written as JSON");
        let filters = hex(&Sha256::digest(filters)[..8]);
        let mut listing = Self { list, filters, limit, after: None };
        listing.after = cursor.map(|cursor| listing.read(cursor)).transpose()?;
        Ok(listing)
    }

    /// The page, of a list whose items have ULIDs.
    pub(crate) fn page(&self) -> ApiResult<Page> {
        let ulid = |text: &String| match Ulid::from_string(text) {
            Ok(id) if id.to_string() == *text => Ok(id),
            _ => Err(refused()),
        };
        Ok(Page { limit: self.limit, before: self.after.as_ref().map(ulid).transpose()? })
    }

    /// The answer to [`Listing::page`]; `place` is the ULID that the list is in order of.
    pub(crate) fn answer<T, U: Serialize>(
        &self,
        listed: Listed<T>,
        place: impl Fn(&T) -> Ulid,
        item: impl Fn(T) -> U,
    ) -> List<U> {
        let mut next = listed.next;
        let mut items = Vec::with_capacity(listed.items.len());
        let (mut last, mut bytes) = (None, 0);
        for one in listed.items {
            let here = place(&one);
            let one = item(one);
            bytes += json_bytes(&one);
            if bytes > PAGE_BYTES && last.is_some() {
                next = last;
                break;
            }
            items.push(one);
            last = Some(here);
        }
        List { items, next_cursor: next.map(|last| self.write(&last)) }
    }

    /// A page of a list that is short enough to be read whole, `items` being in
    /// ascending order of `place`.
    pub(crate) fn cut<T>(&self, items: Vec<T>, place: impl Fn(&T) -> String) -> List<T> {
        let after = self.after.as_deref();
        let mut items: Vec<T> = items
            .into_iter()
            .filter(|item| after.is_none_or(|at| place(item).as_str() > at))
            .collect();
        let more = items.len() > self.limit as usize;
        items.truncate(self.limit as usize);
        let last = items.last().filter(|_| more).map(&place);
        List { items, next_cursor: last.map(|last| self.write(&last)) }
    }

    fn write(&self, last: &impl Display) -> String {
        let cursor =
            Cursor { l: self.list.to_owned(), f: self.filters.clone(), a: last.to_string() };
        let json = serde_json::to_vec(&cursor).expect("strings can be written as JSON");
        URL_SAFE_NO_PAD.encode(json)
    }

    fn read(&self, text: &str) -> ApiResult<String> {
        let json = Some(text).filter(|text| text.len() <= 1000);
        let json = json.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let cursor: Option<Cursor> = json.and_then(|json| serde_json::from_slice(&json).ok());
        match cursor {
            Some(cursor) if cursor.l == self.list && cursor.f == self.filters => Ok(cursor.a),
            _ => Err(refused()),
        }
    }
}

/// How long `value` is as JSON.
pub(crate) fn json_bytes(value: &impl Serialize) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).expect("what the API answers can be written as JSON");
    count.0
}

fn refused() -> Problem {
    Problem::new(Code::InvalidCursor, "the cursor is not one of this list with these filters")
}
