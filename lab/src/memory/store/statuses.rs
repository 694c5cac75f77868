//! The commit statuses of tasks that are still to be sent to the forge.

use rdev_domain::commit_status::ShownStatus;
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;

use super::rows::Reading;
use super::transaction::State;

pub(super) fn due(state: &State, now: Timestamp, limit: u32) -> Vec<Task> {
    let at = |task: &Task| task.commit_status.as_ref().and_then(|status| status.next_at);
    let readable =
        state.tasks.values().filter(|row| row.reading(state.format) == Reading::Readable);
    let mut due: Vec<&Task> =
        readable.map(|row| &row.task).filter(|task| at(task).is_some_and(|at| at <= now)).collect();
    due.sort_by_key(|task| (at(task), task.id));
    due.into_iter().take(limit as usize).cloned().collect()
}

pub(super) fn update(state: &mut State, before: &Task, after: &ShownStatus) -> Option<Task> {
    let format = state.format;
    let row = state.tasks.get_mut(&before.id)?;
    if row.reading(format) != Reading::Readable || row.task.commit_status != before.commit_status {
        return None;
    }
    let task = Task { commit_status: Some(after.clone()), ..row.task.clone() };
    row.write(task.clone(), format);
    Some(task)
}
