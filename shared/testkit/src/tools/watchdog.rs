//! Programs that end with their test, however that ends.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Runs a program, and ends it with all that it started when the test's end of the pipe
/// is closed: by `Drop`, or because the test is gone, even by SIGKILL.
const SCRIPT: &str = r#"
import os, shutil, signal, subprocess, sys, threading
folder = sys.argv[1]
with open(os.path.join(folder, "log"), "wb") as log:
    child = subprocess.Popen(sys.argv[2:], cwd=folder, stdin=subprocess.DEVNULL,
                             stdout=log, stderr=log, start_new_session=True)
def watch():
    child.wait()
    open(os.path.join(folder, "ended"), "wb").close()
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
sys.stdin.buffer.read()
try:
    os.killpg(child.pid, signal.SIGKILL)
except ProcessLookupError:
    pass
watcher.join()
shutil.rmtree(folder, ignore_errors=True)
"#;

/// A program in a folder of its own. Both go when this is dropped, or with the process.
#[derive(Debug)]
pub(crate) struct Watched {
    folder: PathBuf,
    watchdog: Child,
}

/// The command that runs a program watched by `python`; its arguments and environment are to be
/// added.
pub(crate) fn command(
    python: impl AsRef<OsStr>,
    folder: &TempDir,
    program: impl AsRef<OsStr>,
) -> Command {
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT]).arg(folder.path()).arg(program);
    command
}

impl Watched {
    /// Starts what [`command`] has made for the folder.
    pub(crate) fn start(mut command: Command, folder: TempDir) -> Result<Self> {
        // An interrupt at the terminal ends the test; that ends the watchdog.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        let watchdog = command.spawn().context("cannot start a watchdog: install Python 3")?;
        // From here on the watchdog removes it.
        Ok(Self { folder: folder.keep(), watchdog })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the program has ended by itself.
    pub(crate) fn ended(&self) -> bool {
        self.folder.join("ended").exists()
    }

    /// What it has printed so far.
    pub(crate) fn log(&self) -> String {
        fs::read(self.folder.join("log"))
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        // Its folder is gone then.
        let _ = self.watchdog.wait();
    }
}
