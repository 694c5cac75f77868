//! Copies a bare repository that others write to meanwhile.
//!
//! The copy is as the repository was at one moment, and complete:
//!
//! * The refs are read twice. If both are the same, no ref had another value in between, so they
//!   are the refs of one moment: a branch and the ticket that its push deletes are never from
//!   before and after that push. The locks of a move that a killed process has left half done
//!   belong to them ([`crate::forge::locks`]); no other lock is copied.
//! * The objects come after the refs. git adds what an object needs before the object, and the
//!   object before a ref, and removes nothing that a ref needs. It may only move: from a file of
//!   its own to a pack, from a pack to another one. The new place is there before the old one goes.
//!   So single objects come before packs, and packs are listed until two lists are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::BackupError;
use super::archive::Writer;
use crate::forge::locks;

/// How often the refs, or the packs, are read until they stay the same.
const MAX_READS: u32 = 1000;

/// How long to wait before they are read again.
const PAUSE: Duration = Duration::from_millis(5);

/// What of a pack is copied. The rest can be made from it, or is about several packs.
const PACK_FILES: [&str; 5] = ["pack", "idx", "rev", "keep", "promisor"];

/// A file's content, or a folder.
#[derive(Debug, PartialEq, Eq)]
enum Node {
    Folder,
    File(Vec<u8>),
}

/// Files and folders by their names in the repository.
type Nodes = BTreeMap<PathBuf, Node>;

/// Whether a folder is a bare repository.
pub(super) fn is_repository(folder: &Path) -> bool {
    ["HEAD", "objects", "refs"].iter().all(|name| folder.join(name).exists())
}

/// Copies the repository `from` to the folder `to` of the archive.
///
/// # Errors
/// [`BackupError::Changed`] when it was deleted meanwhile, or its refs never stood still.
pub(super) fn copy(archive: &mut Writer, from: &Path, to: &Path) -> Result<(), BackupError> {
    let changed = || BackupError::Changed { path: from.to_owned() };
    let which = fs::metadata(from).map_err(|_| changed())?.ino();
    archive.folder(to).map_err(BackupError::writing)?;
    for (name, node) in refs(from)? {
        match node {
            Node::Folder => archive.folder(&to.join(name)),
            Node::File(content) => archive.bytes(&to.join(name), &content),
        }
        .map_err(BackupError::writing)?;
    }
    // A branch's log is written after the branch, and names commits that are there.
    others(archive, from, to)?;
    objects(archive, &from.join("objects"), &to.join("objects"))?;
    // It may have been deleted, and another one made under its name.
    let now = fs::metadata(from).map(|metadata| metadata.ino());
    if now.is_ok_and(|now| now == which) { Ok(()) } else { Err(changed()) }
}

/// The refs of one moment.
fn refs(repository: &Path) -> Result<Nodes, BackupError> {
    let mut before = read_refs(repository)?;
    for _ in 0..MAX_READS {
        let now = read_refs(repository)?;
        if now == before {
            return Ok(without_locks(now));
        }
        before = now;
        std::thread::sleep(PAUSE);
    }
    Err(BackupError::Changed { path: repository.to_owned() })
}

fn read_refs(repository: &Path) -> Result<Nodes, BackupError> {
    let mut found = Nodes::new();
    for name in ["HEAD", "packed-refs"] {
        if let Some(content) = read(&repository.join(name))? {
            found.insert(name.into(), Node::File(content));
        }
    }
    let mut folders = vec![PathBuf::from("refs")];
    while let Some(folder) = folders.pop() {
        for (name, is_folder) in list(&repository.join(&folder))? {
            let name = folder.join(name);
            if is_folder {
                folders.push(name);
            } else if let Some(content) = read(&repository.join(&name))? {
                found.insert(name, Node::File(content));
            }
        }
        found.insert(folder, Node::Folder);
    }
    Ok(found)
}

/// Leaves out the locks, but for those of a move.
fn without_locks(mut refs: Nodes) -> Nodes {
    let mut keep = BTreeSet::new();
    for (name, node) in &refs {
        if let Node::File(content) = node
            && let Some(partner) = locks::partner(name, content)
        {
            keep.insert(name.clone());
            if let Some(Node::File(lock)) = refs.get(&partner.name)
                && partner.is(lock)
            {
                keep.insert(partner.name);
            }
        }
    }
    refs.retain(|name, node| *node == Node::Folder || !locks::is_lock(name) || keep.contains(name));
    refs
}

