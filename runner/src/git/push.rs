//! Moves refs of the remote, by compare and swap unless they are rdev's own.

use git2::Oid;
use rdev_domain::git::{Branch, CommitId, Tip};
use tokio_util::sync::CancellationToken;

use super::transport::Service;
use super::wire::{self, Advertised, Report, Update, Verdict};
use super::{Expect, GitError, Remote, Workdir, commit_id, local, oid, pack, scan, tip_of};

/// What is pushed, and where to.
#[derive(Debug, Clone, Copy)]
pub struct Push<'a> {
    /// The attempt's folders; its repository has the commit.
    pub dirs: &'a Workdir,
    /// The repository to push to.
    pub remote: &'a Remote,
    pub commit: &'a CommitId,
    /// The full name of the ref to move.
    pub target: &'a str,
    /// Where the ref has to be for the push to succeed.
    pub expect: &'a Expect,
    /// A branch whose tip the push returns.
    pub watch: &'a Branch,
}

/// Moves the ref `target` to `commit` and sends the objects that the server lacks. Returns the
/// tip of `watch` from the list of refs that the server sends at the start of the push. A ref
/// that is at the commit already counts as pushed.
///
/// In a repository in a folder of this machine the ref is moved under its lock, by compare and
/// swap; **its hooks do not run**.
///
/// # Errors
/// [`GitError::Moved`] when the ref is not where it was expected, at our check or at the
/// server's; [`GitError::Rejected`], [`GitError::RefNamespaceRefused`], [`GitError::Auth`];
/// [`GitError::Unreachable`], whose `in_doubt` means that the push may have been applied: the
/// caller has to look again.
pub fn push(push: &Push<'_>, cancel: &CancellationToken) -> Result<Tip, GitError> {
    let Push { dirs, remote, commit, target, expect, watch } = *push;
    let repository = super::open(dirs)?;
    let new = oid(commit)?;
    let server = local::advertised(remote, Service::ReceivePack, cancel)?;
    let old = server.find(target);
    let watched = server.find(&watch.full_name());
    if let Expect::Exactly(expected) = expect {
        let now = tip_of(old);
        if now != *expected {
            return Err(GitError::Moved { tip: now });
        }
        // The protocol cannot say "not forced": this check is ours.
        if let Some(old) = old
            && !(scan::is_there(&repository, old)? && scan::holds(&repository, old, new)?)
        {
            return Err(GitError::broken(
                "pushing",
                "the commit is not a descendant of the branch's tip",
            ));
        }
    }
    if old == Some(new) {
        return Ok(tip_of(watched));
    }
    if cancel.is_cancelled() {
        return Err(GitError::Cancelled);
    }
    if let Some(folder) = remote.url.to_folder() {
        local::push(&repository, &folder, target, expect, new)?;
        return Ok(tip_of(watched));
    }
    let update = Update { name: target, old, new: Some(new) };
    let report = wire::send_updates(remote, &server, &[update], cancel, |write| {
        let mut pack = pack::to_send(&repository, new, &server, &[old, watched])?;
        let mut stopped = None;
        let sent = pack.foreach(|piece| match write(piece) {
            Ok(()) => true,
            Err(error) => {
                stopped = Some(error);
                false
            }
        });
        match stopped {
            Some(error) => Err(error),
            None => sent.map_err(|error| GitError::broken("packing the commit", error)),
        }
    })?;
    match verdict(&report, target) {
        Verdict::Done => Ok(tip_of(watched)),
        Verdict::Refused(why) => Err(refused(remote, target, old, &why, &report.words, cancel)),
    }
}

fn verdict(report: &Report, name: &str) -> Verdict {
    let found = report.verdicts.iter().find(|(other, _)| other == name);
    match found {
        Some((_, Verdict::Done)) => Verdict::Done,
        Some((_, Verdict::Refused(why))) => Verdict::Refused(why.clone()),
        None => Verdict::Refused("it gives no reason".to_owned()),
    }
}

/// The error for a ref that the server refused.
fn refused(
    remote: &Remote,
    target: &str,
    old: Option<Oid>,
    why: &str,
    words: &str,
    cancel: &CancellationToken,
) -> GitError {
    // Reasons of git and of the large forges that mean: another push was faster.
    const RACES: [&str; 9] = [
        "fetch first",
        "non-fast-forward",
        "failed to update ref",
        "cannot lock ref",
        "failed to lock",
        "reference already exists",
        "incorrect old value",
        "stale info",
        "remote ref updated",
    ];
    if RACES.iter().any(|race| why.contains(race)) {
        return match local::advertised(remote, Service::UploadPack, cancel) {
            Ok(server) if server.find(target) != old => {
                GitError::Moved { tip: tip_of(server.find(target)) }
            }
            // Nobody moved it: a lock was in the way and will be released.
            Ok(_) => GitError::unreachable(format!("it could not update {target}: {why}")),
            Err(error) => error,
        };
    }
    if !target.starts_with("refs/heads/") {
        // A push of the same commit as a branch shows whether the name or the content is refused.
        tracing::info!(target, why, words, "the git server refused a ref outside refs/heads");
        return GitError::RefNamespaceRefused;
    }
    rejected(why, words)
}

fn rejected(why: &str, words: &str) -> GitError {
    let reason = if words.is_empty() { why.to_owned() } else { format!("{why}: {words}") };
    GitError::Rejected { reason }
}

/// All refs of the remote.
///
/// # Errors
/// As [`super::fetch`].
pub fn remote_refs(
    remote: &Remote,
    cancel: &CancellationToken,
) -> Result<Vec<(String, CommitId)>, GitError> {
    let server = local::advertised(remote, Service::UploadPack, cancel)?;
    Ok(server.refs.into_iter().map(|(name, id)| (name, commit_id(id))).collect())
}

/// Removes refs; unknown ones are skipped. When the server refuses one, the others are removed
/// all the same.
///
/// # Errors
/// [`GitError::Rejected`] with the first refusal; as [`push`].
pub fn delete_refs(
    remote: &Remote,
    refs: &[String],
    cancel: &CancellationToken,
) -> Result<(), GitError> {
    let server = local::advertised(remote, Service::ReceivePack, cancel)?;
    let existing: Vec<Update<'_>> = refs
        .iter()
        .filter_map(|name| Some(Update { name, old: Some(server.find(name)?), new: None }))
        .collect();
    if existing.is_empty() {
        return Ok(());
    }
    if let Some(folder) = remote.url.to_folder() {
        return existing.iter().try_for_each(|update| local::delete(&folder, update.name));
    }
    let report = send_deletes(remote, &server, &existing, cancel)?;
    for update in &existing {
        if let Verdict::Refused(why) = verdict(&report, update.name) {
            return Err(rejected(&format!("{}: {why}", update.name), &report.words));
        }
    }
    Ok(())
}

fn send_deletes(
    remote: &Remote,
    server: &Advertised,
    updates: &[Update<'_>],
    cancel: &CancellationToken,
) -> Result<Report, GitError> {
    wire::send_updates(remote, server, updates, cancel, |_| Ok(()))
}
