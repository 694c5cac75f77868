//! Bare repositories in a folder.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use git2::build::TreeUpdateBuilder;
use git2::{Config, ErrorCode, FileMode, Repository as Git, RepositoryInitOptions, Signature};
use rdev_domain::Invalid;
use rdev_domain::git::Branch;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{
    CommitStatus, Conflict, Forge, NewRepository, PortError, PortResult, PullRequest, Repository,
    SeedFile, Start,
};
use ulid::Ulid;

use crate::lock::DataLock;

const WHAT: &str = "the repository folder";

/// What is being made or removed has a name that no project can have.
const HALF_DONE: &str = ".half-done-";

/// Where a repository's configuration says which request made it. One that does not say is
/// from before that was written, and counts as the project's.
const NONCE: &str = "rdev.nonce";

/// Repositories as `<project>.git` in one folder.
#[derive(Debug)]
pub struct LocalForge {
    folder: PathBuf,
    author: Author,
    /// Held while a repository gets or loses its name, so that the one that was looked at
    /// is the one that goes.
    names: Arc<Mutex<()>>,
    _lock: Arc<DataLock>,
}

/// Who signs a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// A name.
    pub name: String,
    /// An e-mail address.
    pub email: String,
}

impl Default for Author {
    fn default() -> Self {
        Self { name: "rdev".to_owned(), email: "rdev@localhost".to_owned() }
    }
}

impl LocalForge {
    /// Opens the folder, and removes what a killed process left in it: half-made
    /// repositories, and lock files that would shut one for ever.
    pub(crate) fn open(
        folder: PathBuf,
        author: Author,
        lock: Arc<DataLock>,
    ) -> Result<Self, (PathBuf, io::Error)> {
        let opened = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .and_then(|()| clean(&folder));
        match opened {
            Ok(()) => Ok(Self { folder, author, names: Arc::default(), _lock: lock }),
            Err(error) => Err((folder, error)),
        }
    }

    /// The folder that the repositories are in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, project: &ProjectId) -> PathBuf {
        self.folder.join(format!("{project}.git"))
    }

    fn half_done(&self) -> PathBuf {
        self.folder.join(format!("{HALF_DONE}{}", Ulid::generate()))
    }
}

#[async_trait]
impl Forge for LocalForge {
    async fn create_repository(&self, new: &NewRepository) -> PortResult<Repository> {
        let seed = match &new.start {
            Start::Seed(files) => files.clone(),
            Start::Generate(_) => {
                return Err(PortError::NotSupported { what: "a template repository" });
            }
        };
        let (path, half_done) = (self.path(&new.project), self.half_done());
        let (author, names) = (self.author.clone(), Arc::clone(&self.names));
        let (branch, nonce) = (new.branch.clone(), new.nonce);
        blocking(move || {
            if path.exists() {
                check_ours(&path, nonce)?;
                return describe(&path);
            }
            let made = make(&half_done, &branch, &author, &seed, nonce).and_then(|()| {
                let _named = names.lock().unwrap_or_else(PoisonError::into_inner);
                publish(&half_done, &path).map_err(io_failed)
            });
            if half_done.exists() {
                fs::remove_dir_all(&half_done).map_err(io_failed)?;
            }
            // Another call may have been first: then there is one, as asked for.
            match made {
                Err(error) if !path.exists() => Err(error),
                _ => {
                    check_ours(&path, nonce)?;
                    describe(&path)
                }
            }
        })
        .await
    }

    async fn delete_repository(&self, project: &ProjectId, nonce: Ulid) -> PortResult<()> {
        let (path, half_done) = (self.path(project), self.half_done());
        let names = Arc::clone(&self.names);
        blocking(move || {
            let named = names.lock().unwrap_or_else(PoisonError::into_inner);
            check_ours(&path, nonce)?;
            // Gone at once under its name, whatever happens meanwhile to its files.
            let renamed = fs::rename(&path, &half_done);
            drop(named);
            match renamed {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(io_failed(error)),
                Ok(()) => fs::remove_dir_all(&half_done).map_err(io_failed),
            }
        })
        .await
    }

    async fn pull_request(&self, _request: &PullRequest) -> PortResult<String> {
        Err(PortError::NotSupported { what: "a pull request" })
    }

    async fn set_status(&self, _status: &CommitStatus) -> PortResult<()> {
        Err(PortError::NotSupported { what: "a commit's status" })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> PortResult<T> + Send + 'static,
) -> PortResult<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(panicked) => Err(PortError::broken(WHAT, panicked)),
    }
}

