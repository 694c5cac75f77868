//! From an event to a pipeline: the definition is read, what its conditions leave is planned.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::condition::When;
use super::definition::{self, Setting};
use super::origin::Origin;
use super::pipeline::{Pipeline, Source, next_number, publish};
use super::repository::{Repository, State};
use super::run::{self, Planned};
use super::step::Script;
use super::{Push, Run, Shared, locked, now, shape};
use crate::servers::git_http::try_git;

/// Where a pipeline is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) repository: u64,
    pub(super) number: u64,
    pub(super) workspace: PathBuf,
}

pub(super) fn push(shared: &Arc<Shared>, forge_id: u64, push: Push) -> Option<Run> {
    let id = {
        let mut state = locked(&shared.state);
        let repository = state.of_forge(forge_id).filter(|one| one.active && one.hooked)?;
        repository.git_dir = Some(push.git_dir.clone());
        repository.id
    };
    let message = push.message.to_lowercase();
    if message.contains("[skip ci]") || message.contains("[ci skip]") {
        return None;
    }
    let definition = definition_of(&push.git_dir, &push.commit)?;
    let Push { branch, commit, message, author, git_dir } = push;
    let origin = Origin { message, author, ..Origin::new("push", &branch, &commit) };
    let origin = origin.with_files(&git_dir);
    let Begun { place, ended, .. } =
        begin(shared, id, origin, Some(Source { git_dir, definition }))?;
    Some(Run {
        repository: place.repository,
        number: place.number,
        workspace: place.workspace,
        ended,
        handle: shared.handle.clone(),
    })
}

/// Starts the pipeline of a message, and says what it is like at that moment. `None`: there is
/// nothing to run.
pub(super) fn message(
    shared: &Arc<Shared>,
    repository: u64,
    git_dir: &Path,
    origin: Origin,
) -> Option<Value> {
    let definition = definition_of(git_dir, &origin.commit)?;
    if let Some(known) = locked(&shared.state).repositories.get_mut(&repository) {
        known.git_dir = Some(git_dir.to_owned());
    }
    let source = Source { git_dir: git_dir.to_owned(), definition };
    begin(shared, repository, origin, Some(source)).map(|begun| begun.shape)
}

/// Starts a pipeline of a branch by hand. `Ok(None)`: the conditions leave no step.
pub(super) fn by_hand(
    shared: &Arc<Shared>,
    repository: u64,
    branch: &str,
) -> Result<Option<Value>, &'static str> {
    let git_dir = {
        let state = locked(&shared.state);
        state.repositories.get(&repository).and_then(|one| state.git_dir(one))
    };
    let git_dir = git_dir.ok_or("could not fetch branch head")?;
    let commit = try_git(&git_dir, &["rev-parse", "--verify", &format!("refs/heads/{branch}")])
        .map_err(|_| "could not fetch branch head")?;
    let Some(definition) = definition_of(&git_dir, &commit) else { return Ok(None) };
    let origin = Origin {
        message: format!("MANUAL PIPELINE @ {branch}"),
        author: "rdev".to_owned(),
        ..Origin::new("manual", branch, &commit)
    };
    let begun = begin(shared, repository, origin, Some(Source { git_dir, definition }));
    Ok(begun.map(|begun| begun.shape))
}

/// Runs a pipeline again. `Ok(None)`: the conditions leave no step.
pub(super) fn again(
    shared: &Arc<Shared>,
    repository: u64,
    number: u64,
) -> Result<Option<Value>, (u16, &'static str)> {
    let (origin, source) = {
        let mut state = locked(&shared.state);
        let old = state.repositories.get_mut(&repository).and_then(|one| one.pipeline(number));
        let old = old.ok_or((404, ""))?;
        if old.status == "blocked" {
            return Err((400, "cannot restart a pipeline with status blocked"));
        }
        let origin = old.origin.clone().again(number);
        (origin, old.source.clone())
    };
    Ok(begin(shared, repository, origin, source).map(|begun| begun.shape))
}

