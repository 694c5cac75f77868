//! Opening a pull request for the delivered commit, and what one tells of a commit that was
//! delivered.

use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::failure::FailureClass;
use rdev_domain::git::CommitId;
use rdev_domain::ports::{Lack, Lacked, PortError, PullRequest, PullRequestBranches};
use rdev_domain::pull_request::{Description, title};
use rdev_domain::result::{BuildResult, Warning};

use super::push::PushContext;
use super::target::{BuildTarget, own_branch};
use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;

/// The time limit for the forge to open or find a pull request.
const FORGE_TIMEOUT: Duration = Duration::from_secs(60);

/// The branches of a build's pull request. It is younger than the lineage's first task.
fn branches_of(attempt: &Attempt, target: &BuildTarget) -> PullRequestBranches {
    PullRequestBranches {
        git_url: target.remote.url.clone(),
        head: target.branch.clone(),
        base: target.base_branch.clone(),
        since: attempt.task.lineage.created_at(),
    }
}

/// What a pull request tells of a commit that is on no branch any more: it was pushed, merged in
/// another form (squashed, say), and its branch deleted. The commit of the lineage that it had.
///
/// # Errors
/// When the forge cannot tell now.
pub(super) async fn landed(
    attempt: &Attempt,
    target: &BuildTarget,
    commits: &[CommitId],
) -> Result<Option<CommitId>, Interrupt> {
    let branches = branches_of(attempt, target);
    let found = within(attempt, attempt.context.ports.forge.find_pull_request(&branches)).await?;
    let found = match found {
        Ok(Some(found)) => found,
        Ok(None) | Err(PortError::NotSupported { .. } | PortError::NotFound { .. }) => {
            return Ok(None);
        }
        // A person decides, and may see there what rdev may not.
        Err(PortError::Denied { .. }) => return Ok(None),
        Err(error) => return Err(Interrupt::failed(FailureClass::Infra, chain(&error))),
    };
    if commits.contains(&found.commit) {
        return Ok(Some(found.commit));
    }
    // People may have added commits to it. The branch of that name is the lineage's own.
    let own = target.branch.as_str() == own_branch(attempt.task.lineage);
    Ok(commits.last().filter(|_| own).cloned())
}

/// Waits for the forge as long as the attempt may.
async fn within<T>(attempt: &Attempt, call: impl Future<Output = T>) -> Result<T, Interrupt> {
    let answer = tokio::select! {
        answer = tokio::time::timeout(FORGE_TIMEOUT, call) => answer,
        () = attempt.lease.stop.token().cancelled() => return Err(Interrupt::Stopped),
    };
    answer.map_err(|_| Interrupt::failed(FailureClass::Infra, "the forge did not answer in time"))
}

/// Opens the pull request of a delivered commit, or finds it, and completes it. What the forge
/// refuses is a warning of the result.
pub(super) async fn open(
    push: &PushContext<'_>,
    commit: &CommitId,
    result: &mut BuildResult,
) -> Result<(), Interrupt> {
    let attempt = push.attempt;
    let request = request(push, commit, result);
    match within(attempt, attempt.context.ports.forge.pull_request(&request)).await? {
        Ok(opened) => {
            result.pull_request_url = Some(opened.url);
            result.warnings.extend(opened.lacks.into_iter().map(warning));
        }
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

/// What the forge is asked for. No secret of ours is in it, whoever wrote the text.
fn request(push: &PushContext<'_>, commit: &CommitId, result: &BuildResult) -> PullRequest {
    let (attempt, spec) = (push.attempt, push.spec);
    let (task, redactor) = (&attempt.task, &attempt.context.redactor);
    let redacted = |text: &str| redactor.redact(text).into_owned();
    let prompt = redacted(&spec.prompt);
    let mut told = result.clone();
    for run in &mut told.verify {
        run.command = redacted(&run.command);
    }
    for change in &mut told.files_changed {
        change.path = redacted(&change.path);
    }
    let subject = spec.commit_message.as_deref().map_or_else(|| prompt.clone(), redacted);
    let page = attempt.context.config.public_url.as_deref().map(|base| task.page(base));
    let description = Description {
        task: task.id,
        attempt: task.attempt,
        page: page.as_deref(),
        prompt: &prompt,
        result: &told,
        usage: task.usage.plus(*attempt.lease.usage.borrow()),
    };
    let options = (*spec.pull_request_options).clone().complete();
    PullRequest {
        branches: branches_of(attempt, push.target),
        commit: commit.clone(),
        title: title(&subject, &format!("Build {}", task.id)),
        body: description.body(),
        draft: options.draft.unwrap_or_default(),
        labels: options.labels.unwrap_or_default(),
        reviewers: options.reviewers.unwrap_or_default(),
    }
}

/// What is told of something that a pull request lacks.
fn warning(lack: Lack) -> Warning {
    let Lack { what, why } = lack;
    let (code, message) = match what {
        Lacked::Draft => {
            ("draft_not_set", format!("the pull request was opened, but not as a draft: {why}"))
        }
        Lacked::Label(label) => {
            ("label_not_set", format!("the pull request has no label {:?}: {why}", label.as_str()))
        }
        Lacked::Reviewer(reviewer) => {
            ("reviewer_not_asked", format!("{reviewer} was not asked for a review: {why}"))
        }
    };
    Warning { code: code.to_owned(), message }
}
