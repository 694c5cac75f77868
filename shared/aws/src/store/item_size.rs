//! The size limit of an item. Nearly every task fits. A task with the output of many commands, or
//! with a list of a thousand long file names, is shortened until it fits.

use rdev_domain::ports::PortResult;
use rdev_domain::result::TaskResult;
use rdev_domain::task::Task;

use crate::error;

/// The most bytes of a task's record: an item has at most 400 KB.
const MAX_BODY_BYTES: usize = 390 * 1024;

/// An output or a list is not made shorter than this.
const MIN_LEN: usize = 16;

/// Encodes a task as JSON, and shortens it if it is too large for an item.
pub(super) fn encode(task: &mut Task) -> PortResult<String> {
    let mut body = serde_json::to_string(task).map_err(error::defect)?;
    while body.len() > MAX_BODY_BYTES && shorten(task) {
        body = serde_json::to_string(task).map_err(error::defect)?;
    }
    Ok(body)
}

/// Halves what may be shortened. Returns whether there is anything to shorten.
fn shorten(task: &mut Task) -> bool {
    match &mut task.result {
        Some(TaskResult::Build(result)) if result.files_changed.len() > MIN_LEN => {
            // The result still has the number of all changed files.
            result.files_changed.truncate(result.files_changed.len() / 2);
            true
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
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use rdev_domain::ids::TaskId;
    use rdev_domain::result::{CheckResult, CommandRun};
    use rdev_domain::spec::{CheckSpec, Work};
    use rdev_domain::time::Timestamp;
    use ulid::Ulid;

    use super::*;

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
        let body = encode(&mut task).expect("JSON");
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
