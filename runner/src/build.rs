//! The phases of a build: checkout, agent, verify, commit; `deliver` has the rest.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rdev_domain::event::EventKind;
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::{Branch, CommitId, OwnRef, Tip};
use rdev_domain::result::{AgentRun, BuildResult, Outcome, TaskResult, Usage, Warning};
use rdev_domain::spec::BuildSpec;
use rdev_domain::step::Event;
use rdev_domain::task::WipRef;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::agent::{self, Ask, End, Progress};
use crate::attempt::{Attempt, Interrupt, blocking};
use crate::deliver;
use crate::earlier::{self, Earlier, Finished};
use crate::git::{self, Changes, Fetched, GitError, Remote};
use crate::now;
use crate::settle::Settlement;
use crate::stop::Why;
use crate::workspace::{self, Workspace};
use crate::{tidy, verify};

/// How often an agent is told what its verification said.
const VERIFY_ROUNDS: u32 = 2;

/// Where a build's work comes from and goes to.
pub(crate) struct Site {
    pub(crate) remote: Remote,
    /// The branch that is delivered to.
    pub(crate) target: Branch,
    /// The branch to begin from while `target` does not exist.
    pub(crate) fallback: Branch,
}

/// What an agent made, before it is committed.
pub(crate) struct Made {
    pub(crate) run: Option<AgentRun>,
    pub(crate) summary: String,
    pub(crate) changes: Changes,
    pub(crate) warnings: Vec<Warning>,
}

impl Site {
    pub(crate) fn of(attempt: &Attempt, spec: &BuildSpec) -> Result<Self, Interrupt> {
        let branch = attempt.branch(spec.branch.as_ref());
        let (target, fallback) = if spec.pull_request {
            // Named after the lineage, so that a retry finds what an earlier task pushed.
            let own = format!("rdev/{}", attempt.task.lineage);
            let own =
                own.parse().map_err(|error| anyhow::anyhow!("{own} is no branch: {error}"))?;
            (own, branch)
        } else {
            (branch, attempt.project.default_branch.clone())
        };
        Ok(Self { remote: attempt.remote(spec.git_url.as_ref())?, target, fallback })
    }

    /// Brings the mirror up to date and tells where the branch is.
    pub(crate) async fn fetch(&self, attempt: &Attempt) -> Result<Fetched, Interrupt> {
        let shared = &attempt.shared;
        let (cache, cap) = (shared.folders.cache.clone(), shared.config.runner.max_cache_bytes);
        let stop = attempt.held.stop.token().clone();
        let (remote, target, fallback) =
            (self.remote.clone(), self.target.clone(), self.fallback.clone());
        let fetched =
            blocking(move || git::fetch(&cache, cap, &remote, &target, &fallback, &stop)).await;
        let fetched = match (fetched, &attempt.task.scan_base) {
            (Err(GitError::BranchNotFound(_)), Some(Tip::Commit(_))) => {
                return Err(deliver::rewritten("the branch was deleted"));
            }
            (fetched, _) => fetched?,
        };
        tidy::later(attempt, &self.remote, &fetched.own);
        Ok(fetched)
    }
}

/// Runs a build whose task was `queued`.
pub(crate) async fn run(attempt: &Attempt, spec: &BuildSpec) -> Result<Settlement, Interrupt> {
    let shared = &attempt.shared;
    let site = Site::of(attempt, spec)?;
    let key = workspace_key(attempt, spec)?;
    let workspace = attempt.workspace(&key).await?;
    let (fetched, lfs) =
        attempt.phase("checkout", checkout(attempt, spec, &site, &workspace)).await?;

    match earlier::find(attempt, &site, &workspace, &fetched, !spec.auto_push).await? {
        None => {}
        Some(Earlier::Landed(commit)) => {
            attempt.note("an earlier attempt's push has landed; there is nothing left to do");
            return deliver::landed(attempt, spec, &site, &workspace, commit).await;
        }
        Some(Earlier::Finished(finished)) => {
            attempt.note("an earlier attempt had finished the work; going on from its commit");
            if !spec.auto_push {
                let Finished { commit, made, .. } = *finished;
                return keep(attempt, &site, &workspace, commit, made).await;
            }
            let tip = &fetched.tip;
            return deliver::deliver(attempt, spec, &site, &workspace, tip, *finished).await;
        }
    }

    let outcome = work(attempt, spec, &workspace, fetched.start.as_ref()).await;
    let mut made = match outcome {
        Ok(made) => made,
        Err(interrupt) => {
            keep_part(attempt, &site, &workspace, fetched.start.as_ref(), &interrupt).await;
            return Err(interrupt);
        }
    };
    if lfs {
        let message = "the repository uses Git LFS, which is not supported: its files were checked out as pointers";
        made.warnings
            .push(Warning { code: "lfs_pointers".to_owned(), message: message.to_owned() });
    }
    if made.run.as_ref().is_some_and(|run| run.session_id.is_some()) {
        let kept = workspace::keep_session(&shared.folders, &workspace, &key, attempt.task.id);
        if let Err(error) = kept {
            let message = format!("the agent's session was not kept for continue_from: {error:#}");
            warn!(task = %attempt.task.id, message);
            made.warnings.push(Warning { code: "session_not_kept".to_owned(), message });
        }
    }
    if made.changes.total == 0 {
        return Ok(finish(attempt, Outcome::NoChange, None, &site.target, made));
    }
    if !spec.auto_commit {
        return Ok(finish(attempt, Outcome::DiffOnly, None, &site.target, made));
    }
    let commit = attempt
        .phase("commit", commit(attempt, spec, &workspace, fetched.start.clone(), &made))
        .await?;
    if !spec.auto_push {
        return keep(attempt, &site, &workspace, commit, made).await;
    }
    let wip = WipRef { task: attempt.task.id, fence: attempt.task.fence };
    let finished = Finished { commit, wip, made };
    deliver::deliver(attempt, spec, &site, &workspace, &fetched.tip, finished).await
}

