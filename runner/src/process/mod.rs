//! One supervised process tree: it starts in a session of its own, is watched, and has ended when
//! [`run`] returns.
//!
//! Killing a process group is not enough: agents run their tools in sessions
//! of their own, and some leave them running. So each tree has a guardian, a
//! bare fork of the runner between it and the agent (see `guardian`): orphans
//! of the tree become its children, and it ends only when it has no children left. Processes that
//! escape nevertheless are found by their environment and their working folder.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

mod guardian;
mod lines;
mod spawn;
mod tree;
mod watch;

/// How long the processes of an earlier runner may take to end.
const LEFTOVERS_END: Duration = Duration::from_secs(10);

/// The environment variable that carries the [`Marker`].
pub const MARKER: &str = "RDEV_ATTEMPT";

/// The program to start, and how it is supervised.
#[derive(Debug, Clone)]
pub struct Launch {
    /// A path, or a name to find in the runner's `PATH`.
    pub program: PathBuf,
    /// Its arguments. Everybody on the machine can read them.
    pub args: Vec<OsString>,
    /// The whole environment without the marker.
    pub env: Vec<(OsString, OsString)>,
    /// The working folder.
    pub cwd: PathBuf,
    /// Written to standard input, which is then closed; `None` is `/dev/null`.
    pub stdin: Option<Vec<u8>>,
    /// Identifies its processes.
    pub marker: Marker,
    /// The time between TERM and KILL, and between its result and TERM.
    pub grace: Duration,
}

/// The folder of an attempt. The attempt's processes have it in their environment.
#[derive(Debug, Clone)]
pub struct Marker(PathBuf);

impl Marker {
    /// `folder` exists and belongs to one tree at a time.
    pub fn new(folder: &Path) -> Self {
        Self(real(folder))
    }

    fn folder(&self) -> &Path {
        &self.0
    }

    /// `NAME=value` as in `/proc/<pid>/environ`.
    fn assignment(&self) -> Vec<u8> {
        [MARKER.as_bytes(), b"=", self.0.as_os_str().as_bytes()].concat()
    }
}

/// `folder` as the kernel writes it in `/proc`: absolute and without links.
fn real(folder: &Path) -> PathBuf {
    folder.canonicalize().unwrap_or_else(|_| folder.to_owned())
}

/// The time limits of a process.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// It is stopped at this time.
    pub deadline: Instant,
    /// It is stopped after so long without output.
    pub stall: Option<Duration>,
}

/// The stream that a line was printed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// How to continue after a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Continue,
    /// The result has been printed: the process has the grace time to end by itself.
    ResultReceived,
    Stop,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself.
    Exited(Exit),
    /// It was stopped, by the token or by [`Flow::Stop`].
    Stopped,
    /// It was stopped after a long time without output.
    Stalled,
    /// It was stopped at the deadline.
    TimedOut,
    /// It was stopped because it did not end after its result. Counts as status 0.
    HungAfterResult,
}

/// An exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The status; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl Exit {
    /// Status 0.
    pub const SUCCESS: Self = Self { code: Some(0), signal: None };

    /// "with status 1", "by signal 9".
    pub(crate) fn describe(self) -> String {
        match (self.code, self.signal) {
            (Some(code), _) => format!("with status {code}"),
            (None, Some(signal)) => format!("by signal {signal}"),
            (None, None) => "for an unknown reason".to_owned(),
        }
    }

    /// From the status of `waitpid`.
    fn from_wait(status: i32) -> Self {
        if libc::WIFEXITED(status) {
            Self { code: Some(libc::WEXITSTATUS(status)), signal: None }
        } else {
            Self { code: None, signal: Some(libc::WTERMSIG(status)) }
        }
    }
}

/// An error while starting or ending a process.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It did not start.
    #[error("cannot start {program}")]
    Spawn {
        program: String,
        #[source]
        source: std::io::Error,
    },
    /// Something of the tree is still alive after KILL.
    #[error("processes of the attempt are still alive after KILL: {0:?}")]
    Survivors(Vec<i32>),
}

/// Runs a process until it has ended and nothing of its tree is left.
///
/// Each line it prints goes to `on_line`: without its end, at most 1 MiB of it, bytes that
/// are not UTF-8 replaced. Any output restarts the stall clock. Background processes that
/// outlive the process are killed. One tree per marker at a time: every process with the marker
/// is killed at the end.
///
/// Do not cancel it by a drop: the tree is then killed, but nothing waits for its end.
///
/// # Errors
/// When it cannot be started, or when something of it survives KILL.
pub async fn run(
    launch: Launch,
    limits: Limits,
    stop: &CancellationToken,
    on_line: impl FnMut(Stream, &str) -> Flow + Send,
) -> Result<Ended, RunError> {
    let grace = launch.grace;
    let mut tree = spawn::start(launch).await?;
    watch::watch(&mut tree, grace, limits, stop, on_line).await
}

/// Prepares this process for running agents. Called once, at the start of a program that
/// has a runner.
///
/// The process becomes the parent of processes that escape from their guardian, so that it can
/// find them. Other processes of its user can no longer read its environment and memory through
/// `/proc`, where credentials are.
///
/// # Errors
/// When the kernel refuses.
pub fn init_process() -> std::io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Kills every process except this one whose marker or working folder lies below `work`: an
/// earlier runner has left them when it died. Waits (at most 10 s) until they have ended, and then
/// (at most 10 s) until the guardians of that runner have ended the rest. Returns the number of
/// those that it has killed itself.
pub fn kill_leftovers(work: &Path) -> usize {
    let work = real(work);
    let killed = tree::kill_below(&work, LEFTOVERS_END);
    tree::wait_for_guardians(&work, LEFTOVERS_END);
    killed
}
