//! `rdev doctor`: checks the configuration and the systems around it, and says how to fix what is
//! wrong.

mod messages;
mod projects;

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rdev_configuration::Environment;
use rdev_configuration::find_file;
use rdev_platform::Finding;
use rdev_platform::connect::connect;
use rustix::fs::Access;
use serde_json::{Value, json};

use crate::args::Common;
use crate::client::Client;
use crate::config::{Config, Flags, NAMES};
use crate::exit::Exit;
use crate::folder::Local;
use crate::server::runner_folders;
use crate::{agents, out};

/// The least free space: checkouts and mirrors need some.
const MIN_FREE: u64 = 2 << 30;

/// How long a running server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Checks everything, prints the findings, and fails if something is wrong.
pub(crate) async fn run(common: &Common, environment: &Environment) -> anyhow::Result<Exit> {
    let flags = Flags::from(common);
    let config = Config::load(&flags, environment)?;
    let platform = connect(&config.platform(), None)?;
    let folder = config.data_dir(environment)?;

    let mut findings = vec![settings(&flags, environment)?];
    findings.extend(disk(&folder));
    findings.push(git(environment));
    findings.extend(repositories(&runner_folders(&folder).cache)?);
    findings.extend(agents::check(config.default_agent, &config.agents));
    let (server, client) = server(&folder).await;
    if let Some(forge) = &platform.forge {
        let of_forge = forge.check().await;
        let good = of_forge.iter().all(|finding| finding.problem.is_none());
        findings.extend(of_forge);
        if good {
            findings.push(messages::check(forge, client.as_ref()).await);
            // Each project is looked up on the forge, which answers.
            if let Some(client) = &client {
                findings.extend(projects::check(client).await);
            }
        }
    } else {
        findings.push(Finding::fine("the forge: repositories are folders below the data folder"));
    }
    match &platform.ci {
        Some(ci) => findings.extend(ci.check().await),
        None => findings.push(Finding::fine("the CI server: none is configured")),
    }
    match &platform.dns {
        Some(dns) => findings.extend(dns.check().await),
        None => findings.push(Finding::fine("the DNS provider: none is configured")),
    }
    findings.push(server);
    print(common.json, &findings)
}

fn print(as_json: bool, findings: &[Finding]) -> anyhow::Result<Exit> {
    let good = findings.iter().all(|finding| finding.problem.is_none());
    if as_json {
        let list = findings.iter().map(|one| json!({"what": one.what, "problem": one.problem}));
        out::json(&json!({"ok": good, "findings": list.collect::<Vec<Value>>()}))?;
    } else {
        for finding in findings {
            let what = out::clean(&finding.what);
            out::line(match &finding.problem {
                None => format!("ok       {what}"),
                Some(problem) => format!("PROBLEM  {what}: {}", out::clean(problem)),
            })?;
        }
    }
    Ok(if good { Exit::Done } else { Exit::Failed })
}

fn settings(flags: &Flags, environment: &Environment) -> anyhow::Result<Finding> {
    let path = find_file(flags.file.as_deref(), flags.data_dir.as_deref(), environment)?;
    let what = match path {
        Some(path) => format!("the configuration file {}", path.display()),
        None => "the configuration: no file, only defaults and the environment".to_owned(),
    };
    let unknown = environment.unknown_variables(&NAMES);
    if unknown.is_empty() {
        return Ok(Finding::fine(what));
    }
    let names = unknown.join(", ");
    let problem = format!("{names} in the environment: rdev has no such settings; unset them");
    Ok(Finding::problem(what, problem))
}

/// Changes nothing: for a folder that does not exist yet, it checks the folder that will contain
/// it.
fn disk(folder: &Path) -> Vec<Finding> {
    let what = format!("the data folder {}", folder.display());
    let existing = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(folder);
    if let Err(error) = rustix::fs::access(existing, Access::WRITE_OK | Access::EXEC_OK) {
        let problem = format!("it cannot be written: {error}; change its owner or set data_dir");
        return vec![Finding::problem(what, problem)];
    }
    let free = match rustix::fs::statvfs(existing) {
        Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
        Err(error) => {
            let problem = format!("its free space cannot be read: {error}");
            return vec![Finding::problem(what, problem)];
        }
    };
    let space = format!("the free space of the data folder: {} MiB", free >> 20);
    let space = if free >= MIN_FREE {
        Finding::fine(space)
    } else {
        let problem = "less than 2 GiB is free: delete files, or lower runner.max_cache_bytes";
        Finding::problem(space, problem)
    };
    vec![Finding::fine(what), space]
}

/// rdev itself needs no git program; code agents call one.
fn git(environment: &Environment) -> Finding {
    let path = environment.text("PATH").unwrap_or_default();
    let found = std::env::split_paths(path).any(|folder| folder.join("git").is_file());
    if found {
        Finding::fine("the program git, for agents")
    } else {
        let problem = "it is not in PATH; rdev does not need it, but most agents do: install git";
        Finding::problem("the program git, for agents", problem)
    }
}

/// The repositories in which a runner of this data folder has found that pushes are not atomic.
fn repositories(cache: &Path) -> anyhow::Result<Vec<Finding>> {
    let folder = rdev_runner::git::not_atomic_folder(cache);
    let reading = || format!("cannot read {}", folder.display());
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        other => other.with_context(reading)?,
    };
    let mut findings = Vec::new();
    for entry in entries {
        let path = entry.with_context(reading)?.path();
        let url = std::fs::read_to_string(&path).with_context(reading)?;
        let problem = format!(
            "its server does not delete a ref and move a branch in one atomic push, so a commit may land twice if somebody rewinds the branch during a push (docs/protocol.md, step 6): let rdev delete refs below refs/rdev, then remove {}",
            path.display()
        );
        findings.push(Finding::problem(format!("pushes to {url}"), problem));
    }
    Ok(findings)
}

/// Whether a server runs on this data folder and is ready, and a client of one that is.
async fn server(folder: &Path) -> (Finding, Option<Client>) {
    let what = "the server on this data folder";
    let wrong = |problem: String| (Finding::problem(what, problem), None);
    let local = match Local::read(folder) {
        Ok(Some(local)) if local.pid.is_some() => local,
        Ok(_) => return (Finding::fine(format!("{what}: none is running")), None),
        Err(error) => return wrong(format!("{error:#}")),
    };
    let client = match Client::new(&local.url, &local.admin_key) {
        Ok(client) => client,
        Err(error) => return wrong(format!("{error:#}")),
    };
    match tokio::time::timeout(TIMEOUT, client.get("ready", &[])).await {
        Ok(Ok(_)) => (Finding::fine(format!("{what}: {} is ready", client.url())), Some(client)),
        Ok(Err(error)) => wrong(format!("it is not ready: {error:#}")),
        Err(_) => wrong("it does not answer; stop it and start `rdev up` again".to_owned()),
    }
}
