//! Which agent builds use when nobody names one.

use anyhow::Context;
use rdev_domain::spec::AgentName;
use rdev_runner::agent;
use rdev_runner::config::AgentSettings;

use crate::config::Config;

/// The sub-command that is the sample agent.
const SAMPLE: &str = "sample-agent";

/// The first code agent that is installed and has a key.
pub(crate) fn first_ready(config: &Config) -> Option<AgentName> {
    let none = AgentSettings::default();
    let of = |agent| config.agents.get(&agent).unwrap_or(&none);
    let mut installed = agent::available(&config.agents).into_iter();
    installed
        .find(|agent| *agent != AgentName::Command && agent::has_credentials(*agent, of(*agent)))
}

/// Whether a program is configured for the agent `command`.
pub(crate) fn has_command(config: &Config) -> bool {
    config.agents.get(&AgentName::Command).is_some_and(|settings| settings.program.is_some())
}

/// Makes this very program's sample the agent `command`.
///
/// # Errors
/// When the program cannot find out where it lies.
pub(crate) fn use_sample(config: &mut Config) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let settings = config.agents.entry(AgentName::Command).or_default();
    settings.program = Some(program);
    settings.args = vec![SAMPLE.to_owned()];
    Ok(())
}

/// Whether `agent` is this program's sample, as [`use_sample`] set it.
pub(crate) fn is_sample(config: &Config, agent: AgentName) -> bool {
    agent == AgentName::Command
        && config.agents.get(&agent).is_some_and(|settings| settings.args == [SAMPLE])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_agent_counts_when_it_is_installed_and_has_a_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("some-codex");
        fs::write(&program, "#!/bin/sh\n").expect("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
        let mut config = Config::default();
        // Whatever this machine has: these two are not there, though they have a key.
        for agent in [AgentName::ClaudeCode, AgentName::Opencode] {
            let program = Some(folder.path().join("missing"));
            let mut settings = AgentSettings { program, ..AgentSettings::default() };
            settings.set_env.insert("ANTHROPIC_API_KEY".to_owned(), "k".to_owned());
            config.agents.insert(agent, settings);
        }
        // An empty value goes over whatever this machine has.
        let mut settings = AgentSettings { program: Some(program), ..AgentSettings::default() };
        for name in ["OPENAI_API_KEY", "CODEX_API_KEY"] {
            settings.set_env.insert(name.to_owned(), String::new());
        }
        config.agents.insert(AgentName::Codex, settings);
        assert_eq!(first_ready(&config), None);
        let settings = config.agents.get_mut(&AgentName::Codex).expect("it is there");
        settings.set_env.insert("OPENAI_API_KEY".to_owned(), "k".to_owned());
        assert_eq!(first_ready(&config), Some(AgentName::Codex));
    }
}
