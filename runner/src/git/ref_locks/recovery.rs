//! What a killed process has left half done is ended or undone, as the locks say.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use git2::Oid;
use tracing::{info, warn};

use super::files::{delete, entries, lock_path, remove_file};
use super::stage::{Move, Stage};

/// Ends or undoes what processes that were killed have left half done. A lock that cannot be dealt
/// with stays: it keeps its ticket from being used, and nothing else.
pub(in crate::git) fn recover(folder: &Path) {
    for path in ticket_locks(folder) {
        if let Err(error) = recover_one(folder, &path) {
            warn!(lock = %path.display(), %error, "what a killed process has left half done stays so");
        }
    }
}

/// The tickets that are deleted and whose branch has not moved yet: another process is just between
/// the two. They count as there. To be called after the refs were read, so that a ticket which was
/// deleted before that is among these, or its branch has moved.
pub(in crate::git) fn held_back(folder: &Path) -> Vec<(String, Oid)> {
    let of_lock = |path: PathBuf| {
        let text = fs::read_to_string(&path).ok()?;
        let Some(Stage::Landing(Move { target, to, gone_from })) = Stage::read(&text) else {
            return None;
        };
        let name = path.with_extension("");
        let name = name.strip_prefix(folder).ok()?.to_str()?.to_owned();
        is_locked_for(folder, &target, to).then_some((name, gone_from?))
    };
    ticket_locks(folder).into_iter().filter_map(of_lock).collect()
}

/// The lock files of tickets.
fn ticket_locks(folder: &Path) -> Vec<PathBuf> {
    let kinds = ["wip", "revoked"].map(|kind| folder.join("refs/rdev").join(kind));
    let tasks = kinds.iter().flat_map(|kind| entries(kind));
    let refs = tasks.flat_map(|task| entries(&task));
    refs.filter(|path| path.extension().is_some_and(|end| end == "lock")).collect()
}

/// Whether a ref's lock is there with the value that the ref is to have.
fn is_locked_for(folder: &Path, target: &str, to: Oid) -> bool {
    let text = fs::read_to_string(lock_path(folder, target));
    text.is_ok_and(|text| text.trim_end() == to.to_string())
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
    let (Stage::Preparing(move_of) | Stage::Landing(move_of)) = &stage;
    let target_lock = lock_path(folder, &move_of.target);
    let ours = is_locked_for(folder, &move_of.target, move_of.to);
    let name = path.with_extension("");
    let Some(name) = name.strip_prefix(folder).ok().and_then(Path::to_str) else { return Ok(()) };
    info!(lock = %path.display(), stage = text.trim_end(), "a process that was killed has left a lock; ending what it did");
    match stage {
        Stage::Preparing(_) => {
            if ours {
                remove_file(&target_lock)?;
            }
            remove_file(path)
        }
        Stage::Landing(move_of) if ours => {
            undo(&file, folder, name, &move_of)?;
            remove_file(path)
        }
        Stage::Landing(_) => {
            delete(folder, name)?;
            remove_file(path)
        }
    }
}

/// Goes back from `landing` while the target has not moved, by steps after each of which the locks
/// still mean that. The ticket's lock stays.
pub(super) fn undo(
    lock: &File,
    folder: &Path,
    ticket: &str,
    move_of: &Move,
) -> std::io::Result<()> {
    let path = folder.join(ticket);
    // Versions that wrote no value deleted the ticket after the branch had moved.
    if let Some(value) = move_of.gone_from
        && !path.exists()
    {
        let mut made = tempfile::Builder::new();
        // As git makes them: other users may read the repository.
        made.prefix("rdev-ref-").permissions(Permissions::from_mode(0o666));
        let mut made = made.tempfile_in(folder)?;
        writeln!(made, "{value}")?;
        made.as_file().sync_all()?;
        made.persist(&path)?;
    }
    say(lock, &Stage::Preparing(move_of.clone()))?;
    remove_file(&lock_path(folder, &move_of.target))
}

/// Writes into a ticket's lock how far the move is. Both texts have the same length.
pub(super) fn say(lock: &File, stage: &Stage) -> std::io::Result<()> {
    lock.write_all_at(stage.text().as_bytes(), 0)?;
    lock.sync_all()
}
