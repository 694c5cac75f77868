//! The size limit of an item. Nearly every task fits. What is in the way is shortened: the output
//! of commands, the list of changed files, and what attempts say about their failures. What a task
//! is asked to do is never shortened, so it is limited when the task is enqueued.

use rdev_domain::Invalid;
use rdev_domain::failure::Failure;
use rdev_domain::ports::PortResult;
use rdev_domain::record::Format;
use rdev_domain::result::TaskResult;
use rdev_domain::task::Task;
use serde::Serialize;

use crate::error;

/// The most bytes of a task's record: an item has at most 400 KB.
const MAX_BODY_BYTES: usize = 390 * 1024;

/// The most bytes of what a task is asked to do, as JSON. The API's limit for a request is lower by
/// default.
const MAX_WORK_BYTES: usize = 300 * 1024;

/// An output is not made shorter than this.
const MIN_LEN: usize = 16;

/// A text for people is not made shorter than this.
const MIN_TEXT: usize = 200;

/// Encodes a new task as JSON.
///
/// # Errors
/// `Invalid` if what it is asked to do is too large.
pub(super) fn encode_new(task: &Task, format: Format) -> PortResult<String> {
    if size(&task.work) > MAX_WORK_BYTES {
        let why = format!("must have at most {MAX_WORK_BYTES} bytes as JSON");
        return Err(Invalid::new("the task's spec", why).into());
    }
    format.encode(task).map_err(error::defect)
}

/// Encodes a task as JSON, and shortens it if it is too large for an item.
pub(super) fn encode(task: &mut Task, format: Format) -> PortResult<String> {
    let mut body = format.encode(task).map_err(error::defect)?;
    while body.len() > MAX_BODY_BYTES && shorten(task) {
        body = format.encode(task).map_err(error::defect)?;
    }
    Ok(body)
}

/// Halves the largest part that may be shortened. Returns whether there was any.
fn shorten(task: &mut Task) -> bool {
    let result_first = size(&task.result) > size(&task.attempts) + size(&task.failure);
    let parts: [fn(&mut Task) -> bool; 2] = if result_first {
        [shorten_result, shorten_failures]
    } else {
        [shorten_failures, shorten_result]
    };
    parts.into_iter().any(|shorten| shorten(task))
}

fn size(part: &impl Serialize) -> usize {
    serde_json::to_string(part).map_or(0, |text| text.len())
}

fn shorten_result(task: &mut Task) -> bool {
    match &mut task.result {
        Some(TaskResult::Build(result)) if !result.files_changed.is_empty() => {
            // The result still has the number of all changed files.
            result.files_changed.truncate(result.files_changed.len() / 2);
            true
        }
        Some(TaskResult::Build(result)) => {
            let warnings = result.warnings.iter_mut().map(|warning| &mut warning.message);
            // The spec has the whole commands.
            let commands = result.verify.iter_mut().map(|run| &mut run.command);
            halve_longest(warnings.chain(commands).chain([&mut result.summary]).collect())
        }
        Some(TaskResult::Check(result)) => {
            let longest = result.commands.iter().map(|run| run.output.len()).max().unwrap_or(0);
            if longest <= MIN_LEN {
                return false;
            }
            for run in &mut result.commands {
                if run.output.len() > longest / 2 {
                    // An output is the end of what was printed: its beginning is removed.
                    let from = run.output.len() - longest / 2;
                    run.output.replace_range(..run.output.ceil_char_boundary(from), "…");
                }
            }
            longest > 2 * MIN_LEN
        }
        None => false,
    }
}

/// Shortens what the attempts say about their failures, and then forgets the older half of them.
fn shorten_failures(task: &mut Task) -> bool {
    let attempts = task.attempts.iter_mut().filter_map(|attempt| attempt.failure.as_mut());
    let failures = attempts.chain(&mut task.failure);
    if halve_longest(failures.map(message).collect()) {
        return true;
    }
    let older = task.attempts.len() / 2;
    task.attempts.drain(..older);
    older > 0
}

fn message(failure: &mut Failure) -> &mut String {
    &mut failure.message
}

/// Cuts the texts that are longer than half of the longest one. Returns whether there was any.
fn halve_longest(texts: Vec<&mut String>) -> bool {
    let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
    if longest <= MIN_TEXT {
        return false;
    }
    for text in texts.into_iter().filter(|text| text.len() > longest / 2) {
        text.truncate(text.floor_char_boundary(longest / 2));
        text.push('…');
    }
    true
}

