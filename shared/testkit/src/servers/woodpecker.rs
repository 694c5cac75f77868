//! A Woodpecker server for tests: it keeps repositories and pipelines, answers in Woodpecker's
//! own shapes and with its quirks, and really runs pipelines.
//!
//! A test tells it what the forge has ([`add_forge_repository`], [`ask_forge`], [`forge_at`]), and
//! sends it pushes by [`push`], or the forge's own messages. A pipeline is the commit's own `.woodpecker.yaml`,
//! checked out from a bare repository on disk and run **on this machine, without containers**: a
//! step runs when a test has allowed its image ([`allow_image`]), with the tools and the
//! environment that are here. Plugins, and steps with other images, would need Docker: they get the
//! status `skipped`, and their log says why. Conditions other than `event`, `branch`, `status` and
//! simple `evaluate`, and what else is not understood, make the pipeline an `error` that says so.
//!
//! Its answers are those of a recorded Woodpecker 3.13 (`captures/forge`), to which a test in
//! `rdev-platform` holds them.
//!
//! It ends, with the processes of its steps, when it is dropped.
//!
//! [`add_forge_repository`]: WoodpeckerServer::add_forge_repository
//! [`ask_forge`]: WoodpeckerServer::ask_forge
//! [`forge_at`]: WoodpeckerServer::forge_at
//! [`push`]: WoodpeckerServer::push
//! [`allow_image`]: WoodpeckerServer::allow_image

mod api;
mod condition;
mod definition;
mod evaluate;
mod hook;
mod incoming;
mod origin;
mod pipeline;
mod repository;
mod run;
mod seeded;
mod shape;
mod start;
mod step;
mod substitute;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, watch};

use super::host::{self, Host, locked};

pub use hook::{Change, post};
pub use pipeline::Seed;
use repository::State;
pub use repository::{Age, Known};

/// The personal token that the server accepts.
pub const TOKEN: &str = "wp-4e0a91c7d25b4f86";

/// Whose token it is. They are an administrator of the server.
pub const USER: &str = "rdev-bot";

/// A push to a repository, as the forge's webhook tells of it.
#[derive(Debug, Clone)]
pub struct Push {
    pub branch: String,
    pub commit: String,
    pub message: String,
    pub author: String,
    /// The bare repository on disk.
    pub git_dir: PathBuf,
}

/// How the steps of an image are run on this machine. They see the environment of the test,
/// then this, then Woodpecker's `CI_…`, then the step's own.
#[derive(Debug, Clone, Default)]
pub struct HostRunner {
    pub env: Vec<(String, String)>,
}

/// A pipeline that was started.
#[derive(Debug)]
pub struct Run {
    /// The repository's id here.
    pub repository: u64,
    pub number: u64,
    workspace: PathBuf,
    ended: watch::Receiver<Option<String>>,
    handle: Handle,
}

pub struct WoodpeckerServer {
    host: Option<Host>,
    shared: Arc<Shared>,
}

type AskForge = dyn Fn(u64) -> Option<(String, String)> + Send + Sync;

struct Shared {
    age: Age,
    url: String,
    folder: TempDir,
    handle: Handle,
    state: Mutex<State>,
    /// Asked without the state being locked: it may ask us.
    forge: Mutex<Option<Arc<AskForge>>>,
    changes: broadcast::Sender<Change>,
    /// The process groups of the steps that run.
    groups: Mutex<BTreeSet<i32>>,
}

/// Unix seconds.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

impl Run {
    /// The folder that the commit was checked out to, with what the steps made there. It stays
    /// until the server is dropped.
    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// Waits until it has ended; its status.
    ///
    /// # Panics
    /// When that takes longer than `limit`.
    pub async fn ended(&mut self, limit: Duration) -> String {
        let ended = tokio::time::timeout(limit, self.ended.wait_for(Option::is_some)).await;
        match ended.expect("the pipeline ended in time") {
            Ok(status) => status.clone().unwrap_or_default(),
            // Its repository was removed.
            Err(_) => "killed".to_owned(),
        }
    }

    /// The same for a test without a runtime of its own.
    ///
    /// # Panics
    /// As above, and within a runtime.
    pub fn wait(&mut self, limit: Duration) -> String {
        let handle = self.handle.clone();
        handle.block_on(self.ended(limit))
    }
}

impl fmt::Debug for WoodpeckerServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WoodpeckerServer").field("url", &self.shared.url).finish_non_exhaustive()
    }
}

impl WoodpeckerServer {
    /// Starts a server on a free port of 127.0.0.1.
    pub fn start() -> Self {
        Self::start_as(Age::Current)
    }

    /// Starts one that behaves as a version of that age.
    pub fn start_as(age: Age) -> Self {
        let host = host::reserve("woodpecker");
        let shared = Arc::new(Shared {
            age,
            url: host.url(),
            folder: TempDir::new().expect("a folder for the workspaces"),
            handle: host.runtime(),
            state: Mutex::new(State::of(age)),
            forge: Mutex::default(),
            changes: broadcast::channel(4096).0,
            groups: Mutex::default(),
        });
        let app = api::router(Arc::clone(&shared));
        Self { host: Some(host.serve(app)), shared }
    }

