//! The git server that both sides work with, and its requests.

use std::time::Duration;

use rdev_testkit::servers::git_http::{self, GitServer};
use rdev_testkit::servers::gitea::{self, Gitea};

use super::{Kind, Options};

/// The organisation at the Gitea.
const OWNER: &str = "acme";

/// The repository that rdev builds, and the one that the script works with: they are alike.
const BUILT: &str = "built";
const SCRIPTED: &str = "scripted";

/// The server.
pub(super) enum Forge {
    Git(GitServer),
    Gitea(Box<Gitea>),
}

/// The requests of one side.
#[derive(Debug, Clone)]
pub(super) struct Requests {
    /// Those of git.
    pub(super) git: Vec<git_http::Seen>,
    /// How many went to the API.
    pub(super) api: usize,
}

impl Forge {
    /// Starts it with its two repositories. `api_ms`: it is a Gitea.
    pub(super) fn start(options: &Options, api_ms: Option<u64>) -> Self {
        let files: Vec<(String, String)> =
            (0..options.files.max(1)).map(|n| file(options, n)).collect();
        let Some(api_ms) = api_ms else {
            let files: Vec<(&str, &str)> =
                files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
            let server = GitServer::start();
            for name in [BUILT, SCRIPTED] {
                server.create(name, &files);
                if options.forge == Kind::Slow {
                    server.slow_hooks(name);
                }
            }
            return Self::Git(server);
        };
        let files: Vec<(&str, &[u8])> =
            files.iter().map(|(path, text)| (path.as_str(), text.as_bytes())).collect();
        let gitea = Gitea::start(&[OWNER]);
        for name in [BUILT, SCRIPTED] {
            let name = format!("{OWNER}/{name}");
            gitea.create(&name, "", &files);
            if options.forge == Kind::Slow {
                gitea.slow_hooks(&name);
            }
        }
        gitea.slow_api(Duration::from_millis(api_ms));
        Self::Gitea(Box::new(gitea))
    }

    fn origin(&self) -> String {
        match self {
            Self::Git(server) => server.origin(),
            Self::Gitea(gitea) => gitea.url(),
        }
    }

    fn url(&self, name: &str) -> String {
        match self {
            Self::Git(server) => server.url(name),
            Self::Gitea(gitea) => format!("{}/{OWNER}/{name}.git", gitea.url()),
        }
    }

    /// The repository of rdev.
    pub(super) fn url_of_build(&self) -> String {
        self.url(BUILT)
    }

    /// The repository of the script.
    pub(super) fn url_of_script(&self) -> String {
        self.url(SCRIPTED)
    }

    fn user(&self) -> (&'static str, &'static str) {
        match self {
            Self::Git(_) => (git_http::USER, git_http::TOKEN),
            Self::Gitea(_) => ("oauth2", gitea::TOKEN),
        }
    }

    /// The `Authorization` of the script's requests.
    pub(super) fn login(&self) -> String {
        let (name, token) = self.user();
        git_http::basic_login(name, token)
    }

    /// What rdev has to know of it.
    pub(super) fn configuration(&self) -> String {
        let ((name, token), origin) = (self.user(), self.origin());
        let login = format!(
            "[[git.credentials]]\norigin = \"{origin}\"\nusername = \"{name}\"\ntoken = \"{token}\"\n"
        );
        match self {
            Self::Git(_) => login,
            Self::Gitea(_) => {
                format!(
                    "[forge]\nurl = \"{origin}\"\nowner = \"{OWNER}\"\ntoken = \"{token}\"\n\n{login}"
                )
            }
        }
    }

    /// The requests since [`Forge::forget`].
    pub(super) fn requests(&self) -> Requests {
        match self {
            Self::Git(server) => Requests { git: server.seen(), api: 0 },
            Self::Gitea(gitea) => Requests { git: gitea.seen_of_git(), api: gitea.seen().len() },
        }
    }

    pub(super) fn forget(&self) {
        match self {
            Self::Git(server) => server.forget_seen(),
            Self::Gitea(gitea) => gitea.forget_seen(),
        }
    }
}

/// A file: its path, at most a hundred in a folder, and a text that is unlike the others.
fn file(options: &Options, n: usize) -> (String, String) {
    let path = if n < 100 { format!("file-{n}.txt") } else { format!("{}/file-{n}.txt", n / 100) };
    let line = format!("file {n} of {}\n", options.files);
    let mut text = line.repeat(options.file_bytes / line.len() + 1);
    text.truncate(options.file_bytes);
    (path, text)
}
