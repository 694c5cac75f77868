//! A repository's content, by the `git` program.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use crate::servers::git_http::{git_command, try_git};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) id: String,
    pub(super) tree: String,
    pub(super) parents: Vec<String>,
    /// Name and address.
    pub(super) author: (String, String),
    pub(super) authored: String,
    pub(super) committer: (String, String),
    pub(super) committed: String,
    pub(super) message: String,
    pub(super) added: Vec<String>,
    pub(super) removed: Vec<String>,
    pub(super) modified: Vec<String>,
}

/// What happens to a file in a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Write { path: String, content: Vec<u8> },
    Delete { path: String },
}

/// A file that differs between two commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) path: String,
    /// `added`, `deleted` or `changed`.
    pub(super) status: &'static str,
    /// In lines.
    pub(super) additions: u64,
    pub(super) deletions: u64,
}

/// Makes a bare repository that writes its pushes into a file, whose name is in a variable.
pub(super) fn init(folder: &Path, branch: &str) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    let initial = format!("--initial-branch={branch}");
    // Nothing of git's templates, which are mostly examples of hooks.
    try_git(folder, &["init", "--quiet", "--bare", "--template=", &initial, "."])?;
    let hook = folder.join("hooks/post-receive");
    let script = format!("#!/bin/sh\n[ -z \"${0}\" ] || cat > \"${0}\"\n", super::git::PUSHED);
    let config = folder.join("config");
    let written = std::fs::read_to_string(&config)
        .and_then(|text| std::fs::write(&config, text + "[http]\n\treceivepack = true\n"))
        .and_then(|()| std::fs::create_dir_all(folder.join("hooks")))
        .and_then(|()| std::fs::write(&hook, script))
        .and_then(|()| std::fs::set_permissions(&hook, PermissionsExt::from_mode(0o755)));
    written.map_err(|error| error.to_string())
}

/// Refuses pushes to these branches, in the words of a real server.
pub(super) fn protect(folder: &Path, branches: &BTreeSet<String>) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let refuse = |branch: &String| {
        let words =
            format!("error:\\nerror: Not allowed to push to protected branch {branch}\\nerror:");
        format!("refs/heads/{branch}) printf '{words}\\n' >&2; exit 1;;\n")
    };
    let cases: String = branches.iter().map(refuse).collect();
    let script =
        format!("#!/bin/sh\nwhile read old new ref; do\ncase \"$ref\" in\n{cases}esac\ndone\n");
    let hook = folder.join("hooks/pre-receive");
    std::fs::write(&hook, script)
        .and_then(|()| std::fs::set_permissions(&hook, PermissionsExt::from_mode(0o755)))
        .map_err(|error| error.to_string())
}

/// Whether no branch has a commit. Asked at each look at a repository, so that no program is
/// started for it.
pub(super) fn is_empty(folder: &Path) -> bool {
    fn has_file(folder: &Path) -> bool {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let found = |entry: std::fs::DirEntry| {
            let path = entry.path();
            // What git is writing is no branch yet.
            let lock = path.extension().is_some_and(|end| end == "lock");
            if path.is_dir() { has_file(&path) } else { !lock }
        };
        entries.into_iter().any(found)
    }
    !has_file(&folder.join("refs/heads")) && !packed(folder).contains(" refs/heads/")
}

fn packed(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("packed-refs")).unwrap_or_default()
}

/// The branches and their commits, by name.
pub(super) fn branches(folder: &Path) -> Result<Vec<(String, String)>, String> {
    let format = "--format=%(refname:lstrip=2) %(objectname)";
    let all = try_git(folder, &["for-each-ref", format, "refs/heads"])?;
    let pair = |line: &str| line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
    Ok(all.lines().filter_map(pair).collect())
}

/// A branch's commit, read as [`is_empty`] does.
pub(super) fn tip(folder: &Path, branch: &str) -> Option<String> {
    if branch.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return None;
    }
    let name = format!("refs/heads/{branch}");
    if let Ok(commit) = std::fs::read_to_string(folder.join(&name)) {
        return Some(commit.trim().to_owned());
    }
    let found = |line: &str| line.strip_suffix(&name)?.strip_suffix(' ').map(str::to_owned);
    packed(folder).lines().find_map(found)
}

