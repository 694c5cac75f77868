//! `rdev up` on a data folder: API and runner in one process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::api::Place;
use super::checker::processes::VARIABLE;
use super::processes::{Process, Reach};

/// How long a start or a stop may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The id of the one worker.
pub(crate) const WORKER: &str = "only";

/// The server.
pub(crate) struct OneMachine {
    program: PathBuf,
    data: PathBuf,
    log: PathBuf,
    mark: String,
    process: Option<Process>,
}

impl OneMachine {
    /// Writes the configuration. `more` is for its end.
    pub(crate) fn configure(
        program: PathBuf,
        data: PathBuf,
        log: PathBuf,
        mark: &str,
        more: &str,
    ) -> Result<Self> {
        let config = format!(
            r#"
default_agent = "command"

[api]
rate_limit_per_s = 0

[git]
name = "{rdev}"
email = "rdev@chaos.invalid"
allow_private_addresses = true
timeout_s = 10

[runner]
worker_id = "{WORKER}"
slots = 6
term_grace_s = 1
drain_s = 2

[agents.command]
program = "/bin/sh"
args = ["-c", 'eval "$RDEV_PROMPT"']
set_env = {{ {VARIABLE} = "{mark}" }}

{more}
"#,
            rdev = super::RDEV,
        );
        fs::write(data.join("rdev.toml"), config)?;
        Ok(Self { program, data, log, mark: mark.to_owned(), process: None })
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Starts it and waits until it is ready: where it is now. A start that failed because the disk
    /// is full is tried again.
    pub(crate) async fn start(&mut self) -> Result<Place> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.try_start(end).await {
                Ok(place) => return Ok(place),
                Err(error) if Instant::now() > end => return Err(error),
                // The disk may have been full, which is told in its log.
                Err(_) if self.disk_was_full() => sleep(Duration::from_millis(200)).await,
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_start(&mut self, end: Instant) -> Result<Place> {
        let mut command = Command::new(&self.program);
        command
            .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&self.data)
            .current_dir(&self.data)
            .env_clear()
            .env("HOME", &self.data)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env(VARIABLE, &self.mark);
        let mut process = Process::start("rdev up", &mut command, &self.log)?;
        loop {
            // The file of a killed predecessor has another pid.
            let ready = fs::read_to_string(self.data.join("rdev.json")).ok();
            let ready = ready.and_then(|text| serde_json::from_str::<Value>(&text).ok());
            if let Some(ready) = ready
                && ready["pid"].as_u64() == Some(u64::from(process.id()))
            {
                let text = |name: &str| ready[name].as_str().map(str::to_owned).context("no text");
                self.process = Some(process);
                return Ok(Place { url: text("url")?, key: text("admin_key")? });
            }
            process.still_runs()?;
            if Instant::now() > end {
                bail!("rdev up was not ready in time:\n{}", process.last_words());
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    fn disk_was_full(&self) -> bool {
        let log = fs::read(&self.log).unwrap_or_default();
        let end = String::from_utf8_lossy(&log[log.len().saturating_sub(4096)..]).into_owned();
        end.contains("No space left") || end.contains("disk is full")
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.take().context("rdev up does not run")?.kill(Reach::Process)
    }

    /// SIGSTOP for a while.
    pub(crate) async fn pause(&self, pause: Duration) -> Result<()> {
        self.process.as_ref().context("rdev up does not run")?.pause(pause).await
    }

    /// SIGTERM, and waits until it has drained.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("rdev up does not run")?;
        process.stop(PATIENCE).await
    }

    /// Whether it has ended by itself.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::still_runs)
    }
}
