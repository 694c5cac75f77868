//! Git against the real thing: `git http-backend` over HTTP, and the `git` program to look at what
//! came of it.

mod atomic;
mod checkout;
mod history;
mod hostile;
mod local;
mod mirror;
mod remote;
mod stage;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rdev_domain::git::{Branch, CommitId, Tip};
use rdev_domain::git_url::{GitUrl, UrlPolicy};
use rdev_domain::secret::Secret;
use rdev_domain::time::Timestamp;
use rdev_runner::git::{
    self, Author, Caps, Changes, Credentials, Expect, Fetched, GitError, Push, Remote, Until,
    Workdir,
};
use rdev_testkit::servers::git_http::{GitServer, TOKEN, USER};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Nobody cancels it.
fn go() -> CancellationToken {
    CancellationToken::new()
}

fn branch(name: &str) -> Branch {
    name.parse().expect("a branch")
}

fn id(text: &str) -> CommitId {
    text.parse().expect("a commit id")
}

fn at(text: &str) -> Tip {
    Tip::Commit(id(text))
}

const NOW: Timestamp = Timestamp::from_millis(1_795_424_624_940);

const CAPS: Caps = Caps { files: 1000, bytes: 64 << 20, diff_bytes: 1 << 20 };

fn author() -> Author {
    Author { name: "rdev".to_owned(), email: "rdev@example.com".to_owned() }
}

/// A server with the repository `site`, and the folders of a runner.
struct World {
    server: GitServer,
    folder: TempDir,
    remote: Remote,
}

impl World {
    /// With one commit on `main`.
    fn new() -> Self {
        let world = Self::empty();
        world.server.commit(
            "site",
            "main",
            &[("a.txt", "one\ntwo\nthree\n"), ("dir/b.txt", "b\n")],
            "initial commit",
        );
        world
    }

    /// With an empty repository.
    fn empty() -> Self {
        let server = GitServer::start();
        server.create_empty("site");
        let remote = remote(&server.url("site"));
        Self { server, folder: TempDir::new().expect("a folder"), remote }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn dirs(&self, name: &str) -> Workdir {
        let at = self.folder.path().join(name);
        Workdir { gitdir: at.join("own"), checkout: at.join("checkout") }
    }

    fn try_fetch(&self, name: &str) -> Result<Fetched, GitError> {
        git::fetch(&self.cache(), u64::MAX, &self.remote, &branch(name), &branch("main"), &go())
    }

    /// Fetches `main` and checks it out under `name`.
    fn checked_out(&self, name: &str) -> (Fetched, Workdir) {
        let fetched = self.try_fetch("main").expect("a fetch");
        let dirs = self.dirs(name);
        git::checkout(&fetched.mirror, fetched.start.as_ref(), &branch("main"), &dirs, &go())
            .expect("a checkout");
        (fetched, dirs)
    }

    /// Checks out `main`, changes `a.txt` to `content`, and commits that.
    fn worked(&self, name: &str, content: &str) -> (Fetched, Workdir, CommitId) {
        let (fetched, dirs) = self.checked_out(name);
        write(&dirs, "a.txt", content);
        let commit = committed(&dirs, fetched.start.as_ref(), "work");
        (fetched, dirs, commit)
    }

    fn push(
        &self,
        dirs: &Workdir,
        commit: &CommitId,
        target: &str,
        expect: &Expect,
    ) -> Result<Tip, GitError> {
        push(dirs, &self.remote, commit, target, expect)
    }

    fn main(&self) -> Option<String> {
        self.server.find_ref("site", "refs/heads/main")
    }
}

/// Pushes; returns the tip of `main`.
fn push(
    dirs: &Workdir,
    remote: &Remote,
    commit: &CommitId,
    target: &str,
    expect: &Expect,
) -> Result<Tip, GitError> {
    let watch = branch("main");
    let (delete, known, until) = (None, None, Until::Updated);
    let push = Push { dirs, remote, commit, target, expect, delete, watch: &watch, known, until };
    git::push(&push, &go()).map(|pushed| pushed.tip)
}

/// Lists the refs of a server.
fn list(remote: &Remote) -> Result<(), GitError> {
    git::delete_refs(remote, &["refs/heads/nothing".to_owned()], &go())
}

fn remote(url: &str) -> Remote {
    Remote {
        url: url.parse::<GitUrl>().expect("a clone URL"),
        credentials: Some(Credentials { username: USER.to_owned(), token: Secret::new(TOKEN) }),
        policy: UrlPolicy { allow_private: true, file_root: None },
        timeout: Duration::from_secs(120),
    }
}

fn write(dirs: &Workdir, path: &str, content: &str) {
    let path = dirs.checkout.join(path);
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(path, content).expect("a file");
}

fn read(dirs: &Workdir, path: &str) -> String {
    fs::read_to_string(dirs.checkout.join(path)).expect("a file")
}

fn staged(dirs: &Workdir, start: Option<&CommitId>) -> Result<Changes, GitError> {
    git::stage(dirs, start, &CAPS, &[])
}

/// Stages and commits the files of the checkout.
fn committed(dirs: &Workdir, start: Option<&CommitId>, message: &str) -> CommitId {
    let changes = staged(dirs, start).expect("something to commit");
    git::commit(dirs, &changes.tree, start, message, &author(), NOW).expect("a commit")
}

/// Runs the `git` program in the agent's checkout.
fn in_checkout(dirs: &Workdir, args: &[&str]) -> String {
    rdev_testkit::servers::git_http::git(&dirs.checkout, args)
}

/// An error with all its sources.
fn message_of(error: &dyn std::error::Error) -> String {
    let mut text = format!("{error} / {error:?}");
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(&format!(" / {inner} / {inner:?}"));
        source = inner.source();
    }
    text
}

/// All files below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match fs::symlink_metadata(&path).expect("an entry").is_dir() {
            true => found.extend(files_below(&path)),
            false => found.push(path),
        }
    }
    found
}
