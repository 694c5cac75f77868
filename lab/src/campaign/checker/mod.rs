//! The judge of a campaign. It does not use the product's own search: it reads the moves of each
//! branch, the tasks as the API shows them, what is left in the store and in folders, and `/proc`.

pub(crate) mod history;
pub(crate) mod left;
pub(crate) mod processes;
pub(crate) mod tasks;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use history::{By, History, Landing};
use processes::Found;
use tasks::{Seen, State};

/// All that is judged.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// The tasks that the API has accepted, by what it answered.
    pub(crate) accepted: BTreeSet<String>,
    /// All tasks, as the API shows them at the end.
    pub(crate) tasks: BTreeMap<String, Seen>,
    /// How often each task has ended, as the audit log tells.
    pub(crate) ends: BTreeMap<String, usize>,
    /// By project.
    pub(crate) histories: BTreeMap<String, History>,
    /// What lived on although it had to be gone.
    pub(crate) orphans: Vec<Found>,
    /// What was left in the store and in folders, in words.
    pub(crate) left: Vec<String>,
}

/// Which promise was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Column {
    Lost,
    Doubled,
    Orphans,
    Leaked,
}

/// One breach, with its evidence in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Breach {
    pub(crate) column: Column,
    pub(crate) what: String,
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::Doubled => "doubled",
            Self::Orphans => "orphans",
            Self::Leaked => "leaked",
        })
    }
}

/// Every breach of the promise that the evidence shows.
pub(crate) fn judge(evidence: &Evidence) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut say = |column, what: String| breaches.push(Breach { column, what });
    for id in &evidence.accepted {
        if !evidence.tasks.contains_key(id) {
            say(Column::Lost, format!("task {id} was accepted and is not there"));
        }
    }
    for (id, task) in &evidence.tasks {
        if !evidence.accepted.contains(id) {
            say(Column::Doubled, format!("task {id} is there and nobody asked for it"));
        }
        let ends = evidence.ends.get(id).copied().unwrap_or(0);
        if ends > 1 {
            say(Column::Doubled, format!("task {id} has ended {ends} times"));
        }
        if task.state == State::Open {
            say(Column::Lost, format!("task {id} has not ended: {}", task.told));
        } else if ends == 0 {
            say(Column::Lost, format!("task {id} is {}, but no end was recorded", task.told));
        }
    }
    for (project, history) in &evidence.histories {
        let landings = history.landings();
        for (lineage, all) in &landings {
            let ours: Vec<&Landing> = all.iter().filter(|one| one.by == By::Rdev).collect();
            for extra in ours.iter().skip(1) {
                let what = format!(
                    "{project}: lineage {lineage} landed again as {}, after {}",
                    extra.commit, ours[0].commit
                );
                say(Column::Doubled, what);
            }
            if !ours.is_empty() && nobody_says_so(evidence, project, lineage) {
                let what = format!(
                    "{project}: {} of lineage {lineage} landed, but each of its tasks ended without success and without push_in_doubt",
                    ours[0].commit
                );
                say(Column::Lost, what);
            }
        }
        for (id, task) in evidence.tasks.iter().filter(|(_, task)| task.project == *project) {
            let State::Delivered(commit) = &task.state else { continue };
            let of_lineage = landings.get(task.lineage.as_str());
            if !of_lineage.is_some_and(|all| all.iter().any(|one| one.commit == *commit)) {
                say(
                    Column::Lost,
                    format!(
                        "{project}: task {id} says that it delivered {commit}, which never came to the branch"
                    ),
                );
            }
        }
    }
    for process in &evidence.orphans {
        say(Column::Orphans, format!("process {} lives: {}", process.pid, process.command));
    }
    for what in &evidence.left {
        say(Column::Leaked, what.clone());
    }
    breaches
}

/// Whether all tasks of a lineage have ended, none of them successfully, and none says that its
/// push is in doubt.
fn nobody_says_so(evidence: &Evidence, project: &str, lineage: &str) -> bool {
    let of_lineage = |task: &&Seen| task.project == project && task.lineage == lineage;
    evidence.tasks.values().filter(of_lineage).all(|task| task.state == State::Undelivered)
}
