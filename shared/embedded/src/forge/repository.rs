//! One bare repository: its first commit, its owner, its name.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use git2::build::TreeUpdateBuilder;
use git2::{Config, ErrorCode, FileMode, Repository as Git, RepositoryInitOptions, Signature};
use rdev_domain::Invalid;
use rdev_domain::git::Branch;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ports::{Conflict, PortError, PortResult, Repository, SeedFile};
use ulid::Ulid;

use super::Author;

pub(super) const WHAT: &str = "the repository folder";

/// The configuration key with the nonce of the request that created a repository. One
/// without it is older than this key, and counts as the project's.
const NONCE: &str = "rdev.nonce";

/// Creates a bare repository whose first commit contains `seed`.
pub(super) fn create(
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
    // Without the user's own git templates, which may contain hooks.
    options.bare(true).no_reinit(true).external_template(false).initial_head(&branch.full_name());
    let git = Git::init_opts(path, &options).map_err(git_error)?;
    configuration(path)
        .and_then(|mut config| config.set_str(NONCE, &nonce.to_string()))
        .map_err(git_error)?;
    if !seed.is_empty() {
        commit(&git, branch, author, seed).map_err(git_error)?;
    }
    Ok(())
}

/// The repository's own configuration, without the user's and the system's.
fn configuration(repository: &Path) -> Result<Config, git2::Error> {
    Config::open(&repository.join("config"))
}

/// Refuses a repository that another request has created. A path without a repository is
/// no error.
pub(super) fn check_ownership(path: &Path, nonce: Ulid) -> PortResult<()> {
    match configuration(path).and_then(|config| config.get_string(NONCE)) {
        Ok(found) if found == nonce.to_string() => Ok(()),
        Ok(_) => Err(Conflict::RepositoryNotOurs.into()),
        Err(error) if error.code() == ErrorCode::NotFound => Ok(()),
        Err(error) => Err(git_error(error)),
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

/// Refuses a path that leads out of the tree or into git's own folder.
fn check_path(path: &str) -> Result<(), Invalid> {
    let bad = |part: &str| matches!(part, "" | "." | "..") || part.eq_ignore_ascii_case(".git");
    if path.split('/').any(bad) || path.contains(['\0', '\\']) {
        return Err(Invalid::new("seed file's path", "must be a relative one inside the tree"));
    }
    Ok(())
}

/// Gives a finished repository its name. After a power cut too, it exists completely or
/// not at all.
pub(super) fn publish(from: &Path, to: &Path) -> io::Result<()> {
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

pub(super) fn describe(path: &Path) -> PortResult<Repository> {
    let git = Git::open_bare(path).map_err(git_error)?;
    let head = git.find_reference("HEAD").map_err(git_error)?;
    let target = head.symbolic_target().map_err(git_error)?.unwrap_or_default();
    let branch = target.strip_prefix("refs/heads/").unwrap_or(target);
    let (git_url, default_branch) = (GitUrl::from_folder(path)?, branch.parse()?);
    Ok(Repository { git_url, default_branch, forge_id: None })
}

pub(super) fn io_error(error: io::Error) -> PortError {
    let transient = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::Interrupted
    );
    if transient { PortError::unavailable(WHAT, error) } else { PortError::broken(WHAT, error) }
}

fn git_error(error: git2::Error) -> PortError {
    PortError::broken(WHAT, error)
}
