//! Turns the files of the checkout into a tree that can be committed.
//!
//! Staging reads the checkout with the runner's own gitdir: the checkout's `.git`,
//! its configuration, filters, hooks and fsmonitor have no effect. libgit2 has no external
//! filters; of the attributes only line ends and `$Id$` have an effect.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use git2::{
    Delta, Diff, DiffFindOptions, DiffOptions, ErrorClass, FileMode, Index, Patch, Repository, Tree,
};
use rdev_domain::git::CommitId;
use rdev_domain::result::{ChangeStatus, FileChange};

use super::{Caps, Changes, GitError, TreeId, Workdir, names, oid};

/// The number of changed files that are listed one by one.
const MAX_LISTED: usize = 1000;

/// A diff shows longer files as binary.
const MAX_DIFFED: i64 = 8 << 20;

const MODE_LINK: u32 = 0o120_000;
const MODE_SUBMODULE: u32 = 0o160_000;

fn broken(error: git2::Error) -> GitError {
    GitError::broken("staging the checkout", error)
}

/// Stages the whole checkout like `git add --all` and returns the changes against `start`. `ignore`
/// has patterns as in `.gitignore`, in addition to the repository's own.
///
/// # Errors
/// [`GitError::BadTree`] with a message for the build's owner, when the files contain another
/// repository, a link out of the tree, a name reserved by git, or more than `caps` allows.
pub fn stage(
    dirs: &Workdir,
    start: Option<&CommitId>,
    caps: &Caps,
    ignore: &[&str],
) -> Result<Changes, GitError> {
    let repository = super::open(dirs)?;
    if !ignore.is_empty() {
        repository.add_ignore_rule(&ignore.join("\n")).map_err(broken)?;
    }
    let base = tree_of(&repository, start)?;
    let mut index = repository.index().map_err(broken)?;
    refuse_nested(&repository, &index, &dirs.checkout)?;
    update_index(&repository, &mut index, &dirs.checkout, caps)?;
    refuse_submodules(&index, base.as_ref())?;
    refuse_links(&repository, &index, base.as_ref())?;
    let tree = index.write_tree().map_err(broken)?;
    index.write().map_err(broken)?;
    let tree = repository.find_tree(tree).map_err(broken)?;
    changes(&repository, base.as_ref(), &tree, caps)
}

/// The changes of `commit` against `base` (against nothing, when there is no base).
///
/// # Errors
/// As [`stage`], for a commit that somebody else made.
pub fn diff_of(
    dirs: &Workdir,
    commit: &CommitId,
    base: Option<&CommitId>,
    caps: &Caps,
) -> Result<Changes, GitError> {
    let repository = super::open(dirs)?;
    let base = tree_of(&repository, base)?;
    let tree = repository
        .find_commit(oid(commit)?)
        .and_then(|commit| commit.tree())
        .map_err(|error| GitError::broken("reading a commit", error))?;
    changes(&repository, base.as_ref(), &tree, caps)
}

fn tree_of<'r>(
    repository: &'r Repository,
    commit: Option<&CommitId>,
) -> Result<Option<Tree<'r>>, GitError> {
    let Some(commit) = commit else { return Ok(None) };
    let tree = repository.find_commit(oid(commit)?).and_then(|commit| commit.tree());
    tree.map(Some).map_err(|error| GitError::broken("reading a commit", error))
}

fn bad(message: impl Into<String>) -> GitError {
    GitError::BadTree(message.into())
}

