//! Moves one ref and deletes another in a repository in a folder, all or nothing, by git's own lock
//! files.
//!
//! The ref that goes (a ticket) is locked first and longest. Its lock file says how far the move
//! is, so that whoever finds it after a crash ends or undoes the move:
//!
//! | the lock says | the target's lock with our commit | it means | what is left to do |
//! | --- | --- | --- | --- |
//! | `preparing` | there or not | not moved | remove both locks |
//! | `landing` | there | not moved | say `preparing`, remove both locks |
//! | `landing` | not there | moved | delete the ticket, remove its lock |
//!
//! Deleting the ticket after the branch has moved would not be enough: if the process is killed
//! between the two and somebody rewinds the branch, the next process would find the ticket, and
//! nothing of its commit, and push it again.
//!
//! A living process has `flock` on the lock file that it made, so a stale one is told from one that
//! is in use. Locks of other programs have other contents; they are waited for and never removed.

use std::error::Error;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use git2::{Oid, Repository};
use tracing::{info, warn};

use super::{GitError, tip_of};

/// How long to wait for the lock of a living process, which only writes small files.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a lock is tried again.
const PAUSE: Duration = Duration::from_millis(5);

/// How the contents of a ticket's lock begin.
const MAGIC: &str = "rdev ";

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
    let move_of = Move { target: target.to_owned(), to };
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
    ticket.say(&Stage::Landing(move_of.clone())).map_err(broken)?;
    if let Err(error) = fs::rename(&target_lock, folder.join(target)) {
        // Back to where the locks mean that nothing has moved, whichever of the two goes first.
        ticket.say(&Stage::Preparing(move_of)).map_err(broken)?;
        remove_file(&target_lock).map_err(broken)?;
        ticket.remove()?;
        return Err(broken(error));
    }
    let end = || -> Result<(), Box<dyn Error + Send + Sync>> {
        log(repository, target, from, to)?;
        delete(folder, gone)?;
        Ok(remove_file(&ticket.path)?)
    };
    // It has moved; whoever looks next ends it.
    end().map_err(|error| GitError::Unreachable {
        reason: format!("{target} has moved, but {gone} was not deleted: {error}"),
        in_doubt: true,
    })
}

/// Ends or undoes what processes that were killed have left half done. A lock that cannot be dealt
/// with stays: it keeps its ticket from being used, and nothing else.
pub(super) fn recover(folder: &Path) {
    for kind in ["wip", "revoked"] {
        for task in entries(&folder.join("refs/rdev").join(kind)) {
            for path in entries(&task) {
                if path.extension().is_some_and(|end| end == "lock")
                    && let Err(error) = recover_one(folder, &path)
                {
                    warn!(lock = %path.display(), %error, "what a killed process has left half done stays so");
                }
            }
        }
    }
}

fn recover_one(folder: &Path, path: &Path) -> std::io::Result<()> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // It may have been removed, and another one made, before it was locked here.
    let same =
        fs::metadata(path).is_ok_and(|now| file.metadata().is_ok_and(|f| f.ino() == now.ino()));
    let mut text = String::new();
    if !same || file.read_to_string(&mut text).is_err() {
        return Ok(());
    }
    let Some(stage) = Stage::read(&text) else { return Ok(()) };
    let (Stage::Preparing(Move { target, to }) | Stage::Landing(Move { target, to })) =
        stage.clone();
    let target_lock = lock_path(folder, &target);
    let ours = fs::read_to_string(&target_lock).is_ok_and(|text| text.trim_end() == to.to_string());
    info!(lock = %path.display(), stage = text.trim_end(), "a process that was killed has left a lock; ending what it did");
    match stage {
        Stage::Preparing(_) => {
            if ours {
                remove_file(&target_lock)?;
            }
            remove_file(path)
        }
        Stage::Landing(move_of) if ours => {
            file.write_all_at(Stage::Preparing(move_of).text().as_bytes(), 0)?;
            file.sync_all()?;
            remove_file(&target_lock)?;
            remove_file(path)
        }
        Stage::Landing(_) => {
            let name = path.with_extension("");
            if let Some(name) = name.strip_prefix(folder).ok().and_then(Path::to_str) {
                delete(folder, name)?;
            }
            remove_file(path)
        }
    }
}

/// What a ticket's lock is for: the ref `target` moves to `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Move {
    target: String,
    to: Oid,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Preparing(Move),
    Landing(Move),
}

impl Stage {
    fn text(&self) -> String {
        match self {
            Self::Preparing(Move { target, to }) => format!("{MAGIC}preparing {to} {target}\n"),
            Self::Landing(Move { target, to }) => format!("{MAGIC}landing   {to} {target}\n"),
        }
    }

    fn read(text: &str) -> Option<Self> {
        let mut words = text.strip_prefix(MAGIC)?.strip_suffix('\n')?.split_whitespace();
        let (stage, to, target) = (words.next()?, words.next()?, words.next()?);
        let found = Move { target: target.to_owned(), to: Oid::from_str(to).ok()? };
        match stage {
            "preparing" => Some(Self::Preparing(found)),
            "landing" => Some(Self::Landing(found)),
            _ => None,
        }
    }
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

    /// Writes how far the move is. Both texts have the same length.
    fn say(&self, stage: &Stage) -> std::io::Result<()> {
        self.file.write_all_at(stage.text().as_bytes(), 0)?;
        self.file.sync_all()
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

/// Deletes a ref whose lock the caller has, first where it is packed: its file alone would uncover
/// an older value. All of it under the lock of `packed-refs`: a program that packs refs at this
/// moment may have read the file and would bring the ref back.
fn delete(folder: &Path, name: &str) -> std::io::Result<()> {
    let lock = folder.join("packed-refs.lock");
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match OpenOptions::new().write(true).create_new(true).open(&lock) {
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::AlreadyExists && Instant::now() < deadline => {
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    let unpacked = unpack(folder, name);
    let deleted = unpacked.and_then(|()| remove_file(&folder.join(name)));
    let unlocked = remove_file(&lock);
    deleted.and(unlocked)
}

/// Removes a ref from `packed-refs` if it is there.
fn unpack(folder: &Path, name: &str) -> std::io::Result<()> {
    // The name that git uses as well, under the same lock.
    let (packed, new_path) = (folder.join("packed-refs"), folder.join("packed-refs.new"));
    let text = match fs::read_to_string(&packed) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if !text.lines().any(|line| names(line, name)) {
        return Ok(());
    }
    let mut new = File::create(&new_path)?;
    let mut dropping = false;
    for line in text.lines() {
        // A line that begins with `^` belongs to the one before it.
        dropping = if line.starts_with('^') { dropping } else { names(line, name) };
        if !dropping {
            writeln!(new, "{line}")?;
        }
    }
    new.sync_all()?;
    fs::rename(new_path, packed)
}

/// Whether a line of `packed-refs` is this ref's.
fn names(line: &str, name: &str) -> bool {
    line.split_once(' ').is_some_and(|(id, other)| other == name && !id.starts_with('#'))
}

fn lock_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.lock"))
}

fn remove_file(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// What a folder contains; nothing when there is none.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
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