#[cfg(test)]
mod tests {
    use rdev_domain::failure::FailureClass;
    use rdev_domain::ids::{Fence, TaskId};
    use rdev_domain::result::{CheckResult, CommandRun, Usage};
    use rdev_domain::spec::{BuildSpec, CheckSpec, Work};
    use rdev_domain::task::Attempt;
    use rdev_domain::time::Timestamp;
    use ulid::Ulid;

    use super::*;

    /// A build with the longest prompt that is accepted.
    fn long_build() -> Task {
        let quotes = "\"".repeat(MAX_WORK_BYTES / 2 - 500);
        let project = "site".parse().expect("a slug");
        let work = Work::Build(BuildSpec::of(quotes));
        Task::new(TaskId(Ulid::from_parts(1, 1)), project, work, Timestamp::from_millis(0))
    }

    /// The longest failure as JSON: six bytes for each of its characters.
    fn long_failure() -> Failure {
        Failure::new(FailureClass::Infra, "\u{1}".repeat(5000))
    }

    #[test]
    fn a_build_of_fifty_attempts_with_the_longest_texts_fits_and_keeps_what_it_is_asked_to_do() {
        let mut task = long_build();
        encode_new(&task, Format::CURRENT).expect("it is accepted");
        task.failure = Some(long_failure());
        for number in 1..=50 {
            task.attempts.push(Attempt {
                number,
                fence: Fence(number.into()),
                worker_id: "w1".parse().expect("a worker's id"),
                started_at: Timestamp::from_millis(0),
                ended_at: None,
                failure: Some(long_failure()),
                usage: Usage::default(),
            });
            let work = task.work.clone();
            let body = encode(&mut task, Format::CURRENT).expect("JSON");
            assert!(body.len() <= MAX_BODY_BYTES, "attempt {number}: {}", body.len());
            assert_eq!(serde_json::from_str::<Task>(&body).expect("a task"), task);
            assert_eq!(task.work, work);
            let newest = task.attempts.last().expect("it is kept");
            let failure = newest.failure.as_ref().expect("it failed");
            assert_eq!((newest.number, failure.class), (number, FailureClass::Infra));
            assert!(failure.message.len() >= MIN_TEXT / 2, "{}", failure.message.len());
        }
        assert_eq!(task.attempts.len(), 50, "messages are cut before attempts are forgotten");
    }

    #[test]
    fn a_build_that_is_asked_to_do_too_much_is_refused() {
        let mut task = long_build();
        task.work = Work::Build(BuildSpec::of("x".repeat(MAX_WORK_BYTES)));
        let refused = encode_new(&task, Format::CURRENT).expect_err("it is too large");
        assert!(refused.to_string().contains("307200 bytes"), "{refused}");
    }

    #[test]
    fn a_check_with_outputs_too_large_for_an_item_keeps_the_end_of_each() {
        let work = CheckSpec { branch: None, commands: vec!["make".to_owned()], timeout_s: 60 };
        let id = TaskId(Ulid::from_parts(1, 1));
        let project = "site".parse().expect("a slug");
        let mut task = Task::new(id, project, Work::Check(work), Timestamp::from_millis(0));
        let run = |output: String| CommandRun {
            command: "make".to_owned(),
            exit_code: Some(0),
            duration_ms: 1,
            output,
        };
        let outputs =
            (0..20).map(|n| run(if n == 0 { "ok".into() } else { "\u{1b}ü".repeat(5000) }));
        let commit_sha = "0".repeat(40).parse().expect("a commit");
        let result = CheckResult { commit_sha, commands: outputs.collect() };
        task.result = Some(TaskResult::Check(result));
        let whole = serde_json::to_string(&task).expect("JSON").len();
        let body = encode(&mut task, Format::CURRENT).expect("JSON");
        assert!(
            whole > MAX_BODY_BYTES
                && body.len() <= MAX_BODY_BYTES
                && body.len() > MAX_BODY_BYTES / 4,
            "{}",
            body.len()
        );
        assert_eq!(serde_json::from_str::<Task>(&body).expect("a task"), task);
        let Some(TaskResult::Check(result)) = &task.result else { panic!("it is a check") };
        assert_eq!(result.commands[0].output, "ok");
        assert!(result.commands[1].output.starts_with('…'));
    }
}
