//! Pages of lists, and the lists that need nothing else: audit log, pipelines, dead letters.

use rdev_domain::audit::AuditEvent;
use rdev_domain::git::CommitId;
use rdev_domain::ids::ProjectId;
use rdev_domain::page::{Listed, Page};
use rdev_domain::pipeline::CommitPipeline;
use rdev_domain::ports::{AuditFilter, DeadLetter};
use ulid::Ulid;

use super::transaction::{State, Tx, expired};

/// One page of `all`, which are the newest first.
pub(super) fn page<T>(
    all: impl Iterator<Item = T>,
    page: &Page,
    id: impl Fn(&T) -> Ulid,
) -> Listed<T> {
    let below = all.filter(|item| page.before.is_none_or(|before| id(item) < before));
    let items = below.take(page.limit as usize + 1).collect();
    Listed::from_one_more(items, page, id)
}

pub(super) fn audit(state: &State, filter: &AuditFilter, of: &Page) -> Listed<AuditEvent> {
    let all = state.audit.values().rev();
    let kept = all.filter(|(_, expires_at)| !expired(*expires_at, state.latest));
    let wanted = kept.map(|(event, _)| event).filter(|event| {
        filter.project.as_ref().is_none_or(|project| Some(project) == event.project_id.as_ref())
    });
    page(wanted.cloned(), of, |event| event.id)
}

pub(super) fn record_pipeline(tx: &mut Tx<'_>, pipeline: &CommitPipeline) {
    let key = (pipeline.project_id.clone(), pipeline.commit.as_str().to_owned());
    let expires_at = tx.state.retention.pipeline_expires_at(tx.now);
    let there = tx.state.pipelines.get(&key);
    let newer =
        there.is_some_and(|(there, until)| there.at > pipeline.at && !expired(*until, tx.now));
    if !newer {
        tx.state.pipelines.insert(key, (pipeline.clone(), expires_at));
    }
}

pub(super) fn pipeline(
    state: &State,
    project: &ProjectId,
    commit: &CommitId,
) -> Option<CommitPipeline> {
    let (pipeline, until) = state.pipelines.get(&(project.clone(), commit.as_str().to_owned()))?;
    (!expired(*until, state.latest)).then(|| pipeline.clone())
}

pub(super) fn record_dead_letter(state: &mut State, letter: &DeadLetter) {
    state.dead_letters.entry(letter.id).or_insert_with(|| letter.clone());
}

pub(super) fn dead_letters(state: &State, of: &Page) -> Listed<DeadLetter> {
    page(state.dead_letters.values().rev().cloned(), of, |letter| letter.id)
}

pub(super) fn delete_dead_letter(tx: &mut Tx<'_>, id: Ulid) {
    if let Some(letter) = tx.state.dead_letters.remove(&id) {
        let subject = format!("dead_letter/{id}");
        tx.record("dead_letter.deleted", subject, letter.project_id.as_ref());
    }
}
