//! Steps 5 and 6 of `docs/protocol.md`: from a commit that exists only here to
//! one that is proved to be on the branch, at most once per lineage.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdev_domain::event::EventKind;
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::{CommitId, OwnRef, Tip};
use rdev_domain::ports::{CommitState, PortError, PullRequest};
use rdev_domain::result::{BuildResult, Outcome, TaskResult, Warning};
use rdev_domain::spec::BuildSpec;
use rdev_domain::step::Event;
use rdev_domain::task::{Prepared, WipRef};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::attempt::{Attempt, Interrupt, blocking, chain};
use crate::build::{self, Made, Site};
use crate::earlier::{self, Finished, at_wip, based_on, fetch_own, newest_wip};
use crate::git::{self, Expect, GitError, Rebased, Scan};
use crate::settle::{self, Settlement};
use crate::workspace::{self, Workspace};
use crate::{now, status, verify};

/// How long a forge may take to open a pull request.
const FORGE_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a moving branch is followed within one claim.
const ROUNDS: u32 = 5;

/// What there is to do after [`prepare`].
enum Ready {
    /// Push; the lineage's commit is looked for from here on.
    Push { scan_base: Tip },
    /// Nothing any more.
    Done(Landing),
}

/// How the push ended.
enum Landing {
    /// This commit is in the branch's history; `rewritten` when it was, and
    /// somebody has removed it since.
    At { commit: CommitId, rewritten: bool },
    /// The branch has the same change already, from somebody else.
    Nothing,
}

/// A commit on its way: what it is based on, and where it is kept.
struct Way<'a> {
    attempt: &'a Attempt,
    spec: &'a BuildSpec,
    site: &'a Site,
    workspace: &'a Workspace,
    wip: WipRef,
    commit: CommitId,
    base: Tip,
}

/// Prepares and pushes finished work; the task is `running`.
pub(crate) async fn deliver(
    attempt: &Attempt,
    spec: &BuildSpec,
    site: &Site,
    workspace: &Workspace,
    tip: &Tip,
    finished: Finished,
) -> Result<Settlement, Interrupt> {
    let Finished { commit, wip, made } = finished;
    attempt.committed.store(true, Ordering::Relaxed);
    let base = based_on(attempt, workspace, &commit, tip).await?;
    let mine = WipRef { task: attempt.task.id, fence: attempt.task.fence };
    let mut way = Way { attempt, spec, site, workspace, wip: mine, commit, base };
    let landed = attempt
        .phase("push", async {
            match prepare(&mut way, &made).await? {
                Ready::Push { scan_base } => {
                    way.show(CommitState::Pending, "is being pushed").await;
                    let tip = way.base.clone();
                    way.push_from(&scan_base, tip).await
                }
                Ready::Done(landing) => Ok(landing),
            }
        })
        .await;
    let landing = way.told(landed).await?;
    if wip != mine {
        info!(task = %attempt.task.id, from = %wip.task, fence = %wip.fence, "delivered the work of an earlier attempt");
    }
    let result = build::result(attempt, Outcome::Delivered, None, &site.target, &made);
    complete(&way, result, landing).await
}

/// Goes on with a task that was `pushing` when its last holder left it: looks
/// at the remote first, then resumes from the wip ref.
pub(crate) async fn resume(attempt: &Attempt, spec: &BuildSpec) -> Result<Settlement, Interrupt> {
    let mut site = Site::of(attempt, spec)?;
    let workspace = attempt.workspace(&attempt.task.id.to_string()).await?;
    let (Some(prepared), Some(TaskResult::Build(result))) =
        (&attempt.task.prepared, &attempt.task.result)
    else {
        return Err(Interrupt::failed(
            FailureClass::Poison,
            "the task is pushing, but nothing is prepared",
        ));
    };
    // Whatever the project's default branch is by now.
    site.target = prepared.branch.clone();
    let scan_base = attempt.task.scan_base.clone().unwrap_or_else(|| prepared.base.clone());
    let fetched = attempt
        .phase("checkout", async {
            let fetched = site.fetch(attempt).await?;
            let (mirror, start) = (fetched.mirror.clone(), fetched.start.clone());
            let (dirs, branch) = (workspace.workdir(), site.target.clone());
            let stop = attempt.held.stop.token().clone();
            blocking(move || git::checkout(&mirror, start.as_ref(), &branch, &dirs, &stop)).await?;
            Ok(fetched)
        })
        .await?;
    let mine = WipRef { task: attempt.task.id, fence: attempt.task.fence };
    let found = search(attempt, &workspace, &scan_base, &fetched.tip).await?;
    let mut way = Way {
        attempt,
        spec,
        site: &site,
        workspace: &workspace,
        wip: mine,
        commit: prepared.commit.clone(),
        base: prepared.base.clone(),
    };
    if let Some(commit) = found {
        return complete(&way, result.clone(), Landing::At { commit, rewritten: false }).await;
    }
    let wip = newest_wip(attempt, &fetched)
        .or_else(|| at_wip(&fetched, prepared.wip).map(|commit| (prepared.wip, commit)));
    let Some((wip, _)) = wip else {
        attempt
            .note("the prepared commit is neither on the branch nor at its wip ref; starting over");
        let holder = attempt.held.holder.clone();
        return Ok(Settlement { event: Event::Restart { holder }, diff: None });
    };
    let commit = fetch_own(attempt, &site, &workspace, OwnRef::Wip(wip.task, wip.fence)).await?;
    way.base = based_on(attempt, &workspace, &commit, &fetched.tip).await?;
    way.commit = commit;
    attempt.prepared.store(true, Ordering::Relaxed);
    let landed = attempt
        .phase("push", async {
            // Under this claim's name, so that a rebased commit does not
            // overwrite what another claim may still look at.
            way.keep_wip().await?;
            way.show(CommitState::Pending, "is being pushed").await;
            way.push_from(&scan_base, fetched.tip.clone()).await
        })
        .await;
    let landing = way.told(landed).await?;
    complete(&way, result.clone(), landing).await
}

