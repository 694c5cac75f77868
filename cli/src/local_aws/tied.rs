//! Processes that end with this one, however it ends: they watch their standard input.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A process that ends when its standard input does.
pub(super) struct Tied {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Tied {
    /// `program` below `tied.py`, the script that ties it.
    pub(super) fn command(script: &Path, program: &Path) -> Command {
        let mut command = Command::new("python3");
        command.arg(script).arg(program);
        command
    }

    /// Starts a command that watches its standard input.
    pub(super) fn spawn(command: &mut Command) -> std::io::Result<Self> {
        // An interrupt at the terminal is for this process alone; it decides about the others.
        command.process_group(0).stdin(Stdio::piped());
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        Ok(Self { child, stdin })
    }

    /// Its output, where that is a pipe.
    pub(super) fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Sends it SIGTERM. One that has ended needs none.
    pub(super) async fn terminate(&mut self) {
        if let Some(stdin) = &mut self.stdin {
            drop(stdin.write_all(b"t").await);
        }
    }

    /// Lets it end.
    pub(super) fn let_go(&mut self) {
        self.stdin = None;
    }

    /// How it has ended, if it has.
    pub(super) fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for its end.
    pub(super) async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }
}
