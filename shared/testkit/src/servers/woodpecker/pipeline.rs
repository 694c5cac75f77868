//! Pipelines, their steps and their logs.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::Value;
use tokio::sync::watch;
use ulid::Ulid;

use super::hook::Change;
use super::repository::{Repository, State};
use super::{Shared, locked, now};

/// A pipeline that did not run here.
#[derive(Debug, Clone)]
pub struct Seed {
    /// `push`, `manual`, …
    pub event: String,
    /// Any status.
    pub status: String,
    pub commit: String,
    pub branch: String,
    /// When it was created, in Unix seconds.
    pub created: i64,
}

impl Default for Seed {
    /// A push to `main` just now that went well.
    fn default() -> Self {
        Self {
            event: "push".to_owned(),
            status: "success".to_owned(),
            commit: "0".repeat(40),
            branch: "main".to_owned(),
            created: now(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) id: u64,
    pub(super) number: u64,
    pub(super) parent: u64,
    pub(super) event: String,
    pub(super) status: String,
    pub(super) errors: Vec<Value>,
    pub(super) created: i64,
    pub(super) started: i64,
    pub(super) finished: i64,
    pub(super) commit: String,
    pub(super) branch: String,
    pub(super) message: String,
    pub(super) author: String,
    pub(super) workflows: Vec<Workflow>,
    /// What it runs from; `None` when it did not run here.
    pub(super) source: Option<Source>,
    pub(super) cancel: watch::Sender<bool>,
    /// Its last status, once nothing of it runs.
    pub(super) ended: watch::Sender<Option<String>>,
}

#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) git_dir: PathBuf,
    pub(super) definition: String,
}

#[derive(Debug)]
pub(super) struct Workflow {
    pub(super) id: u64,
    pub(super) pid: u64,
    pub(super) name: String,
    pub(super) state: String,
    pub(super) error: Option<String>,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug)]
pub(super) struct Step {
    pub(super) id: u64,
    pub(super) uuid: String,
    pub(super) pid: u64,
    pub(super) ppid: u64,
    pub(super) name: String,
    pub(super) state: String,
    pub(super) exit_code: i32,
    /// `clone`, `commands` or `plugin`.
    pub(super) kind: &'static str,
    pub(super) began: Option<Instant>,
    /// What went wrong outside of its command.
    pub(super) error: Option<String>,
    pub(super) lines: Vec<Line>,
}

#[derive(Debug)]
pub(super) struct Line {
    pub(super) id: u64,
    pub(super) time: u64,
    pub(super) data: Vec<u8>,
}

/// A status that is not the last one.
pub(super) fn goes_on(status: &str) -> bool {
    matches!(status, "created" | "pending" | "running" | "blocked")
}

