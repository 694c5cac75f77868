//! `rdev backup` and `rdev restore`: they work on the data folder itself, not through the API.

use std::time::SystemTime;

use anyhow::Context;
use rdev_configuration::Environment;
use serde_json::json;

use crate::args::Common;
use crate::args::server::{Backup, Restore};
use crate::config::{Config, Flags};
use crate::exit::Exit;
use crate::out;

/// Backs the data folder up while its server may run.
pub(crate) async fn backup(
    common: &Common,
    command: Backup,
    environment: &Environment,
) -> anyhow::Result<Exit> {
    let folder = Config::load(&Flags::from(common), environment)?.data_dir(environment)?;
    let file = command.file.clone();
    let work = move || {
        let version = env!("CARGO_PKG_VERSION");
        rdev_embedded::backup(&folder, &file, version, SystemTime::now().into())
    };
    let made = tokio::task::spawn_blocking(work).await.context("the backup was not made")??;
    let file = command.file.display();
    if common.json {
        let bytes = made.bytes;
        let file = file.to_string();
        out::json(&json!({ "file": file, "bytes": bytes, "repositories": made.repositories }))?;
    } else {
        out::line(format_args!(
            "{file}: {} bytes, with {} repositories. Keep it safe: it has everything but the configuration.",
            made.bytes, made.repositories
        ))?;
    }
    Ok(Exit::Done)
}

/// Restores a backup into the data folder.
pub(crate) async fn restore(
    common: &Common,
    command: Restore,
    environment: &Environment,
) -> anyhow::Result<Exit> {
    let folder = Config::load(&Flags::from(common), environment)?.data_dir(environment)?;
    let work = move || rdev_embedded::restore(&command.file, &folder, SystemTime::now().into());
    let restored = tokio::task::spawn_blocking(work).await.context("nothing was restored")??;
    if common.json {
        out::json(&json!({
            "data_dir": restored.folder.display().to_string(),
            "made_at": restored.made_at,
            "made_by": restored.made_by,
            "unfinished_tasks": restored.unfinished,
        }))?;
    } else {
        out::line(format_args!(
            "{}: restored as of {}, with {} unfinished tasks. Be sure that the server of the old folder is stopped, then start `rdev up`.",
            restored.folder.display(),
            restored.made_at,
            restored.unfinished
        ))?;
    }
    Ok(Exit::Done)
}
