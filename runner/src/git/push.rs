//! Moves refs of the remote by compare and swap; where the server can, it deletes another one with
//! it.

use std::sync::Arc;

use git2::Oid;
use rdev_domain::git::{Branch, CommitId, OwnRef, Tip};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::ref_locks::Exchange;
use super::transport::Service;
use super::wire::{self, Advertised, Report, Update, Verdict};
use super::{Expect, GitError, Remote, Workdir, local, oid, pack, scan, tip_of};

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
    /// A ref of rdev's own that the same push deletes, and where it has to be. The server applies
    /// both or none.
    pub delete: Option<(OwnRef, &'a CommitId)>,
    /// A branch whose tip the push returns.
    pub watch: &'a Branch,
    /// What an earlier push has learned of the server's refs, which saves asking for it. Where one
    /// of them has moved since, the server refuses: the push names the values that it expects.
    pub known: Option<&'a KnownRefs>,
    /// What is waited for.
    pub until: Until,
}

/// When a push is over for who waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// When the server has reported that the refs are updated. Its `post-receive` may still run.
    Updated,
    /// When the server has ended it, with all hooks: a forge's API may know a new branch only then.
    Ended,
}

/// What a push that succeeded has learned from the server's list of refs.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The tip of the watched branch before the push.
    pub tip: Tip,
    /// Whether the server can move one ref and delete another, both or none.
    pub atomic: bool,
    /// The server's refs since the push. `None`: the next push asks.
    pub refs: Option<KnownRefs>,
}

/// What a server can do, and its refs after a push of ours.
#[derive(Debug, Clone)]
pub struct KnownRefs(Arc<Advertised>);

