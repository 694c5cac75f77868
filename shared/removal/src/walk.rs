//! The walk through a tree that is being removed, entry by entry.
//!
//! It keeps the folders on its way open, at most [`OPEN_FOLDERS`], and names everything relative to
//! them. A folder that lies deeper is moved up into the top folder, where the next pass finds it.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, StatxAttributes, StatxFlags, chmodat, fchmod, fstat,
    openat, renameat, statx, unlinkat,
};
use rustix::io::{Errno, Result, fcntl_dupfd_cloexec};
use rustix::path::Arg;

use crate::NotRemoved;

/// The number of folders that are open at once.
pub(crate) const OPEN_FOLDERS: usize = 32;

/// The removal of one tree, under way.
pub(crate) struct Walk {
    /// The folder that the tree lies in. It is not changed but for the tree.
    parent: OwnedFd,
    name: CString,
    /// The folders from the top of the tree to where the walk is.
    way: Vec<Level>,
    /// Whether this pass has removed or moved anything. If not, another one will not either.
    progress: bool,
    /// What this pass could not remove.
    first: Option<(PathBuf, Errno)>,
    others: u64,
    /// The number of folders that were moved up: their names.
    moved: u64,
    begun: bool,
}

struct Level {
    name: CString,
    dir: Dir,
    made_writable: bool,
}

impl Walk {
    pub(crate) fn new(path: &Path) -> std::result::Result<Self, NotRemoved> {
        let failed =
            |error: Errno| NotRemoved { entry: path.to_owned(), others: 0, source: error.into() };
        let name = path.file_name().ok_or(Errno::INVAL).map_err(failed)?;
        let name = CString::new(name.as_bytes()).map_err(|_| failed(Errno::INVAL))?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let (parent, begun) = match openat(CWD, parent, flags, Mode::empty()) {
            Ok(parent) => (parent, false),
            // Nothing is there, and there is nothing to do.
            Err(Errno::NOENT) => (openat(CWD, "/", flags, Mode::empty()).map_err(failed)?, true),
            Err(error) => return Err(failed(error)),
        };
        Ok(Self {
            parent,
            name,
            way: Vec::new(),
            progress: true,
            first: None,
            others: 0,
            moved: 0,
            begun,
        })
    }

    /// Does the next bit. `false`: there is no more to do.
    pub(crate) fn step(&mut self) -> bool {
        let Some(level) = self.way.last_mut() else {
            // A pass begins: the first, or another one over what the last one has left.
            let again = self.first.is_some() || self.others > 0;
            if self.begun && !(again && self.progress) {
                return false;
            }
            (self.begun, self.progress, self.first, self.others) = (true, false, None, 0);
            let name = self.name.clone();
            self.remove(&name, FileType::Unknown);
            return true;
        };
        match level.dir.read() {
            Some(Ok(entry)) => {
                let name = entry.file_name();
                if name != c"." && name != c".." {
                    self.remove(name, entry.file_type());
                }
            }
            Some(Err(error)) => {
                self.failed(c".", error);
                self.leave();
            }
            None => self.leave(),
        }
        true
    }

    /// What has stayed.
    pub(crate) fn outcome(self) -> std::result::Result<(), NotRemoved> {
        match self.first {
            None => Ok(()),
            Some((entry, error)) => {
                Err(NotRemoved { entry, others: self.others, source: error.into() })
            }
        }
    }

