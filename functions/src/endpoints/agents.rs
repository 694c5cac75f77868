//! The agents, and which workers offer them.

use axum::Json;
use axum::extract::State;
use rdev_domain::ids::WorkerId;
use rdev_domain::spec::AgentName;
use rdev_domain::worker::WorkerStatus;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::http::cursor::{List, Listing, PageQuery};
use crate::http::extract::InQuery;
use crate::http::problem::ApiResult;

/// `/agents`.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(list))
}

/// An agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Agent {
    /// Its name.
    pub name: AgentName,
    /// Builds that name no agent get this one.
    pub default: bool,
    /// The workers that offer it and are not offline.
    pub workers: Vec<WorkerId>,
}

/// The agents that rdev supports.
#[utoipa::path(
    get, path = "/agents", tag = "agents", operation_id = "list_agents",
    security(("key" = ["builds:read"])),
    params(PageQuery),
    responses((status = 200, description = "A page", body = List<Agent>))
)]
async fn list(
    State(app): State<App>,
    InQuery(query): InQuery<PageQuery>,
) -> ApiResult<Json<List<Agent>>> {
    let listing = Listing::new("agents", &[], query.limit, query.cursor.as_deref())?;
    let mut workers = app.store().workers().await?;
    workers.retain(|worker| worker.status != WorkerStatus::Offline);
    let mut agents: Vec<Agent> = AgentName::ALL
        .into_iter()
        .map(|name| Agent {
            name,
            default: name == app.settings().default_agent,
            workers: workers
                .iter()
                .filter(|worker| worker.agents.contains(&name))
                .map(|worker| worker.id.clone())
                .collect(),
        })
        .collect();
    agents.sort_by_key(|agent| agent.name.as_str());
    Ok(Json(listing.cut(agents, |agent| agent.name.to_string())))
}
