//! Templates: what a project's repository can start with.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::http::cursor::{List, Listing, PageQuery};
use crate::http::extract::InQuery;
use crate::http::problem::ApiResult;
use crate::services::templates::ALL;

/// `/templates`.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(list))
}

/// A template, as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TemplateView {
    /// Its name, for `template` of `POST /project`.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// The paths of its files. Those for the image and the cluster are omitted when no registry
    /// or no zone is configured. Empty for a repository on the forge.
    pub files: Vec<String>,
}

/// What a project's repository can start with.
#[utoipa::path(
    get, path = "/templates", tag = "projects", operation_id = "list_templates",
    security(("key" = ["projects:read"])),
    params(PageQuery),
    responses((status = 200, description = "A page, by name", body = List<TemplateView>))
)]
async fn list(
    State(app): State<App>,
    InQuery(query): InQuery<PageQuery>,
) -> ApiResult<Json<List<TemplateView>>> {
    let listing = Listing::new("templates", &[], query.limit, query.cursor.as_deref())?;
    let repositories = &app.settings().template_repositories;
    // A configured repository replaces the program's template of the same name.
    let own = ALL.iter().filter(|template| !repositories.contains_key(template.name));
    let own = own.map(|template| TemplateView {
        name: template.name.to_owned(),
        description: template.description.to_owned(),
        files: template.files.iter().map(|(path, _)| (*path).to_owned()).collect(),
    });
    let configured = repositories.iter().map(|(name, repository)| TemplateView {
        name: name.clone(),
        description: format!("A copy of the repository {repository}."),
        files: Vec::new(),
    });
    let mut templates: Vec<TemplateView> = own.chain(configured).collect();
    templates.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Json(listing.cut(templates, |template| template.name.clone())))
}
