//! Processes that a campaign starts, kills, pauses and lets end.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::time::{Instant, sleep};

/// How often the end of a process is looked for.
const PAUSE: Duration = Duration::from_millis(5);

/// The lines of a log that an error shows.
const LAST_LINES: usize = 15;

/// A process in a group of its own. It is killed with its group when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// It was killed and waited for: its id may be another's.
    gone: bool,
}

/// What a kill reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The process alone.
    Process,
    /// Everything that it has started and that has not left its group.
    Group,
}

impl Process {
    /// Starts a command; what it says goes to the end of `log`.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let context = || format!("cannot start {name}");
        let said = File::options().create(true).append(true).open(log).with_context(context)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).process_group(0);
        let child = command.spawn().with_context(context)?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), gone: false })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself, and how: an error that shows its last words.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.last_words()),
        }
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }

    /// SIGKILL, and waits for its end.
    pub(crate) fn kill(&mut self, reach: Reach) -> Result<()> {
        match reach {
            Reach::Process => self.child.kill()?,
            Reach::Group => kill_process_group(self.pid(), Signal::KILL)?,
        }
        self.child.wait()?;
        self.gone = true;
        Ok(())
    }

    /// Sends a signal to the process alone.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid(), signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// SIGSTOP, and SIGCONT after `pause`.
    pub(crate) async fn pause(&self, pause: Duration) -> Result<()> {
        self.signal(Signal::STOP)?;
        sleep(pause).await;
        self.signal(Signal::CONT)
    }

    /// SIGTERM, and waits until it has ended well.
    pub(crate) async fn stop(&mut self, patience: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        let end = Instant::now() + patience;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => {
                    self.gone = true;
                    return Ok(());
                }
                Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.last_words()),
                None if Instant::now() > end => {
                    bail!(
                        "{} has not ended {patience:?} after SIGTERM:\n{}",
                        self.name,
                        self.last_words()
                    )
                }
                None => sleep(PAUSE).await,
            }
        }
    }

    fn pid(&self) -> Pid {
        let raw = self.child.id().cast_signed();
        Pid::from_raw(raw).expect("the id of a process that was started is not 0")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.gone {
            // It may have ended by itself, with others of its group or without.
            let _ = kill_process_group(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}
