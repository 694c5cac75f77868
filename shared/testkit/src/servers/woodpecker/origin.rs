//! What a pipeline is about: a push, a pull request, a request by hand.

use std::path::Path;

use serde_json::Value;

use super::now;
use crate::servers::git_http::try_git;

#[derive(Debug, Clone, Default)]
pub(super) struct Origin {
    /// `push`, `pull_request`, `manual`, …
    pub(super) event: String,
    pub(super) commit: String,
    /// The branch that was pushed, or that a pull request is to be merged into.
    pub(super) branch: String,
    pub(super) reference: String,
    /// `<head>:<base>` of a pull request.
    pub(super) refspec: String,
    /// Of a pull request.
    pub(super) title: String,
    pub(super) message: String,
    pub(super) author: String,
    pub(super) avatar: String,
    pub(super) email: String,
    /// Where people see it on the forge.
    pub(super) forge_url: String,
    pub(super) changed_files: Vec<String>,
    /// In Unix seconds; a pull request has none.
    pub(super) timestamp: i64,
    /// The pipeline that this one repeats, or 0.
    pub(super) parent: u64,
    /// How often it was repeated.
    pub(super) reruns: u64,
}

impl Origin {
    /// Something that happened to a branch, about which no more is known.
    pub(super) fn new(event: &str, branch: &str, commit: &str) -> Self {
        Self {
            event: event.to_owned(),
            commit: commit.to_owned(),
            branch: branch.to_owned(),
            reference: format!("refs/heads/{branch}"),
            forge_url: format!("http://forge.invalid/commit/{commit}"),
            timestamp: now(),
            ..Self::default()
        }
    }

    /// The same with the files that its commit changes.
    pub(super) fn with_files(mut self, git_dir: &Path) -> Self {
        let args = ["diff-tree", "--root", "--no-commit-id", "--name-only", "-r", &self.commit];
        let files = try_git(git_dir, &args).unwrap_or_default();
        self.changed_files = files.lines().map(str::to_owned).collect();
        self
    }

    /// Another try of the same.
    pub(super) fn again(self, number: u64) -> Self {
        Self { parent: number, reruns: self.reruns + 1, ..self }
    }

    /// What a message of Gitea's is about; `None` for one that starts nothing.
    pub(super) fn of_message(event: &str, message: &Value, git_dir: &Path) -> Option<Self> {
        let text = |at: &str| message.pointer(at).and_then(Value::as_str).unwrap_or_default();
        let of = match event {
            "push" => push(message)?,
            "pull_request" => pull_request(message, git_dir)?,
            // A new branch is told of by its push, too.
            "create" if text("/ref_type") == "tag" => {
                let reference = format!("refs/tags/{}", text("/ref"));
                Self { reference, ..Self::new("tag", text("/ref"), text("/sha")) }
            }
            _ => return None,
        };
        Some(Self {
            author: text("/sender/login").to_owned(),
            avatar: text("/sender/avatar_url").to_owned(),
            email: text("/sender/email").to_owned(),
            ..of
        })
    }
}

fn push(message: &Value) -> Option<Origin> {
    let text = |at: &str| message.pointer(at).and_then(Value::as_str);
    let branch = text("/ref")?.strip_prefix("refs/heads/")?;
    // Without a head the branch was deleted.
    let head = message.get("head_commit").filter(|head| !head.is_null())?;
    let of_head = |name: &str| head.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut changed_files = Vec::new();
    for commit in message.get("commits").and_then(Value::as_array).into_iter().flatten() {
        for kind in ["added", "removed", "modified"] {
            let files = commit.get(kind).and_then(Value::as_array).into_iter().flatten();
            for file in files.filter_map(Value::as_str) {
                if !changed_files.iter().any(|known| known == file) {
                    changed_files.push(file.to_owned());
                }
            }
        }
    }
    Some(Origin {
        message: of_head("message").to_owned(),
        forge_url: of_head("url").to_owned(),
        changed_files,
        ..Origin::new("push", branch, text("/after")?)
    })
}

fn pull_request(message: &Value, git_dir: &Path) -> Option<Origin> {
    let text = |at: &str| message.pointer(at).and_then(Value::as_str);
    if !matches!(text("/action")?, "opened" | "reopened" | "synchronized") {
        return None;
    }
    let (head, base) = (text("/pull_request/head/ref")?, text("/pull_request/base/ref")?);
    let commit = text("/pull_request/head/sha")?;
    let from = text("/pull_request/merge_base")?;
    let files = try_git(git_dir, &["diff", "--name-only", from, commit]).unwrap_or_default();
    let title = text("/pull_request/title")?;
    Some(Origin {
        reference: format!("refs/pull/{}/head", message.get("number")?),
        refspec: format!("{head}:{base}"),
        title: title.to_owned(),
        message: title.to_owned(),
        forge_url: text("/pull_request/html_url")?.to_owned(),
        changed_files: files.lines().map(str::to_owned).collect(),
        timestamp: 0,
        ..Origin::new("pull_request", base, commit)
    })
}
