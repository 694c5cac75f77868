//! Pipelines of a project, read from its CI server.

#![allow(unused_qualifications, reason = "`utoipa::path` writes `params` so")]

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use rdev_domain::ids::ProjectId;
use rdev_domain::page::Page;
use rdev_domain::pipeline::{
    CiId, LogLine, Pipeline, PipelineFilter, PipelineNumber, PipelineSummary,
};
use rdev_domain::ports::{Ci, PortError};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::http::cursor::{List, Listing};
use crate::http::extract::{EmptyBody, InPath, InQuery, OptionalJson};
use crate::http::problem::{ApiResult, Code, Problem};

/// `/projects/{id}/ci…`.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(log))
        .routes(routes!(restart))
        .routes(routes!(cancel))
}

/// Which pipelines to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PipelineQuery {
    /// How many items at most: 1 to 100, 50 by default.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only of this branch.
    branch: Option<String>,
    /// Only in this state, as the CI server names it.
    status: Option<String>,
}

/// Which step's log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LogQuery {
    /// The step's id.
    step: u64,
}

/// A step's log.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct StepLog {
    /// Its lines, in order.
    pub lines: Vec<LogLine>,
    /// Why it has none, if the step failed before its command ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A project's pipelines, newest first.
#[utoipa::path(
    get, path = "/projects/{id}/ci/pipelines", tag = "ci", operation_id = "list_pipelines",
    security(("key" = ["ci:read"])),
    params(("id" = ProjectId, Path, description = "The project"), PipelineQuery),
    responses((status = 200, description = "A page", body = List<PipelineSummary>))
)]
async fn list(
    State(app): State<App>,
    InPath(id): InPath<ProjectId>,
    InQuery(query): InQuery<PipelineQuery>,
) -> ApiResult<Json<List<PipelineSummary>>> {
    for (name, text) in [("branch", &query.branch), ("status", &query.status)] {
        let plain =
            |text: &String| (1..=255).contains(&text.len()) && !text.contains(char::is_control);
        if text.as_ref().is_some_and(|text| !plain(text)) {
            return Err(Problem::field(name, "must have 1 to 255 bytes and no control characters"));
        }
    }
    let filters = [Some(id.as_str()), query.branch.as_deref(), query.status.as_deref()];
    let listing = Listing::new("pipelines", &filters, query.limit, query.cursor.as_deref())?;
    let page = listing.page()?;
    let (ci, ci_id) = of_project(&app, &id).await?;
    let filter = PipelineFilter { branch: query.branch, status: query.status };
    let listed = ci.pipelines(ci_id, &filter, &page).await?;
    Ok(Json(listing.answer(listed, PipelineSummary::place, PipelineSummary::in_list)))
}

/// One pipeline, with its workflows and steps.
#[utoipa::path(
    get, path = "/projects/{id}/ci/pipelines/{number}", tag = "ci", operation_id = "show_pipeline",
    security(("key" = ["ci:read"])),
    params(
        ("id" = ProjectId, Path, description = "The project"),
        ("number" = String, Path, description = "The pipeline's number, or `latest`")
    ),
    responses((status = 200, description = "The pipeline", body = Pipeline))
)]
async fn show(
    State(app): State<App>,
    InPath((id, number)): InPath<(ProjectId, PipelineNumber)>,
) -> ApiResult<Json<Pipeline>> {
    let (ci, ci_id) = of_project(&app, &id).await?;
    let number = number_of(ci, ci_id, number).await?;
    Ok(Json(ci.pipeline(ci_id, number).await?))
}

/// The log of a pipeline's step.
#[utoipa::path(
    get, path = "/projects/{id}/ci/pipelines/{number}/log", tag = "ci",
    operation_id = "pipeline_log",
    security(("key" = ["ci:read"])),
    params(
        ("id" = ProjectId, Path, description = "The project"),
        ("number" = String, Path, description = "The pipeline's number, or `latest`"),
        LogQuery
    ),
    responses((status = 200, description = "The log", body = StepLog))
)]
async fn log(
    State(app): State<App>,
    InPath((id, number)): InPath<(ProjectId, PipelineNumber)>,
    InQuery(query): InQuery<LogQuery>,
) -> ApiResult<Json<StepLog>> {
    let (ci, ci_id) = of_project(&app, &id).await?;
    let number = number_of(ci, ci_id, number).await?;
    let lines = ci.log(ci_id, number, query.step).await?;
    let error = if lines.is_empty() {
        let pipeline = ci.pipeline(ci_id, number).await?;
        let mut steps = pipeline.workflows.into_iter().flat_map(|workflow| workflow.steps);
        steps.find(|step| step.id == query.step).and_then(|step| step.error)
    } else {
        None
    };
    Ok(Json(StepLog { lines, error }))
}

/// Runs a pipeline again, as a new one.
#[utoipa::path(
    post, path = "/projects/{id}/ci/pipelines/{number}/restart", tag = "ci",
    operation_id = "restart_pipeline",
    security(("key" = ["ci:write"])),
    params(
        ("id" = ProjectId, Path, description = "The project"),
        ("number" = String, Path, description = "The pipeline's number, or `latest`")
    ),
    responses((status = 200, description = "The new pipeline", body = PipelineSummary))
)]
async fn restart(
    State(app): State<App>,
    InPath((id, number)): InPath<(ProjectId, PipelineNumber)>,
    _: OptionalJson<EmptyBody>,
) -> ApiResult<Json<PipelineSummary>> {
    let (ci, ci_id) = of_project(&app, &id).await?;
    let number = number_of(ci, ci_id, number).await?;
    Ok(Json(ci.restart(ci_id, number).await?))
}

/// Ends a pipeline that runs.
#[utoipa::path(
    post, path = "/projects/{id}/ci/pipelines/{number}/cancel", tag = "ci",
    operation_id = "cancel_pipeline",
    security(("key" = ["ci:write"])),
    params(
        ("id" = ProjectId, Path, description = "The project"),
        ("number" = String, Path, description = "The pipeline's number, or `latest`")
    ),
    responses((status = 204, description = "It is being ended"))
)]
async fn cancel(
    State(app): State<App>,
    InPath((id, number)): InPath<(ProjectId, PipelineNumber)>,
    _: OptionalJson<EmptyBody>,
) -> ApiResult<StatusCode> {
    let (ci, ci_id) = of_project(&app, &id).await?;
    let number = number_of(ci, ci_id, number).await?;
    ci.cancel(ci_id, number).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn of_project<'a>(app: &'a App, id: &ProjectId) -> ApiResult<(&'a dyn Ci, CiId)> {
    let project = app.store().project(id).await?;
    let missing = |what: &str| Problem::new(Code::CiNotConfigured, what);
    let ci = app.ci().ok_or_else(|| missing("this installation has no CI ([ci])"))?;
    let ci_id = project.ci_id.ok_or_else(|| missing("the project's repository has no CI"))?;
    Ok((ci, ci_id))
}

/// The number of a pipeline. The latest is the first of the list, of whatever branch.
async fn number_of(ci: &dyn Ci, ci_id: CiId, number: PipelineNumber) -> ApiResult<u64> {
    match number {
        PipelineNumber::Number(number) => Ok(number),
        PipelineNumber::Latest => {
            let page = Page { limit: 1, before: None };
            let listed = ci.pipelines(ci_id, &PipelineFilter::default(), &page).await?;
            let latest = listed.items.first().map(|latest| latest.number);
            latest.ok_or_else(|| PortError::not_found("pipeline of the project").into())
        }
    }
}