impl Pipeline {
    /// One that is pending, with a workflow of these steps (name and kind), none of which began.
    pub(super) fn new(
        state: &mut State,
        number: u64,
        seed: Seed,
        steps: &[(&str, &'static str)],
    ) -> Self {
        let workflow = state.next_id();
        let mut step = |(at, &(name, kind)): (usize, &(&str, &'static str))| Step {
            id: state.next_id(),
            // Woodpecker's are ULIDs, too.
            uuid: Ulid::from_parts(0, u128::from(state.next_id())).to_string(),
            pid: at as u64 + 2,
            ppid: 1,
            name: name.to_owned(),
            state: seed.status.clone(),
            exit_code: 0,
            kind,
            began: None,
            error: None,
            lines: Vec::new(),
        };
        let steps: Vec<Step> = steps.iter().enumerate().map(&mut step).collect();
        let ended = !goes_on(&seed.status);
        let began = !matches!(seed.status.as_str(), "created" | "pending" | "blocked");
        Self {
            id: state.next_id(),
            number,
            parent: 0,
            event: seed.event,
            errors: Vec::new(),
            created: seed.created,
            started: if began { seed.created } else { 0 },
            finished: if ended { seed.created } else { 0 },
            commit: seed.commit,
            branch: seed.branch,
            message: format!("pipeline {number}\n"),
            author: "a-person".to_owned(),
            workflows: vec![Workflow {
                id: workflow,
                pid: 1,
                name: "woodpecker".to_owned(),
                state: seed.status.clone(),
                error: None,
                steps,
            }],
            source: None,
            cancel: watch::Sender::new(false),
            ended: watch::Sender::new(ended.then(|| seed.status.clone())),
            status: seed.status,
        }
    }

    pub(super) fn step(&mut self, id: u64) -> Option<&mut Step> {
        self.workflows.iter_mut().flat_map(|it| &mut it.steps).find(|step| step.id == id)
    }
}

/// Changes a pipeline; `None` when it is not there any more. A change of its status is published.
pub(super) fn change<T>(
    shared: &Shared,
    repository: u64,
    number: u64,
    change: impl FnOnce(&mut Pipeline) -> T,
) -> Option<T> {
    let mut state = locked(&shared.state);
    let repository = state.repositories.get_mut(&repository)?;
    let pipeline = repository.pipeline(number)?;
    let before = pipeline.status.clone();
    let changed = change(pipeline);
    if pipeline.status != before {
        publish(shared, repository, number);
    }
    Some(changed)
}

/// Tells of a pipeline's status.
pub(super) fn publish(shared: &Shared, repository: &mut Repository, number: u64) {
    let (full_name, forge_id, id) = (repository.full_name(), repository.forge_id, repository.id);
    let Some(pipeline) = repository.pipeline(number) else { return };
    let change = Change {
        repository: full_name,
        forge_id,
        number,
        status: pipeline.status.clone(),
        commit: pipeline.commit.clone(),
        branch: pipeline.branch.clone(),
        url: format!("{}/repos/{id}/pipeline/{number}", shared.url),
        finished_at: (pipeline.finished != 0).then_some(pipeline.finished),
    };
    // There may be no subscriber.
    let _ = shared.changes.send(change);
}

/// Ends the pipeline; false when it has ended.
pub(super) fn cancel(pipeline: &mut Pipeline) -> bool {
    if !goes_on(&pipeline.status) {
        return false;
    }
    let alone = pipeline.source.is_none();
    for workflow in &mut pipeline.workflows {
        // What runs is marked when it has ended.
        for state in std::iter::once(&mut workflow.state)
            .chain(workflow.steps.iter_mut().map(|step| &mut step.state))
        {
            if *state == "pending" {
                "skipped".clone_into(state);
            } else if alone && *state == "running" {
                "killed".clone_into(state);
            }
        }
    }
    "killed".clone_into(&mut pipeline.status);
    pipeline.finished = now();
    pipeline.cancel.send_replace(true);
    if alone {
        pipeline.ended.send_replace(Some("killed".to_owned()));
    }
    true
}

pub(super) fn next_number(repository: &Repository) -> u64 {
    repository.pipelines.iter().map(|one| one.number).max().unwrap_or_default() + 1
}

pub(super) fn add_seed(shared: &Shared, repository: u64, seed: Seed) -> u64 {
    let mut state = locked(&shared.state);
    let number = next_number(state.repositories.get(&repository).expect("that repository"));
    let steps = [("clone", "clone"), ("build", "commands")];
    let pipeline = Pipeline::new(&mut state, number, seed, &steps);
    let repository = state.repositories.get_mut(&repository).expect("that repository");
    repository.pipelines.push(pipeline);
    publish(shared, repository, number);
    number
}

pub(super) fn set_status(shared: &Shared, repository: u64, number: u64, status: &str) {
    let changed = change(shared, repository, number, |pipeline| {
        for workflow in &mut pipeline.workflows {
            status.clone_into(&mut workflow.state);
            for step in &mut workflow.steps {
                status.clone_into(&mut step.state);
            }
        }
        if pipeline.started == 0 && status != "pending" {
            pipeline.started = now();
        }
        if !goes_on(status) {
            pipeline.finished = now();
            pipeline.ended.send_replace(Some(status.to_owned()));
        }
        status.clone_into(&mut pipeline.status);
    });
    changed.expect("that pipeline");
}

pub(super) fn add_log(shared: &Shared, repository: u64, number: u64, lines: &[&[u8]]) -> u64 {
    let mut state = locked(&shared.state);
    let mut numbered = Vec::with_capacity(lines.len());
    for data in lines {
        numbered.push(Line { id: state.next_id(), time: 0, data: data.to_vec() });
    }
    let repository = state.repositories.get_mut(&repository).expect("that repository");
    let pipeline = repository.pipeline(number).expect("that pipeline");
    let steps = pipeline.workflows.iter_mut().flat_map(|it| &mut it.steps);
    let step = steps.last().expect("a step");
    step.lines.extend(numbered);
    step.id
}
