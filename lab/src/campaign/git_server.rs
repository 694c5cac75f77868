//! A git server as a process of its own, which can be killed, and the proxy before it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdev_testkit::servers::git_http::{GitServer, USER};
use rdev_testkit::servers::proxy::{Fault, On, Proxy, Rule};
use tokio::time::{Instant, sleep};

use super::checker::processes::{self, VARIABLE};
use super::processes::{Process, Reach};

/// How long the server may take to start, and what it has started to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The file with the server's address, beside the repositories.
const ADDRESS: &str = "address";

/// Runs the server until it is killed: the hidden command `git-server`.
///
/// # Errors
/// When the address cannot be written.
pub fn serve(folder: &Path) -> Result<()> {
    let server = GitServer::over(folder.to_owned(), super::RDEV);
    let fresh = folder.join("address.new");
    fs::write(&fresh, server.origin())?;
    fs::rename(fresh, folder.join(ADDRESS))?;
    loop {
        std::thread::park();
    }
}

/// The server, behind a proxy that stays where it is.
pub(crate) struct RemoteGit {
    folder: PathBuf,
    mark: String,
    log: PathBuf,
    server: Option<Process>,
    /// The groups of servers that were killed alone: what they had started may live.
    groups: Vec<u32>,
    proxy: Proxy,
}

impl RemoteGit {
    /// Starts both. The repositories are below `folder`.
    pub(crate) async fn start(
        folder: PathBuf,
        log: PathBuf,
        mark: &str,
        seed: u64,
    ) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        let proxy = Proxy::start("http://127.0.0.1:9", seed);
        let mut git =
            Self { folder, mark: mark.to_owned(), log, server: None, groups: vec![], proxy };
        git.restart().await?;
        Ok(git)
    }

    /// `http://127.0.0.1:<port>`, which stays the same.
    pub(crate) fn origin(&self) -> String {
        self.proxy.endpoint()
    }

    /// What a repository is reached at.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("{}/{name}.git", self.origin())
    }

    pub(crate) fn repository(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.git"))
    }

    /// Lets some requests go wrong from now on.
    pub(crate) fn break_some(&self) {
        let share = |share, fault| Rule::share(share, On::Any, fault);
        self.proxy.plan([
            share(0.012, Fault::LoseAnswer),
            share(0.008, Fault::Gone),
            share(0.008, Fault::Error),
            share(0.002, Fault::Hang),
            share(0.002, Fault::HoldAnswer),
        ]);
    }

    /// Lets nothing go wrong any more.
    pub(crate) fn heal(&self) {
        self.proxy.plan([]);
    }

    /// How many requests there were since the last call, and how many of them went wrong.
    pub(crate) fn counted(&self) -> (usize, usize) {
        let seen = self.proxy.seen();
        self.proxy.forget_seen();
        (seen.len(), seen.iter().filter(|seen| seen.fault.is_some()).count())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, reach: Reach) -> Result<()> {
        let mut server = self.server.take().context("the git server does not run")?;
        self.groups.push(server.id());
        server.kill(reach)
    }

    pub(crate) async fn pause(&self, pause: Duration) -> Result<()> {
        self.server.as_ref().context("the git server does not run")?.pause(pause).await
    }

    /// Starts the server after a kill. As whoever runs a git server, it removes the locks that
    /// killed processes have left, once nobody is there who could hold them. The caller keeps
    /// people away meanwhile.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while self.groups.iter().any(|group| processes::group_is_alive(*group)) {
            if Instant::now() > end {
                bail!("processes of the git server do not end");
            }
            sleep(Duration::from_millis(5)).await;
        }
        self.groups.clear();
        remove_locks(&self.folder)?;
        let address = self.folder.join(ADDRESS);
        let _ = fs::remove_file(&address);
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("git-server").arg(&self.folder).arg(&self.mark).env(VARIABLE, &self.mark);
        let mut server = Process::start("the git server", &mut command, &self.log)?;
        loop {
            if let Ok(origin) = fs::read_to_string(&address) {
                self.proxy.forward_to(&origin);
                self.server = Some(server);
                return Ok(());
            }
            server.still_runs()?;
            if Instant::now() > end {
                bail!("the git server does not start:\n{}", server.last_words());
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends the server.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if self.server.is_some() {
            self.kill(Reach::Group)?;
        }
        Ok(())
    }

    /// The `[[git.credentials]]` of a runner that may use it.
    pub(crate) fn credentials(&self) -> String {
        let token = rdev_testkit::servers::git_http::TOKEN;
        let origin = self.origin();
        format!(
            "[[git.credentials]]\norigin = \"{origin}\"\nusername = \"{USER}\"\ntoken = \"{token}\"\n"
        )
    }
}

fn remove_locks(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "objects" && name != "hooks" {
            remove_locks(&path)?;
        } else if name.ends_with(".lock") {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