/// The commit of a name: a ref's, or a whole or shortened id.
pub(super) fn resolve(folder: &Path, name: &str) -> Option<String> {
    if name.starts_with('-') {
        return None;
    }
    let name = format!("{name}^{{commit}}");
    try_git(folder, &["rev-parse", "--verify", "--quiet", &name]).ok()
}

/// The commits of a range, newest first, from `skip` on, `count` at most.
pub(super) fn log(
    folder: &Path,
    range: &[&str],
    skip: usize,
    count: usize,
) -> Result<Vec<Commit>, String> {
    // The fields end with a byte that is in no text, and so do the commits.
    let format = "--format=%H%x1f%T%x1f%P%x1f%an%x1f%ae%x1f%aI%x1f%cn%x1f%ce%x1f%cI%x1f%B%x1f";
    let (skip, count) = (format!("--skip={skip}"), format!("--max-count={count}"));
    let mut args = vec!["log", "-z", "--name-status", "--no-renames", format, &skip, &count];
    args.extend(range);
    args.push("--");
    let printed = try_git(folder, &args)?;
    let mut commits: Vec<Commit> = Vec::new();
    // With -z the files of a commit are `status NUL path NUL`, after one more NUL.
    let mut pieces = printed.split('\0');
    while let Some(piece) = pieces.next() {
        let piece = piece.trim_start_matches('\n');
        let fields: Vec<&str> = piece.split('\x1f').collect();
        if let [id, tree, parents, an, ae, authored, cn, ce, committed, message, _] =
            fields.as_slice()
        {
            commits.push(Commit {
                id: (*id).to_owned(),
                tree: (*tree).to_owned(),
                parents: parents.split_whitespace().map(str::to_owned).collect(),
                author: ((*an).to_owned(), (*ae).to_owned()),
                authored: (*authored).to_owned(),
                committer: ((*cn).to_owned(), (*ce).to_owned()),
                committed: (*committed).to_owned(),
                message: (*message).to_owned(),
                added: Vec::new(),
                removed: Vec::new(),
                modified: Vec::new(),
            });
        } else if let (Some(commit), false) = (commits.last_mut(), piece.is_empty()) {
            let path = pieces.next().unwrap_or_default().to_owned();
            match piece.chars().next() {
                Some('A') => commit.added.push(path),
                Some('D') => commit.removed.push(path),
                _ => commit.modified.push(path),
            }
        }
    }
    Ok(commits)
}

pub(super) fn commit(folder: &Path, id: &str) -> Result<Commit, String> {
    let found = log(folder, &[id], 0, 1)?;
    found.into_iter().next().ok_or_else(|| format!("no commit {id}"))
}

/// How many commits a name reaches.
pub(super) fn count(folder: &Path, name: &str) -> Result<usize, String> {
    let count = try_git(folder, &["rev-list", "--count", name, "--"])?;
    count.parse().map_err(|_| format!("no count: {count}"))
}

/// The files of a commit: path, blob, size.
pub(super) fn tree(folder: &Path, commit: &str) -> Result<Vec<(String, String, usize)>, String> {
    let printed = try_git(folder, &["ls-tree", "-r", "-l", "-z", "--full-tree", commit])?;
    let entry = |entry: &str| {
        let (about, path) = entry.split_once('\t')?;
        let about: Vec<&str> = about.split_whitespace().collect();
        Some((path.to_owned(), (*about.get(2)?).to_owned(), about.get(3)?.parse().ok()?))
    };
    Ok(printed.split('\0').filter_map(entry).collect())
}

pub(super) fn blob(folder: &Path, id: &str) -> Result<Vec<u8>, String> {
    let output = git_command(folder).args(["cat-file", "blob", id]).output();
    let output = output.map_err(|error| error.to_string())?;
    output.status.success().then_some(output.stdout).ok_or_else(|| format!("no blob {id}"))
}

/// The last commit up to `at` that changed a file.
pub(super) fn last(folder: &Path, at: &str, path: &str) -> Result<Commit, String> {
    let id = try_git(folder, &["log", "--max-count=1", "--format=%H", at, "--", path])?;
    commit(folder, &id)
}

/// The commit that two have in common.
pub(super) fn merge_base(folder: &Path, one: &str, other: &str) -> Option<String> {
    try_git(folder, &["merge-base", one, other]).ok()
}

