//! What a new project's repository starts with: the folders of `templates/`, which are compiled
//! into the program.

mod fill;

use std::collections::BTreeSet;

use rdev_domain::ports::SeedFile;

pub use fill::{Values, check_registry};

use crate::app::App;

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
            include_bytes!(concat!("../../../templates/", $folder, "/", $path)).as_slice(),
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

    /// Its files for a project, for [`rdev_domain::ports::Forge::create_repository`]. Files and
    /// pipeline steps that need a registry or a zone are omitted when it is not configured.
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
pub(crate) fn names(app: &App) -> BTreeSet<&str> {
    let configured = app.settings().template_repositories.keys().map(String::as_str);
    ALL.iter().map(|template| template.name).chain(configured).collect()
}
