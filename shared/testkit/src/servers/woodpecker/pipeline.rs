//! Pipelines, their steps and their logs.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::Value;
use tokio::sync::watch;
use ulid::Ulid;

use super::hook::Change;
use super::origin::Origin;
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
    pub message: String,
    pub author: String,
    pub changed_files: Vec<String>,
    /// The name of its step after the clone.
    pub step: String,
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
            message: "a pipeline\n".to_owned(),
            author: "a-person".to_owned(),
            changed_files: Vec::new(),
            step: "build".to_owned(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) id: u64,
    pub(super) number: u64,
    pub(super) origin: Origin,
    /// The version of the server.
    pub(super) version: &'static str,
    pub(super) status: String,
    pub(super) errors: Vec<Value>,
    /// The later one of the same branch that ended it.
    pub(super) superseded_by: Option<u64>,
    /// In Unix seconds, like all times; 0 for not yet.
    pub(super) created: i64,
    pub(super) updated: i64,
    pub(super) started: i64,
    pub(super) finished: i64,
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
    pub(super) started: i64,
    pub(super) finished: i64,
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
    /// Why it could not run at all.
    pub(super) error: Option<String>,
    pub(super) started: i64,
    pub(super) finished: i64,
    /// `clone`, `commands` or `plugin`.
    pub(super) kind: &'static str,
    pub(super) began: Option<Instant>,
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
        origin: Origin,
        (status, created): (&str, i64),
        steps: &[(&str, &'static str)],
    ) -> Self {
        let ended = !goes_on(status);
        let began = !matches!(status, "created" | "pending" | "blocked");
        let started = if began { created } else { 0 };
        let finished = if ended { created } else { 0 };
        let (id, workflow) = (state.next_id(), state.next_id());
        let mut step = |(at, &(name, kind)): (usize, &(&str, &'static str))| Step {
            id: state.next_id(),
            // Woodpecker's are ULIDs, too.
            uuid: Ulid::from_parts(0, u128::from(state.next_id())).to_string(),
            pid: at as u64 + 2,
            ppid: 1,
            name: name.to_owned(),
            state: status.to_owned(),
            exit_code: 0,
            error: None,
            started,
            finished,
            kind,
            began: None,
            lines: Vec::new(),
        };
        let steps: Vec<Step> = steps.iter().enumerate().map(&mut step).collect();
        Self {
            id,
            number,
            origin,
            version: state.age.version(),
            errors: Vec::new(),
            superseded_by: None,
            created,
            updated: created,
            started,
            finished,
            workflows: vec![Workflow {
                id: workflow,
                pid: 1,
                name: "woodpecker".to_owned(),
                state: status.to_owned(),
                error: None,
                started,
                finished,
                steps,
            }],
            source: None,
            cancel: watch::Sender::new(false),
            ended: watch::Sender::new(ended.then(|| status.to_owned())),
            status: status.to_owned(),
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
        pipeline.updated = now();
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
        commit: pipeline.origin.commit.clone(),
        branch: pipeline.origin.branch.clone(),
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
    let Seed { event, status, commit, branch, created, message, author, changed_files, step } =
        seed;
    let origin = Origin {
        message,
        author,
        changed_files,
        timestamp: created,
        ..Origin::new(&event, &branch, &commit)
    };
    let steps = [("clone", "clone"), (step.as_str(), "commands")];
    let pipeline = Pipeline::new(&mut state, number, origin, (&status, created), &steps);
    let repository = state.repositories.get_mut(&repository).expect("that repository");
    repository.pipelines.push(pipeline);
    publish(shared, repository, number);
    number
}

pub(super) fn set_status(shared: &Shared, repository: u64, number: u64, status: &str) {
    let changed = change(shared, repository, number, |pipeline| {
        let (began, ended) = (status != "pending", !goes_on(status));
        for workflow in &mut pipeline.workflows {
            status.clone_into(&mut workflow.state);
            mark((&mut workflow.started, &mut workflow.finished), (began, ended));
            for step in &mut workflow.steps {
                status.clone_into(&mut step.state);
                mark((&mut step.started, &mut step.finished), (began, ended));
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

/// Ends a pipeline because a later one of its branch has begun.
pub(super) fn supersede(shared: &Shared, repository: u64, number: u64, by: u64) {
    set_status(shared, repository, number, "killed");
    change(shared, repository, number, |pipeline| pipeline.superseded_by = Some(by));
}

/// Sets the times of what began or ended.
fn mark((started, finished): (&mut i64, &mut i64), (began, ended): (bool, bool)) {
    if began && *started == 0 {
        *started = now();
    }
    if ended {
        *finished = now();
    }
}

/// A pipeline whose first step after the clone could not run: it has no log, and its exit code says
/// nothing.
pub(super) fn fail_before_command(shared: &Shared, repository: u64, number: u64, why: &str) {
    set_status(shared, repository, number, "failure");
    change(shared, repository, number, |pipeline| {
        for workflow in &mut pipeline.workflows {
            workflow.error = Some(why.to_owned());
            if let Some(step) = workflow.steps.last_mut() {
                step.error = Some(why.to_owned());
            }
        }
    });
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