/// Whether a commit merges into a branch without conflicts.
pub(super) fn merges(folder: &Path, branch: &str, commit: &str) -> bool {
    let branch = format!("refs/heads/{branch}");
    try_git(folder, &["merge-tree", "--write-tree", &branch, commit]).is_ok()
}

/// The files that differ between two commits.
pub(super) fn changed(folder: &Path, from: &str, to: &str) -> Result<Vec<Changed>, String> {
    let kinds = try_git(folder, &["diff", "--no-renames", "--name-status", from, to])?;
    let counts = try_git(folder, &["diff", "--no-renames", "--numstat", from, to])?;
    let file = |(kind, count): (&str, &str)| {
        let (kind, path) = kind.split_once('\t')?;
        let mut counts = count.split('\t').map(|count| count.parse().unwrap_or_default());
        Some(Changed {
            path: path.to_owned(),
            status: match kind {
                "A" => "added",
                "D" => "deleted",
                _ => "changed",
            },
            additions: counts.next()?,
            deletions: counts.next()?,
        })
    };
    Ok(kinds.lines().zip(counts.lines()).filter_map(file).collect())
}

/// How many lines a commit adds and removes.
pub(super) fn lines(folder: &Path, commit: &str) -> Result<(u64, u64), String> {
    let printed = try_git(folder, &["show", "--no-renames", "--numstat", "--format=", commit])?;
    let count = |text: Option<&str>| text.and_then(|text| text.parse().ok()).unwrap_or(0_u64);
    Ok(printed.lines().fold((0, 0), |(added, removed), line| {
        let mut counts = line.split('\t');
        (added + count(counts.next()), removed + count(counts.next()))
    }))
}

/// What a file's difference looks like from its beginning to a line of the new one.
pub(super) fn hunk(folder: &Path, from: &str, to: &str, path: &str, line: u64) -> String {
    let printed = try_git(folder, &["diff", "--no-renames", from, to, "--", path]);
    let printed = printed.unwrap_or_default();
    let mut shown: Vec<&str> = Vec::new();
    let mut at = 0;
    for text in printed.lines().skip_while(|text| !text.starts_with("@@")) {
        shown.push(text);
        at += u64::from(text.starts_with(['+', ' ']));
        if at == line {
            break;
        }
    }
    shown.join("\n")
}

/// Commits changes to a branch, which begins at `from` where it is not there; the commit's id.
pub(super) fn write(
    folder: &Path,
    (branch, from): (&str, Option<&str>),
    message: &str,
    (name, email): (&str, &str),
    changes: &[Change],
) -> Result<String, String> {
    let mut stream = Vec::new();
    let mut line = |text: String| stream.extend_from_slice(text.as_bytes());
    line(format!("commit refs/heads/{branch}\ncommitter {name} <{email}> now\n"));
    line(format!("data {}\n{message}\n", message.len()));
    if let Some(from) = tip(folder, branch).as_deref().or(from) {
        line(format!("from {from}\n"));
    }
    for change in changes {
        match change {
            Change::Write { path, content } => {
                stream.extend_from_slice(format!("M 100644 inline {path}\n").as_bytes());
                stream.extend_from_slice(format!("data {}\n", content.len()).as_bytes());
                stream.extend_from_slice(content);
                stream.push(b'\n');
            }
            Change::Delete { path } => {
                stream.extend_from_slice(format!("D {path}\n").as_bytes());
            }
        }
    }
    stream.extend_from_slice(b"done\n");
    let mut child = git_command(folder)
        .args(["fast-import", "--quiet", "--done", "--date-format=now"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let fed = child.stdin.take().map(|mut stdin| stdin.write_all(&stream));
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if !output.status.success() || !matches!(fed, Some(Ok(()))) {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    tip(folder, branch).ok_or_else(|| format!("the commit to {branch} is not there"))
}

/// Fills an empty repository with one commit of another one's files.
pub(super) fn copy(
    from: (&Path, &str),
    to: (&Path, &str),
    message: &str,
) -> Result<String, String> {
    let ((from, from_branch), (to, branch)) = (from, to);
    let source = from.to_str().ok_or("a path that is not UTF-8")?;
    try_git(to, &["fetch", "--quiet", source, &format!("refs/heads/{from_branch}")])?;
    let commit = try_git(to, &["commit-tree", "FETCH_HEAD^{tree}", "-m", message])?;
    try_git(to, &["update-ref", &format!("refs/heads/{branch}"), &commit, ""])?;
    Ok(commit)
}
