//! Moves one ref and deletes another in a repository in a folder, all or nothing, by git's own lock
//! files.
//!
//! The ref that goes (a ticket) is locked first and longest. Its lock file says how far the move
//! is, so that whoever finds it after a crash ends or undoes the move:
//!
//! | the lock says | the target's lock with our commit | it means | what is left to do |
//! | --- | --- | --- | --- |
//! | `preparing` | there or not | not moved | remove both locks |
//! | `landing` | there | not moved | put the ticket back, say `preparing`, remove both locks |
//! | `landing` | not there | moved | delete the ticket, remove its lock |
//!
//! The ticket is deleted before the branch moves. After it, a kill between the two and a person who
//! rewinds the branch (and who has removed the ticket's stale lock, as git advises) would leave the
//! ticket, and nothing of its commit: the next process would push it again. This way round, the
//! worst that people who remove locks can bring about is a ticket that is gone, and what is gone is
//! never pushed again. While a living process is between the two, lists show the ticket
//! ([`held_back`]).
//!
//! A living process has `flock` on the lock file that it made, so a stale one is told from one that
//! is in use. Locks of other programs have other contents; they are waited for and never removed.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use git2::{Oid, Repository};

use super::{GitError, tip_of};

mod files;
mod recovery;
mod stage;

pub(super) use recovery::{held_back, recover};

use files::{delete, lock_path, remove_file};
use recovery::{say, undo};
use stage::{Move, Stage};

/// How long to wait for the lock of a living process, which only writes small files.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a lock is tried again.
const PAUSE: Duration = Duration::from_millis(5);

/// One ref moves and another one goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exchange<'a> {
    /// The full name of the ref that moves.
    pub(super) target: &'a str,
    /// Where it has to be; `None`: nowhere.
    pub(super) from: Option<Oid>,
    /// Where it moves.
    pub(super) to: Oid,
    /// The full name of the ref that is deleted.
    pub(super) gone: &'a str,
    /// Where that has to be.
    pub(super) gone_from: Oid,
}

fn broken(error: impl Into<Box<dyn Error + Send + Sync>>) -> GitError {
    GitError::broken("moving a ref of the local repository", error)
}

/// Moves the one ref and deletes the other. The objects are there already.
///
/// # Errors
/// [`GitError::Moved`] and [`GitError::Gone`] when one of the two is elsewhere, nothing was
/// changed then; [`GitError::Unreachable`] when a lock stays.
pub(super) fn exchange(repository: &Repository, exchange: &Exchange<'_>) -> Result<(), GitError> {
    let Exchange { target, from, to, gone, gone_from } = *exchange;
    let folder = repository.path();
    let deadline = Instant::now() + LOCK_TIMEOUT;
    let move_of = Move { target: target.to_owned(), to, gone_from: Some(gone_from) };
    let ticket = loop {
        if let Some(lock) = TicketLock::take(folder, gone, &move_of)? {
            break lock;
        }
        wait(deadline, folder, gone)?;
    };
    if at(repository, gone) != Some(gone_from) {
        ticket.remove()?;
        return Err(GitError::Gone { name: gone.to_owned() });
    }
    let target_lock = loop {
        match lock_target(folder, target, to) {
            Ok(Some(lock)) => break lock,
            Ok(None) => {}
            Err(error) => {
                ticket.remove()?;
                return Err(error);
            }
        }
        if let Err(error) = wait(deadline, folder, target) {
            ticket.remove()?;
            return Err(error);
        }
    };
    let now = at(repository, target);
    if now != from {
        remove_file(&target_lock).map_err(broken)?;
        ticket.remove()?;
        return Err(GitError::Moved { tip: tip_of(now) });
    }
    keep_log(folder, target).map_err(broken)?;
    say(&ticket.file, &Stage::Landing(move_of.clone())).map_err(broken)?;
    let moved = delete(folder, gone).and_then(|()| fs::rename(&target_lock, folder.join(target)));
    if let Err(error) = moved {
        undo(&ticket.file, folder, gone, &move_of).map_err(broken)?;
        ticket.remove()?;
        return Err(broken(error));
    }
    let end = || -> Result<(), Box<dyn Error + Send + Sync>> {
        log(repository, target, from, to)?;
        Ok(remove_file(&ticket.path)?)
    };
    // It has moved; whoever looks next ends it.
    end().map_err(|error| GitError::Unreachable {
        reason: format!("{target} has moved, but the lock of {gone} stays: {error}"),
        in_doubt: true,
    })
}

