//! Bare repositories in a folder.

mod cleanup;
pub(crate) mod locks;
mod repository;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{
    CommitStatus, Forge, FoundPullRequest, NewRepository, OpenedPullRequest, OwnRepository,
    PortError, PortResult, PullRequest, PullRequestBranches, PushTarget, Repository, Standing,
    Start,
};
use ulid::Ulid;

use crate::lock::DataLock;
use repository::{WHAT, check_ownership, create, describe, io_error, publish};

/// A repository that is being created or removed has a name that no project can have.
pub(crate) const UNFINISHED: &str = ".half-done-";

/// Repositories as `<project>.git` in one folder.
#[derive(Debug)]
pub struct LocalForge {
    folder: PathBuf,
    author: Author,
    /// Locked while a repository gets or loses its name, so that the repository that was
    /// checked is the one that is removed.
    names: Arc<Mutex<()>>,
    _lock: Arc<DataLock>,
}

/// The author of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    pub name: String,
    pub email: String,
}

impl Default for Author {
    fn default() -> Self {
        Self { name: "rdev".to_owned(), email: "rdev@localhost".to_owned() }
    }
}

impl LocalForge {
    /// Opens the folder, and removes what a killed process has left in it: unfinished
    /// repositories, and lock files that would block a repository for ever.
    pub(crate) fn open(
        folder: PathBuf,
        author: Author,
        lock: Arc<DataLock>,
    ) -> Result<Self, (PathBuf, io::Error)> {
        let opened = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .and_then(|()| cleanup::run(&folder, UNFINISHED));
        match opened {
            Ok(()) => Ok(Self { folder, author, names: Arc::default(), _lock: lock }),
            Err(error) => Err((folder, error)),
        }
    }

    /// The folder that contains the repositories.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, project: &ProjectId) -> PathBuf {
        self.folder.join(format!("{project}.git"))
    }

    fn unfinished(&self) -> PathBuf {
        self.folder.join(format!("{UNFINISHED}{}", Ulid::generate()))
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
        let (path, unfinished) = (self.path(&new.project), self.unfinished());
        let (author, names) = (self.author.clone(), Arc::clone(&self.names));
        let (branch, nonce) = (new.branch.clone(), new.nonce);
        blocking(move || {
            if path.exists() {
                check_ownership(&path, nonce)?;
                return describe(&path);
            }
            let created = create(&unfinished, &branch, &author, &seed, nonce).and_then(|()| {
                let _locked = names.lock().unwrap_or_else(PoisonError::into_inner);
                publish(&unfinished, &path).map_err(io_error)
            });
            cleanup::remove(&unfinished);
            // Another call may have been faster: then the repository exists, as requested.
            match created {
                Err(error) if !path.exists() => Err(error),
                _ => {
                    check_ownership(&path, nonce)?;
                    describe(&path)
                }
            }
        })
        .await
    }

    async fn delete_repository(&self, of: &OwnRepository) -> PortResult<()> {
        let (project, nonce) = (&of.project, of.nonce);
        let (path, unfinished) = (self.path(project), self.unfinished());
        let names = Arc::clone(&self.names);
        blocking(move || {
            let locked = names.lock().unwrap_or_else(PoisonError::into_inner);
            check_ownership(&path, nonce)?;
            // The name is free at once, however long the removal of the files takes.
            let renamed = fs::rename(&path, &unfinished);
            drop(locked);
            match renamed {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(io_error(error)),
                Ok(()) => {
                    // The repository is gone all the same.
                    cleanup::remove(&unfinished);
                    Ok(())
                }
            }
        })
        .await
    }

    async fn pull_request(&self, _request: &PullRequest) -> PortResult<OpenedPullRequest> {
        Err(PortError::NotSupported { what: "a pull request" })
    }

    async fn find_pull_request(
        &self,
        _branches: &PullRequestBranches,
    ) -> PortResult<Option<FoundPullRequest>> {
        Err(PortError::NotSupported { what: "a pull request" })
    }

    async fn standing(&self, _of: &PushTarget) -> PortResult<Standing> {
        Err(PortError::NotSupported { what: "a look at a repository" })
    }

    fn shows_statuses(&self, _repository: &GitUrl) -> bool {
        false
    }

    async fn set_status(&self, _status: &CommitStatus) -> PortResult<()> {
        Err(PortError::NotSupported { what: "a commit's status" })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> PortResult<T> + Send + 'static,
) -> PortResult<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panicked) => Err(PortError::broken(WHAT, panicked)),
    }
}
