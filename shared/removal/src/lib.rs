//! Removes folders that somebody else has filled: an agent, a build, whoever pushes to a
//! repository.
//!
//! `std::fs::remove_dir_all` keeps a descriptor and a frame of the stack for each level. So a
//! folder with a few thousand levels cannot be removed by it, and with more of both it overflows
//! the stack. It also gives up at the first entry that cannot be removed, and at a read-only
//! folder.

mod walk;

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;

use walk::Walk;

/// Something is left of a folder. Everything else in it is removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot remove {}{}", entry.display(), and_more(*others))]
pub struct NotRemoved {
    /// The first entry that stayed, relative to the folder that the removed one lies in. An entry
    /// that lay very deep has been moved up, below a number.
    pub entry: PathBuf,
    /// The number of other entries that stayed for a reason of their own.
    pub others: u64,
    /// Why it stayed.
    #[source]
    pub source: io::Error,
}

impl From<NotRemoved> for io::Error {
    fn from(error: NotRemoved) -> Self {
        Self::new(error.source.kind(), error)
    }
}

/// Removes what is at `path`, with everything in it. It is no error if nothing is there.
///
/// The depth does not matter: neither the stack nor the descriptors nor the length of a path grow
/// with it. Links are removed and not followed, also those that take a folder's place meanwhile.
/// Folders that this user has made read-only are made writable. Another file system that is mounted
/// in the folder is left alone.
///
/// # Errors
/// When something stays: a file in a folder of another user, an immutable one, a mounted one.
pub fn remove_tree(path: &Path) -> Result<(), NotRemoved> {
    let mut walk = Walk::new(path)?;
    while walk.step() {}
    walk.outcome()
}

/// Lets this user read, enter and change a folder of theirs. A link is not followed.
///
/// # Errors
/// When it is no folder, or one of another user.
pub fn make_writable(folder: &Path) -> io::Result<()> {
    Ok(walk::make_writable(CWD, folder)?)
}

fn and_more(count: u64) -> String {
    match count {
        0 => String::new(),
        count => format!(" and {count} more"),
    }
}
