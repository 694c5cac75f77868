//! Steps 5 and 6 of `docs/protocol.md`: from a commit that exists only here to
//! one that is proved to be on the branch, at most once per lineage.

use std::sync::atomic::Ordering;

use rdev_domain::event::EventKind;
use rdev_domain::failure::FailureClass;
use rdev_domain::git::{CommitId, OwnRef, Tip};
use rdev_domain::ports::CommitState;
use rdev_domain::result::{BuildResult, Outcome, TaskResult, Warning};
use rdev_domain::spec::BuildSpec;
use rdev_domain::step::Event;
use rdev_domain::task::{Prepared, WipRef};
use serde_json::json;
use tracing::info;

use super::earlier::{self, Finished};
use super::output::{self, Made};
use super::push::{Landing, ROUNDS, Way, search};
use super::refs::{at_wip, based_on, fetch_own, newest_wip};
use super::target::Site;
use super::{commit_status, pull_request};
use crate::attempt::interrupt::Interrupt;
use crate::attempt::settle::{self, Settlement};
use crate::attempt::workspace::Workspace;
use crate::attempt::{Attempt, unpushed};
use crate::git::{self, blocking};
use crate::now;

/// What there is to do after [`prepare`].
enum Ready {
    /// Push; the lineage's commit is looked for from here on.
    Push { scan_base: Tip },
    /// Nothing any more.
    Done(Landing),
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
    let result = output::result(attempt, Outcome::Delivered, None, &site.target, &made);
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
    let result = output::result(attempt, Outcome::Delivered, None, &site.target, &made);
    let wip = WipRef { task: attempt.task.id, fence: attempt.task.fence };
    let way =
        Way { attempt, spec, site, workspace, wip, commit: commit.clone(), base: Tip::Absent };
    complete(&way, result, Landing::At { commit, rewritten: false }).await
}

/// `running` → `pushing`: the commit safe at its wip ref, based on the
/// branch's tip, and the store told.
async fn prepare(way: &mut Way<'_>, made: &Made) -> Result<Ready, Interrupt> {
    let attempt = way.attempt;
    let mut moved = 0;
    loop {
        let seen = way.keep_wip().await?;
        way.workspace.mark_safe()?;
        unpushed::forget_unpushed(&attempt.shared.folders, attempt.task.id);
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
    let result = output::result(
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

/// The settlement of a build whose push has ended well.
async fn complete(
    way: &Way<'_>,
    mut result: BuildResult,
    landing: Landing,
) -> Result<Settlement, Interrupt> {
    let (attempt, site) = (way.attempt, way.site);
    unpushed::forget_unpushed(&attempt.shared.folders, attempt.task.id);
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
            commit_status::show(attempt, repository, &commit, state, "delivered").await;
            if rewritten {
                let message = "the push was acknowledged, but the commit is not on the branch any more: somebody removed it";
                result.warnings.push(Warning {
                    code: "branch_rewritten".to_owned(),
                    message: message.to_owned(),
                });
            }
            if way.spec.pull_request {
                pull_request::open(way, &commit, &mut result).await?;
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