/// Ends a build that was asked not to push its branch: the commit goes to its kept ref.
async fn keep(
    attempt: &Attempt,
    site: &Site,
    workspace: &Workspace,
    commit: CommitId,
    made: Made,
) -> Result<Settlement, Interrupt> {
    let kept = OwnRef::Kept(attempt.task.id);
    let stop = attempt.held.stop.token();
    // The ref has no fence in its name: who may be taken for dead does not touch it.
    attempt.held.right_to_push().await;
    if attempt.held.stop.why().is_some() {
        return Err(Interrupt::Stopped);
    }
    attempt.phase("push", deliver::push_own(attempt, site, workspace, kept, &commit, stop)).await?;
    workspace.mark_safe()?;
    workspace::forget_unpushed(&attempt.shared.folders, attempt.task.id);
    Ok(finish(attempt, Outcome::CommittedNotPushed, Some(commit), &site.target, made))
}

/// The result of a build, as far as it is known.
pub(crate) fn result(
    attempt: &Attempt,
    outcome: Outcome,
    commit: Option<CommitId>,
    branch: &Branch,
    made: &Made,
) -> BuildResult {
    BuildResult {
        outcome,
        commit_sha: commit,
        branch: branch.clone(),
        pull_request_url: None,
        files_changed: made.changes.files.clone(),
        files_changed_total: made.changes.total,
        agent: made.run.clone(),
        usage: Usage::default(),
        durations_ms: attempt.durations(),
        summary: made.summary.clone(),
        warnings: made.warnings.clone(),
    }
}

fn finish(
    attempt: &Attempt,
    outcome: Outcome,
    commit: Option<CommitId>,
    branch: &Branch,
    made: Made,
) -> Settlement {
    let result = result(attempt, outcome, commit, branch, &made);
    Settlement {
        event: Event::Finish {
            holder: attempt.held.holder.clone(),
            result: TaskResult::Build(result),
            usage: *attempt.held.usage.borrow(),
        },
        diff: (made.changes.total > 0).then_some(made.changes.diff),
    }
}

/// The folder that the attempt works in: its own, or the one its session is bound to.
fn workspace_key(attempt: &Attempt, spec: &BuildSpec) -> Result<String, Interrupt> {
    let Some(from) = spec.continue_from else {
        return Ok(attempt.task.id.to_string());
    };
    workspace::session_key(&attempt.shared.folders, from).ok_or_else(|| {
        let message =
            format!("the agent session of task {from} is not kept on this worker any more");
        Interrupt::failed(FailureClass::Invalid, message)
    })
}

async fn checkout(
    attempt: &Attempt,
    spec: &BuildSpec,
    site: &Site,
    workspace: &Workspace,
) -> Result<(Fetched, bool), Interrupt> {
    let fetched = site.fetch(attempt).await?;
    let (mirror, start) = (fetched.mirror.clone(), fetched.start.clone());
    let (dirs, branch) = (workspace.workdir(), site.target.clone());
    let stop = attempt.held.stop.token().clone();
    let out =
        blocking(move || git::checkout(&mirror, start.as_ref(), &branch, &dirs, &stop)).await?;
    if out.lfs_pointers {
        attempt.note("Git LFS is not supported: its files are checked out as pointers");
    }
    if let Some(from) = spec.continue_from {
        workspace::restore_session(&attempt.shared.folders, workspace, from)?;
    }
    Ok((fetched, out.lfs_pointers))
}

