//! A pipeline's steps, one after the other.

use std::sync::Arc;
use std::time::Instant;

use super::condition::When;
use super::pipeline::{Pipeline, change, goes_on};
use super::start::Place;
use super::step::{self, Ended, Script};
use super::{Shared, now};

/// A step that is to come.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) when: When,
    /// Its failure is no failure of the workflow.
    pub(super) may_fail: bool,
    work: Work,
    /// What its commands are; `None`: it is not run here.
    pub(super) script: Option<Script>,
    /// Why it is not run here.
    pub(super) why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Clone,
    Commands,
    Plugin,
}

impl Planned {
    pub(super) fn clone_step() -> Self {
        Self { work: Work::Clone, ..Self::skipped("clone", true) }
    }

    pub(super) fn skipped(name: &str, has_commands: bool) -> Self {
        Self {
            name: name.to_owned(),
            when: When::default(),
            may_fail: false,
            work: if has_commands { Work::Commands } else { Work::Plugin },
            script: None,
            why: String::new(),
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self.work {
            Work::Clone => "clone",
            Work::Commands => "commands",
            Work::Plugin => "plugin",
        }
    }
}

/// Runs what was planned; the ids are those of the pipeline's steps.
pub(super) async fn run(shared: Arc<Shared>, place: Place, steps: Vec<(u64, Planned)>) {
    let begun = alter(&shared, &place, |pipeline| {
        if pipeline.status != "pending" {
            return None;
        }
        pipeline.started = now();
        "running".clone_into(&mut pipeline.status);
        "running".clone_into(&mut pipeline.workflows[0].state);
        pipeline.workflows[0].started = now();
        let origin = &pipeline.origin;
        Some((origin.event.clone(), origin.branch.clone(), origin.commit.clone()))
    });
    // Cancelled, or its repository removed, before it began.
    let Some(Some((event, branch, commit))) = begun else {
        alter(&shared, &place, |pipeline| pipeline.ended.send_replace(Some("killed".to_owned())));
        return;
    };
    let mut failed = false;
    for (id, planned) in steps {
        let holds = planned.when.holds(&event, &branch, failed);
        let ended = match (&planned.script, planned.work) {
            _ if !holds => Ended::Skipped,
            (_, Work::Clone) => {
                begin_step(&shared, &place, id);
                step::check_out(&shared, &place, id, &commit).await
            }
            (Some(script), _) => {
                begin_step(&shared, &place, id);
                step::run(&shared, &place, id, script).await
            }
            (None, _) => {
                step::write(&shared, &place, id, planned.why.as_bytes());
                Ended::Skipped
            }
        };
        if ended == Ended::Killed {
            end_step(&shared, &place, id, ended);
            break;
        }
        failed |= matches!(ended, Ended::Exit(code) if code != 0) && !planned.may_fail;
        if end_step(&shared, &place, id, ended).is_none() {
            return;
        }
    }
    alter(&shared, &place, |pipeline| {
        pipeline.workflows[0].finished = now();
        let status = if failed { "failure" } else { "success" };
        // A cancelled one has its status already.
        if goes_on(&pipeline.status) {
            pipeline.finished = now();
            status.clone_into(&mut pipeline.status);
            status.clone_into(&mut pipeline.workflows[0].state);
        } else {
            pipeline.status.clone_into(&mut pipeline.workflows[0].state);
        }
    });
    // Once the change was published.
    alter(&shared, &place, |it| it.ended.send_replace(Some(it.status.clone())));
}

fn alter<T>(shared: &Shared, place: &Place, alter: impl FnOnce(&mut Pipeline) -> T) -> Option<T> {
    change(shared, place.repository, place.number, alter)
}

fn begin_step(shared: &Shared, place: &Place, id: u64) {
    alter(shared, place, |pipeline| {
        if let Some(step) = pipeline.step(id) {
            "running".clone_into(&mut step.state);
            step.began = Some(Instant::now());
            step.started = now();
        }
    });
}

fn end_step(shared: &Shared, place: &Place, id: u64, ended: Ended) -> Option<()> {
    alter(shared, place, |pipeline| {
        let Some(step) = pipeline.step(id) else { return };
        let (state, exit_code) = match ended {
            Ended::Skipped => ("skipped", 0),
            Ended::Killed => ("killed", 137),
            Ended::Exit(0) => ("success", 0),
            Ended::Exit(code) => ("failure", code),
        };
        state.clone_into(&mut step.state);
        step.exit_code = exit_code;
        if step.started != 0 {
            step.finished = now();
        }
    })
}
