//! What the server knows: users, tokens and repositories. Their content is git's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use rand::RngExt;
use rdev_domain::time::Timestamp;

use super::records::Repository;
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
    /// The teams of organisations, by lower-case names of both: their names and numbers.
    pub(super) teams: BTreeMap<(String, String), (String, u64)>,
    pub(super) tokens: BTreeMap<String, Token>,
    /// By lower-case `owner/name`.
    pub(super) repositories: BTreeMap<String, Repository>,
    /// The repositories that had another name, by that one in lower case.
    pub(super) moved: BTreeMap<String, u64>,
    /// Lower-case names of the organisations that only people who signed in see.
    pub(super) hidden: BTreeSet<String>,
    next_id: u64,
}

/// A user or an organisation.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) id: u64,
    pub(super) name: String,
    /// Empty for an organisation.
    pub(super) email: String,
    /// Whether they may do everything everywhere.
    pub(super) administrator: bool,
    /// When they used the web pages last, if they have.
    pub(super) last_login: Option<String>,
    pub(super) created: String,
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) user: String,
    /// `all`, or as `write:repository`.
    pub(super) scopes: Vec<String>,
}

impl State {
    pub(super) fn new(root_url: String, organisations: Vec<String>) -> Self {
        let mut state = Self {
            root_url,
            page: PAGE,
            organisations: BTreeMap::new(),
            users: BTreeMap::new(),
            teams: BTreeMap::new(),
            tokens: BTreeMap::new(),
            repositories: BTreeMap::new(),
            moved: BTreeMap::new(),
            hidden: BTreeSet::new(),
            next_id: 1,
        };
        for name in organisations {
            let account = state.account(&name);
            let account = Account { email: String::new(), ..account };
            state.organisations.insert(name.to_lowercase(), account);
        }
        state.user(USER);
        if let Some(account) = state.users.get_mut(USER) {
            account.last_login = Some(account.created.clone());
        }
        let token = Token { user: USER.to_owned(), scopes: vec!["all".to_owned()] };
        state.tokens.insert(TOKEN.to_owned(), token);
        state
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    fn account(&mut self, name: &str) -> Account {
        Account {
            id: self.next_id(),
            name: name.to_owned(),
            email: format!("{name}@forge.example"),
            administrator: false,
            last_login: None,
            created: now(),
        }
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

    /// Changes a repository that was found before.
    pub(super) fn change(&mut self, found: &Repository, change: impl FnOnce(&mut Repository)) {
        if let Some(found) = self.repositories.get_mut(&found.full_name().to_lowercase()) {
            change(found);
        }
    }

    pub(super) fn find(&self, owner: &str, name: &str) -> Option<&Repository> {
        self.repositories.get(&format!("{owner}/{name}").to_lowercase())
    }

    /// The repository that had this name before, where no other one has it.
    pub(super) fn find_moved(&self, owner: &str, name: &str) -> Option<&Repository> {
        let id = self.moved.get(&format!("{owner}/{name}").to_lowercase())?;
        self.repositories.values().find(|found| found.id == *id)
    }

    /// The owner's name as it was given first, where there is such an owner.
    pub(super) fn owner(&self, name: &str) -> Option<&Account> {
        let name = name.to_lowercase();
        self.organisations.get(&name).or_else(|| self.users.get(&name))
    }

    /// Whether somebody may do everything everywhere.
    pub(super) fn administers(&self, user: &str) -> bool {
        self.users.get(&user.to_lowercase()).is_some_and(|account| account.administrator)
    }

    /// Whether a user may change what an owner has.
    pub(super) fn may_write(&self, user: &str, owner: &str) -> bool {
        let organisation = self.organisations.contains_key(&owner.to_lowercase());
        user.eq_ignore_ascii_case(owner) || (organisation && user == USER) || self.administers(user)
    }

    /// What a user may do in a repository: `owner`, `admin`, `write`, `read` or `none`.
    pub(super) fn access(&self, user: Option<&str>, found: &Repository) -> &'static str {
        if user.is_some_and(|user| self.may_write(user, &found.owner)) {
            return "owner";
        }
        let given = user.and_then(|user| found.collaborators.get(&user.to_lowercase()));
        match given.map(String::as_str) {
            Some("admin") => "admin",
            Some("write") => "write",
            Some(_) => "read",
            None if found.private => "none",
            None => "read",
        }
    }

    /// The name of the user with that address.
    pub(super) fn with_email(&self, email: &str) -> Option<&Account> {
        self.users.values().find(|account| account.email == email)
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
