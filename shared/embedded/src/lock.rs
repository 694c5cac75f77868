//! The data folder's lock: one process at a time uses the folder.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// A lock that lasts until this value is dropped or the process ends, however it
/// ends: the kernel releases the lock with the file.
#[derive(Debug)]
pub(crate) struct DataLock {
    file: File,
}

impl Drop for DataLock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child that another thread is starting has it open
        // too, until it executes its program.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// The result of [`acquire`].
#[derive(Debug)]
pub(crate) enum Acquired {
    Lock(DataLock),
    /// Another process has the lock. Its pid, if the file contains one.
    HeldBy(Option<u32>),
}

/// Locks the file at `path`, and writes this process's id into it.
///
/// The file is never deleted: a process that has opened it could then lock a file
/// that no longer has this name.
pub(crate) fn acquire(path: &Path) -> io::Result<Acquired> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())?;
            Ok(Acquired::Lock(DataLock { file }))
        }
        Err(Errno::WOULDBLOCK) => {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok(Acquired::HeldBy(text.trim().parse().ok()))
        }
        Err(error) => Err(error.into()),
    }
}
