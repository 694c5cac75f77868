//! The newest known pipeline of each commit.

use rdev_domain::git::CommitId;
use rdev_domain::ids::ProjectId;
use rdev_domain::pipeline::CommitPipeline;
use rdev_domain::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::rows;
use super::transaction::Tx;
use crate::error::Error;

pub(super) fn record(tx: &Tx<'_>, pipeline: &CommitPipeline) -> Result<(), Error> {
    let expires_at = tx.context.retention.pipeline_expires_at(tx.now);
    tx.conn
        .prepare_cached(
            "INSERT INTO pipelines (project, sha, at, expires_at, body)
             VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (project, sha) DO UPDATE
             SET at = excluded.at, expires_at = excluded.expires_at, body = excluded.body
             WHERE at <= excluded.at OR expires_at <= ?6",
        )?
        .execute(params![
            pipeline.project_id.as_str(),
            pipeline.commit.as_str(),
            pipeline.at.as_millis(),
            expires_at.map(Timestamp::as_millis),
            serde_json::to_string(pipeline)?,
            tx.now.as_millis(),
        ])?;
    Ok(())
}

pub(super) fn get(
    conn: &Connection,
    project: &ProjectId,
    commit: &CommitId,
    latest: Timestamp,
) -> Result<Option<CommitPipeline>, Error> {
    let mut one = conn.prepare_cached(
        "SELECT body FROM pipelines
         WHERE project = ?1 AND sha = ?2 AND (expires_at IS NULL OR expires_at > ?3)",
    )?;
    let key = params![project.as_str(), commit.as_str(), latest.as_millis()];
    Ok(one.query_row(key, |row| rows::body(row, 0)).optional()?)
}
