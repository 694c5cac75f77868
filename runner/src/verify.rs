//! The verify phase: shell commands in the checkout, supervised like an agent.

use std::path::PathBuf;
use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::failure::FailureClass;
use rdev_domain::result::{CommandRun, VerifyRun};
use tokio::time::Instant;

use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::workspace::Workspace;
use crate::process::{Ended, Flow, Launch, Limits, Marker, Stream};

/// The number of bytes of a command's output that are kept.
const OUTPUT_BYTES: usize = 16 * 1024;

/// Runs the commands in order until one fails or the deadline passes. Returns every command that
/// ran; [`passed`] tells whether all of them succeeded.
pub(crate) async fn run(
    attempt: &Attempt,
    workspace: &Workspace,
    commands: &[String],
    deadline: Instant,
) -> Result<Vec<CommandRun>, Interrupt> {
    let mut runs = Vec::new();
    for command in commands {
        let run = run_one(attempt, workspace, command, deadline).await?;
        let succeeded = run.exit_code == Some(0);
        attempt.note(format!(
            "verify: {} `{command}` in {} ms",
            if succeeded { "passed" } else { "failed" },
            run.duration_ms
        ));
        runs.push(run);
        if !succeeded {
            break;
        }
    }
    Ok(runs)
}

/// Whether every command that ran succeeded.
pub(crate) fn passed(runs: &[CommandRun]) -> bool {
    runs.iter().all(|run| run.exit_code == Some(0))
}

/// What a build's record keeps of the commands.
pub(crate) fn told(runs: &[CommandRun]) -> Vec<VerifyRun> {
    let told = |run: &CommandRun| VerifyRun {
        command: run.command.clone(),
        exit_code: run.exit_code,
        duration_ms: run.duration_ms,
        passed: run.exit_code == Some(0),
    };
    runs.iter().map(told).collect()
}

/// The output of the first command that failed, for the agent or for a failure's message.
pub(crate) fn complaint(runs: &[CommandRun]) -> String {
    let Some(failed) = runs.iter().find(|run| run.exit_code != Some(0)) else {
        return String::new();
    };
    let status = failed.exit_code.map_or("a signal".to_owned(), |code| format!("status {code}"));
    format!("`{}` ended with {status}:\n{}", failed.command, failed.output)
}

async fn run_one(
    attempt: &Attempt,
    workspace: &Workspace,
    command: &str,
    deadline: Instant,
) -> Result<CommandRun, Interrupt> {
    let launch = Launch {
        program: PathBuf::from("/bin/sh"),
        args: vec!["-c".into(), command.into()],
        env: crate::agent::base_environment(&workspace.home(), &workspace.tmp()),
        cwd: workspace.workdir().checkout,
        stdin: None,
        marker: Marker::new(workspace.root()),
        grace: Duration::from_secs(attempt.context.config.runner.term_grace_s),
    };
    let limits = Limits { deadline: deadline.into_std(), stall: None };
    let begun = Instant::now();
    let mut output = Tail::default();
    let stop = attempt.lease.stop.token();
    let mut on_line = |_: Stream, line: &str| {
        output.add(&attempt.context.redactor.redact(line));
        Flow::Continue
    };
    let ended = attempt.machine().run_command(launch, limits, stop, &mut on_line).await;
    let ended = ended.map_err(|error| Interrupt::failed(FailureClass::Infra, chain(&error)))?;
    let exit_code = match ended {
        Ended::Exited(exit) => exit.code,
        Ended::HungAfterResult => Some(0),
        Ended::Stopped => return Err(Interrupt::Stopped),
        Ended::TimedOut | Ended::Stalled => {
            let message = format!("`{command}` did not end within the task's timeout_s");
            return Err(Interrupt::failed(FailureClass::Timeout, message));
        }
    };
    Ok(CommandRun {
        command: command.to_owned(),
        exit_code,
        duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        output: output.text(),
    })
}

/// The last lines of an output.
#[derive(Default)]
struct Tail {
    lines: std::collections::VecDeque<String>,
    bytes: usize,
    cut: bool,
}

impl Tail {
    fn add(&mut self, line: &str) {
        let line = &line[..line.floor_char_boundary(OUTPUT_BYTES / 2)];
        self.bytes += line.len() + 1;
        self.lines.push_back(line.to_owned());
        while self.bytes > OUTPUT_BYTES {
            let Some(first) = self.lines.pop_front() else { break };
            self.bytes -= first.len() + 1;
            self.cut = true;
        }
    }

    fn text(&self) -> String {
        let mut text = if self.cut { "[…]\n".to_owned() } else { String::new() };
        for line in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_a_long_output_is_kept() {
        let mut tail = Tail::default();
        for n in 0..100_000 {
            tail.add(&format!("line {n}"));
        }
        let text = tail.text();
        assert!(text.len() <= OUTPUT_BYTES + 10);
        assert!(text.starts_with("[…]\n") && text.ends_with("line 99999\n"));
    }
}
