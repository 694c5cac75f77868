//! The attempt's repository and checkout.
//!
//! There are two repositories: the runner's own gitdir outside the checkout, and a
//! disposable `.git` inside it, for the agent's `git log`, `status` and `diff`. Both
//! borrow the mirror's objects; neither has a remote, a credential or a hook.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use git2::build::CheckoutBuilder;
use git2::{IndexEntry, IndexTime, ObjectType, Oid, Repository};
use rdev_domain::git::{Branch, CommitId};
use tokio_util::sync::CancellationToken;

use super::{GitError, Mirror, Workdir, names, oid};

/// The number of files that one thread takes at a time.
const BATCH: usize = 32;

/// The most threads that one checkout uses.
const MAX_THREADS: usize = 4;

/// The limit of files and folders in a checkout.
const MAX_ENTRIES: usize = 1_000_000;

/// The limit of bytes in a path: above what system calls accept.
const MAX_PATH: usize = 4000;

/// The result of a checkout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckedOut {
    /// Whether some files are Git LFS pointers instead of their contents.
    pub lfs_pointers: bool,
    /// The number of files and links.
    pub files: u64,
}

/// A repository's minimal files.
pub(super) struct Skeleton<'a> {
    bare: bool,
    branch: &'a str,
    at: Option<&'a CommitId>,
    borrow_from: Option<&'a Path>,
}

impl Skeleton<'_> {
    /// An empty bare repository.
    pub(super) fn bare() -> Self {
        Self { bare: true, branch: "main", at: None, borrow_from: None }
    }
}

/// Writes a repository's minimal files: no hooks, no remote, no description.
pub(super) fn skeleton(gitdir: &Path, what: &Skeleton<'_>) -> io::Result<()> {
    for folder in ["objects/info", "objects/pack", "refs/heads", "info"] {
        fs::create_dir_all(gitdir.join(folder))?;
    }
    fs::write(gitdir.join("HEAD"), format!("ref: refs/heads/{}\n", what.branch))?;
    let config = format!(
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = {}\n\tlogallrefupdates = false\n[gc]\n\tauto = 0\n",
        what.bare
    );
    fs::write(gitdir.join("config"), config)?;
    if let Some(lender) = what.borrow_from {
        let mut line = lender.join("objects").into_os_string();
        line.push("\n");
        fs::write(gitdir.join("objects/info/alternates"), line.as_bytes())?;
    }
    if let Some(commit) = what.at {
        let path = gitdir.join("refs/heads").join(what.branch);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, format!("{commit}\n"))?;
    }
    Ok(())
}

/// Makes the attempt's two repositories and writes the files of `start` into
/// the checkout, which must be empty. `branch` is the current branch in the agent's `.git`.
///
/// # Errors
/// [`GitError::BadTree`] when the tree has names that no checkout may have;
/// [`GitError::MirrorDamaged`] (then fetch again); [`GitError::Cancelled`].
pub fn checkout(
    mirror: &Mirror,
    start: Option<&CommitId>,
    branch: &Branch,
    dirs: &Workdir,
    cancel: &CancellationToken,
) -> Result<CheckedOut, GitError> {
    super::init_process();
    let writing = |error| GitError::broken("making the attempt's repository", error);
    let lender = std::path::absolute(mirror.folder()).map_err(writing)?;
    fs::create_dir_all(&dirs.checkout).map_err(writing)?;
    let dot_git = dirs.checkout.join(".git");
    for (gitdir, bare) in [(&dirs.gitdir, true), (&dot_git, false)] {
        let what =
            Skeleton { bare, branch: branch.as_str(), at: start, borrow_from: Some(&lender) };
        skeleton(gitdir, &what).map_err(writing)?;
    }
    let Some(start) = start else {
        return Ok(CheckedOut { lfs_pointers: false, files: 0 });
    };
    let repository = super::open(dirs)?;
    let tree = repository
        .find_commit(oid(start)?)
        .and_then(|commit| commit.tree())
        .map_err(|error| mirror.unreadable(error))?;
    let flat = Flat::of(&repository, tree.id()).map_err(|unfit| match unfit {
        Unfit::Bad(message) => GitError::BadTree(message),
        Unfit::Unreadable(error) => mirror.unreadable(error),
    })?;
    let lfs_pointers = if flat.converts {
        write_converted(&repository, &tree, mirror, cancel)?;
        holds_pointers(&repository, &flat).map_err(|error| mirror.unreadable(error))?
    } else {
        let written = write_all(&flat, dirs, mirror, cancel)?;
        write_index(&repository, &flat, &written)?;
        written.iter().any(|file| file.lfs_pointer)
    };
    fs::copy(dirs.gitdir.join("index"), dot_git.join("index")).map_err(writing)?;
    Ok(CheckedOut { lfs_pointers, files: flat.files.len() as u64 })
}