fn shown(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

/// Searches all folders that are not ignored for another repository, as git or some file system
/// recognizes it. libgit2 would skip it without a word.
fn refuse_nested(repository: &Repository, index: &Index, root: &Path) -> Result<(), GitError> {
    let reading = |error| GitError::broken("reading the checkout", error);
    let mut tracked: HashSet<Vec<u8>> = HashSet::new();
    let mut submodules: HashSet<Vec<u8>> = HashSet::new();
    for entry in index.iter() {
        let mut path = entry.path.as_slice();
        if entry.mode == MODE_SUBMODULE {
            submodules.insert(path.to_vec());
        }
        while let Some(slash) = path.iter().rposition(|byte| *byte == b'/') {
            path = &path[..slash];
            if !tracked.insert(path.to_vec()) {
                break;
            }
        }
    }
    let mut to_read: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(folder) = to_read.pop() {
        for entry in fs::read_dir(root.join(OsStr::from_bytes(&folder))).map_err(reading)? {
            let entry = entry.map_err(reading)?;
            let name = entry.file_name();
            let own = folder.is_empty() && name.as_bytes() == b".git";
            if own {
                continue;
            }
            let mut path = folder.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            if names::is_dot_git(name.as_bytes()) {
                let message = format!(
                    "the checkout holds {}, which is git's own or belongs to another repository",
                    shown(&path)
                );
                return Err(bad(message));
            }
            if !entry.file_type().map_err(reading)?.is_dir() || submodules.contains(&path) {
                continue;
            }
            let with_slash = [path.as_slice(), b"/"].concat();
            let ignored = || repository.is_path_ignored(Path::new(OsStr::from_bytes(&with_slash)));
            if tracked.contains(&path) || !ignored().map_err(broken)? {
                to_read.push(path);
            }
        }
    }
    Ok(())
}

/// Updates the index from the checkout.
fn update_index(
    repository: &Repository,
    index: &mut Index,
    root: &Path,
    caps: &Caps,
) -> Result<(), GitError> {
    let mut options = DiffOptions::new();
    options
        .include_untracked(true)
        .recurse_untracked_dirs(true)
        .include_typechange(true)
        .include_unreadable(true)
        .ignore_submodules(true)
        .skip_binary_check(true);
    let diff = repository.diff_index_to_workdir(Some(index), Some(&mut options)).map_err(broken)?;
    let (mut add, mut remove, mut bytes) = (Vec::new(), Vec::new(), 0_u64);
    for delta in diff.deltas() {
        let (old, new) = (delta.old_file(), delta.new_file());
        let path = |file: &git2::DiffFile<'_>| file.path_bytes().unwrap_or_default().to_vec();
        match delta.status() {
            Delta::Deleted => remove.push(path(&old)),
            Delta::Unreadable => {
                return Err(bad(format!("{} cannot be read", shown(&path(&new)))));
            }
            Delta::Added | Delta::Untracked | Delta::Modified | Delta::Typechange => {
                let path = path(&new);
                if path.ends_with(b"/") || new.mode() == FileMode::Commit {
                    return Err(bad(format!("{} is another repository", shown(&path))));
                }
                // Not the delta's size: an index keeps only its lower 32 bits.
                let data = fs::symlink_metadata(root.join(OsStr::from_bytes(&path)));
                bytes = bytes.saturating_add(data.map_or(0, |data| data.len()));
                add.push(path);
            }
            _ => {}
        }
    }
    drop(diff);
    for entry in index.iter().filter(|entry| entry.mode == MODE_SUBMODULE) {
        let path = root.join(OsStr::from_bytes(&entry.path));
        if !fs::symlink_metadata(path).is_ok_and(|data| data.is_dir()) {
            remove.push(entry.path);
        }
    }
    within(caps, (add.len() + remove.len()) as u64, bytes)?;
    for path in &remove {
        index.remove_path(Path::new(OsStr::from_bytes(path))).map_err(broken)?;
    }
    for path in &add {
        if let Some(part) =
            path.split(|byte| *byte == b'/').find(|part| names::bad_entry(part).is_some())
        {
            return Err(bad(format!(
                "{} has a part, {}, that no repository may hold",
                shown(path),
                shown(part)
            )));
        }
        let name = Path::new(OsStr::from_bytes(path));
        index.add_path(name).map_err(|error| {
            // What remains is the disk, which may be full, or the file, which is gone or cannot be
            // read.
            if error.class() == ErrorClass::Os && can_be_read(&root.join(name)) {
                return broken(error);
            }
            bad(format!("{} cannot be added: {}", shown(path), error.message()))
        })?;
    }
    Ok(())
}

fn can_be_read(file: &Path) -> bool {
    let kind = fs::symlink_metadata(file).map(|data| data.file_type());
    kind.is_ok_and(|kind| {
        kind.is_file() && fs::File::open(file).is_ok()
            || kind.is_symlink() && fs::read_link(file).is_ok()
    })
}

fn within(caps: &Caps, files: u64, bytes: u64) -> Result<(), GitError> {
    if files > caps.files {
        return Err(bad(format!(
            "{files} files are changed, and a build may change {}",
            caps.files
        )));
    }
    if bytes > caps.bytes {
        return Err(bad(format!(
            "{bytes} bytes are changed, and a build may change {}",
            caps.bytes
        )));
    }
    Ok(())
}

/// Submodules may stay as they were or be removed.
fn refuse_submodules(index: &Index, base: Option<&Tree<'_>>) -> Result<(), GitError> {
    for entry in index.iter().filter(|entry| entry.mode == MODE_SUBMODULE) {
        if before(base, &entry.path) != Some((entry.id, entry.mode)) {
            return Err(bad(format!("{} is another repository", shown(&entry.path))));
        }
    }
    Ok(())
}

/// Links must not leave the tree, unless they did so before, by themselves, and are unchanged.
fn refuse_links(
    repository: &Repository,
    index: &Index,
    base: Option<&Tree<'_>>,
) -> Result<(), GitError> {
    let mut links: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    let mut changed = false;
    for entry in index.iter().filter(|entry| entry.mode == MODE_LINK) {
        changed |= before(base, &entry.path) != Some((entry.id, entry.mode));
        let target = repository.find_blob(entry.id).map_err(broken)?;
        links.insert(entry.path, target.content().to_vec());
    }
    if !changed {
        return Ok(());
    }
    for entry in index.iter().filter(|entry| entry.mode == MODE_LINK) {
        let target = &links[&entry.path];
        let same = before(base, &entry.path) == Some((entry.id, entry.mode));
        if names::leaves_tree(&entry.path, target, &links)
            && !(same && names::leaves_by_itself(&entry.path, target))
        {
            return Err(bad(format!(
                "{} is a link out of the repository, to {}",
                shown(&entry.path),
                shown(target)
            )));
        }
    }
    Ok(())
}

/// The entry of `path` in the start's tree.
fn before(base: Option<&Tree<'_>>, path: &[u8]) -> Option<(git2::Oid, u32)> {
    let entry = base?.get_path(Path::new(OsStr::from_bytes(path))).ok()?;
    Some((entry.id(), u32::try_from(entry.filemode()).ok()?))
}

/// The changes of `tree` against `base`, within `caps`.
fn changes(
    repository: &Repository,
    base: Option<&Tree<'_>>,
    tree: &Tree<'_>,
    caps: &Caps,
) -> Result<Changes, GitError> {
    let mut options = DiffOptions::new();
    options.include_typechange(true).max_size(MAX_DIFFED).id_abbrev(12);
    let mut diff =
        repository.diff_tree_to_tree(base, Some(tree), Some(&mut options)).map_err(broken)?;
    let odb = repository.odb().map_err(broken)?;
    let mut bytes = 0_u64;
    for delta in diff.deltas().filter(|delta| delta.status() != Delta::Deleted) {
        let file = delta.new_file();
        if matches!(file.mode(), FileMode::Blob | FileMode::BlobExecutable | FileMode::Link) {
            let (size, _) = odb.read_header(file.id()).map_err(broken)?;
            bytes = bytes.saturating_add(size as u64);
        }
    }
    let total = diff.deltas().len();
    within(caps, total as u64, bytes)?;
    if total <= MAX_LISTED {
        diff.find_similar(Some(DiffFindOptions::new().renames(true))).map_err(broken)?;
    }
    let total = diff.deltas().len() as u64;
    let (files, text) = listed(&diff, caps.diff_bytes)?;
    Ok(Changes { tree: TreeId(tree.id()), files, total, diff: text })
}

fn listed(diff: &Diff<'_>, max_bytes: usize) -> Result<(Vec<FileChange>, String), GitError> {
    let mut files = Vec::new();
    let mut text = String::new();
    let mut full = false;
    for (n, delta) in diff.deltas().enumerate() {
        let list = n < MAX_LISTED;
        if !list && full {
            break;
        }
        let patch = Patch::from_diff(diff, n).map_err(broken)?;
        let (mut additions, mut deletions) = (0, 0);
        if let Some(mut patch) = patch {
            if list {
                (_, additions, deletions) = patch.line_stats().map_err(broken)?;
            }
            if !full {
                let piece = patch.to_buf().map_err(broken)?;
                text.push_str(&String::from_utf8_lossy(&piece));
                full = cut(&mut text, max_bytes);
            }
        }
        if list {
            let file =
                if delta.status() == Delta::Deleted { delta.old_file() } else { delta.new_file() };
            files.push(FileChange {
                path: String::from_utf8_lossy(file.path_bytes().unwrap_or_default()).into_owned(),
                status: match delta.status() {
                    Delta::Added => ChangeStatus::Added,
                    Delta::Deleted => ChangeStatus::Deleted,
                    Delta::Renamed => ChangeStatus::Renamed,
                    _ => ChangeStatus::Modified,
                },
                additions: additions as u64,
                deletions: deletions as u64,
            });
        }
    }
    Ok((files, text))
}

/// Cuts a diff that is too long at the end of a line and adds a note. Returns whether it did.
fn cut(text: &mut String, max_bytes: usize) -> bool {
    if text.len() <= max_bytes {
        return false;
    }
    let end = text.floor_char_boundary(max_bytes);
    let end = text[..end].rfind('\n').map_or(0, |newline| newline + 1);
    text.truncate(end);
    text.push_str(&format!("... the diff continues; only its first {max_bytes} bytes are kept\n"));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_diff_is_cut_at_the_end_of_a_line() {
        let mut text = "a line\nanother ünïcode\n".to_owned();
        assert!(!cut(&mut text, 100));
        assert!(cut(&mut text, 17));
        assert_eq!(text, "a line\n... the diff continues; only its first 17 bytes are kept\n");
    }
}
