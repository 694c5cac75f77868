//! The data folder's lock: one process at a time uses the folder.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// How long the children of a killed process may take to end.
const DYING: Duration = Duration::from_secs(10);

/// How often the lock is tried again.
const PAUSE: Duration = Duration::from_millis(5);

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

/// Locks the file at `path`, and writes this process's id into it. While the process that the file
/// names is dead and the lock is not free, waits: a child that it was starting when it was killed
/// has the file open too, until it ends.
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
    let deadline = Instant::now() + DYING;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{}", std::process::id())?;
                return Ok(Acquired::Lock(DataLock { file }));
            }
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.rewind()?;
                file.read_to_string(&mut text)?;
                let holder = text.trim().parse().ok();
                if !holder.is_some_and(is_dead) || Instant::now() >= deadline {
                    return Ok(Acquired::HeldBy(holder));
                }
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_dead(pid: u32) -> bool {
    let pid = Pid::from_raw(pid.cast_signed());
    pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}
