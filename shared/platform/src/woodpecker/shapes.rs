//! The JSON of Woodpecker's answers, and its translation into the domain's types.
//!
//! Only fields that order a list or identify something are required; others may be absent or
//! `null`, which is how Go writes an empty list. Unknown fields and statuses are not an error.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rdev_domain::ids::TaskId;
use rdev_domain::pipeline::{self, LogLine, PipelineStep, PipelineSummary};
use rdev_domain::ports::{PortError, PortResult};
use rdev_domain::time::Timestamp;
use serde::Deserialize;

use super::SYSTEM;

#[derive(Debug, Deserialize)]
pub(super) struct Repository {
    pub(super) id: u64,
    /// Its id on the forge: a number as text.
    pub(super) forge_remote_id: String,
    pub(super) active: bool,
}

/// A pipeline, in a list (without workflows) or alone.
#[derive(Debug, Deserialize)]
pub(super) struct Pipeline {
    pub(super) number: u64,
    status: String,
    /// Unix seconds, like all times.
    created: i64,
    #[serde(default)]
    started: i64,
    #[serde(default)]
    finished: i64,
    #[serde(default)]
    event: String,
    #[serde(default)]
    commit: String,
    #[serde(default)]
    branch: String,
    /// Of a pull request: its branch, a colon, and the branch that it is to be merged into.
    #[serde(default)]
    refspec: String,
    /// The commit's message, or the title of a pull request.
    #[serde(default)]
    message: String,
    #[serde(default)]
    author: String,
    errors: Option<Vec<Problem>>,
    workflows: Option<Vec<Workflow>>,
}

/// Something wrong with a pipeline's definition.
#[derive(Debug, Deserialize)]
struct Problem {
    #[serde(default)]
    message: String,
    #[serde(default)]
    is_warning: bool,
}

#[derive(Debug, Deserialize)]
struct Workflow {
    #[serde(default)]
    pid: i64,
    #[serde(default)]
    name: String,
    state: String,
    error: Option<String>,
    children: Option<Vec<Step>>,
}

#[derive(Debug, Deserialize)]
struct Step {
    id: u64,
    #[serde(default)]
    pid: i64,
    #[serde(default)]
    name: String,
    state: String,
    #[serde(default)]
    exit_code: i64,
    #[serde(default)]
    r#type: String,
    /// What went wrong outside of its command.
    error: Option<String>,
}

/// A line of a log.
#[derive(Debug, Deserialize)]
pub(super) struct Line {
    #[serde(default)]
    line: u64,
    /// Seconds since the step began.
    #[serde(default)]
    time: u64,
    /// Base64.
    data: Option<String>,
}

impl Pipeline {
    /// The entry of a list; `page` is the pipeline's page for people.
    pub(super) fn summary(self, page: String) -> PipelineSummary {
        // 0 means "not yet".
        let some = |seconds: i64| (seconds != 0).then(|| moment(seconds));
        PipelineSummary {
            number: self.number,
            status: self.status,
            event: self.event,
            commit: self.commit,
            branch: self.branch,
            task_id: task_id(&self.message, &self.refspec),
            message: self.message,
            author: self.author,
            created_at: moment(self.created),
            started_at: some(self.started),
            finished_at: some(self.finished),
            url: Some(page),
        }
    }

    /// The pipeline with its workflows.
    pub(super) fn into_domain(mut self, page: String) -> pipeline::Pipeline {
        let errors = self.errors.take().unwrap_or_default();
        let mut workflows = self.workflows.take().unwrap_or_default();
        workflows.sort_by_key(|workflow| workflow.pid);
        pipeline::Pipeline {
            summary: self.summary(page),
            errors: errors.into_iter().map(Problem::text).collect(),
            workflows: workflows.into_iter().map(Workflow::into_domain).collect(),
        }
    }
}

fn task_id(message: &str, refspec: &str) -> Option<TaskId> {
    let of_branch = || pipeline::task_of_branch(refspec.split_once(':')?.0);
    pipeline::task_of_message(message).or_else(of_branch)
}

