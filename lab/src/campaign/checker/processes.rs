//! Which processes of a campaign are alive, as `/proc` tells.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// The variable that every process of a campaign has in its environment.
pub(crate) const VARIABLE: &str = "CHAOS_CAMPAIGN";

/// A process that was found. Pid and start time name it for good.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found {
    pub(crate) pid: u32,
    /// In ticks since the machine started.
    pub(crate) started: String,
    pub(crate) command: String,
}

/// The living processes that have the campaign's mark in their environment or in an argument. This
/// process is not among them.
pub(crate) fn marked(mark: &str) -> Vec<Found> {
    let assignment = format!("{VARIABLE}={mark}");
    let has_argument = |pid: u32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == mark.as_bytes())
    };
    let mut found: Vec<Found> = pids()
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| has_variable(*pid, &assignment) || has_argument(*pid))
        .filter_map(find)
        .collect();
    found.sort();
    found
}

/// Whether that very process is alive.
pub(crate) fn is_alive(process: &Found) -> bool {
    started(process.pid).is_some_and(|started| started == process.started)
}

/// Whether a process has this assignment in its environment.
pub(crate) fn has_variable(pid: u32, assignment: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|entry| entry == assignment.as_bytes())
}

/// Kills a process of that program which has this assignment in its environment. Returns whether
/// there was one.
pub(crate) fn kill_one(program: &str, assignment: &str) -> bool {
    let is_it = |pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim_end() == program && has_variable(*pid, assignment)
    };
    let found = pids().find(is_it).and_then(|pid| Pid::from_raw(pid.cast_signed()));
    found.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
}

/// Whether a process of that group is alive.
pub(crate) fn group_is_alive(group: u32) -> bool {
    pids().any(|pid| stat(pid).is_some_and(|fields| fields[2] == group.to_string()))
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn find(pid: u32) -> Option<Found> {
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    Some(Found { pid, started: started(pid)?, command: command.trim_end().to_owned() })
}

/// When a process began.
fn started(pid: u32) -> Option<String> {
    stat(pid).map(|fields| fields[19].clone())
}

/// The fields of `/proc/<pid>/stat` from the state on; `None` when it is gone or a zombie.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "pid (name) state …": the name may hold anything.
    let fields = stat.rsplit_once(')')?.1.split_whitespace();
    let fields: Vec<String> = fields.map(str::to_owned).collect();
    (!matches!(fields[0].as_str(), "Z" | "X")).then_some(fields)
}
