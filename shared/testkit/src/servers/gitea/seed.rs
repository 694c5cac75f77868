//! What tests do to the server by hand.

use std::path::PathBuf;

use super::files::{self, Change};
use super::state::{Repository, now};
use super::{Gitea, USER, git, locked};
use crate::servers::git_http;

impl Gitea {
    /// Makes a public repository as a person does: with this description, whose `main` has one
    /// commit of these files (none: it stays empty). Its number.
    pub fn create(&self, full_name: &str, description: &str, content: &[(&str, &[u8])]) -> u64 {
        let (owner, name) = full_name.split_once('/').expect("owner/name");
        let key = full_name.to_lowercase();
        let made = {
            let mut state = locked(&self.shared.state);
            let account = state.owner(owner).unwrap_or_else(|| panic!("no owner {owner}"));
            let owner = account.name.clone();
            let made = Repository {
                id: state.next_id(),
                owner,
                name: name.to_owned(),
                description: description.to_owned(),
                private: false,
                template: false,
                default_branch: "main".to_owned(),
                created: now(),
                folder: self.shared.folder.join(format!("{key}.git")),
                hooks: Vec::new(),
                pulls: Vec::new(),
                statuses: Vec::new(),
                changing: std::sync::Arc::default(),
            };
            state.repositories.insert(key, made.clone());
            made
        };
        files::init(&made.folder, "main").expect("a bare repository");
        if !content.is_empty() {
            self.commit(full_name, "main", content, "Initial commit");
        }
        made.id
    }

    /// Makes a repository one that others may be generated from, or not.
    pub fn set_template(&self, full_name: &str, template: bool) {
        self.shared.with(full_name, |found| found.template = template);
    }

    /// Changes a repository's description.
    pub fn describe(&self, full_name: &str, description: &str) {
        self.shared.with(full_name, |found| description.clone_into(&mut found.description));
    }

    /// Closes all pull requests of a repository.
    pub fn close_pulls(&self, full_name: &str) {
        self.shared.with(full_name, |found| {
            for pull in &mut found.pulls {
                pull.open = false;
            }
        });
    }

    /// Squashes a pull request's commits into one on its base, whose message is its title, and
    /// deletes its branch, as a person does with the merge button. The new commit.
    pub fn squash(&self, full_name: &str, number: u64) -> String {
        let pulls = self.pulls(full_name);
        let pull = pulls.iter().find(|pull| pull.number == number).expect("a pull request");
        let [head, base] = [&pull.head, &pull.base].map(|branch| format!("refs/heads/{branch}"));
        let head_commit = self.git(full_name, &["rev-parse", &head]);
        let tree = self.git(full_name, &["merge-tree", "--write-tree", &base, &head]);
        let message = format!("{} (#{number})", pull.title);
        let made = ["commit-tree", &tree, "-p", &base, "-m", &message];
        let made = self.git(full_name, &made);
        self.git(full_name, &["update-ref", &base, &made]);
        self.git(full_name, &["update-ref", "-d", &head]);
        self.shared.with(full_name, |found| {
            for pull in found.pulls.iter_mut().filter(|pull| pull.number == number) {
                (pull.open, pull.commit) = (false, head_commit.clone());
                pull.merged = Some(made.clone());
            }
        });
        made
    }

    /// Commits files to a branch, which begins with them where it is not there, and tells it as
    /// a push of [`USER`]. The commit's id.
    pub fn commit(
        &self,
        full_name: &str,
        branch: &str,
        content: &[(&str, &[u8])],
        message: &str,
    ) -> String {
        let found = self.shared.with(full_name, |found| found.clone());
        let _alone = locked(&found.changing);
        let before = files::tip(&found.folder, branch);
        let change = |&(path, content): &(&str, &[u8])| Change::Write {
            path: path.to_owned(),
            content: content.to_vec(),
        };
        let changes: Vec<Change> = content.iter().map(change).collect();
        let message = format!("{}\n", message.trim_end());
        let person = ("A Person", "person@example.com");
        let commit = files::write(&found.folder, branch, &message, person, &changes);
        let commit = commit.expect("a commit");
        git::moved(&self.shared, &found, branch, before.as_deref(), &commit, USER)
            .expect("the push is announced");
        commit
    }

    /// Makes a branch where another one is, without telling anybody.
    pub fn branch(&self, full_name: &str, branch: &str, from: &str) {
        let from = format!("refs/heads/{from}");
        self.git(full_name, &["update-ref", &format!("refs/heads/{branch}"), &from]);
    }

    pub fn folder(&self, full_name: &str) -> PathBuf {
        self.shared.with(full_name, |found| found.folder.clone())
    }

    /// Runs git in a repository; what it printed, trimmed.
    pub fn git(&self, full_name: &str, args: &[&str]) -> String {
        git_http::git(&self.folder(full_name), args)
    }

    /// A repository's clone URL on this server, without credentials.
    pub fn clone_url(&self, full_name: &str) -> String {
        format!("{}/{full_name}.git", self.url())
    }
}
