//! What the server knows: users, tokens and repositories. Their content is git's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use rand::RngExt;
use rdev_domain::time::Timestamp;

use super::{Shared, TOKEN, USER, locked};

/// The most items of a page.
pub(super) const PAGE: usize = 50;

#[derive(Debug)]
pub(super) struct State {
    pub(super) root_url: String,
    /// The most items of a page.
    pub(super) page: usize,
    /// Lower-case names.
    pub(super) organisations: BTreeMap<String, Account>,
    pub(super) users: BTreeMap<String, Account>,
    pub(super) tokens: BTreeMap<String, Token>,
    /// By lower-case `owner/name`.
    pub(super) repositories: BTreeMap<String, Repository>,
    next_id: u64,
}

/// A user or an organisation.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) created: String,
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) user: String,
    /// `all`, or as `write:repository`.
    pub(super) scopes: Vec<String>,
}

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
    pub(super) folder: PathBuf,
    pub(super) hooks: Vec<Hook>,
    pub(super) pulls: Vec<Pull>,
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
    /// The commit on the base that it was merged as.
    pub merged: Option<String>,
    pub user: String,
    pub created: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
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

impl Repository {
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    pub(super) fn info(&self) -> RepositoryInfo {
        RepositoryInfo {
            id: self.id,
            full_name: self.full_name(),
            description: self.description.clone(),
            private: self.private,
            default_branch: self.default_branch.clone(),
            folder: self.folder.clone(),
        }
    }
}

impl State {
    pub(super) fn new(root_url: String, organisations: Vec<String>) -> Self {
        let mut state = Self {
            root_url,
            page: PAGE,
            organisations: BTreeMap::new(),
            users: BTreeMap::new(),
            tokens: BTreeMap::new(),
            repositories: BTreeMap::new(),
            next_id: 1,
        };
        for name in organisations {
            let account = state.account(&name);
            state.organisations.insert(name.to_lowercase(), account);
        }
        state.user(USER);
        let token = Token { user: USER.to_owned(), scopes: vec!["all".to_owned()] };
        state.tokens.insert(TOKEN.to_owned(), token);
        state
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    fn account(&mut self, name: &str) -> Account {
        Account { id: self.next_id(), name: name.to_owned(), created: now() }
    }

    pub(super) fn user(&mut self, name: &str) -> String {
        let account = self.account(name);
        self.users.insert(name.to_lowercase(), account);
        self.token(name, &["all"])
    }

    pub(super) fn token(&mut self, user: &str, scopes: &[&str]) -> String {
        let token = format!("{:040x}", rand::rng().random::<u128>());
        let scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
        self.tokens.insert(token.clone(), Token { user: user.to_owned(), scopes });
        token
    }

    pub(super) fn find(&self, owner: &str, name: &str) -> Option<&Repository> {
        self.repositories.get(&format!("{owner}/{name}").to_lowercase())
    }

    /// The owner's name as it was given first, where there is such an owner.
    pub(super) fn owner(&self, name: &str) -> Option<&Account> {
        let name = name.to_lowercase();
        self.organisations.get(&name).or_else(|| self.users.get(&name))
    }

    /// Whether a user may change what an owner has.
    pub(super) fn may_write(&self, user: &str, owner: &str) -> bool {
        let organisation = self.organisations.contains_key(&owner.to_lowercase());
        user.eq_ignore_ascii_case(owner) || (organisation && user == USER)
    }
}

impl Shared {
    /// Looks at a repository that is there.
    pub(super) fn with<T>(&self, full_name: &str, look: impl FnOnce(&mut Repository) -> T) -> T {
        let mut state = locked(&self.state);
        let repository = state.repositories.get_mut(&full_name.to_lowercase());
        look(repository.unwrap_or_else(|| panic!("there is no repository {full_name}")))
    }
}

/// Now, as the API writes it.
pub(super) fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
    Timestamp::from_millis(seconds * 1000).to_string().replace(".000Z", "Z")
}