/// Copies what is neither refs nor objects: logs, configuration, hooks, and what people put there.
fn others(archive: &mut Writer, from: &Path, to: &Path) -> Result<(), BackupError> {
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for (name, is_folder) in list(&from.join(&folder))? {
            let top = folder.as_os_str().is_empty();
            let text = name.to_string_lossy();
            let is_temporary = locks::is_lock(&name)
                || text.starts_with("rdev-lock-")
                || matches!(&*text, "packed-refs.new" | "gc.pid");
            let is_copied = matches!(&*text, "HEAD" | "packed-refs" | "refs" | "objects");
            if is_temporary || top && is_copied {
                continue;
            }
            let name = folder.join(name);
            if is_folder {
                archive.folder(&to.join(&name)).map_err(BackupError::writing)?;
                folders.push(name);
            } else {
                copy_file(archive, &from.join(&name), &to.join(&name))?;
            }
        }
    }
    Ok(())
}

fn objects(archive: &mut Writer, from: &Path, to: &Path) -> Result<(), BackupError> {
    for folder in ["", "info", "pack"] {
        archive.folder(&to.join(folder)).map_err(BackupError::writing)?;
    }
    for (name, is_folder) in list(from)? {
        if !is_folder || !is_hex(&name, 2) {
            continue;
        }
        archive.folder(&to.join(&name)).map_err(BackupError::writing)?;
        for (object, _) in list(&from.join(&name))? {
            let object = name.join(object);
            if object.file_name().is_some_and(|name| is_hex(Path::new(name), 38)) {
                copy_file(archive, &from.join(&object), &to.join(&object))?;
            }
        }
    }
    let alternates = Path::new("info/alternates");
    copy_file(archive, &from.join(alternates), &to.join(alternates))?;
    packs(archive, &from.join("pack"), &to.join("pack"))
}

fn packs(archive: &mut Writer, from: &Path, to: &Path) -> Result<(), BackupError> {
    let (mut copied, mut before) = (BTreeSet::new(), None);
    for _ in 0..MAX_READS {
        let names = list(from)?.into_iter().map(|(name, _)| name);
        // A pack is there once its index is.
        let indexes = names.filter(|name| name.extension().is_some_and(|end| end == "idx"));
        let listed: BTreeSet<PathBuf> = indexes.collect();
        if before.as_ref() == Some(&listed) && listed.is_subset(&copied) {
            return Ok(());
        }
        for pack in &listed {
            if !copied.contains(pack) && copy_pack(archive, from, to, pack)? {
                copied.insert(pack.clone());
            }
        }
        before = Some(listed);
    }
    Err(BackupError::Changed { path: from.to_owned() })
}

/// Copies the files of a pack. Returns false if it is gone: what it had is in another one.
fn copy_pack(
    archive: &mut Writer,
    from: &Path,
    to: &Path,
    pack: &Path,
) -> Result<bool, BackupError> {
    let mut open = Vec::new();
    for end in PACK_FILES {
        let name = pack.with_extension(end);
        match open_file(&from.join(&name))? {
            Some(file) => open.push((name, file)),
            None if matches!(end, "pack" | "idx") => return Ok(false),
            None => {}
        }
    }
    // Open files stay readable when they are removed.
    for (name, file) in open {
        archive.file(&to.join(name), &file).map_err(BackupError::writing)?;
    }
    Ok(true)
}

/// Copies a file if it is there.
fn copy_file(archive: &mut Writer, from: &Path, to: &Path) -> Result<(), BackupError> {
    match open_file(from)? {
        Some(file) => archive.file(to, &file).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => BackupError::Changed { path: from.to_owned() },
            _ => BackupError::writing(error),
        }),
        None => Ok(()),
    }
}

fn open_file(path: &Path) -> Result<Option<File>, BackupError> {
    if_there(path, File::open(path))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, BackupError> {
    if_there(path, fs::read(path))
}

/// The names in a folder, and whether each is a folder. Empty if it is gone.
fn list(folder: &Path) -> Result<Vec<(PathBuf, bool)>, BackupError> {
    let Some(entries) = if_there(folder, fs::read_dir(folder))? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries {
        let Some(entry) = if_there(folder, entry)? else { continue };
        // Of what a symbolic link names, as git reads it.
        let Some(metadata) = if_there(&entry.path(), fs::metadata(entry.path()))? else { continue };
        if metadata.is_dir() || metadata.is_file() {
            found.push((entry.file_name().into(), metadata.is_dir()));
        }
    }
    Ok(found)
}

fn if_there<T>(path: &Path, result: io::Result<T>) -> Result<Option<T>, BackupError> {
    match result {
        Ok(found) => Ok(Some(found)),
        // A ref may become a folder of refs, and the reverse.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(BackupError::io(format!("read {}", path.display()), error)),
    }
}

/// Whether a name has at least so many hexadecimal digits and nothing else.
fn is_hex(name: &Path, least: usize) -> bool {
    let text = name.to_string_lossy();
    text.len() >= least && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
