//! Finds the processes of an attempt in `/proc`: by descent, by environment, by working folder.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};

use super::{MARKER, Marker};

/// Sends KILL to everything below `guardian` and everything that has `marker`, but not to the
/// guardian. Returns what was alive.
pub(super) fn kill_tree(guardian: i32, marker: &Marker) -> Vec<i32> {
    let parents = parents();
    let mut found = descendants(guardian, &parents);
    let assignment = marker.assignment();
    let marked = parents.keys().copied().filter(|pid| {
        environment(*pid).split(|byte| *byte == 0).any(|entry| entry == assignment)
            || folder(*pid).is_some_and(|cwd| cwd.starts_with(marker.folder()))
    });
    found.extend(marked);
    found.remove(&guardian);
    kill(found)
}

/// Sends KILL to everything whose marker or working folder lies below `work`, until it is
/// gone or `limit` has passed. Returns their number.
pub(super) fn kill_below(work: &Path, limit: Duration) -> usize {
    let prefix = [MARKER.as_bytes(), b"=", work.as_os_str().as_bytes(), b"/"].concat();
    let until = Instant::now() + limit;
    let mut seen = BTreeSet::<i32>::new();
    loop {
        let below = parents().into_keys().filter(|pid| {
            environment(*pid).split(|byte| *byte == 0).any(|entry| entry.starts_with(&prefix))
                || folder(*pid).is_some_and(|cwd| cwd.starts_with(work))
        });
        let found = kill(below.collect());
        seen.extend(found.iter().copied());
        reap(&mut found.clone());
        if found.is_empty() || Instant::now() > until {
            return seen.len();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until the guardians of all trees below `work` have ended, or `limit` is over. After a
/// runner was killed, they are still ending the processes that only descent tells of.
pub(super) fn wait_for_guardians(work: &Path, limit: Duration) {
    let until = Instant::now() + limit;
    for entry in fs::read_dir(work).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        // Somebody has just removed it: no guardian is there.
        let Ok(folder) = fs::File::open(entry.path()) else { continue };
        // Any other error would come back the next time.
        while flock(&folder, FlockOperation::NonBlockingLockExclusive)
            == Err(rustix::io::Errno::WOULDBLOCK)
            && Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Reaps those that have ended as children of ours: orphans whose guardian was killed.
pub(super) fn reap(killed: &mut Vec<i32>) {
    killed.retain(|pid| {
        let pid = Pid::from_raw(*pid);
        // An error means that it is not a child of ours.
        pid.is_some_and(|pid| matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(None)))
    });
}

fn kill(mut found: BTreeSet<i32>) -> Vec<i32> {
    found.remove(&getpid().as_raw_pid());
    for pid in found.iter().copied().filter_map(Pid::from_raw) {
        // It fails when the process has ended or is not ours; the next look shows which.
        let _ = kill_process(pid, Signal::KILL);
    }
    found.into_iter().collect()
}

/// All processes that are alive, with their parents.
fn parents() -> HashMap<i32, i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, parent_if_alive(pid)?))).collect()
}

fn parent_if_alive(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "pid (name) state parent …": the name may hold anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(parent)
}

fn descendants(root: i32, parents: &HashMap<i32, i32>) -> BTreeSet<i32> {
    let below = |pid: i32| {
        let mut at = pid;
        // A chain is never longer than the number of processes, even if it changed while it was
        // read.
        for _ in 0..parents.len() {
            match parents.get(&at) {
                Some(parent) if *parent == root => return true,
                Some(parent) => at = *parent,
                None => return false,
            }
        }
        false
    };
    parents.keys().copied().filter(|pid| below(*pid)).collect()
}

fn environment(pid: i32) -> Vec<u8> {
    // Unreadable: another user's.
    fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()
}

fn folder(pid: i32) -> Option<PathBuf> {
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    let text = cwd.to_str().and_then(|text| text.strip_suffix(" (deleted)")).map(PathBuf::from);
    Some(text.unwrap_or(cwd))
}