/// The definition in a commit.
fn definition_of(git_dir: &Path, commit: &str) -> Option<String> {
    let names = [".woodpecker.yaml", ".woodpecker.yml"];
    names.iter().find_map(|name| try_git(git_dir, &["show", &format!("{commit}:{name}")]).ok())
}

/// A pipeline that was made.
#[derive(Debug)]
struct Begun {
    place: Place,
    ended: watch::Receiver<Option<String>>,
    /// What it is like before any of it runs.
    shape: Value,
}

/// Makes a pipeline and has it run. `None`: there is nothing to run.
fn begin(
    shared: &Arc<Shared>,
    repository: u64,
    origin: Origin,
    source: Option<Source>,
) -> Option<Begun> {
    let mut state = locked(&shared.state);
    let known = state.repositories.get(&repository)?;
    let number = next_number(known);
    let workspace = shared.folder.path().join(format!("{repository}-{number}"));
    let place = Place { repository, number, workspace };
    let url = format!("{}/repos/{repository}/pipeline/{number}", shared.url);
    // Its own variables count more than those that the server was given.
    let mut variables = state.environment.clone();
    variables.extend(ci_variables(known, &origin, &place, &url));
    let planned = match &source {
        None => Err(compiler("pipeline definition not found")),
        Some(source) => plan(&state, &source.definition, &origin, &variables),
    };
    if planned.as_ref().is_ok_and(Vec::is_empty) {
        return None;
    }
    let steps = planned.as_deref().unwrap_or_default();
    let names: Vec<_> = steps.iter().map(|step| (step.name.as_str(), step.kind())).collect();
    let mut pipeline = Pipeline::new(&mut state, number, origin, ("pending", now()), &names);
    pipeline.source = source;
    let ended = pipeline.ended.subscribe();
    let ids: Vec<u64> = pipeline.workflows[0].steps.iter().map(|step| step.id).collect();
    if let Err(why) = &planned {
        "error".clone_into(&mut pipeline.status);
        (pipeline.started, pipeline.finished) = (pipeline.created, now());
        pipeline.workflows.clear();
        pipeline.errors.push(why.clone());
        pipeline.ended.send_replace(Some("error".to_owned()));
    }
    let shape = shape::pipeline(&pipeline, true);
    let known = state.repositories.get_mut(&repository)?;
    known.pipelines.push(pipeline);
    publish(shared, known, number);
    drop(state);
    if let Ok(planned) = planned {
        let steps = ids.into_iter().zip(planned).collect();
        shared.handle.spawn(run::run(Arc::clone(shared), place.clone(), steps));
    }
    Some(Begun { place, ended, shape })
}

/// What is wrong with a definition, for a pipeline's errors.
fn compiler(why: &str) -> Value {
    json!({"type": "compiler", "message": why, "is_warning": false, "data": null})
}

/// The plugins that were privileged before 3.0, and now are where the server's settings say so.
const FORMERLY_PRIVILEGED: [&str; 2] =
    ["woodpeckerci/plugin-docker-buildx", "codeberg.org/woodpecker-plugins/docker-buildx"];

/// Refuses a plugin that would not get the rights that it needs.
fn lint(state: &State, image: &str) -> Result<(), Value> {
    let name = image.rsplit_once(':').map_or(image, |(name, _)| name);
    let allowed = state.privileged.iter().any(|one| one == image || one == name);
    if allowed || !FORMERLY_PRIVILEGED.contains(&name.trim_start_matches("docker.io/")) {
        return Ok(());
    }
    let why = format!(
        "The formerly privileged plugin `{image}` is no longer privileged by default, if required, \
         add it to `WOODPECKER_PLUGINS_PRIVILEGED`"
    );
    let data = json!({"file": "woodpecker", "field": "steps.image"});
    Err(json!({"type": "linter", "message": why, "is_warning": false, "data": data}))
}