/// Agent and verify: until what the agent made passes, or the rounds are used up.
async fn work(
    attempt: &Attempt,
    spec: &BuildSpec,
    workspace: &Workspace,
    start: Option<&CommitId>,
) -> Result<Made, Interrupt> {
    let mut session = match spec.continue_from {
        Some(from) => Some(session_of(attempt, from).await?),
        None => None,
    };
    let mut prompt = spec.prompt.clone();
    let mut total = Usage::default();
    let mut round = 0;
    loop {
        let ran = ask(attempt, spec, workspace, &prompt, session.as_deref(), total);
        let report = attempt.phase("agent", ran).await?;
        total = total.plus(report.usage);
        attempt.held.usage.send_replace(total);
        let changes = stage(attempt, spec, workspace, start).await?;
        let made =
            Made { run: Some(report.run), summary: report.summary, changes, warnings: vec![] };
        if spec.verify.is_empty() || made.changes.total == 0 {
            return Ok(made);
        }
        let runs = attempt
            .phase("verify", verify::run(attempt, workspace, &spec.verify, attempt.deadline))
            .await?;
        if verify::passed(&runs) {
            return Ok(made);
        }
        let complaint = verify::complaint(&runs);
        if round == VERIFY_ROUNDS {
            return Err(Interrupt::failed(FailureClass::VerifyFailed, complaint));
        }
        round += 1;
        session = made.run.and_then(|run| run.session_id);
        let told =
            format!("The verification of your changes failed. Please fix it.\n\n{complaint}");
        // An agent without sessions has forgotten what it was asked to do.
        prompt = if session.is_some() { told } else { format!("{}\n\n{told}", spec.prompt) };
    }
}

/// The session that `continue_from` names, as the finished task recorded it.
async fn session_of(
    attempt: &Attempt,
    from: rdev_domain::ids::TaskId,
) -> Result<String, Interrupt> {
    let record = attempt.shared.ports.store.task(from).await;
    let record = record
        .map_err(|error| anyhow::Error::new(error).context(format!("cannot read task {from}")))?;
    let session = record.task.result.as_ref().and_then(TaskResult::as_build);
    let session = session.and_then(|build| build.agent.as_ref()?.session_id.clone());
    session.ok_or_else(|| {
        Interrupt::failed(
            FailureClass::Invalid,
            format!("task {from} has no agent session to go on with"),
        )
    })
}

async fn ask(
    attempt: &Attempt,
    spec: &BuildSpec,
    workspace: &Workspace,
    prompt: &str,
    resume: Option<&str>,
    so_far: Usage,
) -> Result<agent::Report, Interrupt> {
    let shared = &attempt.shared;
    let (max_turns, max_cost_usd) = left(spec, so_far)?;
    let dirs = workspace.workdir();
    let (home, tmp) = (workspace.home(), workspace.tmp());
    let settings = shared.config.agents.get(&spec.agent).cloned().unwrap_or_default();
    let question = Ask {
        prompt,
        model: spec.model.as_deref(),
        max_turns,
        max_cost_usd,
        resume,
        checkout: &dirs.checkout,
        home: &home,
        tmp: &tmp,
        attempt_dir: workspace.root(),
        deadline: attempt.deadline,
        stall: Duration::from_secs(u64::from(spec.stall_timeout_s)),
        grace: Duration::from_secs(shared.config.runner.term_grace_s),
    };
    let held = &attempt.held;
    let mut progress = |progress: Progress| match progress {
        Progress::Event(kind, data) => held.events.add(kind, data, now()),
        Progress::Usage(usage) => {
            held.usage.send_replace(so_far.plus(usage));
            held.events.add(EventKind::AgentUsage, json!(usage), now());
        }
    };
    let stop = held.stop.token();
    let report =
        agent::run(spec.agent, &settings, &question, &shared.redactor, stop, &mut progress).await;
    held.usage.send_replace(so_far.plus(report.usage));
    match report.end {
        End::Done => Ok(report),
        End::Stopped => Err(Interrupt::Stopped),
        End::Failed(failure) => Err(Interrupt::Failed(failure)),
    }
}

