//! What a new project's repository starts with: the folders of `templates/`,
//! in the program itself.

use rdev_domain::ports::SeedFile;

/// A template.
#[derive(Debug, Clone, Copy)]
pub struct Template {
    /// Its name in the API.
    pub name: &'static str,
    /// Its files: path from the root, content.
    files: &'static [(&'static str, &'static [u8])],
}

/// Every template.
pub const ALL: [Template; 2] = [
    Template {
        name: "static",
        files: &[
            ("AGENTS.md", include_bytes!("../../templates/static/AGENTS.md")),
            ("README.md", include_bytes!("../../templates/static/README.md")),
            ("index.html", include_bytes!("../../templates/static/index.html")),
            ("style.css", include_bytes!("../../templates/static/style.css")),
        ],
    },
    // A repository without a commit; the first build makes the first one.
    Template { name: "empty", files: &[] },
];

impl Template {
    /// The template called `name`.
    pub fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|template| template.name == name)
    }

    /// Its files, for [`rdev_domain::ports::Forge::create_repository`].
    pub fn seed(&self) -> Vec<SeedFile> {
        let file = |(path, content): &(&str, &[u8])| SeedFile {
            path: (*path).to_owned(),
            content: content.to_vec(),
        };
        self.files.iter().map(file).collect()
    }
}