    /// Its root, `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        self.shared.url.clone()
    }

    /// The forge has this repository, and the token's user is its administrator.
    pub fn add_forge_repository(&self, forge_id: u64, owner: &str, name: &str) {
        let names = (owner.to_owned(), name.to_owned());
        locked(&self.shared.state).forge.insert(forge_id, names);
    }

    /// The forge has it no more.
    pub fn remove_forge_repository(&self, forge_id: u64) {
        locked(&self.shared.state).forge.remove(&forge_id);
    }

    /// Asks this for the owner and name of a repository that was not added.
    pub fn ask_forge(&self, ask: impl Fn(u64) -> Option<(String, String)> + Send + Sync + 'static) {
        *locked(&self.shared.forge) = Some(Arc::new(ask));
    }

    /// Where the forge is, and the folder of its bare repositories (`<owner>/<name>.git`).
    /// [`hook_path`] says where the forge's messages go, which start pipelines then.
    ///
    /// [`hook_path`]: Self::hook_path
    pub fn forge_at(&self, url: &str, folder: &Path) {
        locked(&self.shared.state).forge_place = Some((url.to_owned(), folder.to_owned()));
    }

    /// Where the forge's messages about a repository go, below the server's root.
    pub fn hook_path(&self, repository: u64) -> Option<String> {
        let state = locked(&self.shared.state);
        let known = state.repositories.get(&repository)?;
        Some(format!("/api/hook?access_token={}", known.hook_token))
    }

    /// Gives a plugin the rights of old, as `WOODPECKER_PLUGINS_PRIVILEGED` does; with a tag, only
    /// that version.
    pub fn privilege(&self, plugin: &str) {
        locked(&self.shared.state).privileged.push(plugin.to_owned());
    }

    /// The token's user is not an administrator of that repository.
    pub fn refuse_administration(&self, forge_id: u64) {
        locked(&self.shared.state).not_ours.insert(forge_id);
    }

    /// The forge refuses the next webhook that an activation makes.
    pub fn break_next_hook(&self) {
        locked(&self.shared.state).break_hook = true;
    }

    /// The repositories that it has entries for, in the order of their ids here.
    pub fn repositories(&self) -> Vec<Known> {
        locked(&self.shared.state)
            .repositories
            .values()
            .map(repository::Repository::known)
            .collect()
    }

    /// A secret that steps may ask for with `from_secret`.
    pub fn add_secret(&self, name: &str, value: &str) {
        locked(&self.shared.state).secrets.insert(name.to_owned(), value.to_owned());
    }

    /// A variable for all steps and expressions, as in `WOODPECKER_ENVIRONMENT`.
    pub fn set_environment(&self, name: &str, value: &str) {
        locked(&self.shared.state).environment.insert(name.to_owned(), value.to_owned());
    }

    /// Steps whose image begins with this are run on this machine.
    pub fn allow_image(&self, prefix: &str, runner: HostRunner) {
        locked(&self.shared.state).images.push((prefix.to_owned(), runner));
    }

    /// Each change of a pipeline's status from now on.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.shared.changes.subscribe()
    }

    /// The forge's webhook: starts the pipeline of a push. `None` when there is none, as when
    /// the repository is not active, the commit has no definition, its message says `[skip ci]`
    /// or the conditions leave no step.
    pub fn push(&self, forge_id: u64, push: Push) -> Option<Run> {
        start::push(&self.shared, forge_id, push)
    }

    /// Puts a pipeline there that did not run here; its number. Panics without that repository.
    pub fn add_pipeline(&self, repository: u64, seed: Seed) -> u64 {
        pipeline::add_seed(&self.shared, repository, seed)
    }

    /// Changes the status of a pipeline that was put there.
    pub fn set_status(&self, repository: u64, number: u64, status: &str) {
        pipeline::set_status(&self.shared, repository, number, status);
    }

    /// Kills a pipeline because a later one of its branch has begun. By itself the server lets both
    /// run.
    pub fn supersede(&self, repository: u64, number: u64, by: u64) {
        pipeline::supersede(&self.shared, repository, number, by);
    }

    /// Ends a pipeline that was put there because its last step could not begin.
    pub fn fail_before_command(&self, repository: u64, number: u64, why: &str) {
        pipeline::fail_before_command(&self.shared, repository, number, why);
    }

    /// Gives the last step of a pipeline more lines of log; the step's id.
    pub fn add_log(&self, repository: u64, number: u64, lines: &[&[u8]]) -> u64 {
        pipeline::add_log(&self.shared, repository, number, lines)
    }
}

impl Drop for WoodpeckerServer {
    fn drop(&mut self) {
        // After this no step is started any more.
        drop(self.host.take());
        step::kill_all(&self.shared);
    }
}