/// The lock of the ref that goes.
struct TicketLock {
    path: PathBuf,
    file: File,
}

impl TicketLock {
    /// `None`: somebody else has it. It appears with its contents and locked, by a hard link.
    fn take(folder: &Path, name: &str, move_of: &Move) -> Result<Option<Self>, GitError> {
        let path = lock_path(folder, name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(broken)?;
        }
        let mut made =
            tempfile::Builder::new().prefix("rdev-lock-").tempfile_in(folder).map_err(broken)?;
        let stage = Stage::Preparing(move_of.clone());
        made.write_all(stage.text().as_bytes()).map_err(broken)?;
        made.as_file().lock().map_err(broken)?;
        made.as_file().sync_all().map_err(broken)?;
        match fs::hard_link(made.path(), &path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(broken(error)),
        }
        // The link stays; the temporary name goes.
        Ok(Some(Self { path, file: made.into_file() }))
    }

    fn remove(self) -> Result<(), GitError> {
        remove_file(&self.path).map_err(broken)
    }
}

/// Takes a ref's lock with the value that it is to have. `None`: somebody else has it.
fn lock_target(folder: &Path, target: &str, to: Oid) -> Result<Option<PathBuf>, GitError> {
    let (path, lock) = (folder.join(target), lock_path(folder, target));
    if let Some(parent) = path.parent()
        && let Err(error) = fs::create_dir_all(parent)
    {
        return Err(match error.kind() {
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
                GitError::Rejected { reason: format!("another ref is in the way of {target}") }
            }
            _ => broken(error),
        });
    }
    match fs::remove_dir(&path) {
        // git leaves the empty folder of refs that were below this name.
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
            let reason = format!("other refs below {target}/ are in the way");
            return Err(GitError::Rejected { reason });
        }
        Err(_) => {}
    }
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&lock) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(None),
        Err(error) => return Err(broken(error)),
    };
    let written = writeln!(file, "{to}").and_then(|()| file.sync_all());
    if let Err(error) = written {
        remove_file(&lock).map_err(broken)?;
        return Err(broken(error));
    }
    Ok(Some(lock))
}

/// Waits a moment for the lock of a ref. Stale locks of ours are removed meanwhile.
fn wait(deadline: Instant, folder: &Path, name: &str) -> Result<(), GitError> {
    if Instant::now() >= deadline {
        return Err(GitError::unreachable(format!("{name} stays locked")));
    }
    recover(folder);
    std::thread::sleep(PAUSE);
    Ok(())
}

fn at(repository: &Repository, name: &str) -> Option<Oid> {
    repository.refname_to_id(name).ok()
}

/// A branch's log is there from now on, so that git records in it what people do to the branch.
fn keep_log(folder: &Path, target: &str) -> std::io::Result<()> {
    if !target.starts_with("refs/heads/") {
        return Ok(());
    }
    let path = folder.join("logs").join(target);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    OpenOptions::new().create(true).append(true).open(path).map(drop)
}

/// Records the move in the branch's log.
fn log(
    repository: &Repository,
    target: &str,
    from: Option<Oid>,
    to: Oid,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    if !target.starts_with("refs/heads/") {
        return Ok(());
    }
    let from = from.unwrap_or(Oid::ZERO_SHA1);
    let commit = repository.find_commit(to)?;
    let by = commit.committer();
    let (name, email) = (by.name().unwrap_or("rdev"), by.email().unwrap_or(""));
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let path = repository.path().join("logs").join(target);
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(format!("{from} {to} {name} <{email}> {seconds} +0000\tpush\n").as_bytes())?;
    Ok(())
}

/// Which of `commits` a branch's log names, as where it was or where it came.
pub(super) fn logged(
    folder: &Path,
    branch: &str,
    commits: &[Oid],
) -> Result<Option<Oid>, GitError> {
    let text = match fs::read_to_string(folder.join("logs").join(branch)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(broken)?,
    };
    let ids = text.lines().flat_map(|line| line.split(' ').take(2));
    let mut ids = ids.filter_map(|id| Oid::from_str(id).ok());
    Ok(ids.find(|id| commits.contains(id)))
}
