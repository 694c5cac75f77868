//! Repositories, and what the server keeps about them beside their content.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::state::{State, now};

#[derive(Debug, Clone)]
pub(super) struct Repository {
    pub(super) id: u64,
    pub(super) owner: String,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) private: bool,
    pub(super) template: bool,
    pub(super) default_branch: String,
    pub(super) created: String,
    /// When its content or its settings changed last.
    pub(super) updated: String,
    /// Since when nothing in it may change.
    pub(super) archived: Option<String>,
    /// Branches to which nobody may push.
    pub(super) protected: BTreeSet<String>,
    /// What people who are not of its owner may do: `read`, `write` or `admin`, by lower-case name.
    pub(super) collaborators: BTreeMap<String, String>,
    pub(super) folder: PathBuf,
    pub(super) hooks: Vec<Hook>,
    pub(super) labels: Vec<Label>,
    pub(super) issues: Vec<Issue>,
    pub(super) pulls: Vec<Pull>,
    /// What happened to issues and pull requests, in order.
    pub(super) entries: Vec<Entry>,
    pub(super) reviews: Vec<Review>,
    pub(super) releases: u64,
    pub(super) statuses: Vec<Status>,
    /// Held while the API changes the content.
    pub(super) changing: Arc<Mutex<()>>,
}

/// A repository, for tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryInfo {
    pub id: u64,
    /// `owner/name`.
    pub full_name: String,
    pub description: String,
    /// Whether only its owner sees it.
    pub private: bool,
    /// Whether nothing in it may change.
    pub archived: bool,
    pub default_branch: String,
    /// The bare repository's folder.
    pub folder: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    pub id: u64,
    /// As it was registered: `gitea`, `forgejo`.
    pub kind: String,
    pub url: String,
    pub secret: String,
    /// What it is sent for.
    pub events: Vec<String>,
    /// Whether it is sent at all.
    pub active: bool,
    pub created: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pull {
    /// Its number over all repositories.
    pub id: u64,
    /// Its number in the repository.
    pub number: u64,
    /// The branch with the work.
    pub head: String,
    /// The branch that it is to be merged into.
    pub base: String,
    pub title: String,
    pub body: String,
    pub open: bool,
    /// The commit of its head when that was there last.
    pub commit: String,
    /// Where it left its base.
    pub merge_base: String,
    /// How it was merged.
    pub merged: Option<Merged>,
    pub user: String,
    /// The ids of its labels.
    pub labels: Vec<u64>,
    pub created: String,
    pub updated: String,
    pub closed: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The commit on the base.
    pub commit: String,
    pub by: String,
    pub at: String,
}

#[derive(Debug, Clone)]
pub(super) struct Label {
    pub(super) id: u64,
    pub(super) name: String,
    /// Without the `#`.
    pub(super) color: String,
    pub(super) description: String,
}

#[derive(Debug, Clone)]
pub(super) struct Issue {
    pub(super) id: u64,
    /// Its number in the repository, which pull requests count, too.
    pub(super) number: u64,
    pub(super) title: String,
    pub(super) body: String,
    pub(super) user: String,
    pub(super) labels: Vec<u64>,
    pub(super) assignees: Vec<String>,
    pub(super) created: String,
    pub(super) updated: String,
    pub(super) closed: Option<String>,
}

/// An entry in the history of an issue or a pull request.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: u64,
    /// Whose: the number of the issue or the pull request.
    pub(super) of: u64,
    pub(super) user: String,
    pub(super) what: What,
    pub(super) body: String,
    pub(super) created: String,
    pub(super) updated: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Comment,
    /// A comment on a line, of that review.
    Line {
        review: u64,
        path: String,
        position: u64,
        commit: String,
        hunk: String,
    },
    Review(u64),
    /// That review is asked for, of that user.
    Request(u64, String),
    Title {
        old: String,
        new: String,
    },
    Push,
    Merge,
    Close,
    DeleteBranch(String),
}

#[derive(Debug, Clone)]
pub(super) struct Review {
    pub(super) id: u64,
    /// The number of the pull request.
    pub(super) of: u64,
    pub(super) user: String,
    /// The team that is asked, and nobody of its own name.
    pub(super) team: Option<String>,
    /// `APPROVED`, `REQUEST_CHANGES`, `COMMENT`, or `REQUEST_REVIEW` when it is only asked for.
    pub(super) state: String,
    pub(super) body: String,
    /// Empty when it is only asked for.
    pub(super) commit: String,
    /// Whether it counts for the protection of a branch.
    pub(super) official: bool,
    pub(super) dismissed: bool,
    pub(super) stale: bool,
    pub(super) submitted: String,
    pub(super) updated: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its number at the commit.
    pub id: u64,
    pub commit: String,
    /// `pending`, `success`, …
    pub state: String,
    /// What it is about.
    pub context: String,
    pub description: String,
    /// Where more is to be seen; may be empty.
    pub target_url: String,
    pub user: String,
    pub created: String,
}

/// How a repository begins.
#[derive(Debug)]
pub(super) struct Blank {
    pub(super) owner: String,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) private: bool,
    pub(super) template: bool,
    pub(super) default_branch: String,
}

impl Repository {
    /// The record of a new one, whose folder is still to be made.
    pub(super) fn new(id: u64, blank: Blank, folder: PathBuf) -> Self {
        let Blank { owner, name, description, private, template, default_branch } = blank;
        let created = now();
        Self {
            id,
            owner,
            name,
            description,
            private,
            template,
            default_branch,
            updated: created.clone(),
            created,
            archived: None,
            protected: BTreeSet::new(),
            collaborators: BTreeMap::new(),
            folder,
            hooks: Vec::new(),
            labels: Vec::new(),
            issues: Vec::new(),
            pulls: Vec::new(),
            entries: Vec::new(),
            reviews: Vec::new(),
            releases: 0,
            statuses: Vec::new(),
            changing: Arc::default(),
        }
    }

    /// The number of its next issue or pull request.
    pub(super) fn next_number(&self) -> u64 {
        (self.issues.len() + self.pulls.len()) as u64 + 1
    }

    pub(super) fn pull(&self, number: &str) -> Option<&Pull> {
        self.pulls.iter().find(|pull| pull.number.to_string() == number)
    }

    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    pub(super) fn info(&self) -> RepositoryInfo {
        RepositoryInfo {
            id: self.id,
            full_name: self.full_name(),
            description: self.description.clone(),
            private: self.private,
            archived: self.archived.is_some(),
            default_branch: self.default_branch.clone(),
            folder: self.folder.clone(),
        }
    }
}

impl Entry {
    pub(super) fn new(state: &mut State, of: u64, user: &str, what: What, body: &str) -> Self {
        let now = now();
        Self {
            id: state.next_id(),
            of,
            user: user.to_owned(),
            what,
            body: body.to_owned(),
            created: now.clone(),
            updated: now,
        }
    }

    /// That commits came to a pull request's branch.
    pub(super) fn of_push(state: &mut State, of: u64, user: &str, commits: &[String]) -> Self {
        // The order of its fields is a part of the text.
        let body = format!("{{\"is_force_push\":false,\"commit_ids\":{}}}", json!(commits));
        Self::new(state, of, user, What::Push, &body)
    }
}
