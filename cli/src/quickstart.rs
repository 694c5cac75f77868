//! `rdev quickstart`: a server, a project, a build and its commit, in one command.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use rand::RngExt;
use rdev_configuration::Environment;
use rdev_domain::git_url::GitUrl;
use rdev_domain::spec::AgentName;
use serde_json::{Value, json};

use crate::args::Common;
use crate::args::server::Quickstart;
use crate::client::{Client, End, follow};
use crate::command::build::exit_of;
use crate::config::{Config, Flags};
use crate::exit::Exit;
use crate::progress::Progress;
use crate::server::{Ended, Server};
use crate::up::Signals;
use crate::usage::UsageError;
use crate::{agents, log, out, summary};

/// Starts a server in this process, creates a project, builds it once, and shows the result.
pub(crate) async fn run(
    common: &Common,
    quickstart: &Quickstart,
    environment: &Environment,
) -> anyhow::Result<Exit> {
    let mut signals = Signals::new()?;
    log::init(common.log_format, "warn", environment.text("RUST_LOG"))?;
    let mut config = Config::load(&Flags::from(common), environment)?;
    let folder = config.data_dir(environment)?;
    let progress = Progress::new();
    let agent = choose_agent(&mut config, quickstart.agent, &progress)?;
    progress.doing("starting");
    progress.line(&format!("starting rdev on {}", folder.display()));
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut server = Server::start(&config, &folder, listen, agent).await?;

    let client = Client::new(&server.url, &server.admin_key)?;
    let built = {
        let mut running = None;
        let built = tokio::select! {
            built = build(&client, &quickstart.prompt, agent, &progress, &mut running) => Some(built),
            () = signals.next() => None,
            ended = server.ended() => Some(Err(unexpected(ended))),
        };
        if let (None, Some(path)) = (&built, &running) {
            progress.line("cancelling");
            // The drain ends the build, too, but would leave it for the next start.
            drop(client.post(&format!("{path}/cancel"), None, None).await);
        }
        built
    };
    server.drain_now();
    drop(server.ended().await);
    let data = server.folder.clone();
    server.close().await?;
    progress.finish();

    let Some(built) = built else { return Ok(Exit::Cancelled) };
    let built = built?;
    if common.json {
        out::json(&built.as_json())?;
    } else {
        out::line(summary::of_build(&built.record))?;
        if built.outcome() == "delivered" {
            let sample = agents::is_sample(&config.agents, agent);
            out::line(built.next_steps(
                &program(),
                common.data_dir.is_some().then_some(&data),
                sample,
            ))?;
        }
    }
    // Only a delivered commit is a success.
    Ok(match exit_of(&built.record) {
        Exit::Done if built.outcome() != "delivered" => Exit::Failed,
        exit => exit,
    })
}

fn choose_agent(
    config: &mut Config,
    requested: Option<AgentName>,
    progress: &Progress,
) -> anyhow::Result<AgentName> {
    let installed = rdev_runner::agent::available(&config.agents);
    let chosen = requested
        .or(config.default_agent)
        .or_else(|| agents::first_ready(&config.agents))
        .unwrap_or(AgentName::Command);
    if chosen == AgentName::Command && !agents::has_command(&config.agents) {
        agents::use_sample(&mut config.agents)?;
        let why = if requested.is_some() { "" } else { "no code agent is installed with a key: " };
        progress.line(&format!(
            "{why}using the built-in sample agent, which adds the prompt to the page"
        ));
        return Ok(chosen);
    }
    if !installed.contains(&chosen) {
        return Err(UsageError(format!(
            "the agent {chosen} is not installed; install it, or set agents.{chosen}.program"
        ))
        .into());
    }
    progress.line(&format!("using the agent {chosen}"));
    Ok(chosen)
}

/// The result of the quickstart.
struct Built {
    project_id: String,
    task_id: String,
    repository: String,
    record: Value,
}

