//! Repositories of the data folder: what is stored does not depend on where the folder is.
//!
//! A URL below `<data>/repos/` is stored as `file:///$data/repos/…`, and read as the URL in the
//! folder that is open. Versions before this stored the absolute URL. A `file:` URL may only name a
//! repository below the data folder, so such a one is read as what its last `/repos/` is followed
//! by, wherever that folder was.

use std::path::Path;

use rdev_domain::Invalid;
use rdev_domain::git_url::GitUrl;
use rdev_domain::project::{Project, ProjectPatch};
use rdev_domain::spec::Work;
use rdev_domain::task::Task;

/// What stands for the folder of the repositories in a stored URL.
const STORED: &str = "file:///$data/repos/";

/// The folder's name below the data folder.
const REPOSITORIES: &str = "/repos/";

/// The place of the repositories.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The URL of their folder, with a slash at its end.
    root: String,
}

impl Place {
    /// `repositories` is an absolute path.
    pub(crate) fn of(repositories: &Path) -> Result<Self, Invalid> {
        Ok(Self { root: format!("{}/", GitUrl::from_folder(repositories)?.as_str()) })
    }

    /// A URL as it is stored.
    pub(super) fn stored_url(&self, url: GitUrl) -> GitUrl {
        self.stored(url.as_str()).and_then(|stored| stored.parse().ok()).unwrap_or(url)
    }

    /// A URL that can be used.
    pub(super) fn url(&self, url: GitUrl) -> GitUrl {
        self.here(url.as_str()).and_then(|here| here.parse().ok()).unwrap_or(url)
    }

    /// The project with the URL as it is stored.
    pub(super) fn stored_project(&self, mut project: Project) -> Project {
        change(&mut project.git_url, |url| self.stored(url));
        project
    }

    /// The change with the URL as it is stored.
    pub(super) fn stored_patch(&self, mut patch: ProjectPatch) -> ProjectPatch {
        change(&mut patch.git_url, |url| self.stored(url));
        patch
    }

    /// The task with the URL as it is stored.
    pub(super) fn stored_task(&self, mut task: Task) -> Task {
        if let Work::Build(spec) = &mut task.work {
            change(&mut spec.git_url, |url| self.stored(url));
        }
        task
    }

    /// The project with a URL that can be used.
    pub(super) fn project(&self, mut project: Project) -> Project {
        change(&mut project.git_url, |url| self.here(url));
        project
    }

    /// The task with a URL that can be used.
    pub(super) fn task(&self, mut task: Task) -> Task {
        if let Work::Build(spec) = &mut task.work {
            change(&mut spec.git_url, |url| self.here(url));
        }
        task
    }

    fn stored(&self, url: &str) -> Option<String> {
        Some(format!("{STORED}{}", url.strip_prefix(&self.root)?))
    }

    fn here(&self, url: &str) -> Option<String> {
        let name = match url.strip_prefix(STORED) {
            Some(name) => name,
            None if url.starts_with(&self.root) || !url.starts_with("file:") => return None,
            None => url.rsplit_once(REPOSITORIES)?.1,
        };
        Some(format!("{}{name}", self.root))
    }
}

/// Replaces a URL by what `to` makes of it, if that is one.
fn change(url: &mut Option<GitUrl>, to: impl Fn(&str) -> Option<String>) {
    let changed = url.as_ref().and_then(|url| to(url.as_str())?.parse().ok());
    if changed.is_some() {
        *url = changed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(folder: &str) -> Place {
        Place::of(Path::new(folder)).expect("an absolute folder")
    }

    #[test]
    fn what_is_stored_is_the_same_wherever_the_folder_is() {
        let first = place("/srv/a b/repos");
        let stored = first.stored("file:///srv/a%20b/repos/team/site.git");
        let stored = stored.expect("it is below the folder");
        assert_eq!(stored, "file:///$data/repos/team/site.git");
        assert_eq!(stored.parse::<GitUrl>().expect("a URL").as_str(), stored);
        let here = |place: Place| place.here(&stored);
        assert_eq!(here(first), Some("file:///srv/a%20b/repos/team/site.git".to_owned()));
        assert_eq!(here(place("/b/repos")), Some("file:///b/repos/team/site.git".to_owned()));
        let named = "file:///$data/repos/repos/x.git";
        assert_eq!(place("/b/repos").here(named), Some("file:///b/repos/repos/x.git".to_owned()));
    }

    #[test]
    fn an_absolute_url_of_an_older_version_is_read_as_one_below_this_folder() {
        let place = place("/new/repos");
        for (old, here) in [
            ("file:///old/data/repos/site.git", Some("file:///new/repos/site.git")),
            ("file:///repos/rdev/repos/site.git", Some("file:///new/repos/site.git")),
            ("file:///new/repos/site.git", None),
            ("file:///new/repos/repos/site.git", None),
            ("https://example.com/repos/site.git", None),
            ("file:///elsewhere/site.git", None),
        ] {
            assert_eq!(place.here(old).as_deref(), here, "{old}");
        }
        for other in
            ["https://example.com/repos/a.git", "file:///old/repos/a", "file:///new/reposx"]
        {
            assert_eq!(place.stored(other), None, "{other}");
        }
    }
}
