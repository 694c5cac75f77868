//! What has happened to a repository, read with the `git` program from its logs and objects.
//!
//! This is not the product's search: that one looks for a trailer between two commits. This one
//! reads every move of the branch, also those that were undone later, and who made it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use rdev_testkit::servers::git_http::git_command;

/// A commit's id.
pub(crate) type Id = String;

/// Who moved a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// A push of rdev.
    Rdev,
    Person,
}

/// One move of the branch; `None` is its absence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) from: Option<Id>,
    pub(crate) to: Option<Id>,
    pub(crate) by: By,
}

/// A commit, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Commit {
    pub(crate) parents: Vec<Id>,
    /// The lineages that its last paragraph names.
    pub(crate) lineages: Vec<String>,
}

/// All that is known of a repository.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    /// The moves of the branch, oldest first.
    pub(crate) moves: Vec<Move>,
    pub(crate) commits: HashMap<Id, Commit>,
    /// Every ref that is there now, with its value.
    pub(crate) refs: BTreeMap<String, Id>,
}

/// A move that brought a commit of a lineage to the branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Landing {
    pub(crate) commit: Id,
    pub(crate) by: By,
}

/// Reads a repository. `archive` has the log of the branch up to its last deletion, since git
/// deletes a log with its branch. `rdev` is the name under which rdev's pushes are logged.
///
/// # Errors
/// When git fails or prints what cannot be understood.
pub(crate) fn read(repository: &Path, archive: &Path, branch: &str, rdev: &str) -> Result<History> {
    let refs = refs(repository)?;
    let name = format!("refs/heads/{branch}");
    let mut log = text_of(archive)?;
    log.push_str(&text_of(&repository.join("logs").join(&name))?);
    let entries = log.lines().map(|line| entry(line, rdev)).collect::<Result<Vec<_>>>()?;
    let moves = whole(&entries, refs.get(&name));
    Ok(History { moves, commits: commits(repository)?, refs })
}

impl History {
    /// The landings of every lineage, in their order.
    pub(crate) fn landings(&self) -> BTreeMap<&str, Vec<Landing>> {
        let mut found = BTreeMap::<&str, Vec<Landing>>::new();
        for one in &self.moves {
            let mut seen = HashSet::new();
            for id in self.brought_in(one) {
                for lineage in &self.commits[id].lineages {
                    // Two commits of a lineage in one move are still one push.
                    if seen.insert(lineage) {
                        let landing = Landing { commit: id.to_owned(), by: one.by };
                        found.entry(lineage).or_default().push(landing);
                    }
                }
            }
        }
        found
    }

    /// The commits that the branch has after a move and had not before it.
    fn brought_in<'a>(&'a self, one: &'a Move) -> Vec<&'a str> {
        let before = self.ancestors(one.from.as_deref(), &HashSet::new());
        let mut new: Vec<&str> = self.ancestors(one.to.as_deref(), &before).into_iter().collect();
        new.sort_unstable();
        new
    }

    /// A commit and everything that it is built on, but for what is in `but`.
    fn ancestors<'a>(&'a self, of: Option<&'a str>, but: &HashSet<&str>) -> HashSet<&'a str> {
        let mut found = HashSet::new();
        let mut open: Vec<&str> = of.into_iter().collect();
        while let Some(id) = open.pop() {
            if !but.contains(id) && self.commits.contains_key(id) && found.insert(id) {
                open.extend(self.commits[id].parents.iter().map(String::as_str));
            }
        }
        found
    }
}

/// The moves that the entries of a log tell of, and those that it lacks.
///
/// git writes an entry before it moves the ref: if it is killed between the two, the entry tells of
/// a move that never was, and the next one starts where this one did. rdev writes the entry of a
/// push into a folder after the move: if it is killed between the two, the move is missing. People
/// are not killed, so both are pushes of rdev.
fn whole(entries: &[Move], now: Option<&Id>) -> Vec<Move> {
    let mut moves = Vec::new();
    for (index, one) in entries.iter().enumerate() {
        let next = match entries.get(index + 1) {
            Some(next) => next.from.as_ref(),
            None => now,
        };
        if next == one.to.as_ref() {
            moves.push(one.clone());
        } else if one.by == By::Rdev && next == one.from.as_ref() {
            continue;
        } else {
            moves.push(one.clone());
            moves.push(Move { from: one.to.clone(), to: next.cloned(), by: By::Rdev });
        }
    }
    moves
}

