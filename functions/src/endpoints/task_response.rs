//! Answers about a task, whichever endpoint queued or cancelled it.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::LOCATION;
use rdev_domain::task::Task;

use crate::services::task_view::TaskView;

/// 202 for a queued build.
pub(crate) fn build_accepted(task: Task) -> Response {
    let location = build_location(&task);
    accepted(location, TaskView::from(task))
}

/// 202 for a queued task that is found at `location`.
pub(crate) fn accepted(location: String, body: impl serde::Serialize) -> Response {
    (StatusCode::ACCEPTED, [(LOCATION, location)], Json(body)).into_response()
}

/// 200 for a task that is cancelled, 202 for one whose worker is to stop it.
pub(crate) fn cancelled(task: TaskView) -> Response {
    let ended = task.task.state.is_terminal();
    let status = if ended { StatusCode::OK } else { StatusCode::ACCEPTED };
    (status, Json(task)).into_response()
}

/// Where a build is in the API.
pub(crate) fn build_location(task: &Task) -> String {
    format!("/projects/{}/builds/{}", task.project_id, task.id)
}
