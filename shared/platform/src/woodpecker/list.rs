//! Pages of pipelines.
//!
//! Woodpecker sorts by number and has page numbers; our pages continue below a point in time. Its
//! filter `before` (RFC 3339, whole seconds) excludes most pipelines that started after that point;
//! this module drops the rest.

use std::collections::BTreeSet;

use rdev_domain::page::{Listed, Page};
use rdev_domain::pipeline::{CiId, PipelineFilter, PipelineSummary};
use rdev_domain::ports::{PortError, PortResult};
use rdev_domain::time::Timestamp;
use reqwest::{Method, StatusCode};
use ulid::Ulid;

use super::{SYSTEM, Woodpecker, refused, shapes};

/// Woodpecker's largest page.
const PER_PAGE: usize = 50;

/// The most pages of Woodpecker that one page of ours reads.
const MAX_PAGES: usize = 20;

/// The last moment that RFC 3339 can express, minus some hours.
const LAST: i64 = 253_402_200_000_000;

impl Woodpecker {
    pub(super) async fn list(
        &self,
        ci: CiId,
        filter: &PipelineFilter,
        page: &Page,
    ) -> PortResult<Listed<PipelineSummary>> {
        let before = page.before.and_then(second_after);
        let mut numbers = BTreeSet::new();
        let mut found: Vec<PipelineSummary> = Vec::new();
        for theirs in 1..=MAX_PAGES {
            let batch = self.list_page(ci, filter, before.as_deref(), theirs).await?;
            let last = batch.len() < PER_PAGE;
            let lowest = batch.last().map(PipelineSummary::place);
            // A pipeline that arrives between two pages pushes the last one of the first page
            // onto the second.
            found.extend(batch.into_iter().filter(|one| {
                page.before.is_none_or(|place| one.place() < place)
                    && fits(one, filter)
                    && numbers.insert(one.number)
            }));
            // If the server's clock was set back, numbers and times disagree. Pipelines later than
            // the last one read are in order; unread ones may precede the others.
            let settled = found.iter().filter(|one| lowest.is_none_or(|it| one.place() >= it));
            if last || settled.count() > page.limit as usize {
                found.sort_by_key(|one| std::cmp::Reverse(one.place()));
                return Ok(Listed::from_one_more(found, page, PipelineSummary::place));
            }
        }
        let why = format!(
            "{MAX_PAGES} pages of pipelines did not reach the requested one; the server may be \
             too old to support `before`"
        );
        Err(PortError::upstream(SYSTEM, why))
    }

    async fn list_page(
        &self,
        ci: CiId,
        filter: &PipelineFilter,
        before: Option<&str>,
        number: usize,
    ) -> PortResult<Vec<PipelineSummary>> {
        let (id, number, per_page) = (ci.0.to_string(), number.to_string(), PER_PAGE.to_string());
        let mut query = vec![("page", number.as_str()), ("perPage", per_page.as_str())];
        let optional = [
            ("before", before),
            ("branch", filter.branch.as_deref()),
            ("status", filter.status.as_deref()),
        ];
        for (name, value) in optional {
            query.extend(value.map(|value| (name, value)));
        }
        let answer = self.call(Method::GET, &["repos", &id, "pipelines"], &query).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                let why = format!("it has no repository {id}, or the token may not see it");
                return Err(PortError::upstream(SYSTEM, why));
            }
            _ => return Err(refused(&answer)),
        }
        let pipelines: Option<Vec<shapes::Pipeline>> = answer.json()?;
        let ours = |one: shapes::Pipeline| {
            let page = self.page_of(ci, one.number);
            one.summary(page)
        };
        Ok(pipelines.unwrap_or_default().into_iter().map(ours).collect())
    }
}

/// Early versions ignore the filters.
fn fits(one: &PipelineSummary, filter: &PipelineFilter) -> bool {
    filter.branch.as_ref().is_none_or(|branch| one.branch == *branch)
        && filter.status.as_ref().is_none_or(|status| one.status == *status)
}

/// The first whole second after a position, in the server's format; `None` if it is too late for
/// RFC 3339, so that every pipeline is before it.
fn second_after(place: Ulid) -> Option<String> {
    let millis = i64::try_from(place.timestamp_ms()).unwrap_or(i64::MAX);
    let next = (millis / 1000).saturating_add(1).saturating_mul(1000);
    (next < LAST).then(|| Timestamp::from_millis(next).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_takes_in_the_whole_second_of_a_place() {
        let text = |millis| second_after(Ulid::from_parts(millis, 1));
        assert_eq!(text(0).as_deref(), Some("1970-01-01T00:00:01.000Z"));
        assert_eq!(text(1_795_424_624_000).as_deref(), Some("2026-11-23T09:03:45.000Z"));
        assert_eq!(text(1_795_424_624_999).as_deref(), Some("2026-11-23T09:03:45.000Z"));
        assert_eq!(text((1 << 48) - 1), None);
    }
}