async fn build(
    client: &Client,
    prompt: &str,
    agent: AgentName,
    progress: &Progress,
    running: &mut Option<String>,
) -> anyhow::Result<Built> {
    let name = fresh_name();
    let body =
        json!({"name": name, "template": "static", "description": "Made by rdev quickstart"});
    let project = client.post("projects", Some(&body), None).await?;
    let project_id = project["id"].as_str().context("the answer names no project")?.to_owned();
    let repository = repository(&project)?;
    progress.line(&format!("project {project_id}, a repository from the template `static`"));

    let body = json!({"prompt": prompt, "agent": agent});
    let task = client.post(&format!("projects/{project_id}/builds"), Some(&body), None).await?;
    let task_id = task["id"].as_str().context("the answer names no task")?.to_owned();
    *running = Some(format!("projects/{project_id}/builds/{task_id}"));
    progress.line(&format!("task {task_id}"));
    progress.doing("waiting for a worker");
    let shown = |event: &_, _: &_| {
        progress.event(event);
        Ok(())
    };
    let End(record) = follow(client, &project_id, &task_id, shown).await?;
    Ok(Built { project_id, task_id, repository, record })
}

/// The folder of a project's repository.
fn repository(project: &Value) -> anyhow::Result<String> {
    let url = project["git_url"].as_str().context("the project has no repository")?;
    let url: GitUrl = url.parse().context("the project's repository has an invalid URL")?;
    let folder = url.to_folder().context("the project's repository is not on this machine")?;
    folder
        .into_os_string()
        .into_string()
        .map_err(|_| anyhow::anyhow!("the data folder's path is not UTF-8"))
}

fn fresh_name() -> String {
    const LETTERS: &[u8] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut rng = rand::rng();
    let random = (0..6).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())]));
    format!("quickstart-{}", random.collect::<String>())
}

fn unexpected(ended: Ended) -> anyhow::Error {
    match ended {
        Ended::Runner(Ok(())) => anyhow::anyhow!("the runner ended by itself"),
        Ended::Runner(Err(error)) | Ended::Api(error) => error,
    }
}

/// The name with which this program was started.
fn program() -> String {
    std::env::args().next().filter(|name| !name.is_empty()).unwrap_or_else(|| "rdev".to_owned())
}

impl Built {
    /// `delivered`, another outcome, or the state if there is no outcome.
    fn outcome(&self) -> &str {
        let outcome = self.record["result"]["outcome"].as_str();
        outcome.or(self.record["state"].as_str()).unwrap_or_default()
    }

    fn as_json(&self) -> Value {
        let result = &self.record["result"];
        let mut json = json!({
            "project_id": self.project_id,
            "task_id": self.task_id,
            "outcome": self.outcome(),
            "commit_sha": result["commit_sha"],
            "branch": result["branch"],
            "repository": self.repository,
            "files_changed": result.get("files_changed").cloned().unwrap_or_else(|| json!([])),
            "durations_ms": result.get("durations_ms").cloned().unwrap_or_else(|| json!({})),
        });
        if self.record["failure"].is_object() {
            json["failure"] = self.record["failure"].clone();
        }
        json
    }

    fn next_steps(&self, program: &str, data: Option<&std::path::PathBuf>, sample: bool) -> String {
        let data = data.map(|folder| format!(" --data-dir {}", quoted(&folder.to_string_lossy())));
        let data = data.unwrap_or_default();
        let program = quoted(program);
        let branch = quoted(self.record["result"]["branch"].as_str().unwrap_or("main"));
        let repository = quoted(&self.repository);
        let sample = if sample { " --sample-agent" } else { "" };
        format!(
            "\nNext\n  \
             git -C {repository} show {branch}\n  \
             git clone {repository} page\n  \
             {program} up{sample}{data}        # serve; then, in another terminal:\n  \
             {program} build start {} 'Say it in one line' --follow{data}",
            self.project_id
        )
    }
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_project_ids_and_words_are_safe_for_a_shell() {
        for _ in 0..100 {
            assert!(fresh_name().parse::<rdev_domain::ids::ProjectId>().is_ok());
        }
        assert_eq!(quoted("/a b/it's"), r"'/a b/it'\''s'");
        assert_eq!(quoted("/plain-1.x"), "/plain-1.x");
    }
}
