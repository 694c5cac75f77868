//! People who change the repositories while builds run: they commit, rewind, delete the branch and
//! put it back, squash, bring a ticket's commit in by hand, delete tickets, pack refs.
//!
//! They act in the repository itself, past the server, so that its log tells them from rdev. Each
//! of their moves is a compare-and-swap: nobody overwrites by accident what he has not seen.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use rand::rngs::StdRng;
use rdev_testkit::servers::git_http::{git, git_command, try_git};

/// The branch that all builds go to.
pub(crate) const BRANCH: &str = "refs/heads/main";

/// Set for the command that deletes a branch.
const DELETES: &str = "CHAOS_DELETES";

/// No commit.
const NONE: &str = "0000000000000000000000000000000000000000";

/// How long somebody waits for a ticket to appear: most are there for milliseconds.
const WAIT_FOR_TICKET: Duration = Duration::from_secs(3);

/// A repository that people have access to.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    pub(crate) project: String,
    pub(crate) folder: PathBuf,
    /// Where the log of the branch is kept when the branch is deleted.
    pub(crate) archive: PathBuf,
}

/// What somebody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Commit,
    Rewind,
    /// Back to where the branch was before somebody rewound it.
    Restore,
    DeleteBranch,
    Squash,
    BringTicketIn,
    DeleteTicket,
    PackRefs,
}

/// One of them, with a memory of where branches were.
pub(crate) struct Person {
    random: StdRng,
    acts: usize,
    earlier_tips: BTreeMap<String, String>,
    /// How often each kind of act succeeded.
    done: BTreeMap<Act, usize>,
}