    /// Removes an entry of the current folder. If it is a folder: enters it.
    fn remove(&mut self, name: &CStr, kind: FileType) {
        let mut refused = Errno::NOTDIR;
        if kind != FileType::Directory {
            match self.unlink(name) {
                // Which of the two it is for a folder, the file system decides.
                Err(error @ (Errno::ISDIR | Errno::PERM)) => refused = error,
                outcome => return self.note(name, outcome),
            }
        }
        if self.way.len() == OPEN_FOLDERS {
            let outcome = self.move_up(name);
            return self.note(name, outcome);
        }
        match self.open(name) {
            Ok(dir) => {
                self.way.push(Level { name: name.to_owned(), dir, made_writable: false });
            }
            // It is no folder, or no longer: somebody has put a file or a link in its place.
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let outcome = match kind {
                    FileType::Directory => self.unlink(name),
                    _ => Err(refused),
                };
                self.note(name, outcome);
            }
            Err(error) => self.note(name, Err(error)),
        }
    }

    /// Leaves the current folder, whose entries have all been seen, and removes it.
    fn leave(&mut self) {
        let Some(Level { name, dir, .. }) = self.way.pop() else { return };
        drop(dir);
        match self.with_rights(|at| unlinkat(at, &name, AtFlags::REMOVEDIR)) {
            // What is in it has been noted, or is moved up, or is new: the next pass sees it.
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                if self.first.is_none() {
                    self.failed(&name, Errno::NOTEMPTY);
                }
            }
            Err(Errno::NOTDIR) => {
                let outcome = self.unlink(&name);
                self.note(&name, outcome);
            }
            outcome => self.note(&name, outcome),
        }
    }

    fn note(&mut self, name: &CStr, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.progress = true,
            // Somebody else has removed it.
            Err(Errno::NOENT) => {}
            Err(error) => self.failed(name, error),
        }
    }

    fn failed(&mut self, name: &CStr, error: Errno) {
        if self.first.is_some() {
            self.others += 1;
            return;
        }
        let names = self.way.iter().map(|level| level.name.as_c_str()).chain([name]);
        let entry = names.map(|name| OsStr::from_bytes(name.to_bytes())).collect();
        self.first = Some((entry, error));
    }

    fn unlink(&mut self, name: &CStr) -> Result<()> {
        self.with_rights(|at| unlinkat(at, name, AtFlags::empty()))
    }

    fn open(&mut self, name: &CStr) -> Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |at: BorrowedFd<'_>| openat(at, name, flags, Mode::empty());
        let folder = match self.with_rights(open) {
            Err(Errno::ACCESS) => {
                self.with_rights(|at| make_writable(at, name))?;
                self.with_rights(open)?
            }
            other => other?,
        };
        if is_mounted(folder.as_fd(), self.parent.as_fd())? {
            return Err(Errno::BUSY);
        }
        Dir::new(folder)
    }

    /// Moves a folder of the current one into the top one. It ends: each name that is taken there
    /// is that of another entry.
    fn move_up(&mut self, name: &CStr) -> Result<()> {
        let mut made_writable = false;
        loop {
            let new = self.moved.to_string();
            let Some(top) = self.way.first() else { return Err(Errno::NOENT) };
            let top = fcntl_dupfd_cloexec(top.dir.fd()?, 0)?;
            match self.with_rights(|at| renameat(at, name, &top, &new)) {
                // The name is taken: by a folder with something in it, or by a file.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => self.moved += 1,
                // Its `..` changes, so it has to be writable itself, and so has the top.
                Err(Errno::ACCESS) if !made_writable => {
                    made_writable = true;
                    // If one of them fails, the next try says why.
                    let _ = fchmod(&top, Mode::RWXU);
                    let _ = self.with_rights(|at| make_writable(at, name));
                }
                Ok(()) => {
                    self.moved += 1;
                    // The top is not empty at its end, though nothing has failed.
                    return Ok(());
                }
                other => return other,
            }
        }
    }

    /// Does something in the current folder. If that is not permitted, makes the folder writable
    /// and tries again.
    fn with_rights<T>(&mut self, work: impl Fn(BorrowedFd<'_>) -> Result<T>) -> Result<T> {
        let Some(level) = self.way.last_mut() else { return work(self.parent.as_fd()) };
        let folder = level.dir.fd()?;
        match work(folder) {
            Err(Errno::ACCESS) if !level.made_writable => {
                level.made_writable = true;
                match fchmod(folder, Mode::RWXU) {
                    Ok(()) => work(folder),
                    Err(_) => Err(Errno::ACCESS),
                }
            }
            other => other,
        }
    }
}

/// Makes a folder writable for its owner, without following a link: `chmod` knows no such flag for
/// folders that may not be opened, but the name of a descriptor stands for just that folder.
pub(crate) fn make_writable(at: BorrowedFd<'_>, name: impl Arg) -> Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(at, name, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}", folder.as_raw_fd());
    chmodat(CWD, path, Mode::RWXU, AtFlags::empty())
}

/// Whether another file system, or another part of this one, is mounted on a folder.
fn is_mounted(folder: BorrowedFd<'_>, parent: BorrowedFd<'_>) -> Result<bool> {
    if let Ok(stat) = statx(folder, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
        && stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
    {
        return Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    }
    // Kernels before 5.8 do not tell.
    Ok(fstat(folder)?.st_dev != fstat(parent)?.st_dev)
}

#[cfg(test)]
mod tests;
