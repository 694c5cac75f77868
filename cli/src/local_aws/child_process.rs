//! Processes that end with this one, whatever the reason: they watch their standard input.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A process that ends when its standard input is closed.
pub(super) struct ChildProcess {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl ChildProcess {
    /// Runs `program` below `script`, which watches the standard input for it.
    pub(super) fn command(script: &Path, program: &Path) -> Command {
        let mut command = Command::new("python3");
        command.arg(script).arg(program);
        command
    }

    /// Starts a command that watches its standard input.
    pub(super) fn spawn(command: &mut Command) -> std::io::Result<Self> {
        // An interrupt at the terminal reaches only this process, which then ends the others.
        command.process_group(0).stdin(Stdio::piped());
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        Ok(Self { child, stdin })
    }

    /// Its standard output, if it is a pipe.
    pub(super) fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Makes the script send SIGTERM, unless the process has ended.
    pub(super) async fn terminate(&mut self) {
        if let Some(stdin) = &mut self.stdin {
            drop(stdin.write_all(b"t").await);
        }
    }

    /// Closes its standard input, so that it ends.
    pub(super) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Its exit status, if it has ended.
    pub(super) fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits until it ends.
    pub(super) async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }
}
