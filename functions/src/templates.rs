//! What a new project's repository starts with: the folders of `templates/`,
//! in the program itself.

mod fill;

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use rdev_domain::ports::SeedFile;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use fill::{Values, check_registry};

use crate::Api;
use crate::cursor::{List, Listing, PageQuery};
use crate::extract::InQuery;
use crate::problem::Answer;

/// A template.
#[derive(Debug, Clone, Copy)]
pub struct Template {
    /// Its name in the API.
    pub name: &'static str,
    /// What it is, for people.
    pub description: &'static str,
    /// Its files with their placeholders: path from the root, content.
    pub files: &'static [(&'static str, &'static [u8])],
}

/// The named files of a folder of `templates/`.
macro_rules! files {
    ($folder:literal: $($path:literal),+ $(,)?) => {
        &[$((
            $path,
            include_bytes!(concat!("../../templates/", $folder, "/", $path)).as_slice(),
        )),+]
    };
}

/// Every template.
pub const ALL: [Template; 3] = [
    Template {
        name: "static",
        description: "A page of plain HTML and CSS. Nothing to install, nothing to build.",
        files: files!("static":
            ".dockerignore", ".woodpecker.yaml", "AGENTS.md", "CLAUDE.md", "Dockerfile", "README.md",
            "ci/notify.mjs", "deploy/deployment.yaml", "deploy/ingress.yaml", "deploy/service.yaml",
            "index.html", "nginx.conf", "style.css",
        ),
    },
    Template {
        name: "astro-landing",
        description: "A landing page made with Astro. Its words are one JSON file.",
        files: files!("astro-landing":
            ".dockerignore", ".gitignore", ".npmrc", ".woodpecker.yaml", "AGENTS.md", "CLAUDE.md",
            "Dockerfile", "README.md", "astro.config.mjs", "ci/notify.mjs",
            "deploy/deployment.yaml", "deploy/ingress.yaml", "deploy/service.yaml", "nginx.conf",
            "package-lock.json", "package.json", "public/favicon.svg", "src/content/site.json",
            "src/layouts/Page.astro", "src/pages/404.astro", "src/pages/index.astro", "src/site.ts",
            "src/styles/site.css", "tsconfig.json",
        ),
    },
    Template {
        name: "empty",
        description: "A repository without a commit; the first build makes the first one.",
        files: &[],
    },
];

impl Template {
    /// The template called `name`.
    pub fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|template| template.name == name)
    }

    /// Its files for a project, for [`rdev_domain::ports::Forge::create_repository`]. What needs
    /// a registry or a zone is left out where there is none: files, and steps of the pipeline.
    pub fn seed(&self, values: &Values) -> Vec<SeedFile> {
        let file = |(path, content): &(&str, &[u8])| {
            let content = fill::filled(path, content, values)?;
            Some(SeedFile { path: (*path).to_owned(), content })
        };
        self.files.iter().filter_map(file).collect()
    }
}

/// The names of all templates, in order: those in the program, and the repositories on the forge
/// that are configured.
pub(crate) fn names(api: &Api) -> BTreeSet<&str> {
    let configured = api.settings().template_repositories.keys().map(String::as_str);
    ALL.iter().map(|template| template.name).chain(configured).collect()
}

/// `/templates`.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::default().routes(routes!(list))
}

/// A template, as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TemplateView {
    /// Its name, for `template` of `POST /project`.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// The paths of its files. Those for the image and the cluster are left out where no registry
    /// or no zone is configured; of a repository on the forge there are none here.
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
    State(api): State<Api>,
    InQuery(query): InQuery<PageQuery>,
) -> Answer<Json<List<TemplateView>>> {
    let listing = Listing::new("templates", &[], query.limit, query.cursor.as_deref())?;
    let repositories = &api.settings().template_repositories;
    // A repository of the same name comes before what is in the program.
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
