//! Pages and templates that repeat a list of the code: each names all of it and nothing else.

use std::fs;
use std::path::Path;

use rdev_domain::failure::{FailureClass, PushReaction, Reaction};
use rdev_domain::spec::AgentName;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The first line of a text that has all of `parts`.
fn line<'a>(text: &'a str, parts: &[&str]) -> &'a str {
    let found = text.lines().find(|line| parts.iter().all(|part| line.contains(part)));
    found.unwrap_or_else(|| panic!("there is no line with {parts:?}"))
}

/// The texts between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_agent_may_be_the_default_of_the_template() {
    let template = read("infra/template.yaml");
    let allowed = line(&template, &["AllowedValues: [claude-code"]);
    let names = AgentName::ALL.map(AgentName::as_str).join(", ");
    assert_eq!(allowed.trim(), format!("AllowedValues: [{names}]"));
}

#[test]
fn the_api_page_names_every_agent() {
    let page = read("docs/api.md");
    let (field, _) = line(&page, &["| `agent` |", "`command`"]).split_once(';').expect("a default");
    assert_eq!(quoted(field)[1..], AgentName::ALL.map(AgentName::as_str));
}

#[test]
fn the_readme_says_what_every_agent_needs() {
    let page = read("README.md");
    for agent in AgentName::ALL {
        line(&page, &[&format!("| `{agent}` |")]);
    }
}

#[test]
fn the_runners_image_has_the_program_of_every_agent() {
    let image = read("infra/runner/Dockerfile");
    for agent in AgentName::ALL {
        let program = match agent {
            AgentName::ClaudeCode => "claude",
            AgentName::Opencode => "opencode",
            AgentName::Codex => "codex",
            // Whoever deploys it says which program it is.
            AgentName::Command => continue,
        };
        line(&image, &["ln -s", &format!("/opt/agents/bin/{program}")]);
    }
}

#[test]
fn the_protocol_page_shows_the_reactions_of_every_class() {
    let page = read("docs/protocol.md");
    let rows = page.lines().skip_while(|line| !line.starts_with("| class | while running |"));
    let mut shown = Vec::new();
    for row in rows.skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [classes, running, pushing] = cells[..] else { panic!("three columns: {row}") };
        shown.extend(quoted(classes).into_iter().map(|class| (class, running, pushing)));
    }
    for class in FailureClass::ALL {
        let rules = class.rules();
        let running = match rules.running {
            Reaction::Fail => "fail",
            Reaction::Retry => "retry with backoff",
            Reaction::RetryOnce => "retry once",
            Reaction::Park => "park until the reset time; the attempt is given back",
            Reaction::Again => "queued immediately, attempt spent",
            Reaction::Cancel => "cancelled",
        };
        let pushing = match rules.pushing {
            PushReaction::Fail => "fail",
            PushReaction::Postpone => "again, with backoff",
            PushReaction::Conflict if class == FailureClass::Conflict => "queued immediately",
            PushReaction::Conflict => "as `conflict`",
        };
        let of_class: Vec<_> = shown.iter().filter(|(name, ..)| *name == class.as_str()).collect();
        assert_eq!(of_class, [&(class.as_str(), running, pushing)], "{class:?}");
    }
    assert_eq!(shown.len(), FailureClass::ALL.len(), "the page has no other class");
}
