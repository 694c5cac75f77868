//! File locks that vanish with the process that holds them.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, Timespec, Timestamps, UTIME_NOW, flock, futimens};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::GitError;

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Together with others that share it.
    Shared,
    /// Exclusively.
    Exclusive,
}

/// Opens a lock file, making it if it is not there.
pub(super) fn open(path: &Path) -> Result<File, GitError> {
    File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| GitError::broken("opening a lock in the mirror cache", error))
}

/// Takes the lock if it is free; it may also change from one mode to the other.
fn try_lock(file: &File, mode: Mode) -> Result<bool, GitError> {
    let operation = match mode {
        Mode::Shared => FlockOperation::NonBlockingLockShared,
        Mode::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
        Err(error) => Err(GitError::broken("locking a mirror in the cache", error)),
    }
}

/// Takes the lock exclusively unless it is in use. A process that is just being started has a
/// copy of every open file for a moment; this waits for that.
pub(super) fn lock_unused(file: &File) -> Result<bool, GitError> {
    for _ in 0..10 {
        if try_lock(file, Mode::Exclusive)? {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    Ok(false)
}

/// Waits for the lock.
pub(super) fn lock(file: &File, mode: Mode, cancel: &CancellationToken) -> Result<(), GitError> {
    let mut pause = Duration::from_millis(1);
    while !try_lock(file, mode)? {
        if cancel.is_cancelled() {
            return Err(GitError::Cancelled);
        }
        // flock could wait by itself, but then nothing could cancel it.
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    Ok(())
}

/// Sets the lock file's time of use to now, by the file system's clock.
pub(super) fn touch(file: &File) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    // Only the order of eviction depends on it.
    let _ = futimens(file, &Timestamps { last_access: now, last_modification: now });
}
