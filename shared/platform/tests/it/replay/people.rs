//! What people do to repositories between the recorded requests: they push.

use rdev_testkit::servers::git_http::{git, git_command};
use rdev_testkit::servers::gitea::{Gitea, TOKEN};
use tempfile::TempDir;

/// A commit that somebody pushes.
pub(crate) struct Pushed<'a> {
    pub(crate) full_name: &'a str,
    pub(crate) branch: &'a str,
    /// Name and address.
    pub(crate) author: (&'a str, &'a str),
    pub(crate) message: &'a str,
    pub(crate) files: &'a [(&'a str, &'a str)],
}

impl Pushed<'_> {
    /// Pushes it by git, onto the default branch's tip or the branch's own; the commit.
    pub(crate) fn push(&self, gitea: &Gitea) -> String {
        let folder = TempDir::new().expect("a folder for a clone");
        let at = folder.path();
        let url = gitea.clone_url(self.full_name);
        let url = url.replace("http://", &format!("http://oauth2:{TOKEN}@"));
        git(at, &["clone", "--quiet", &url, "."]);
        let there = format!("refs/remotes/origin/{}", self.branch);
        let from = git_command(at).args(["rev-parse", "--verify", "--quiet", &there]).output();
        let from = if from.expect("git").status.success() { there.as_str() } else { "HEAD" };
        git(at, &["checkout", "--quiet", "-B", self.branch, from]);
        for (path, content) in self.files {
            std::fs::write(at.join(path), content).expect("a file");
        }
        git(at, &["add", "--all"]);
        let (name, email) = self.author;
        let made = git_command(at)
            .args(["commit", "--quiet", "--cleanup=verbatim", "--message", self.message])
            .envs([("GIT_AUTHOR_NAME", name), ("GIT_COMMITTER_NAME", name)])
            .envs([("GIT_AUTHOR_EMAIL", email), ("GIT_COMMITTER_EMAIL", email)])
            .status();
        assert!(made.expect("git").success(), "{}", self.message);
        let commit = git(at, &["rev-parse", "HEAD"]);
        git(at, &["push", "--quiet", "origin", &format!("HEAD:refs/heads/{}", self.branch)]);
        commit
    }
}