/// What becomes of the files that the repository ignores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// They stay: what was installed and built is of use to whatever comes next.
    Stay,
    /// They go: what is ignored now may be no longer ignored then.
    Go,
}

/// Sets the checkout's files to those of `commit` (none of an empty repository). Other files are
/// removed, but for ignored ones that may stay.
///
/// # Errors
/// [`GitError::Broken`].
pub fn reset(dirs: &Workdir, commit: Option<&CommitId>, ignored: Ignored) -> Result<(), GitError> {
    let repository = super::open(dirs)?;
    let broken = |error| GitError::broken("setting the checkout to another commit", error);
    let object = match commit {
        Some(commit) => oid(commit)?,
        None => repository.treebuilder(None).and_then(|empty| empty.write()).map_err(broken)?,
    };
    let object = repository.find_object(object, None).map_err(broken)?;
    let mut how = CheckoutBuilder::new();
    how.force().remove_untracked(true).remove_ignored(ignored == Ignored::Go);
    repository.checkout_tree(&object, Some(&mut how)).map_err(broken)
}

/// A tree as a flat list.
#[derive(Default)]
struct Flat {
    files: Vec<Entry>,
    submodules: Vec<Entry>,
    folders: Vec<Vec<u8>>,
    /// Whether some attributes require a conversion on checkout.
    converts: bool,
}

struct Entry {
    path: Vec<u8>,
    id: Oid,
    mode: u32,
}

/// Why a tree cannot be checked out.
enum Unfit {
    Bad(String),
    Unreadable(git2::Error),
}

const MODE_LINK: u32 = 0o120_000;
const MODE_EXECUTABLE: u32 = 0o100_755;
const MODE_PLAIN: u32 = 0o100_644;
const MODE_SUBMODULE: u32 = 0o160_000;

impl Flat {
    /// Not recursive, because the depth of a tree is under the control of its author.
    fn of(repository: &Repository, root: Oid) -> Result<Self, Unfit> {
        let mut flat = Self::default();
        let mut to_read = vec![(Vec::new(), root)];
        while let Some((folder, id)) = to_read.pop() {
            let tree = repository.find_tree(id).map_err(Unfit::Unreadable)?;
            for entry in &tree {
                let name = entry.name_bytes();
                let path = if folder.is_empty() {
                    name.to_vec()
                } else {
                    [folder.as_slice(), b"/", name].concat()
                };
                flat.check(name, &path).map_err(Unfit::Bad)?;
                let id = entry.id();
                match entry.filemode() {
                    0o040_000 => {
                        flat.folders.push(path.clone());
                        to_read.push((path, id));
                    }
                    0o160_000 => flat.submodules.push(Entry { path, id, mode: MODE_SUBMODULE }),
                    0o120_000 => flat.files.push(Entry { path, id, mode: MODE_LINK }),
                    mode => {
                        if name == b".gitattributes" && !flat.converts {
                            let blob = repository.find_blob(id).map_err(Unfit::Unreadable)?;
                            flat.converts = converts(blob.content());
                        }
                        let executable = mode & 0o100 != 0;
                        let mode = if executable { MODE_EXECUTABLE } else { MODE_PLAIN };
                        flat.files.push(Entry { path, id, mode });
                    }
                }
            }
        }
        Ok(flat)
    }

