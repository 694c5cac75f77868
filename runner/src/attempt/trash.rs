//! What builds have left, on its way out: moved out of the way at once, removed later by one
//! thread.
//!
//! An agent decides how much there is to remove, and whether it can be removed at all. So neither
//! an attempt nor a start of the runner waits for it, and neither fails because of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use rdev_domain::chain;
use rdev_domain::ids::TaskId;
use rdev_removal::{make_writable, remove_tree};
use tracing::warn;

use super::folder::{private_folder, read_folder};
use crate::config::Folders;

/// The name of what could not be moved to the trash begins like this. No attempt's folder has such
/// a name.
const SET_ASIDE: &str = "set-aside-";

/// The folder of what is being removed, beside `work/`, and the thread that removes it.
#[derive(Debug, Clone)]
pub(crate) struct Trash {
    folder: PathBuf,
    /// Made with the first folder to remove. The thread ends with the last clone of the trash, when
    /// it has removed everything.
    remover: Arc<Mutex<Option<Sender<PathBuf>>>>,
}

impl Trash {
    pub(crate) fn new(folders: &Folders) -> Self {
        Self { folder: folders.work.with_file_name("trash"), remover: Arc::default() }
    }

    /// Makes the folder, and has what earlier processes have left in it removed. Without the folder
    /// everything is removed where it is.
    pub(crate) fn open(&self) {
        match self.make_folder().and_then(|()| read_folder(&self.folder)) {
            Ok(entries) => entries.into_iter().for_each(|entry| self.remove_later(entry)),
            Err(error) => warn!(error = format!("{error:#}"), "the trash cannot be used"),
        }
    }

    /// Takes what is at `path` away, if anything is, and has it removed later. It stays on its
    /// file system: what cannot be moved to the trash gets another name where it is.
    ///
    /// # Errors
    /// When it cannot even be renamed: then it is where it was.
    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        let gone = match self.move_to_trash(path) {
            Ok(to) => to,
            Err(_) if is_set_aside(path) => Some(path.to_owned()),
            Err(error) => {
                let to = self.set_aside(path)?;
                // A `work/` with a disk of its own is no trouble.
                let trouble = error.kind() != io::ErrorKind::CrossesDevices;
                if let Some(to) = to.as_ref().filter(|_| trouble) {
                    warn!(folder = %to.display(), %error, "what a build has left cannot be moved to the trash, so it is set aside");
                }
                to
            }
        };
        if let Some(gone) = gone {
            self.remove_later(gone);
        }
        Ok(())
    }

    /// Gives what is at `path` a name that nothing else uses, and keeps it. `None`: nothing is
    /// there.
    ///
    /// # Errors
    /// When it cannot be renamed: then it is where it was.
    pub(crate) fn set_aside(&self, path: &Path) -> Result<Option<PathBuf>> {
        if is_set_aside(path) {
            return Ok(Some(path.to_owned()));
        }
        let to = path.with_file_name(format!("{SET_ASIDE}{}", new_name(path)));
        moved(path, &to).with_context(|| format!("cannot rename {}", path.display()))
    }

    fn move_to_trash(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let to = self.folder.join(new_name(path));
        moved(path, &to).or_else(|_| {
            // An agent may have closed or removed the trash. And what moves has to be writable
            // itself, since its `..` changes. If this does not help, the next try says why.
            let _ = self.make_folder();
            let _ = make_writable(path);
            moved(path, &to)
        })
    }

    fn make_folder(&self) -> Result<()> {
        // A link would lead out of the data folder.
        if fs::symlink_metadata(&self.folder).is_ok_and(|meta| !meta.is_dir()) {
            fs::remove_file(&self.folder)
                .with_context(|| format!("cannot remove {}", self.folder.display()))?;
        }
        private_folder(&self.folder)?;
        make_writable(&self.folder)
            .with_context(|| format!("cannot write to {}", self.folder.display()))
    }

    fn remove_later(&self, path: PathBuf) {
        let mut remover = self.remover.lock().unwrap_or_else(PoisonError::into_inner);
        if remover.is_none() {
            let (sender, receiver) = mpsc::channel();
            let thread = thread::Builder::new().name("trash".to_owned());
            match thread.spawn(move || remove_all(&receiver)) {
                Ok(_) => *remover = Some(sender),
                Err(error) => {
                    warn!(folder = %path.display(), %error, "what a build has left is removed at the next start: there is no thread for it");
                }
            }
        }
        if let Some(remover) = &*remover {
            // It fails only after the thread has panicked; the next start removes what is left.
            let _ = remover.send(path);
        }
    }
}

/// The work of the thread. What it cannot remove stays under the name that it has.
fn remove_all(paths: &Receiver<PathBuf>) {
    for path in paths {
        if let Err(error) = remove_tree(&path) {
            warn!(folder = %path.display(), error = chain(&error), "what a build has left cannot be removed, so it is set aside until the next start");
        }
    }
}

/// Renames it. `None`: nothing is there.
fn moved(path: &Path, to: &Path) -> io::Result<Option<PathBuf>> {
    match fs::rename(path, to) {
        Ok(()) => Ok(Some(to.to_owned())),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn is_set_aside(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SET_ASIDE))
}

/// A name that says which task it was, if any, and that nothing else has.
fn new_name(path: &Path) -> String {
    let of_task = path.iter().rev().find_map(|name| name.to_str()?.parse::<TaskId>().ok());
    let name = of_task.map_or_else(|| "other".to_owned(), |task| task.to_string());
    format!("{name}-{:016x}", rand::random::<u64>())
}
