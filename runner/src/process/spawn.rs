//! Starts a tree: guardian, agent, pipes.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, spawn_blocking};

use super::{Exit, Launch, MARKER, Marker, RunError, guardian, tree};

/// How long after KILL a process that is still alive is an error.
const KILL_TAKES: Duration = Duration::from_secs(10);

/// A running tree.
pub(super) struct Tree {
    guardian: Child,
    guardian_pid: i32,
    /// Leader of its own session and group.
    agent: i32,
    marker: Marker,
    report: pipe::Receiver,
    status: [u8; 4],
    status_read: usize,
    stdin: Option<AbortHandle>,
    finished: bool,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

/// Starts the program of `launch`.
pub(super) async fn start(mut launch: Launch) -> Result<Tree, RunError> {
    let input = launch.stdin.take();
    let program = launch.program.display().to_string();
    let failed = |source| RunError::Spawn { program: program.clone(), source };
    let (report, reporter) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    let report = pipe::Receiver::from_owned_fd(report).map_err(failed)?;
    let command = command(&launch, input.is_some(), &reporter).map_err(failed)?;
    let mut child = on_spawn_thread(command, reporter).await.map_err(failed)?;

    let stdin = child.stdin.take().zip(input);
    let stdin = stdin.map(|(pipe, bytes)| tokio::spawn(feed(pipe, bytes)).abort_handle());
    let lost = || failed(io::Error::other("it was killed while it started"));
    let mut tree = Tree {
        guardian_pid: child.id().and_then(|id| i32::try_from(id).ok()).ok_or_else(lost)?,
        stdout: child.stdout.take(),
        stderr: child.stderr.take(),
        guardian: child,
        agent: 0,
        marker: launch.marker,
        report,
        status: [0; 4],
        status_read: 0,
        stdin,
        finished: false,
    };
    tree.agent = tree.next_report().await.ok_or_else(lost)?;
    Ok(tree)
}

fn command(launch: &Launch, has_input: bool, reporter: &OwnedFd) -> io::Result<Command> {
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.args)
        .env_clear()
        .envs(launch.env.iter().map(|(name, value)| (name, value)))
        .env(MARKER, launch.marker.folder())
        .current_dir(&launch.cwd)
        .stdin(if has_input { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let (runner, report) = (rustix::process::getpid().as_raw_pid(), reporter.as_raw_fd());
    let folder = CString::new(launch.marker.folder().as_os_str().as_bytes())?;
    // SAFETY: it runs between fork and exec, and the descriptor is open until the spawn is over:
    // `on_spawn_thread` holds it.
    unsafe { command.pre_exec(move || guardian::split(runner, report, &folder)) };
    Ok(command)
}

/// Spawns on a thread that never ends: the kernel tells a child that its parent died when the
/// *thread* that made it ends, and threads of a runtime come and go.
async fn on_spawn_thread(mut command: Command, reporter: OwnedFd) -> io::Result<Child> {
    type Job = Box<dyn FnOnce() + Send>;
    static JOBS: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        // Without the thread the channel is closed, and every spawn fails with that.
        let _ = std::thread::Builder::new()
            .name("spawn".to_owned())
            .spawn(move || jobs.into_iter().for_each(|job| job()));
        sender
    });
    let (answer, spawned) = oneshot::channel();
    let runtime = Handle::current();
    let job = Box::new(move || {
        let _entered = runtime.enter();
        let mut outcome = command.spawn();
        // A file that somebody has just written, while another thread forked.
        for _ in 0..50 {
            let Err(error) = &outcome else { break };
            if error.kind() != io::ErrorKind::ExecutableFileBusy {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            outcome = command.spawn();
        }
        drop(reporter);
        let _ = answer.send(outcome);
    });
    let ended = || io::Error::other("the thread that starts processes has ended");
    jobs.send(job).map_err(|_| ended())?;
    spawned.await.map_err(|_| ended())?
}

/// A program that does not read its input, or ends before, is not an error.
async fn feed(mut pipe: ChildStdin, bytes: Vec<u8>) {
    let _ = pipe.write_all(&bytes).await;
}

impl Tree {
    /// Waits for the agent's end. May be dropped and called again.
    pub(super) async fn exited(&mut self) -> Exit {
        // Without a report the guardian was killed, and the agent with it.
        let killed = Exit { code: None, signal: Some(libc::SIGKILL) };
        self.next_report().await.map_or(killed, Exit::from_wait)
    }

    /// The next number that the guardian writes. May be dropped and called again.
    async fn next_report(&mut self) -> Option<i32> {
        while self.status_read < self.status.len() {
            self.report.readable().await.ok()?;
            match self.report.try_read(&mut self.status[self.status_read..]) {
                Ok(0) => return None,
                Ok(read) => self.status_read += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
        self.status_read = 0;
        Some(i32::from_ne_bytes(self.status))
    }

    /// TERM for the agent's process group.
    pub(super) fn terminate(&self) {
        if let Some(group) = Pid::from_raw(self.agent) {
            // It fails only when the group has ended.
            let _ = kill_process_group(group, Signal::TERM);
        }
    }

    /// Sends KILL to everything that is left, until nothing is left.
    pub(super) async fn finish(&mut self) -> Result<(), RunError> {
        if let Some(task) = self.stdin.take() {
            task.abort();
        }
        let until = Instant::now() + KILL_TAKES;
        // Most trees have ended by now.
        let mut patience = Duration::from_millis(20);
        let mut killed = Vec::new();
        loop {
            let waited = tokio::time::timeout(patience, self.guardian.wait()).await;
            let guardian_gone = waited.is_ok();
            patience = Duration::from_millis(5);
            let (guardian, marker) = (self.guardian_pid, self.marker.clone());
            let found = spawn_blocking(move || tree::kill_tree(guardian, &marker)).await;
            let found = found.unwrap_or_default();
            killed.extend(&found);
            tree::reap(&mut killed);
            if found.is_empty() && guardian_gone {
                self.finished = true;
                return Ok(());
            }
            if Instant::now() > until {
                return Err(RunError::Survivors(found));
            }
            if guardian_gone {
                tokio::time::sleep(patience).await;
            }
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if !self.finished {
            // While the guardian lives, its children are known. It is killed next.
            tree::kill_tree(self.guardian_pid, &self.marker);
        }
    }
}
