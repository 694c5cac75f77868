//! One step on this machine: the checkout, or commands in a shell.

use std::io;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::pipeline::{Line, change};
use super::start::Place;
use super::{Shared, locked};
use crate::servers::git_http::git_command;

#[derive(Debug)]
pub(super) struct Script {
    pub(super) commands: Vec<String>,
    /// On top of the test's own; the last of a name counts.
    pub(super) env: Vec<(String, String)>,
    /// Below the workspace.
    pub(super) directory: Option<String>,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It did not run.
    Skipped,
    Killed,
    /// With this exit status.
    Exit(i32),
}

/// Checks the pipeline's commit out to its workspace.
pub(super) async fn check_out(shared: &Shared, place: &Place, id: u64, commit: &str) -> Ended {
    let git_dir = change(shared, place.repository, place.number, |pipeline| {
        pipeline.source.as_ref().map(|source| source.git_dir.clone())
    });
    let Some(Some(git_dir)) = git_dir else { return Ended::Killed };
    let mut clone = git_command(&git_dir);
    clone.args(["clone", "--quiet", "--no-checkout", "--"]).arg(&git_dir).arg(&place.workspace);
    match supervise(shared, place, id, Command::from(clone)).await {
        Ended::Exit(0) => {}
        ended => return ended,
    }
    let mut checkout = git_command(&place.workspace);
    checkout.args(["checkout", "--quiet", "--detach", commit]);
    match supervise(shared, place, id, Command::from(checkout)).await {
        Ended::Exit(0) => {}
        ended => return ended,
    }
    // So its log says what was checked out.
    let mut told = git_command(&place.workspace);
    told.args(["log", "--max-count=1", "--abbrev=7", "--format=%h %s"]);
    supervise(shared, place, id, Command::from(told)).await
}

pub(super) async fn run(shared: &Shared, place: &Place, id: u64, script: &Script) -> Ended {
    let directory = script.directory.as_deref().unwrap_or(".");
    let folder = place.workspace.join(directory.trim_start_matches('/'));
    // Without a checkout it is not there yet.
    if let Err(error) = std::fs::create_dir_all(&folder) {
        write(shared, place, id, error.to_string().as_bytes());
        return Ended::Exit(1);
    }
    supervise(shared, place, id, shell(script, &folder)).await
}

/// `sh -e` that says each command before it runs it, as Woodpecker's does.
fn shell(script: &Script, folder: &Path) -> Command {
    let mut text = String::new();
    for command in &script.commands {
        let quoted = command.replace('\'', r"'\''");
        text.push_str(&format!("printf '+ %s\\n' '{quoted}'\n{command}\n"));
    }
    let mut shell = Command::new("sh");
    shell.args(["-e", "-c", &text]).current_dir(folder);
    shell.envs(script.env.iter().map(|(name, value)| (name, value)));
    shell
}

/// Runs a command to its end, or until the pipeline is cancelled; what it prints is its log.
/// Nothing of it lives on.
async fn supervise(shared: &Shared, place: &Place, id: u64, command: Command) -> Ended {
    let cancelled = change(shared, place.repository, place.number, |it| it.cancel.subscribe());
    let Some(mut cancelled) = cancelled else { return Ended::Killed };
    let (mut child, output) = match spawn(command) {
        Ok(spawned) => spawned,
        Err(error) => {
            write(shared, place, id, error.to_string().as_bytes());
            return Ended::Exit(127);
        }
    };
    let group = child.id().and_then(|id| i32::try_from(id).ok());
    locked(&shared.groups).extend(group);
    let reading = copy(shared, place, id, output);
    let ending = async {
        let ended = tokio::select! {
            ended = exit(&mut child) => ended,
            // An error is a repository that was removed.
            _ = async { cancelled.wait_for(|cancelled| *cancelled).await.is_ok() } => Ended::Killed,
        };
        // What is left in the background, too: it would keep the pipes open.
        kill(group);
        if ended == Ended::Killed {
            let _ = child.wait().await;
        }
        ended
    };
    let (ended, ()) = tokio::join!(ending, reading);
    if let Some(group) = group {
        locked(&shared.groups).remove(&group);
    }
    ended
}

/// Both of its outputs are one pipe, as Woodpecker's: with two, a line could overtake the one
/// before it.
fn spawn(mut command: Command) -> io::Result<(Child, pipe::Receiver)> {
    let (read, write) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(write.try_clone()?).stderr(write);
    let child = command.process_group(0).kill_on_drop(true).spawn()?;
    // The command goes here, and with it our ends to write to: else there would be no end to read.
    Ok((child, pipe::Receiver::from_owned_fd(read.into())?))
}

async fn exit(child: &mut Child) -> Ended {
    match child.wait().await.map(|status| status.code()) {
        Ok(Some(code)) => Ended::Exit(code),
        // By a signal.
        Ok(None) => Ended::Exit(137),
        Err(_) => Ended::Exit(1),
    }
}

fn kill(group: Option<i32>) {
    if let Some(group) = group.and_then(Pid::from_raw) {
        // All of it has ended already, mostly.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Ends what runs, when the server goes.
pub(super) fn kill_all(shared: &Shared) {
    for group in std::mem::take(&mut *locked(&shared.groups)) {
        kill(Some(group));
    }
}

async fn copy(shared: &Shared, place: &Place, id: u64, from: pipe::Receiver) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while read_line(&mut from, &mut line).await.is_ok_and(|read| read > 0) {
        write(shared, place, id, &line);
    }
}

async fn read_line(
    from: &mut BufReader<impl AsyncRead + Unpin>,
    line: &mut Vec<u8>,
) -> io::Result<usize> {
    line.clear();
    let read = from.read_until(b'\n', line).await?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(read)
}

/// Adds a line to a step's log.
pub(super) fn write(shared: &Shared, place: &Place, id: u64, data: &[u8]) {
    let line_id = locked(&shared.state).next_id();
    change(shared, place.repository, place.number, |pipeline| {
        let Some(step) = pipeline.step(id) else { return };
        let time = step.began.map_or(0, |began| began.elapsed().as_secs());
        step.lines.push(Line { id: line_id, time, data: data.to_vec() });
    });
}