impl Problem {
    fn text(self) -> String {
        if self.is_warning { format!("warning: {}", self.message) } else { self.message }
    }
}

impl Workflow {
    fn into_domain(self) -> pipeline::Workflow {
        let mut steps = self.children.unwrap_or_default();
        steps.sort_by_key(|step| step.pid);
        pipeline::Workflow {
            name: self.name,
            status: self.state,
            error: self.error.filter(|error| !error.is_empty()),
            steps: steps.into_iter().map(Step::into_domain).collect(),
        }
    }
}

impl Step {
    fn into_domain(self) -> PipelineStep {
        // The exit code is 0 for a step that has not ended, too.
        let ran = !matches!(
            self.state.as_str(),
            "created" | "pending" | "running" | "blocked" | "declined" | "skipped"
        );
        let error = self.error.filter(|error| !error.is_empty());
        // It is 0, too, for one that failed before its command was run.
        let ran = ran && !(error.is_some() && self.exit_code == 0);
        PipelineStep {
            id: self.id,
            name: self.name,
            kind: self.r#type,
            status: self.state,
            exit_code: ran.then_some(self.exit_code),
            error,
        }
    }
}

impl Line {
    pub(super) fn decoded(self) -> PortResult<LogLine> {
        let data = self.data.unwrap_or_default();
        let bytes = STANDARD.decode(data).map_err(|error| PortError::upstream(SYSTEM, error))?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end_matches(['\n', '\r']).to_owned();
        Ok(LogLine { line: self.line, time: self.time, text })
    }
}

fn moment(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds.saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(pipeline: serde_json::Value) -> pipeline::Pipeline {
        let read: Pipeline = serde_json::from_value(pipeline).expect("a pipeline");
        read.into_domain("https://ci.example.com/repos/2/pipeline/7".to_owned())
    }

    // As a server of version 3.13 answered, without the fields that are not read.
    #[test]
    fn a_pull_requests_pipeline_has_the_build_that_its_branch_is_named_after() {
        let read = read(json!({
            "number": 7, "event": "pull_request", "status": "failure", "errors": null,
            "created": 1_795_893_258, "commit": "8c4166ace51788acb3c281c6237ebd79712563e9",
            "branch": "main", "ref": "refs/pull/1/head",
            "refspec": "rdev/01M8HRJTYMBE6ZN9R0Z1K54EB3:main",
            "title": "touch BROKEN", "message": "touch BROKEN",
        }));
        let task = read.summary.task_id.map(|task| task.to_string());
        assert_eq!(task.as_deref(), Some("01M8HRJTYMBE6ZN9R0Z1K54EB3"));
    }

    #[test]
    fn a_step_whose_command_never_ran_has_no_exit_status_and_says_why_it_failed() {
        let step = |name: &str, state: &str, code: i64, error: &str| {
            let mut step = json!({ "id": 1, "name": name, "state": state, "exit_code": code });
            if !error.is_empty() {
                step["error"] = json!(error);
            }
            step
        };
        let read = read(json!({
            "number": 7, "event": "push", "status": "failure", "created": 1,
            "workflows": [{ "pid": 1, "name": "woodpecker", "state": "failure",
                "error": "no such image", "children": [
                    step("image", "failure", 0, "no such image"),
                    step("test", "failure", 3, ""),
                    step("killed", "killed", 137, "exit code 137"),
                    step("after", "skipped", 0, ""),
                ] }],
        }));
        let workflow = &read.workflows[0];
        assert_eq!(workflow.error.as_deref(), Some("no such image"));
        let steps: Vec<_> =
            workflow.steps.iter().map(|step| (step.exit_code, step.error.as_deref())).collect();
        let killed = (Some(137), Some("exit code 137"));
        assert_eq!(steps, [(None, Some("no such image")), (Some(3), None), killed, (None, None)]);
    }
}