    fn check(&self, name: &[u8], path: &[u8]) -> Result<(), String> {
        let shown = || String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned();
        if let Some(why) = names::bad_entry(name) {
            return Err(format!("the repository has an entry {:?}, whose name {why}", shown()));
        }
        if path.len() > MAX_PATH {
            return Err(format!(
                "the repository has a path of {} bytes: {:?}…",
                path.len(),
                shown()
            ));
        }
        // A few trees that refer to each other many times can make any number of files.
        if self.files.len() + self.folders.len() >= MAX_ENTRIES {
            return Err(format!("the repository has more than {MAX_ENTRIES} files and folders"));
        }
        Ok(())
    }
}

/// Whether attributes may require other line ends or `$Id$` on checkout. On this platform only
/// these words can.
fn converts(attributes: &[u8]) -> bool {
    let has = |word: &[u8]| attributes.windows(word.len()).any(|window| window == word);
    has(b"crlf") || has(b"ident")
}

/// One file that was written, with its data for the index.
struct Written {
    ctime: IndexTime,
    mtime: IndexTime,
    dev: u32,
    ino: u32,
    uid: u32,
    gid: u32,
    size: u32,
    lfs_pointer: bool,
}

/// Writes all files as they are stored, with several threads. Links come last, so that no link can
/// lead out of the checkout while files are written.
fn write_all(
    flat: &Flat,
    dirs: &Workdir,
    mirror: &Mirror,
    cancel: &CancellationToken,
) -> Result<Vec<Written>, GitError> {
    let writing = |error| GitError::broken("writing the checkout", error);
    let at = |path: &[u8]| dirs.checkout.join(OsStr::from_bytes(path));
    for folder in flat.folders.iter().chain(flat.submodules.iter().map(|entry| &entry.path)) {
        fs::create_dir(at(folder)).map_err(writing)?;
    }
    let (links, plain): (Vec<usize>, Vec<usize>) =
        (0..flat.files.len()).partition(|n| flat.files[*n].mode == MODE_LINK);
    let mut written: Vec<Option<Written>> = flat.files.iter().map(|_| None).collect();
    for list in [plain, links] {
        for (n, file) in in_threads(&list, flat, &at, dirs, mirror, cancel)? {
            written[n] = Some(file);
        }
    }
    Ok(written.into_iter().flatten().collect())
}

fn in_threads(
    list: &[usize],
    flat: &Flat,
    at: &(impl Fn(&[u8]) -> PathBuf + Sync),
    dirs: &Workdir,
    mirror: &Mirror,
    cancel: &CancellationToken,
) -> Result<Vec<(usize, Written)>, GitError> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let work = || -> Result<Vec<(usize, Written)>, GitError> {
        let repository = super::open(dirs)?;
        let mut done = Vec::new();
        loop {
            let from = next.fetch_add(BATCH, Ordering::Relaxed);
            if from >= list.len() || failed.load(Ordering::Relaxed) {
                return Ok(done);
            }
            if cancel.is_cancelled() {
                return Err(GitError::Cancelled);
            }
            for n in &list[from..list.len().min(from + BATCH)] {
                let entry = &flat.files[*n];
                done.push((*n, write_one(&repository, entry, &at(&entry.path), mirror)?));
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(MAX_THREADS).min(list.len() / (2 * BATCH) + 1);
    if threads == 1 {
        return work();
    }
    let guarded = || work().inspect_err(|_| failed.store(true, Ordering::Relaxed));
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(guarded)).collect();
        let mut done = Vec::with_capacity(list.len());
        for thread in all {
            done.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(done)
    })
}

