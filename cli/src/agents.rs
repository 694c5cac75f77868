//! The code agents: which of them are ready, and which one builds use by default.

use std::collections::BTreeMap;

use anyhow::Context;
use rdev_domain::spec::AgentName;
use rdev_platform::Finding;
use rdev_runner::agent;
use rdev_runner::config::AgentSettings;

/// The settings of the agents, as in `[agents.<name>]`.
pub(crate) type Agents = BTreeMap<AgentName, AgentSettings>;

/// The sub-command that is the sample agent.
const SAMPLE: &str = "sample-agent";

/// The help text of an option that selects an agent.
pub(crate) fn help(default: &str) -> String {
    format!("The agent: {}; default: {default}", AgentName::any_of(&AgentName::ALL))
}

/// Says that no agent is ready, and what to do.
pub(crate) fn none_ready() -> String {
    let code_agents: Vec<AgentName> =
        AgentName::ALL.into_iter().filter(|name| *name != AgentName::Command).collect();
    format!(
        "no agent is ready: install {} and set its key, or set agents.command.program",
        AgentName::any_of(&code_agents)
    )
}

/// The agent of builds that give none: the configured one, else the agent `command` if it has a
/// program, else the first code agent that is ready.
pub(crate) fn default_agent(configured: Option<AgentName>, agents: &Agents) -> Option<AgentName> {
    let command = has_command(agents).then_some(AgentName::Command);
    configured.or(command).or_else(|| first_ready(agents))
}

/// The first code agent that is installed and has a key.
pub(crate) fn first_ready(agents: &Agents) -> Option<AgentName> {
    let none = AgentSettings::default();
    let settings = |agent| agents.get(&agent).unwrap_or(&none);
    let mut installed = agent::available(agents).into_iter();
    installed.find(|agent| {
        *agent != AgentName::Command && agent::has_credentials(*agent, settings(*agent))
    })
}

/// Whether the agent `command` has a program.
pub(crate) fn has_command(agents: &Agents) -> bool {
    agents.get(&AgentName::Command).is_some_and(|settings| settings.program.is_some())
}

/// Makes the sample of this program the agent `command`.
///
/// # Errors
/// When the program cannot find its own file.
pub(crate) fn use_sample(agents: &mut Agents) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let settings = agents.entry(AgentName::Command).or_default();
    settings.program = Some(program);
    settings.args = vec![SAMPLE.to_owned()];
    Ok(())
}

/// Whether `agent` is the sample of this program, as [`use_sample`] set it.
pub(crate) fn is_sample(agents: &Agents, agent: AgentName) -> bool {
    agent == AgentName::Command
        && agents.get(&agent).is_some_and(|settings| settings.args == [SAMPLE])
}

/// Checks each agent, for `rdev doctor`. An agent that is neither installed nor configured is no
/// problem, unless all of them are missing.
pub(crate) fn check(configured: Option<AgentName>, agents: &Agents) -> Vec<Finding> {
    let none = AgentSettings::default();
    let installed = agent::available(agents);
    let mut findings: Vec<Finding> = Vec::new();
    for name in AgentName::ALL {
        let settings = agents.get(&name);
        let expected = settings.is_some() || configured == Some(name);
        let what = format!("the agent {name}");
        if !installed.contains(&name) {
            if expected {
                let problem =
                    format!("its program does not exist; install it or set agents.{name}.program");
                findings.push(Finding::problem(what, problem));
            }
        } else if name == AgentName::Command
            || agent::has_credentials(name, settings.unwrap_or(&none))
        {
            findings.push(Finding::fine(what));
        } else if expected {
            let problem = "the environment has no API key for its model";
            findings.push(Finding::problem(what, problem));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::problem("the agents", none_ready()));
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_agent_is_ready_if_it_is_installed_and_has_a_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("some-codex");
        fs::write(&program, "#!/bin/sh\n").expect("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
        let mut agents = BTreeMap::new();
        // These two have a key but no program, whatever this machine has.
        for agent in [AgentName::ClaudeCode, AgentName::Opencode] {
            let program = Some(folder.path().join("missing"));
            let mut settings = AgentSettings { program, ..AgentSettings::default() };
            settings.set_env.insert("ANTHROPIC_API_KEY".to_owned(), "k".to_owned());
            agents.insert(agent, settings);
        }
        // An empty value overrides the variable of this machine.
        let mut settings = AgentSettings { program: Some(program), ..AgentSettings::default() };
        for name in ["OPENAI_API_KEY", "CODEX_API_KEY"] {
            settings.set_env.insert(name.to_owned(), String::new());
        }
        agents.insert(AgentName::Codex, settings);
        assert_eq!(first_ready(&agents), None);
        let settings = agents.get_mut(&AgentName::Codex).expect("it is there");
        settings.set_env.insert("OPENAI_API_KEY".to_owned(), "k".to_owned());
        assert_eq!(first_ready(&agents), Some(AgentName::Codex));
    }
}