/// Ends a build whose commit an earlier attempt has brought to the branch.
pub(crate) async fn landed(
    attempt: &Attempt,
    spec: &BuildSpec,
    site: &Site,
    workspace: &Workspace,
    commit: CommitId,
) -> Result<Settlement, Interrupt> {
    attempt.committed.store(true, Ordering::Relaxed);
    let made = earlier::adopt(attempt, workspace, &commit).await?;
    let result = build::result(attempt, Outcome::Delivered, None, &site.target, &made);
    let wip = WipRef { task: attempt.task.id, fence: attempt.task.fence };
    let way =
        Way { attempt, spec, site, workspace, wip, commit: commit.clone(), base: Tip::Absent };
    complete(&way, result, Landing::At { commit, rewritten: false }).await
}

/// Pushes a commit to one of rdev's own refs; returns where the branch is, as
/// the push's own advertisement tells.
pub(crate) async fn push_own(
    attempt: &Attempt,
    site: &Site,
    workspace: &Workspace,
    own: OwnRef,
    commit: &CommitId,
    stop: &CancellationToken,
) -> Result<Tip, Interrupt> {
    let known = &attempt.shared.heads_only;
    let mut heads_only = known.contains(&site.remote.url);
    loop {
        let prefix = if heads_only { "refs/heads" } else { "refs" };
        let name = format!("{prefix}/{}", own.path());
        attempt.remember_ref(&site.remote, &name);
        let (dirs, remote, commit) = (workspace.workdir(), site.remote.clone(), commit.clone());
        let (watch, stop) = (site.target.clone(), stop.clone());
        let pushed = blocking(move || {
            git::push(&dirs, &remote, &commit, &name, &Expect::Any, &watch, &stop)
        });
        match pushed.await {
            // Or a hook that refuses this very push: it is remembered only when a branch is taken.
            Err(GitError::RefNamespaceRefused) if !heads_only => heads_only = true,
            Ok(tip) => {
                if heads_only && !known.contains(&site.remote.url) {
                    known.insert(&site.remote.url);
                }
                return Ok(tip);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// `running` → `pushing`: the commit safe at its wip ref, based on the
/// branch's tip, and the store told.
async fn prepare(way: &mut Way<'_>, made: &Made) -> Result<Ready, Interrupt> {
    let attempt = way.attempt;
    let mut moved = 0;
    loop {
        let seen = way.keep_wip().await?;
        way.workspace.mark_safe()?;
        workspace::forget_unpushed(&attempt.shared.folders, attempt.task.id);
        if seen == way.base {
            break;
        }
        moved += 1;
        if moved > ROUNDS {
            return Err(Interrupt::failed(
                FailureClass::Infra,
                "the branch moved at every try to prepare",
            ));
        }
        attempt.note("the branch has moved; rebasing onto its new tip");
        let tip = way.fetch_tip().await?;
        // What moved it may be a late push of an earlier attempt.
        if let Some(scan_base) = &attempt.task.scan_base
            && let Some(commit) = search(attempt, way.workspace, scan_base, &tip).await?
        {
            return Ok(Ready::Done(Landing::At { commit, rewritten: false }));
        }
        if !way.follow(&tip).await? {
            return Ok(Ready::Done(Landing::Nothing));
        }
    }
    let prepared = Prepared {
        commit: way.commit.clone(),
        base: way.base.clone(),
        branch: way.site.target.clone(),
        wip: way.wip,
        at: now(),
    };
    let result = build::result(
        attempt,
        Outcome::Delivered,
        Some(way.commit.clone()),
        &way.site.target,
        made,
    );
    let event = Event::Prepare {
        holder: attempt.held.holder.clone(),
        prepared,
        result,
        usage: *attempt.held.usage.borrow(),
    };
    let advanced = settle::advance(attempt, event, Some(made.changes.diff.clone())).await?;
    attempt.prepared.store(true, Ordering::Relaxed);
    let state = json!({"state": "pushing", "attempt": attempt.task.attempt});
    attempt.held.events.add(EventKind::State, state, now());
    let scan_base = advanced.task.scan_base.unwrap_or_else(|| way.base.clone());
    Ok(Ready::Push { scan_base })
}

impl Way<'_> {
    /// Shows on the forge how the build of this commit is.
    async fn show(&self, state: CommitState, description: &str) {
        let repository = &self.site.remote.url;
        status::show(self.attempt, repository, &self.commit, state, description).await;
    }

    /// A push that failed is shown at its commit, which is at its wip ref.
    async fn told(&self, landed: Result<Landing, Interrupt>) -> Result<Landing, Interrupt> {
        if let Err(Interrupt::Failed(failure)) = &landed {
            let prepared = self.attempt.prepared.load(Ordering::Relaxed);
            if prepared {
                self.show(CommitState::Failure, failure.class.as_str()).await;
            }
        }
        landed
    }

    /// Search, follow, push, until the commit has landed. `tip` is where the
    /// branch was seen last; its objects are here.
    async fn push_from(&mut self, scan_base: &Tip, mut tip: Tip) -> Result<Landing, Interrupt> {
        let attempt = self.attempt;
        let mut last: Option<Failure> = None;
        let mut doubt = false;
        for _ in 0..ROUNDS {
            attempt.held.right_to_push().await;
            if attempt.held.stop.why().is_some() {
                return Err(Interrupt::Stopped);
            }
            if let Some(commit) = search(attempt, self.workspace, scan_base, &tip).await? {
                return Ok(Landing::At { commit, rewritten: false });
            }
            if tip != self.base {
                if !self.follow(&tip).await? {
                    return Ok(Landing::Nothing);
                }
                self.keep_wip().await?;
            }
            // The search and a verification may have taken long.
            attempt.held.right_to_push().await;
            if attempt.held.stop.why().is_some() {
                return Err(Interrupt::Stopped);
            }
            match self.push_branch().await {
                Ok(()) => return self.read_back().await,
                Err(GitError::Cancelled) => return Err(Interrupt::Stopped),
                Err(GitError::Moved { .. }) => {
                    let seen = self.fetch_tip().await;
                    tip = seen.map_err(|interrupt| in_doubt(interrupt, doubt))?;
                }
                Err(
                    error @ (GitError::Rejected { .. }
                    | GitError::Auth { .. }
                    | GitError::RefNamespaceRefused),
                ) => {
                    // A refusal may answer a repeat of what had been applied.
                    if let Ok(seen) = self.fetch_tip().await
                        && let Some(commit) =
                            search(attempt, self.workspace, scan_base, &seen).await?
                    {
                        return Ok(Landing::At { commit, rewritten: false });
                    }
                    return Err(in_doubt(error.into(), doubt));
                }
                Err(error) => {
                    warn!(task = %attempt.task.id, error = chain(&error), "the push's answer is doubtful; looking again");
                    doubt |= error.is_in_doubt();
                    match self.fetch_tip().await {
                        Ok(seen) => tip = seen,
                        Err(interrupt) => return Err(in_doubt(interrupt, doubt)),
                    }
                    last = Some(Failure::new(FailureClass::Infra, chain(&error)));
                }
            }
        }
        // The last round may have brought it there.
        let found = search(attempt, self.workspace, scan_base, &tip).await;
        if let Some(commit) = found.map_err(|interrupt| in_doubt(interrupt, doubt))? {
            return Ok(Landing::At { commit, rewritten: false });
        }
        let moving = || format!("the branch moved {ROUNDS} times during the push");
        let failure = last.unwrap_or_else(|| Failure::new(FailureClass::Infra, moving()));
        Err(in_doubt(Interrupt::Failed(failure), doubt))
    }

    /// Rebases onto `tip` and verifies again. False: the same change is there already.
    async fn follow(&mut self, tip: &Tip) -> Result<bool, Interrupt> {
        let Tip::Commit(onto) = tip else {
            if matches!(self.base, Tip::Commit(_)) {
                return Err(rewritten("the branch was deleted"));
            }
            self.base = Tip::Absent;
            return Ok(true);
        };
        let attempt = self.attempt;
        let (dirs, commit, target) = (self.workspace.workdir(), self.commit.clone(), onto.clone());
        let (author, at) = (attempt.author(), now());
        let rebased = blocking(move || git::rebase(&dirs, &commit, &target, &author, at)).await?;
        match rebased {
            Rebased::Clean(commit) => self.commit = commit,
            Rebased::Empty => return Ok(false),
            Rebased::Conflict(paths) => {
                let message = format!(
                    "the work does not apply to the branch's new tip: {}",
                    paths.join(", ")
                );
                return Err(Interrupt::failed(FailureClass::Conflict, message));
            }
        }
        self.base = tip.clone();
        if self.spec.verify.is_empty() {
            return Ok(true);
        }
        let (dirs, commit) = (self.workspace.workdir(), self.commit.clone());
        blocking(move || git::reset(&dirs, &commit)).await?;
        // The attempt's own time is for the agent: the work is done, and not thrown away by a clock.
        let deadline = Instant::now() + attempt.task.work.timeout();
        let runs = verify::run(attempt, self.workspace, &self.spec.verify, deadline).await?;
        if verify::passed(&runs) {
            return Ok(true);
        }
        let message = format!("after a rebase, {}", verify::complaint(&runs));
        Err(Interrupt::failed(FailureClass::Conflict, message))
    }

    /// Puts the commit at its wip ref; where the branch is.
    async fn keep_wip(&self) -> Result<Tip, Interrupt> {
        let own = OwnRef::Wip(self.wip.task, self.wip.fence);
        let stop = self.attempt.held.stop.token();
        push_own(self.attempt, self.site, self.workspace, own, &self.commit, stop).await
    }

    async fn push_branch(&self) -> Result<(), GitError> {
        let (dirs, remote, commit) =
            (self.workspace.workdir(), self.site.remote.clone(), self.commit.clone());
        let (target, expect) = (self.site.target.clone(), Expect::Exactly(self.base.clone()));
        let stop = self.attempt.held.stop.token().clone();
        blocking(move || {
            git::push(&dirs, &remote, &commit, &target.full_name(), &expect, &target, &stop)
        })
        .await
        .map(|_| ())
    }

    async fn fetch_tip(&self) -> Result<Tip, Interrupt> {
        let (dirs, remote) = (self.workspace.workdir(), self.site.remote.clone());
        let (target, stop) = (self.site.target.clone(), self.attempt.held.stop.token().clone());
        Ok(blocking(move || git::fetch_tip(&dirs, &remote, &target, &stop)).await?)
    }

    /// After an acknowledged push: proves from the remote that the commit is there.
    async fn read_back(&self) -> Result<Landing, Interrupt> {
        let (remote, target) = (self.site.remote.clone(), self.site.target.clone());
        let stop = self.attempt.held.stop.token().clone();
        let mut tries = 0;
        let seen = loop {
            let (remote, stop) = (remote.clone(), stop.clone());
            match blocking(move || git::remote_refs(&remote, &stop)).await {
                Ok(refs) => break refs.into_iter().find(|(name, _)| *name == target.full_name()),
                Err(error) if error.is_transient() && tries < 3 => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(GitError::Cancelled) => return Err(Interrupt::Stopped),
                Err(error) => {
                    let failure = Failure::new(
                        FailureClass::Infra,
                        format!("the push could not be read back: {}", chain(&error)),
                    );
                    return Err(Interrupt::Failed(Failure { push_in_doubt: true, ..failure }));
                }
            }
        };
        let commit = self.commit.clone();
        let there = match seen {
            None => false,
            Some((_, tip)) if tip == commit => true,
            Some(_) => {
                match self.fetch_tip().await.map_err(|interrupt| in_doubt(interrupt, true))? {
                    Tip::Absent => false,
                    Tip::Commit(tip) => {
                        let (dirs, ours) = (self.workspace.workdir(), commit.clone());
                        blocking(move || git::contains(&dirs, &ours, &tip)).await?
                    }
                }
            }
        };
        Ok(Landing::At { commit, rewritten: !there })
    }
}

/// The settlement of a build whose push has ended well.
async fn complete(
    way: &Way<'_>,
    mut result: BuildResult,
    landing: Landing,
) -> Result<Settlement, Interrupt> {
    let (attempt, site) = (way.attempt, way.site);
    workspace::forget_unpushed(&attempt.shared.folders, attempt.task.id);
    match landing {
        Landing::Nothing => {
            attempt.note("the branch has the same change already; there is nothing to deliver");
            result.outcome = Outcome::NoChange;
            result.commit_sha = None;
        }
        Landing::At { commit, rewritten } => {
            attempt.note(format!("delivered {commit} to {}", site.target));
            result.outcome = Outcome::Delivered;
            result.commit_sha = Some(commit.clone());
            let repository = &site.remote.url;
            let state = CommitState::Success;
            status::show(attempt, repository, &commit, state, "delivered").await;
            if rewritten {
                let message = "the push was acknowledged, but the commit is not on the branch any more: somebody removed it";
                result.warnings.push(Warning {
                    code: "branch_rewritten".to_owned(),
                    message: message.to_owned(),
                });
            }
            if way.spec.pull_request {
                pull_request(way, &commit, &mut result).await?;
            }
        }
    }
    for (phase, millis) in attempt.durations() {
        result.durations_ms.insert(phase, millis);
    }
    let holder = attempt.held.holder.clone();
    let event = if attempt.prepared.load(Ordering::Relaxed) || attempt.task.prepared.is_some() {
        Event::Complete { holder, result }
    } else {
        let usage = *attempt.held.usage.borrow();
        Event::Finish { holder, result: TaskResult::Build(result), usage }
    };
    Ok(Settlement { event, diff: None })
}

async fn pull_request(
    way: &Way<'_>,
    commit: &CommitId,
    result: &mut BuildResult,
) -> Result<(), Interrupt> {
    let (attempt, spec) = (way.attempt, way.spec);
    let title = spec.prompt.trim().lines().next().unwrap_or_default();
    let request = PullRequest {
        git_url: way.site.remote.url.clone(),
        head: way.site.target.clone(),
        commit: commit.clone(),
        base: way.site.fallback.clone(),
        title: title.chars().take(100).collect(),
        body: format!("{}\n\nTask {}", spec.prompt.trim(), attempt.task.id),
    };
    let asked = attempt.shared.ports.forge.pull_request(&request);
    let answer = tokio::select! {
        answer = tokio::time::timeout(FORGE_TIMEOUT, asked) => answer,
        () = attempt.held.stop.token().cancelled() => return Err(Interrupt::Stopped),
    };
    let Ok(answer) = answer else {
        return Err(Interrupt::failed(FailureClass::Infra, "the forge did not answer in time"));
    };
    match answer {
        Ok(url) => result.pull_request_url = Some(url),
        Err(
            error @ (PortError::NotSupported { .. }
            | PortError::Invalid(_)
            | PortError::Denied { .. }
            | PortError::NotFound { .. }
            | PortError::Upstream { .. }
            | PortError::Conflict(_)),
        ) => {
            let message = format!("no pull request was opened: {}", chain(&error));
            result.warnings.push(Warning { code: "pull_request_refused".to_owned(), message });
        }
        Err(error) => return Err(Interrupt::failed(FailureClass::Infra, chain(&error))),
    }
    Ok(())
}

/// A commit of this lineage between the scan base and the tip.
pub(crate) async fn search(
    attempt: &Attempt,
    workspace: &Workspace,
    scan_base: &Tip,
    tip: &Tip,
) -> Result<Option<CommitId>, Interrupt> {
    let Tip::Commit(tip) = tip else {
        return match scan_base {
            Tip::Absent => Ok(None),
            Tip::Commit(_) => Err(rewritten("the branch was deleted")),
        };
    };
    let (dirs, lineage) = (workspace.workdir(), attempt.task.lineage);
    let (base, tip) = (scan_base.clone(), tip.clone());
    match blocking(move || git::find_lineage(&dirs, lineage, &base, &tip)).await? {
        Scan::Found(commit) => Ok(Some(commit)),
        Scan::NotFound => Ok(None),
        Scan::NotAncestor => Err(rewritten(
            "the branch does not hold the commit that the work was based on any more",
        )),
    }
}

/// Notes that an earlier push may still land.
fn in_doubt(interrupt: Interrupt, doubt: bool) -> Interrupt {
    match interrupt {
        Interrupt::Failed(failure) => {
            let push_in_doubt = failure.push_in_doubt || doubt;
            Interrupt::Failed(Failure { push_in_doubt, ..failure })
        }
        Interrupt::Stopped => Interrupt::Stopped,
    }
}

pub(crate) fn rewritten(what: &str) -> Interrupt {
    Interrupt::failed(FailureClass::HistoryRewritten, what)
}
