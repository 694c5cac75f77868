//! The data folder's lock: one process at a time.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// A folder that is ours until this is dropped, or the process ends in any way:
/// the kernel frees the lock with the file.
#[derive(Debug)]
pub(crate) struct DataLock {
    _file: File,
}

/// What came of taking the lock.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It is ours.
    Ours(DataLock),
    /// Another process holds it, by its pid where that can be read.
    HeldBy(Option<u32>),
}

/// Takes the lock file at `path`, and writes this process's id into it.
///
/// The file is never deleted: whoever waits for a name could lock a file that
/// has lost it.
pub(crate) fn take(path: &Path) -> io::Result<Taken> {
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
            Ok(Taken::Ours(DataLock { _file: file }))
        }
        Err(Errno::WOULDBLOCK) => {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok(Taken::HeldBy(text.trim().parse().ok()))
        }
        Err(error) => Err(error.into()),
    }
}
