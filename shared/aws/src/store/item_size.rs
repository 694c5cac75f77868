//! Making a task fit into one item. Nearly every one does: what does not is the output of many
//! commands, or a list of a thousand long names, and of these a part is left out.

use rdev_domain::ports::PortResult;
use rdev_domain::result::TaskResult;
use rdev_domain::task::Task;

use crate::error;

/// What a task's record may have, of the 400 KB of an item.
const MOST: usize = 390 * 1024;

/// What an output or a list that is cut has at least.
const LEAST: usize = 16;

/// A task as JSON, cut to what an item takes.
pub(super) fn fitted(task: &mut Task) -> PortResult<String> {
    let mut body = serde_json::to_string(task).map_err(error::defect)?;
    while body.len() > MOST && cut(task) {
        body = serde_json::to_string(task).map_err(error::defect)?;
    }
    Ok(body)
}

/// Halves what may be cut; whether there was anything.
fn cut(task: &mut Task) -> bool {
    match &mut task.result {
        Some(TaskResult::Build(result)) if result.files_changed.len() > LEAST => {
            // How many there were stays told.
            result.files_changed.truncate(result.files_changed.len() / 2);
            true
        }
        Some(TaskResult::Check(result)) => {
            let longest = result.commands.iter().map(|run| run.output.len()).max().unwrap_or(0);
            if longest <= LEAST {
                return false;
            }
            for run in &mut result.commands {
                if run.output.len() > longest / 2 {
                    // An output is the end of what was printed, and stays that.
                    let from = run.output.len() - longest / 2;
                    run.output.replace_range(..run.output.ceil_char_boundary(from), "…");
                }
            }
            longest > 2 * LEAST
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
    fn a_check_whose_outputs_are_too_much_for_an_item_keeps_the_end_of_each() {
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
        let body = fitted(&mut task).expect("JSON");
        assert!(whole > MOST && body.len() <= MOST && body.len() > MOST / 4, "{}", body.len());
        assert_eq!(serde_json::from_str::<Task>(&body).expect("a task"), task);
        let Some(TaskResult::Check(result)) = &task.result else { panic!("it is a check") };
        assert_eq!(result.commands[0].output, "ok");
        assert!(result.commands[1].output.starts_with('…'));
    }
}