/// What a definition does for this origin; nothing when its conditions leave nothing.
fn plan(
    state: &State,
    definition: &str,
    origin: &Origin,
    variables: &BTreeMap<String, String>,
) -> Result<Vec<Planned>, Value> {
    let definition = definition::read(definition, variables).map_err(|why| compiler(&why))?;
    definition.steps.iter().try_for_each(|step| lint(state, &step.image))?;
    let fits = |when: &When| when.may_hold(&origin.event, &origin.branch);
    if !fits(&definition.when) {
        return Ok(Vec::new());
    }
    let mut planned = Vec::new();
    for step in definition.steps.into_iter().filter(|step| fits(&step.when)) {
        planned.push(plan_step(state, step, variables).map_err(|why| compiler(&why))?);
    }
    if !planned.is_empty() && !definition.skip_clone {
        planned.insert(0, Planned::clone_step());
    }
    Ok(planned)
}

fn plan_step(
    state: &State,
    step: definition::Step,
    variables: &BTreeMap<String, String>,
) -> Result<Planned, String> {
    // Woodpecker looks for all secrets before anything runs, and so for those of steps, too,
    // that are not run here.
    let secret = |name: &str| {
        let value = state.secrets.get(name).cloned();
        value.ok_or_else(|| format!("secret \"{name}\" not found"))
    };
    for name in &step.secrets {
        secret(name)?;
    }
    let mut own = vec![("CI_STEP_NAME".to_owned(), step.name.clone())];
    for (name, setting) in step.environment {
        let value = match setting {
            Setting::Text(text) => text,
            Setting::Secret(name) => secret(&name)?,
        };
        own.push((name, value));
    }
    let runner = state.images.iter().find(|(prefix, _)| step.image.starts_with(prefix.as_str()));
    let mut planned = Planned::skipped(&step.name, !step.commands.is_empty());
    (planned.when, planned.may_fail) = (step.when, step.may_fail);
    match runner {
        _ if step.commands.is_empty() => {
            planned.why = format!("not run: the plugin {} needs Docker", step.image);
        }
        None => {
            let image = step.image;
            planned.why = format!("not run: the image {image} is not allowed on this machine");
        }
        Some((_, runner)) => {
            let mut env = runner.env.clone();
            env.extend(variables.iter().map(|(name, value)| (name.clone(), value.clone())));
            env.append(&mut own);
            planned.script =
                Some(Script { commands: step.commands, env, directory: step.directory });
        }
    }
    Ok(planned)
}

/// Woodpecker's own variables.
fn ci_variables(
    repository: &Repository,
    origin: &Origin,
    place: &Place,
    url: &str,
) -> [(String, String); 16] {
    let (number, forge_id) = (place.number.to_string(), repository.forge_id.to_string());
    let (workspace, full_name) = (place.workspace.to_string_lossy(), repository.full_name());
    [
        ("CI", "woodpecker"),
        ("CI_REPO", &full_name),
        ("CI_REPO_REMOTE_ID", &forge_id),
        ("CI_REPO_OWNER", &repository.owner),
        ("CI_REPO_NAME", &repository.name),
        ("CI_REPO_DEFAULT_BRANCH", "main"),
        ("CI_COMMIT_SHA", &origin.commit),
        ("CI_COMMIT_BRANCH", &origin.branch),
        ("CI_COMMIT_REF", &origin.reference),
        ("CI_COMMIT_MESSAGE", &origin.message),
        ("CI_COMMIT_AUTHOR", &origin.author),
        ("CI_PIPELINE_NUMBER", &number),
        ("CI_PIPELINE_EVENT", &origin.event),
        ("CI_PIPELINE_URL", url),
        ("CI_WORKSPACE", &workspace),
        ("CI_SYSTEM_NAME", "woodpecker"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
}
