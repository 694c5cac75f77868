//! What tests do to the server by hand.

use std::path::PathBuf;

use super::files::{self, Change};
use super::records::{Blank, Label, Repository, Review};
use super::state::now;
use super::{Gitea, USER, git, locked, merge, pulls};
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
            let blank = Blank {
                owner,
                name: name.to_owned(),
                description: description.to_owned(),
                private: false,
                template: false,
                default_branch: "main".to_owned(),
            };
            let folder = self.shared.folder.join(format!("{key}.git"));
            let made = Repository::new(state.next_id(), blank, folder);
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
                pull.closed.get_or_insert_with(now);
            }
        });
    }

    /// Opens a pull request as [`USER`] does; its number.
    pub fn open_pull(&self, full_name: &str, head: &str, base: &str, title: &str) -> u64 {
        let found = self.shared.with(full_name, |found| found.clone());
        let new = pulls::New {
            head: head.to_owned(),
            base: base.to_owned(),
            title: title.to_owned(),
            body: String::new(),
        };
        let mut state = locked(&self.shared.state);
        pulls::open(&mut state, &found, new, USER).expect("a pull request").number
    }

    /// Makes a label in a repository.
    pub fn label(&self, full_name: &str, name: &str) {
        let id = locked(&self.shared.state).next_id();
        let (color, description) = ("00aabb".to_owned(), String::new());
        let label = Label { id, name: name.to_owned(), color, description };
        self.shared.with(full_name, |found| found.labels.push(label));
    }

    /// Lets a user read a repository.
    pub fn reader(&self, full_name: &str, user: &str) {
        let (user, rights) = (user.to_lowercase(), "read".to_owned());
        self.shared.with(full_name, |found| found.collaborators.insert(user, rights));
    }

    /// Makes a team in an organisation.
    pub fn team(&self, organisation: &str, name: &str) {
        let mut state = locked(&self.shared.state);
        let id = state.next_id();
        let key = (organisation.to_lowercase(), name.to_lowercase());
        state.teams.insert(key, (name.to_owned(), id));
    }

    /// The names of a pull request's labels.
    pub fn labels_of(&self, full_name: &str, number: u64) -> Vec<String> {
        self.shared.with(full_name, |found| {
            let pull = found.pull(&number.to_string()).expect("a pull request");
            let has = found.labels.iter().filter(|label| pull.labels.contains(&label.id));
            has.map(|label| label.name.clone()).collect()
        })
    }

    /// Who is asked for a review of a pull request, in order: users, and teams after a `/`.
    pub fn asked_of(&self, full_name: &str, number: u64) -> Vec<String> {
        self.shared.with(full_name, |found| {
            let asked = found.reviews.iter();
            let asked = asked.filter(|one| one.of == number && one.state == "REQUEST_REVIEW");
            let name = |one: &Review| match &one.team {
                Some(team) => format!("/{team}"),
                None => one.user.clone(),
            };
            asked.map(name).collect()
        })
    }

    /// Squashes a pull request's commits into one on its base, whose message is its title, and
    /// deletes its branch, as a person does with the merge button. The new commit.
    pub fn squash(&self, full_name: &str, number: u64) -> String {
        let found = self.shared.with(full_name, |found| found.clone());
        let pull = found.pull(&number.to_string()).expect("a pull request");
        let merged = merge::perform(&self.shared, &found, pull, merge::Style::Squash, (USER, true));
        merged.expect("a merge")
    }

    /// Lets nobody see an organisation and what it has but those who signed in.
    pub fn hide_organisation(&self, name: &str) {
        locked(&self.shared.state).hidden.insert(name.to_lowercase());
    }

    /// Makes a user who may do everything everywhere; their token.
    pub fn administrator(&self, name: &str) -> String {
        let mut state = locked(&self.shared.state);
        let token = state.user(name);
        if let Some(account) = state.users.get_mut(&name.to_lowercase()) {
            account.administrator = true;
        }
        token
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
        let commit = files::write(&found.folder, (branch, None), &message, person, &changes);
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

    /// Where the bare repositories are: `<owner>/<name>.git` in lower case.
    pub fn repositories_folder(&self) -> PathBuf {
        self.shared.folder.clone()
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