fn write_one(
    repository: &Repository,
    entry: &Entry,
    path: &Path,
    mirror: &Mirror,
) -> Result<Written, GitError> {
    let writing = |error: io::Error| GitError::broken("writing the checkout", error);
    let unreadable = |error| mirror.unreadable(error);
    let odb = repository.odb().map_err(unreadable)?;
    let blob = odb.read(entry.id).map_err(unreadable)?;
    if blob.kind() != ObjectType::Blob {
        return Err(GitError::BadTree(format!(
            "the repository's file {} is not a file",
            path.display()
        )));
    }
    let content = blob.data();
    let data = if entry.mode == MODE_LINK {
        symlink(OsStr::from_bytes(content), path).map_err(writing)?;
        fs::symlink_metadata(path).map_err(writing)?
    } else {
        let mode = if entry.mode == MODE_EXECUTABLE { 0o777 } else { 0o666 };
        let mut options = fs::File::options();
        let mut file =
            options.write(true).create_new(true).mode(mode).open(path).map_err(writing)?;
        file.write_all(content).map_err(writing)?;
        file.metadata().map_err(writing)?
    };
    // The index keeps the lower 32 bits of all of them, as git does.
    let time = |seconds: i64, nanos: i64| IndexTime::new(seconds as i32, nanos as u32);
    Ok(Written {
        ctime: time(data.ctime(), data.ctime_nsec()),
        mtime: time(data.mtime(), data.mtime_nsec()),
        dev: data.dev() as u32,
        ino: data.ino() as u32,
        uid: data.uid(),
        gid: data.gid(),
        size: data.len() as u32,
        lfs_pointer: entry.mode != MODE_LINK && is_lfs_pointer(content),
    })
}

fn write_index(repository: &Repository, flat: &Flat, written: &[Written]) -> Result<(), GitError> {
    let broken = |error| GitError::broken("writing the attempt's index", error);
    let mut index = repository.index().map_err(broken)?;
    let none = IndexTime::new(0, 0);
    let submodules = flat.submodules.iter().map(|entry| IndexEntry {
        ctime: none,
        mtime: none,
        dev: 0,
        ino: 0,
        mode: entry.mode,
        uid: 0,
        gid: 0,
        file_size: 0,
        id: entry.id,
        flags: 0,
        flags_extended: 0,
        path: entry.path.clone(),
    });
    let files = flat.files.iter().zip(written).map(|(entry, file)| IndexEntry {
        ctime: file.ctime,
        mtime: file.mtime,
        dev: file.dev,
        ino: file.ino,
        mode: entry.mode,
        uid: file.uid,
        gid: file.gid,
        file_size: file.size,
        id: entry.id,
        flags: 0,
        flags_extended: 0,
        path: entry.path.clone(),
    });
    let mut entries: Vec<IndexEntry> = files.chain(submodules).collect();
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    for entry in &entries {
        index.add(entry).map_err(broken)?;
    }
    index.write().map_err(broken)
}

/// The slow path: libgit2 converts line ends as the attributes require.
fn write_converted(
    repository: &Repository,
    tree: &git2::Tree<'_>,
    mirror: &Mirror,
    cancel: &CancellationToken,
) -> Result<(), GitError> {
    if cancel.is_cancelled() {
        return Err(GitError::Cancelled);
    }
    let mut how = CheckoutBuilder::new();
    how.force();
    repository.checkout_tree(tree.as_object(), Some(&mut how)).map_err(|error| {
        let reading = matches!(error.class(), git2::ErrorClass::Odb | git2::ErrorClass::Zlib);
        if reading {
            mirror.unreadable(error)
        } else {
            GitError::broken("writing the checkout", error)
        }
    })
}

fn holds_pointers(repository: &Repository, flat: &Flat) -> Result<bool, git2::Error> {
    let odb = repository.odb()?;
    let mut seen = HashSet::new();
    for entry in flat.files.iter().filter(|entry| entry.mode != MODE_LINK) {
        let (size, _) = odb.read_header(entry.id)?;
        if size < MAX_POINTER && seen.insert(entry.id) && is_lfs_pointer(odb.read(entry.id)?.data())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Git LFS pointers are smaller than this, by their specification.
const MAX_POINTER: usize = 1024;

fn is_lfs_pointer(content: &[u8]) -> bool {
    content.len() < MAX_POINTER
        && content.starts_with(b"version https://git-lfs.github.com/spec/v1\n")
}
