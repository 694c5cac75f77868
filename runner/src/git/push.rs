//! Moving refs of the remote: never blindly, unless they are rdev's own.

use git2::Oid;
use rdev_domain::git::{Branch, CommitId, Tip};
use tokio_util::sync::CancellationToken;

use super::transport::Service;
use super::wire::{self, Advertised, Report, Update, Verdict};
use super::{Expect, GitError, Remote, Workdir, commit_id, local, oid, pack, scan, tip_of};

/// Points `target` (a full ref name) at `commit`, with all that the server lacks
/// for it. Returns where `watch` is, as the push's own look at the server told.
/// A ref that is there already is left alone, and counts as pushed.
///
/// On a repository in a folder of this machine the ref is moved under its lock, by
/// comparing and swapping; **its hooks do not run**.
///
/// # Errors
/// [`GitError::Moved`] when the ref is not where it was expected, before or at the
/// server's own check; [`GitError::Rejected`], [`GitError::RefNamespaceRefused`],
/// [`GitError::Auth`]; [`GitError::Unreachable`], whose `in_doubt` tells that the push
/// may have been applied: look again.
pub fn push(
    dirs: &Workdir,
    remote: &Remote,
    commit: &CommitId,
    target: &str,
    expect: &Expect,
    watch: &Branch,
    cancel: &CancellationToken,
) -> Result<Tip, GitError> {
    let repository = super::open(dirs)?;
    let new = oid(commit)?;
    let server = local::advertised(remote, Service::ReceivePack, cancel)?;
    let old = server.find(target);
    let seen = server.find(&watch.full_name());
    if let Expect::Exactly(expected) = expect {
        let now = tip_of(old);
        if now != *expected {
            return Err(GitError::Moved { tip: now });
        }
        // The protocol has no word for "not forced": it is up to us.
        if let Some(old) = old
            && !(scan::is_there(&repository, old)? && scan::holds(&repository, old, new)?)
        {
            return Err(GitError::broken(
                "pushing",
                "the commit is no descendant of the branch's tip",
            ));
        }
    }
    if old == Some(new) {
        return Ok(tip_of(seen));
    }
    if cancel.is_cancelled() {
        return Err(GitError::Cancelled);
    }
    if let Some(folder) = remote.url.to_folder() {
        local::push(&repository, &folder, target, expect, new)?;
        return Ok(tip_of(seen));
    }
    let update = Update { name: target, old, new: Some(new) };
    let report = wire::send_updates(remote, &server, &[update], cancel, |write| {
        let mut pack = pack::to_send(&repository, new, &server, &[old, seen])?;
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
        Verdict::Done => Ok(tip_of(seen)),
        Verdict::Refused(why) => Err(refused(remote, target, old, &why, &report.words, cancel)),
    }
}

fn verdict(report: &Report, name: &str) -> Verdict {
    let found = report.verdicts.iter().find(|(other, _)| other == name);
    match found {
        Some((_, Verdict::Done)) => Verdict::Done,
        Some((_, Verdict::Refused(why))) => Verdict::Refused(why.clone()),
        None => Verdict::Refused("it does not tell why".to_owned()),
    }
}

/// What a refused ref means.
fn refused(
    remote: &Remote,
    target: &str,
    old: Option<Oid>,
    why: &str,
    words: &str,
    cancel: &CancellationToken,
) -> GitError {
    // Reasons of git and of the large forges that say: another push came first.
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
            // Nobody moved it: a lock was in the way, and will be gone.
            Ok(_) => GitError::unreachable(format!("it could not update {target}: {why}")),
            Err(error) => error,
        };
    }
    if !target.starts_with("refs/heads/") {
        // Whether it is the name or the content shows when it comes as a branch.
        tracing::info!(target, why, words, "the git server refused a ref outside refs/heads");
        return GitError::RefNamespaceRefused;
    }
    rejected(why, words)
}

fn rejected(why: &str, words: &str) -> GitError {
    let reason = if words.is_empty() { why.to_owned() } else { format!("{why}: {words}") };
    GitError::Rejected { reason }
}

/// Where all refs of the remote are.
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

/// Removes refs; unknown ones are nothing. Each one counts by itself: when one
/// is refused the others are gone all the same.
///
/// # Errors
/// [`GitError::Rejected`] with the first refusal; as [`push`].
pub fn delete_refs(
    remote: &Remote,
    refs: &[String],
    cancel: &CancellationToken,
) -> Result<(), GitError> {
    let server = local::advertised(remote, Service::ReceivePack, cancel)?;
    let there: Vec<Update<'_>> = refs
        .iter()
        .filter_map(|name| Some(Update { name, old: Some(server.find(name)?), new: None }))
        .collect();
    if there.is_empty() {
        return Ok(());
    }
    if let Some(folder) = remote.url.to_folder() {
        return there.iter().try_for_each(|update| local::delete(&folder, update.name));
    }
    let report = send_deletes(remote, &server, &there, cancel)?;
    for update in &there {
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