impl Repository {
    /// Makes git keep a log of every ref, and the log of the branch beyond its deletion.
    pub(crate) fn watch(&self) -> Result<()> {
        let path = |path: &Path| path.to_str().map(str::to_owned).context("a path that is no text");
        git(&self.folder, &["config", "core.logAllRefUpdates", "always"]);
        // Its processes would leave the group of the server that starts it.
        git(&self.folder, &["config", "gc.auto", "0"]);
        let hook = self.folder.join("hooks/reference-transaction");
        fs::create_dir_all(self.folder.join("hooks"))?;
        // `prepared`: the refs are locked, so that nobody else writes the log. Packing a ref looks
        // like a deletion, but for the variable.
        let script = format!(
            r#"#!/bin/sh
[ -n "${DELETES}" ] || exit 0
kept={archive}.$PPID
case $1 in
prepared)
    while read -r old new ref; do
        if [ "$ref" = {BRANCH} ] && [ "$new" = {NONE} ]; then
            cat "$GIT_DIR/logs/$ref" >"$kept" 2>/dev/null
            printf '%s %s A Person <person@example.com> 0 +0000\tdelete\n' "$old" "$new" >>"$kept"
        fi
    done ;;
committed) [ ! -e "$kept" ] || {{ cat "$kept" >>{archive} && rm "$kept"; }} ;;
aborted) rm -f "$kept" ;;
esac
exit 0
"#,
            archive = path(&self.archive)?,
        );
        fs::write(&hook, script)?;
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
        let tip = self.tip().unwrap_or_else(|| NONE.to_owned());
        let begin = format!("{NONE} {tip} A Person <person@example.com> 0 +0000\tbegin\n");
        fs::write(&self.archive, begin)?;
        Ok(())
    }

    /// Whether somebody is moving the branch or a ticket at this moment, or was killed while he
    /// did.
    pub(crate) fn is_locked(&self) -> bool {
        let is_lock = |path: &Path| path.extension().is_some_and(|end| end == "lock");
        self.folder.join(format!("{BRANCH}.lock")).exists()
            || self.ticket_files().any(|path| is_lock(&path))
    }

    /// Whether a push of rdev into this folder is at the point where it lands, or was killed there.
    pub(crate) fn is_landing(&self) -> bool {
        let says_so = |path: PathBuf| {
            fs::read_to_string(path).is_ok_and(|text| text.starts_with("rdev landing"))
        };
        self.ticket_files().any(says_so)
    }

    /// Whether there is a ticket: a push is being prepared or under way.
    pub(crate) fn has_ticket(&self) -> bool {
        self.ticket_files().next().is_some()
    }

    fn ticket_files(&self) -> impl Iterator<Item = PathBuf> {
        let below = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
        let tasks = below(self.folder.join("refs/rdev/wip"));
        tasks.flat_map(move |task| below(task.path())).map(|entry| entry.path())
    }

    /// Takes the last commit off the branch. Returns whether it was done.
    pub(crate) fn rewind_one(&self) -> bool {
        let earlier =
            try_git(&self.folder, &["rev-parse", "--verify", "--quiet", &format!("{BRANCH}~1")]);
        match (self.tip(), earlier) {
            (Some(tip), Ok(earlier)) => self.move_branch(&tip, &earlier),
            _ => false,
        }
    }

    fn tip(&self) -> Option<String> {
        try_git(&self.folder, &["rev-parse", "--verify", "--quiet", BRANCH]).ok()
    }

    /// Moves the branch from exactly `from`. Returns false when it was elsewhere, or locked.
    fn move_branch(&self, from: &str, to: &str) -> bool {
        let arguments = ["update-ref", "-m", "by hand", BRANCH, to, from];
        try_git(&self.folder, &arguments).is_ok()
    }

    /// A commit that adds a line to a file.
    fn commit(&self, parent: Option<&str>, file: &str, line: &str) -> Result<String> {
        let index = tempfile::tempdir()?;
        let run = |arguments: &[&str], input: &str| -> Result<String> {
            let mut command = git_command(&self.folder);
            command.env("GIT_INDEX_FILE", index.path().join("index"));
            let mut child = command
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
            let output = child.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "git {arguments:?}: {said}");
            Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        };
        let mut content = String::new();
        if let Some(parent) = parent {
            run(&["read-tree", parent], "")?;
            let blob = format!("{parent}:{file}");
            content = try_git(&self.folder, &["cat-file", "blob", &blob]).unwrap_or_default();
            if !content.is_empty() {
                content.push('\n');
            }
        }
        let blob = run(&["hash-object", "-w", "--stdin"], &format!("{content}{line}\n"))?;
        let entry = format!("100644,{blob},{file}");
        run(&["update-index", "--add", "--cacheinfo", &entry], "")?;
        let tree = run(&["write-tree"], "")?;
        let mut arguments = vec!["commit-tree", &tree, "-m", line];
        arguments.extend(parent.iter().flat_map(|parent| ["-p", parent]));
        run(&arguments, "")
    }

    /// The tickets that are there, with their commits.
    fn tickets(&self) -> Vec<(String, String)> {
        let format = "--format=%(refname) %(objectname)";
        let list = try_git(&self.folder, &["for-each-ref", format, "refs/rdev/wip"]);
        let list = list.unwrap_or_default();
        let tickets = list.lines().filter_map(|line| line.split_once(' '));
        tickets.map(|(name, id)| (name.to_owned(), id.to_owned())).collect()
    }
}

impl Person {
    pub(crate) fn new(random: StdRng) -> Self {
        Self { random, acts: 0, earlier_tips: BTreeMap::new(), done: BTreeMap::new() }
    }

    /// Does something to a repository. Returns whether it was done: somebody else may have been
    /// faster, or there is nothing to do it to.
    pub(crate) fn act(&mut self, repository: &Repository) -> Result<bool> {
        let tip = repository.tip();
        let act = match (self.random.random_range(0..100), &tip) {
            (0..80, None) => Act::Restore,
            (0..34, _) => Act::Commit,
            (34..50, _) => Act::Rewind,
            (50..62, _) => Act::Restore,
            (62..68, _) => Act::DeleteBranch,
            (68..76, _) => Act::Squash,
            (76..86, _) => Act::BringTicketIn,
            (86..94, _) => Act::DeleteTicket,
            _ => Act::PackRefs,
        };
        let done = self.try_act(act, repository, tip.as_deref())?;
        if done {
            *self.done.entry(act).or_default() += 1;
        }
        Ok(done)
    }

    /// What was done, and how often.
    pub(crate) fn told(&self) -> String {
        let words = self.done.iter().map(|(act, count)| format!("{act:?} {count}"));
        words.collect::<Vec<_>>().join(", ")
    }

