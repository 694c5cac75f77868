//! A small disk of its own for the data folder, which can be filled up.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;
use tokio::time::sleep;

/// The file that takes the room.
const BALLAST: &str = "ballast";

/// A tmpfs. It is unmounted when this is dropped.
#[derive(Debug)]
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// Mounts one over an empty folder.
    ///
    /// # Errors
    /// When this process may not mount: what `mount` says.
    pub(crate) fn mount(folder: &Path, megabytes: usize) -> Result<Self> {
        let size = format!("size={megabytes}m,mode=700");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &size, "chaos"]).arg(folder);
        let output = command.output().context("cannot run mount")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(Self(folder.to_owned()))
    }

    /// Leaves no room for a while.
    pub(crate) async fn fill(&self, pause: Duration) -> Result<()> {
        let path = self.0.join(BALLAST);
        let filled = fill(&self.0, &path);
        sleep(pause).await;
        fs::remove_file(&path).context("cannot make room again")?;
        filled.context("cannot fill the disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: something may still be open, where a campaign was broken off.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn fill(folder: &Path, path: &Path) -> Result<()> {
    let file = File::create(path)?;
    let mut size = 0;
    loop {
        let disk = statvfs(folder)?;
        let free = disk.f_bavail * disk.f_frsize;
        // Others write and remove meanwhile.
        if free == 0 {
            return Ok(());
        }
        match fallocate(&file, FallocateFlags::empty(), size, free) {
            Ok(()) => size += free,
            Err(Errno::NOSPC) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
