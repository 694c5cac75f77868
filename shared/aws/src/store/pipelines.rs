//! The newest known pipeline of each commit.

use rdev_domain::git::CommitId;
use rdev_domain::ids::ProjectId;
use rdev_domain::pipeline::CommitPipeline;
use rdev_domain::ports::PortResult;

use super::context::{Change, Context};
use super::item::{body, expired, item, millis, number, seconds, text};
use crate::error;
use crate::schema::{EXPIRES_AT, Key};

pub(super) async fn record(change: &Change<'_>, pipeline: &CommitPipeline) -> PortResult<()> {
    let body = serde_json::to_string(pipeline).map_err(error::defect)?;
    let key = Key::pipeline(&pipeline.project_id, &pipeline.commit);
    let mut record = item(key, [("body", text(body)), ("at", millis(pipeline.at))]);
    if let Some(at) = change.context.retention.pipeline_expires_at(change.now) {
        record.insert(EXPIRES_AT.to_owned(), seconds(at));
    }
    let with = vec![
        (":at", millis(pipeline.at)),
        (":now", number(change.now.as_millis().div_euclid(1000))),
    ];
    let condition = "attribute_not_exists(#pk) OR #at <= :at OR #expires_at <= :now";
    // If it does not hold, the present record is newer.
    change.context.table.put_if(record, condition, with).await.map(drop)
}

pub(super) async fn get(
    context: &Context,
    project: &ProjectId,
    commit: &CommitId,
) -> PortResult<Option<CommitPipeline>> {
    let latest = context.latest();
    let found = context.table.get(Key::pipeline(project, commit)).await?;
    found.filter(|item| !expired(item, latest)).map(|item| body(&item)).transpose()
}
