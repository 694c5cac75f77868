//! The commit of an agent's work, and its message.

use rdev_domain::foreign_text::inert;
use rdev_domain::git::CommitId;
use rdev_domain::spec::BuildSpec;

use super::output::AgentOutput;
use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::workspace::Workspace;

pub(super) async fn commit(
    attempt: &Attempt,
    spec: &BuildSpec,
    workspace: &Workspace,
    parent: Option<&CommitId>,
    output: &AgentOutput,
) -> Result<CommitId, Interrupt> {
    let (dirs, tree, author) = (workspace.workdir(), &output.changes.tree, attempt.author());
    let (machine, message) = (attempt.machine(), message(attempt, spec));
    let commit = machine.commit(&dirs, tree, parent, &message, &author).await?;
    workspace.record_finished(attempt.task.id, attempt.task.fence, &commit)?;
    Ok(commit)
}

/// The commit message: the one of the build, or the first line of the prompt and the whole
/// prompt. The trailers follow in a paragraph of their own.
fn message(attempt: &Attempt, spec: &BuildSpec) -> String {
    let task = &attempt.task;
    let text = match &spec.commit_message {
        Some(message) => message.trim().to_owned(),
        None => {
            // Forges act on what they find in messages, too.
            let prompt = inert(spec.prompt.trim());
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