/// Moves the ref `target` to `commit` and sends the objects that the server lacks. A ref that is at
/// the commit already counts as pushed.
///
/// In a repository in a folder of this machine refs are moved under their locks, by compare and
/// swap; **its hooks do not run**.
///
/// # Errors
/// [`GitError::Moved`] when the ref is not where it was expected, at our check or at the
/// server's, and [`GitError::Gone`] when the one to delete is not; [`GitError::NotAtomic`];
/// [`GitError::Rejected`], [`GitError::RefNamespaceRefused`], [`GitError::Auth`];
/// [`GitError::Unreachable`], whose `in_doubt` means that the push may have been applied: the
/// caller has to look again.
pub fn push(push: &Push<'_>, cancel: &CancellationToken) -> Result<Pushed, GitError> {
    let Push { dirs, remote, commit, target, expect, delete, watch, known, until } = *push;
    let repository = super::open(dirs)?;
    let new = oid(commit)?;
    let folder = remote.url.to_folder();
    let server = match known {
        Some(KnownRefs(server)) => Arc::clone(server),
        None => Arc::new(local::advertised(remote, Service::ReceivePack, cancel)?),
    };
    let old = server.find(target);
    let watched = server.find(&watch.full_name());
    let atomic = folder.is_some() || server.is_atomic();
    let pushed = Pushed { tip: tip_of(watched), atomic, refs: None };
    let deleted = delete.map(|(own, at)| Deletion::of(&server, own, at)).transpose()?;
    // A repeat whose first answer was lost.
    let done = old == Some(new) && deleted.as_ref().is_none_or(|deleted| deleted.now.is_none());
    if done && !matches!(expect, Expect::Forward(_)) {
        return Ok(pushed);
    }
    if let Expect::Exactly(expected) | Expect::Forward(expected) = expect
        && tip_of(old) != *expected
    {
        return Err(GitError::Moved { tip: tip_of(old) });
    }
    if let Some(deleted) = &deleted
        && deleted.now != Some(deleted.expected)
    {
        return Err(GitError::Gone { name: deleted.name.clone() });
    }
    // The protocol cannot say "not forced": this check is ours.
    if let (Expect::Forward(_), Some(old)) = (expect, old)
        && !(scan::is_there(&repository, old)? && scan::holds(&repository, old, new)?)
    {
        let why = "the commit is not a descendant of the branch's tip";
        return Err(GitError::broken("pushing", why));
    }
    if done {
        return Ok(pushed);
    }
    if deleted.is_some() && !atomic {
        return Err(GitError::NotAtomic);
    }
    if cancel.is_cancelled() {
        return Err(GitError::Cancelled);
    }
    if let Some(folder) = folder {
        match &deleted {
            None => local::push(&repository, &folder, target, expect, new)?,
            Some(Deletion { name, expected, .. }) => {
                let exchange =
                    Exchange { target, from: old, to: new, gone: name, gone_from: *expected };
                local::exchange(&repository, &folder, &exchange)?;
            }
        }
        return Ok(pushed);
    }
    let mut updates = vec![Update { name: target, old, new: Some(new) }];
    if let Some(Deletion { name, now, .. }) = &deleted {
        updates.push(Update { name, old: *now, new: None });
    }
    let mut held = vec![old, watched];
    held.extend(deleted.as_ref().map(|deleted| deleted.now));
    let atomically = deleted.is_some();
    let report =
        wire::send_updates(remote, &server, &updates, (atomically, until), cancel, |write| {
            let mut pack = pack::to_send(&repository, new, &server, &held)?;
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
    let (first, second) =
        (verdict(&report, target), deleted.as_ref().map(|d| verdict(&report, &d.name)));
    let of_target = |why: &str| refused(remote, &updates, target, why, &report.words, cancel);
    match (first, second) {
        (Verdict::Done, None | Some(Verdict::Done)) => {
            let refs = Some(KnownRefs(Arc::new(server.after(&updates))));
            Ok(Pushed { refs, ..pushed })
        }
        (Verdict::Refused(why), None) => Err(of_target(&why)),
        (Verdict::Refused(why), Some(Verdict::Refused(_))) if !blames_the_other(&why) => {
            Err(of_target(&why))
        }
        (Verdict::Refused(_), Some(Verdict::Refused(why))) if !blames_the_other(&why) => {
            let name = updates[1].name;
            Err(match refused(remote, &updates, name, &why, &report.words, cancel) {
                // It accepts the ref, but does not let it be deleted.
                GitError::Rejected { .. } | GitError::RefNamespaceRefused => {
                    info!(name, why, "the git server refused to delete a ref of rdev's own");
                    GitError::NotAtomic
                }
                error => error,
            })
        }
        // Neither is at fault by itself.
        (Verdict::Refused(why), Some(Verdict::Refused(_))) => {
            Err(match moved(remote, &updates, cancel) {
                Ok(Some(error)) | Err(error) => error,
                Ok(None) => GitError::unreachable(format!("{target}: {why}")),
            })
        }
        (Verdict::Done, Some(Verdict::Refused(_))) | (Verdict::Refused(_), Some(Verdict::Done)) => {
            let reason = format!("{target}: it applied a part of an atomic push");
            Err(GitError::Unreachable { reason, in_doubt: true })
        }
    }
}

/// A ref that the push is to delete.
struct Deletion {
    /// Its full name.
    name: String,
    now: Option<Oid>,
    expected: Oid,
}

impl Deletion {
    /// Finds the ref below `refs/` or `refs/heads/`, wherever the server has it.
    fn of(server: &Advertised, own: OwnRef, at: &CommitId) -> Result<Self, GitError> {
        let [name, as_branch] = super::own_names(own);
        let expected = oid(at)?;
        Ok(match (server.find(&name), server.find(&as_branch)) {
            (None, Some(now)) => Self { name: as_branch, now: Some(now), expected },
            (now, _) => Self { name, now, expected },
        })
    }
}

/// Whether a reason says only that another ref of the same push was refused.
fn blames_the_other(why: &str) -> bool {
    why.contains("atomic")
}

fn verdict(report: &Report, name: &str) -> Verdict {
    let found = report.verdicts.iter().find(|(other, _)| other == name);
    match found {
        Some((_, Verdict::Done)) => Verdict::Done,
        Some((_, Verdict::Refused(why))) => Verdict::Refused(why.clone()),
        None => Verdict::Refused("it gives no reason".to_owned()),
    }
}

/// The error when one of the refs is not where the push expected it any more.
fn moved(
    remote: &Remote,
    updates: &[Update<'_>],
    cancel: &CancellationToken,
) -> Result<Option<GitError>, GitError> {
    let server = local::advertised(remote, Service::UploadPack, cancel)?;
    let elsewhere = updates.iter().find(|update| server.find(update.name) != update.old);
    Ok(elsewhere.map(|update| match update.new {
        Some(_) => GitError::Moved { tip: tip_of(server.find(update.name)) },
        None => GitError::Gone { name: update.name.to_owned() },
    }))
}

/// The error for a ref that the server refused.
fn refused(
    remote: &Remote,
    updates: &[Update<'_>],
    target: &str,
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
        return match moved(remote, updates, cancel) {
            Ok(Some(error)) | Err(error) => error,
            // Nobody moved it: a lock was in the way and will be released.
            Ok(None) => GitError::unreachable(format!("it could not update {target}: {why}")),
        };
    }
    if !target.starts_with("refs/heads/") {
        // A push of the same commit as a branch shows whether the name or the content is refused.
        info!(target, why, words, "the git server refused a ref outside refs/heads");
        return GitError::RefNamespaceRefused;
    }
    rejected(why, words)
}

fn rejected(why: &str, words: &str) -> GitError {
    let reason = if words.is_empty() { why.to_owned() } else { format!("{why}: {words}") };
    GitError::Rejected { reason }
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
    wire::send_updates(remote, server, updates, (false, Until::Updated), cancel, |_| Ok(()))
}