/// Makes a bare repository whose first commit holds `seed`.
fn make(
    path: &Path,
    branch: &Branch,
    author: &Author,
    seed: &[SeedFile],
    nonce: Ulid,
) -> PortResult<()> {
    for file in seed {
        check_path(&file.path)?;
    }
    let mut options = RepositoryInitOptions::new();
    // Nothing of the user's own git templates, which may hold hooks.
    options.bare(true).no_reinit(true).external_template(false).initial_head(&branch.full_name());
    let git = Git::init_opts(path, &options).map_err(git_failed)?;
    configuration(path)
        .and_then(|mut of_it| of_it.set_str(NONCE, &nonce.to_string()))
        .map_err(git_failed)?;
    if !seed.is_empty() {
        commit(&git, branch, author, seed).map_err(git_failed)?;
    }
    Ok(())
}

/// The repository's own configuration, without the user's and the system's.
fn configuration(repository: &Path) -> Result<Config, git2::Error> {
    Config::open(&repository.join("config"))
}

/// Refuses a repository that another request has made. One that is not there is nobody's.
fn check_ours(path: &Path, nonce: Ulid) -> PortResult<()> {
    match configuration(path).and_then(|of_it| of_it.get_string(NONCE)) {
        Ok(its) if its == nonce.to_string() => Ok(()),
        Ok(_) => Err(Conflict::RepositoryNotOurs.into()),
        Err(error) if error.code() == ErrorCode::NotFound => Ok(()),
        Err(error) => Err(git_failed(error)),
    }
}

fn commit(
    git: &Git,
    branch: &Branch,
    author: &Author,
    seed: &[SeedFile],
) -> Result<(), git2::Error> {
    let mut tree = TreeUpdateBuilder::new();
    for file in seed {
        tree.upsert(file.path.as_str(), git.blob(&file.content)?, FileMode::Blob);
    }
    let empty = git.find_tree(git.treebuilder(None)?.write()?)?;
    let tree = git.find_tree(tree.create_updated(git, &empty)?)?;
    let author = Signature::now(&author.name, &author.email)?;
    let message = "Start from the template\n";
    git.commit(Some(&branch.full_name()), &author, &author, message, &tree, &[])?;
    Ok(())
}

/// A seed's path stays in the tree and is none of git's own.
fn check_path(path: &str) -> Result<(), Invalid> {
    let bad = |part: &str| matches!(part, "" | "." | "..") || part.eq_ignore_ascii_case(".git");
    if path.split('/').any(bad) || path.contains(['\0', '\\']) {
        return Err(Invalid::new("seed file's path", "must be a relative one inside the tree"));
    }
    Ok(())
}

/// Gives a finished repository its name, so that it is there whole or not at
/// all, after a power cut too.
fn publish(from: &Path, to: &Path) -> io::Result<()> {
    sync(from)?;
    fs::rename(from, to)?;
    match to.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn sync(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            sync(&entry?.path())?;
        }
    }
    File::open(path)?.sync_all()
}

fn describe(path: &Path) -> PortResult<Repository> {
    let git = Git::open_bare(path).map_err(git_failed)?;
    let head = git.find_reference("HEAD").map_err(git_failed)?;
    let target = head.symbolic_target().map_err(git_failed)?.unwrap_or_default();
    let branch = target.strip_prefix("refs/heads/").unwrap_or(target);
    let (git_url, default_branch) = (GitUrl::from_folder(path)?, branch.parse()?);
    Ok(Repository { git_url, default_branch, forge_id: None })
}

/// Removes half-done repositories and stale lock files.
fn clean(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(HALF_DONE) {
            fs::remove_dir_all(entry.path())?;
        } else if name.ends_with(".git") && entry.file_type()?.is_dir() {
            unlock(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes `*.lock` files. Whoever made them is dead: we hold the data folder's
/// lock. No ref can have such a name, and loose objects never do.
fn unlock(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            let loose_objects = name.len() == 2
                && folder.ends_with("objects")
                && name.bytes().all(|b| b.is_ascii_hexdigit());
            if !loose_objects {
                unlock(&entry.path())?;
            }
        } else if name.ends_with(".lock") {
            tracing::warn!(file = %entry.path().display(), "removed a stale lock file");
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn io_failed(error: io::Error) -> PortError {
    let passing = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::Interrupted
    );
    if passing { PortError::unavailable(WHAT, error) } else { PortError::broken(WHAT, error) }
}

fn git_failed(error: git2::Error) -> PortError {
    PortError::broken(WHAT, error)
}
