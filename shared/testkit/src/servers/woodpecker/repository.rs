//! Repositories: activation, look-up, repair, removal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ulid::Ulid;

use super::HostRunner;
use super::pipeline::Pipeline;

/// How old the version is that the server behaves as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Age {
    /// 3.14 and later.
    #[default]
    Current,
    /// 3.0: an activation is stored before its webhook is made, an entry in the way is 500, and
    /// a removal ends with 500 when the forge's repository is gone.
    Old,
}

impl Age {
    /// The version that it says it is.
    pub(super) fn version(self) -> &'static str {
        match self {
            Self::Current => "3.14.0",
            Self::Old => "3.0.1",
        }
    }
}

/// A repository that the server has an entry for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub id: u64,
    /// Its id on the forge.
    pub forge_id: u64,
    /// `owner/name`.
    pub full_name: String,
    pub active: bool,
    /// Whether the forge has our webhook, without which no push starts anything.
    pub hooked: bool,
    /// How many pipelines there are.
    pub pipelines: usize,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) age: Age,
    /// The forge's root, and the folder of its bare repositories.
    pub(super) forge_place: Option<(String, PathBuf)>,
    /// Plugins that may do more than others, with or without a tag.
    pub(super) privileged: Vec<String>,
    /// The forge's owners, in the order of their ids here from 2 on: the first is the token's user.
    organisations: Vec<String>,
    pub(super) repositories: BTreeMap<u64, Repository>,
    /// The repositories of the forge: owner and name by id.
    pub(super) forge: BTreeMap<u64, (String, String)>,
    pub(super) not_ours: BTreeSet<u64>,
    pub(super) break_hook: bool,
    pub(super) secrets: BTreeMap<String, String>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) images: Vec<(String, HostRunner)>,
    last_id: u64,
}

#[derive(Debug)]
pub(super) struct Repository {
    pub(super) id: u64,
    pub(super) forge_id: u64,
    pub(super) owner: String,
    pub(super) name: String,
    /// Its owner's id here.
    pub(super) organisation: usize,
    pub(super) active: bool,
    pub(super) hooked: bool,
    /// What the forge's messages about it must bring.
    pub(super) hook_token: String,
    /// Where its commits are, as the last push said.
    pub(super) git_dir: Option<PathBuf>,
    pub(super) pipelines: Vec<Pipeline>,
}

/// A refusal: its status, and its plain text.
pub(super) type Refusal = (u16, &'static str);

impl Repository {
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    pub(super) fn known(&self) -> Known {
        Known {
            id: self.id,
            forge_id: self.forge_id,
            full_name: self.full_name(),
            active: self.active,
            hooked: self.hooked,
            pipelines: self.pipelines.len(),
        }
    }

    pub(super) fn pipeline(&mut self, number: u64) -> Option<&mut Pipeline> {
        self.pipelines.iter_mut().find(|one| one.number == number)
    }
}

impl State {
    /// That of a server of that age, which knows nothing yet.
    pub(super) fn of(age: Age) -> Self {
        Self { age, ..Self::default() }
    }

    /// An id that nothing else has.
    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The forge's root; ours where no test has said it.
    pub(super) fn forge_url<'a>(&'a self, ours: &'a str) -> &'a str {
        self.forge_place.as_ref().map_or(ours, |(url, _)| url)
    }

    /// The folder of a repository's commits, if that is known.
    pub(super) fn git_dir(&self, one: &Repository) -> Option<PathBuf> {
        let at = |(_, folder): &(String, PathBuf)| {
            folder.join(format!("{}.git", one.full_name().to_lowercase()))
        };
        self.forge_place.as_ref().map(at).or_else(|| one.git_dir.clone())
    }

    /// An owner's id here.
    fn organisation(&mut self, owner: &str) -> usize {
        let known = self.organisations.iter().position(|known| known == owner);
        known.unwrap_or_else(|| {
            self.organisations.push(owner.to_owned());
            self.organisations.len() - 1
        }) + 2
    }

    pub(super) fn named(&self, full_name: &str) -> Option<&Repository> {
        self.repositories.values().find(|one| one.full_name() == full_name)
    }

    pub(super) fn of_forge(&mut self, forge_id: u64) -> Option<&mut Repository> {
        self.repositories.values_mut().find(|one| one.forge_id == forge_id)
    }

    /// Activates a repository; its id here.
    pub(super) fn activate(
        &mut self,
        forge_id: u64,
        on_forge: Option<(String, String)>,
        age: Age,
    ) -> Result<u64, Refusal> {
        let earlier = self.of_forge(forge_id).map(|one| (one.id, one.active));
        if matches!(earlier, Some((_, true))) {
            return Err((409, "Repository is already active."));
        }
        let Some((owner, name)) = on_forge else {
            return Err((500, "Could not fetch repository from forge."));
        };
        if self.not_ours.contains(&forge_id) {
            return Err((403, "User has to be a admin of this repository"));
        }
        let full_name = format!("{owner}/{name}");
        if self.named(&full_name).is_some_and(|one| one.forge_id != forge_id) {
            return Err(match age {
                Age::Current => (
                    409,
                    "Repository already exists in the database. Remove the stale repository \
                     entry before adding it again.",
                ),
                Age::Old => (500, "could not create/update repo in store."),
            });
        }
        let hooked = !std::mem::take(&mut self.break_hook);
        let no_hook = (500, "could not create webhook in forge.");
        if !hooked && age == Age::Current {
            return Err(no_hook);
        }
        let id = match earlier {
            Some((id, _)) => id,
            None => self.next_id(),
        };
        let organisation = self.organisation(&owner);
        let repository = self.repositories.entry(id).or_insert_with(|| Repository {
            id,
            forge_id,
            owner: String::new(),
            name: String::new(),
            organisation,
            active: false,
            hooked: false,
            hook_token: String::new(),
            git_dir: None,
            pipelines: Vec::new(),
        });
        (repository.owner, repository.name) = (owner, name);
        (repository.active, repository.hooked) = (true, hooked);
        repository.hook_token = Ulid::generate().to_string();
        if hooked { Ok(id) } else { Err(no_hook) }
    }

    /// Creates the webhook again, and adopts a new name.
    pub(super) fn repair(
        &mut self,
        id: u64,
        on_forge: Option<(String, String)>,
    ) -> Result<(), Refusal> {
        let repository = self.repositories.get_mut(&id).ok_or((404, ""))?;
        let Some((owner, name)) = on_forge else { return Err((500, "")) };
        (repository.owner, repository.name) = (owner, name);
        if std::mem::take(&mut self.break_hook) {
            return Err((500, "the forge refused the webhook"));
        }
        repository.hooked = true;
        Ok(())
    }

    /// Deactivates a repository, and with `remove` forgets it; it as it was last.
    pub(super) fn remove(
        &mut self,
        id: u64,
        remove: bool,
        on_forge: bool,
        age: Age,
    ) -> Result<Known, Refusal> {
        let repository = self.repositories.get_mut(&id).ok_or((404, ""))?;
        (repository.active, repository.hooked) = (false, false);
        for pipeline in &repository.pipelines {
            pipeline.cancel.send_replace(true);
        }
        let known = repository.known();
        if remove {
            self.repositories.remove(&id);
        }
        if age == Age::Old && !on_forge { Err((500, "")) } else { Ok(known) }
    }
}