/// What is left of a build's limits after the runs of earlier rounds: they hold for all together.
fn left(spec: &BuildSpec, so_far: Usage) -> Result<(Option<u32>, Option<f64>), Interrupt> {
    let used_up = |limit: &str| {
        let message = format!("the agent used up its {limit} before the work passed verification");
        Interrupt::failed(FailureClass::BudgetExceeded, message)
    };
    let turns = u32::try_from(so_far.turns).unwrap_or(u32::MAX);
    let max_turns = spec.max_turns.map(|max| max.saturating_sub(turns));
    if max_turns == Some(0) {
        return Err(used_up("max_turns"));
    }
    let max_cost_usd = spec.max_cost_usd.map(|max| max - so_far.cost_usd.unwrap_or_default());
    if max_cost_usd.is_some_and(|left| left <= 0.0) {
        return Err(used_up("max_cost_usd"));
    }
    Ok((max_turns, max_cost_usd))
}

async fn stage(
    attempt: &Attempt,
    spec: &BuildSpec,
    workspace: &Workspace,
    start: Option<&CommitId>,
) -> Result<Changes, Interrupt> {
    let (dirs, start, caps) = (workspace.workdir(), start.cloned(), attempt.caps());
    let droppings = agent::droppings(spec.agent);
    Ok(blocking(move || git::stage(&dirs, start.as_ref(), &caps, droppings)).await?)
}

async fn commit(
    attempt: &Attempt,
    spec: &BuildSpec,
    workspace: &Workspace,
    parent: Option<CommitId>,
    made: &Made,
) -> Result<CommitId, Interrupt> {
    let (dirs, tree, author) = (workspace.workdir(), made.changes.tree.clone(), attempt.author());
    let message = message(attempt, spec);
    let at = now();
    let commit =
        blocking(move || git::commit(&dirs, &tree, parent.as_ref(), &message, &author, at)).await?;
    workspace.mark_finished(attempt.task.id, attempt.task.fence, &commit)?;
    attempt.committed.store(true, Ordering::Relaxed);
    Ok(commit)
}

/// The commit's message: the one asked for, or the prompt's first line and the
/// prompt; then the trailers, in a paragraph of their own.
fn message(attempt: &Attempt, spec: &BuildSpec) -> String {
    let task = &attempt.task;
    let text = match &spec.commit_message {
        Some(message) => message.trim().to_owned(),
        None => {
            let prompt = spec.prompt.trim();
            let first = prompt.lines().next().unwrap_or_default().trim();
            match first.char_indices().nth(72) {
                None if prompt == first => first.to_owned(),
                None => format!("{first}\n\n{prompt}"),
                Some((cut, _)) => format!("{}…\n\n{prompt}", &first[..cut]),
            }
        }
    };
    format!(
        "{text}\n\nRdev-Task: {}\nRdev-Attempt: {}\nRdev-Lineage: {}\n",
        task.id, task.attempt, task.lineage
    )
}

/// Saves unfinished work of an attempt that was released, or ran out of time
/// or budget, at `refs/rdev/part/…`. It is for people; nothing delivers it.
async fn keep_part(
    attempt: &Attempt,
    site: &Site,
    workspace: &Workspace,
    start: Option<&CommitId>,
    interrupt: &Interrupt,
) {
    let keep = match interrupt {
        Interrupt::Stopped => {
            matches!(attempt.held.stop.why(), Some(Why::Released | Why::TimedOut))
        }
        Interrupt::Failed(Failure { class, .. }) => {
            matches!(class, FailureClass::BudgetExceeded | FailureClass::Timeout)
        }
    };
    if !keep {
        return;
    }
    let (dirs, start, caps) = (workspace.workdir(), start.cloned(), attempt.caps());
    let author = attempt.author();
    let part = OwnRef::Part(attempt.task.id, attempt.task.fence);
    let message = format!("Unfinished work of task {}\n", attempt.task.id);
    let at = now();
    // The attempt's own token has fired already.
    let token = CancellationToken::new();
    let saved = async {
        let commit = blocking(move || {
            let changes = git::stage(&dirs, start.as_ref(), &caps, &[])?;
            if changes.total == 0 {
                return Ok(None);
            }
            git::commit(&dirs, &changes.tree, start.as_ref(), &message, &author, at).map(Some)
        });
        let Some(commit) = commit.await? else { return Ok(false) };
        deliver::push_own(attempt, site, workspace, part, &commit, &token).await?;
        Ok::<_, Interrupt>(true)
    };
    let timer = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        token.cancel();
        std::future::pending::<()>().await;
    };
    // Not left alone when the time is over: the folder is the next attempt's.
    let saved = tokio::select! {
        saved = saved => saved,
        () = timer => unreachable!("the timer never ends"),
    };
    match saved {
        Ok(true) => attempt.note(format!("unfinished work is at refs/{}", part.path())),
        Ok(false) => {}
        Err(error) => {
            warn!(task = %attempt.task.id, ?error, "unfinished work was not saved");
        }
    }
}