    fn try_act(&mut self, act: Act, repository: &Repository, tip: Option<&str>) -> Result<bool> {
        self.acts += 1;
        let back = |by: usize| {
            let earlier = format!("{BRANCH}~{by}");
            try_git(&repository.folder, &["rev-parse", "--verify", "--quiet", &earlier]).ok()
        };
        let deep = self.random.random_range(1..4);
        Ok(match (act, tip) {
            (Act::Commit, tip) => {
                let file = match self.random.random_range(0..4) {
                    0 => "shared.txt".to_owned(),
                    _ => format!("person-{}.txt", self.acts),
                };
                let commit = repository.commit(tip, &file, &format!("by hand {}", self.acts))?;
                repository.move_branch(tip.unwrap_or(NONE), &commit)
            }
            (Act::Rewind, Some(tip)) => match back(deep) {
                Some(earlier) => {
                    self.earlier_tips.insert(repository.project.clone(), tip.to_owned());
                    repository.move_branch(tip, &earlier)
                }
                None => false,
            },
            (Act::Restore, tip) => match self.earlier_tips.remove(&repository.project) {
                Some(earlier) => repository.move_branch(tip.unwrap_or(NONE), &earlier),
                None => false,
            },
            (Act::DeleteBranch, Some(tip)) => {
                self.earlier_tips.insert(repository.project.clone(), tip.to_owned());
                let mut command = git_command(&repository.folder);
                command.args(["update-ref", "-d", BRANCH, tip]).env(DELETES, "yes");
                command.output()?.status.success()
            }
            (Act::Squash, Some(tip)) => match back(deep) {
                Some(base) => self.squash(repository, &base, tip)?,
                None => false,
            },
            (Act::BringTicketIn, tip) => match self.find_ticket(repository) {
                Some((_, commit)) => bring_in(repository, tip, &commit)?,
                None => false,
            },
            (Act::DeleteTicket, _) => match self.find_ticket(repository) {
                Some((name, commit)) => {
                    try_git(&repository.folder, &["update-ref", "-d", &name, &commit]).is_ok()
                }
                None => false,
            },
            (Act::PackRefs, _) => try_git(&repository.folder, &["pack-refs", "--all"]).is_ok(),
            (Act::Rewind | Act::DeleteBranch | Act::Squash, None) => false,
        })
    }

    /// One commit in place of several, with their messages or with one of its own.
    fn squash(&mut self, repository: &Repository, base: &str, tip: &str) -> Result<bool> {
        let range = format!("{base}..{tip}");
        let message = match self.random.random_range(0..2) {
            0 => "squashed by hand".to_owned(),
            _ => git(&repository.folder, &["log", "--format=%B", &range]),
        };
        let tree = format!("{tip}^{{tree}}");
        let arguments = ["commit-tree", &tree, "-p", base, "-m", &message];
        let commit = try_git(&repository.folder, &arguments).map_err(anyhow::Error::msg)?;
        Ok(repository.move_branch(tip, &commit))
    }

    fn find_ticket(&mut self, repository: &Repository) -> Option<(String, String)> {
        let end = Instant::now() + WAIT_FOR_TICKET;
        loop {
            let mut tickets = repository.tickets();
            if !tickets.is_empty() {
                return Some(tickets.swap_remove(self.random.random_range(0..tickets.len())));
            }
            if Instant::now() > end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Brings a ticket's commit to the branch: as it is where that is possible, else as a copy.
fn bring_in(repository: &Repository, tip: Option<&str>, commit: &str) -> Result<bool> {
    let folder = &repository.folder;
    let Some(tip) = tip else { return Ok(repository.move_branch(NONE, commit)) };
    let parent = try_git(folder, &["rev-parse", "--verify", "--quiet", &format!("{commit}~1")]);
    if parent.is_ok_and(|parent| parent == tip) {
        return Ok(repository.move_branch(tip, commit));
    }
    let Ok(tree) = try_git(folder, &["merge-tree", "--write-tree", tip, commit]) else {
        return Ok(false);
    };
    let message = git(folder, &["log", "-1", "--format=%B", commit]);
    let arguments = ["commit-tree", &tree, "-p", tip, "-m", &message];
    let copy = try_git(folder, &arguments).map_err(anyhow::Error::msg)?;
    Ok(repository.move_branch(tip, &copy))
}
