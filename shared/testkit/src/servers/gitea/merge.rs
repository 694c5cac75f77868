//! Merging a pull request.

use super::records::{Entry, Merged, Pull, Repository, What};
use super::response::{ApiResponse, Call, changeable, empty, error, internal, not_found};
use super::state::now;
use super::{Shared, files, git, locked};
use crate::servers::git_http::try_git;

/// How a pull request's commits get onto its base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// As one commit, whose message is the title.
    Squash,
    /// By a commit with two parents.
    Merge,
}

pub(super) fn merge(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    number: &str,
) -> Result<ApiResponse, ApiResponse> {
    let found = changeable(&locked(&shared.state), call, owner, name)?;
    let pull = found.pull(number).ok_or_else(not_found)?;
    let style = match call.text("Do")?.as_str() {
        "squash" => Style::Squash,
        "merge" => Style::Merge,
        _ => return Err(error(422, "[Do]: In")),
    };
    if !pull.open || !files::merges(&found.folder, &pull.base, &pull.commit) {
        return Err(error(405, "Please try again later"));
    }
    let delete = call.flag("delete_branch_after_merge");
    perform(shared, &found, pull, style, (call.user()?, delete))
        .map_err(|why| internal(shared, &why))?;
    Ok(empty())
}

/// Merges, and with `delete` removes the branch; the commit on the base.
pub(super) fn perform(
    shared: &Shared,
    found: &Repository,
    pull: &Pull,
    style: Style,
    (by, delete): (&str, bool),
) -> Result<String, String> {
    let [head, base] = [&pull.head, &pull.base].map(|branch| format!("refs/heads/{branch}"));
    let git = |args: &[&str]| try_git(&found.folder, args);
    let before = git(&["rev-parse", &base])?;
    let head_commit = git(&["rev-parse", &head])?;
    let tree = git(&["merge-tree", "--write-tree", &base, &head])?;
    let message = format!("{} (#{})", pull.title, pull.number);
    let mut commit = vec!["commit-tree", &tree, "-p", &before, "-m", &message];
    if style == Style::Merge {
        commit.extend(["-p", &head_commit]);
    }
    let made = git(&commit)?;
    git(&["update-ref", &base, &made, &before])?;
    if delete {
        git(&["update-ref", "-d", &head])?;
    }
    record(shared, found, pull, (&head_commit, &made), (by, delete));
    git::moved(shared, found, &pull.base, Some(&before), &made, by)?;
    Ok(made)
}

/// Keeps that it was merged, and closes the issues that it says it closes.
fn record(
    shared: &Shared,
    found: &Repository,
    pull: &Pull,
    (head, made): (&str, &str),
    (by, delete): (&str, bool),
) {
    let mut state = locked(&shared.state);
    let now = now();
    let mut entries = vec![Entry::new(&mut state, pull.number, by, What::Merge, "")];
    let closed: Vec<u64> = closes(&pull.body);
    for &issue in &closed {
        entries.push(Entry::new(&mut state, issue, by, What::Close, ""));
    }
    if delete {
        let what = What::DeleteBranch(pull.head.clone());
        entries.push(Entry::new(&mut state, pull.number, by, what, ""));
    }
    state.change(found, |found| {
        for pull in found.pulls.iter_mut().filter(|one| one.number == pull.number) {
            (pull.open, pull.commit) = (false, head.to_owned());
            (pull.updated, pull.closed) = (now.clone(), Some(now.clone()));
            let (commit, by) = (made.to_owned(), by.to_owned());
            pull.merged = Some(Merged { commit, by, at: now.clone() });
        }
        for issue in found.issues.iter_mut().filter(|issue| closed.contains(&issue.number)) {
            issue.closed.get_or_insert_with(|| now.clone());
        }
        found.entries.extend(entries);
    });
}

/// The issues in `closes #1` and the like.
fn closes(text: &str) -> Vec<u64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let closes = |word: &str| {
        let word = word.to_lowercase();
        ["close", "fix", "resolve"].iter().any(|verb| word.starts_with(verb))
    };
    let pairs = words.windows(2).filter(|pair| closes(pair[0]));
    pairs.filter_map(|pair| pair[1].strip_prefix('#')?.parse().ok()).collect()
}