/// Reads `<old> <new> <name> <<email>> <seconds> <zone>\t<message>`.
fn entry(line: &str, rdev: &str) -> Result<Move> {
    let mut words = line.splitn(3, ' ');
    let context = || format!("not an entry of a log: {line:?}");
    let mut id = || words.next().filter(|id| id.len() == 40).map(position).with_context(context);
    let (from, to) = (id()?, id()?);
    let (name, _) = words.next().and_then(|rest| rest.split_once(" <")).with_context(context)?;
    let by = if name == rdev { By::Rdev } else { By::Person };
    Ok(Move { from, to, by })
}

fn position(id: &str) -> Option<Id> {
    id.bytes().any(|byte| byte != b'0').then(|| id.to_owned())
}

fn text_of(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => other.with_context(|| format!("cannot read {}", path.display())),
    }
}

fn refs(repository: &Path) -> Result<BTreeMap<String, Id>> {
    let text = git(repository, &["for-each-ref", "--format=%(refname) %(objectname)"], "")?;
    let text = String::from_utf8_lossy(&text);
    let refs = text.lines().filter_map(|line| line.split_once(' '));
    Ok(refs.map(|(name, id)| (name.to_owned(), id.to_owned())).collect())
}

/// Every commit of the repository, also those that no ref leads to any more.
fn commits(repository: &Path) -> Result<HashMap<Id, Commit>> {
    let all = ["cat-file", "--batch-all-objects", "--unordered"];
    let list =
        git(repository, &[&all[..], &["--batch-check=%(objecttype) %(objectname)"]].concat(), "")?;
    let list = String::from_utf8_lossy(&list);
    let ids: Vec<&str> = list.lines().filter_map(|line| line.strip_prefix("commit ")).collect();
    let printed = git(repository, &["cat-file", "--batch"], &(ids.join("\n") + "\n"))?;
    let mut found = HashMap::new();
    let mut rest = printed.as_slice();
    for id in ids {
        let end = rest.iter().position(|byte| *byte == b'\n').context("git printed too little")?;
        let head = String::from_utf8_lossy(&rest[..end]);
        let mut words = head.split(' ');
        ensure!(words.next() == Some(id) && words.next() == Some("commit"), "git printed {head:?}");
        let length: usize = words.next().context("no length")?.parse().context("no length")?;
        let body = rest.get(end + 1..end + 1 + length).context("git printed too little")?;
        found.insert(id.to_owned(), commit(&String::from_utf8_lossy(body)));
        rest = &rest[end + length + 2..];
    }
    Ok(found)
}

fn commit(text: &str) -> Commit {
    let (head, message) = text.split_once("\n\n").unwrap_or((text, ""));
    let parents = head.lines().filter_map(|line| line.strip_prefix("parent "));
    let last = message.trim_end().rsplit("\n\n").next().unwrap_or_default();
    let lineages = last.lines().filter_map(|line| line.strip_prefix("Rdev-Lineage: "));
    let text_of = |words: &str| words.trim().to_owned();
    Commit { parents: parents.map(text_of).collect(), lineages: lineages.map(text_of).collect() }
}

fn git(repository: &Path, arguments: &[&str], input: &str) -> Result<Vec<u8>> {
    let context = || format!("git {arguments:?} in {}", repository.display());
    let mut command = git_command(repository);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(context)?;
    let mut stdin = child.stdin.take().with_context(context)?;
    let input = input.to_owned();
    // It prints while it reads: both pipes would fill up.
    let feeder = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().with_context(context)?;
    let fed = feeder.join().map_err(|_| anyhow::anyhow!("the feeder panicked"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}: {said}", context());
    fed.with_context(context)?;
    Ok(output.stdout)
}
