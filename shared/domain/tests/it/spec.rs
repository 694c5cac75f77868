//! Every bound of every task type's spec, on both sides of its edge.

use std::time::Duration;

use rdev_domain::spec::{AgentName, BuildSpec, CheckSpec, Work, plain_text};

/// The fields that break a rule.
fn broken(work: &Work) -> Vec<String> {
    work.check().err().unwrap_or_default().into_iter().map(|error| error.field).collect()
}

fn build(change: impl FnOnce(&mut BuildSpec)) -> Vec<String> {
    let mut spec = BuildSpec::of("make it blue");
    change(&mut spec);
    broken(&Work::Build(spec))
}

fn check(change: impl FnOnce(&mut CheckSpec)) -> Vec<String> {
    let mut spec = CheckSpec::of(vec!["true".to_owned()]);
    change(&mut spec);
    broken(&Work::Check(spec))
}

const GOOD: [&str; 0] = [];

#[test]
fn a_spec_with_every_default_is_good() {
    assert_eq!(build(|_| {}), GOOD);
    assert_eq!(check(|_| {}), GOOD);
}

#[test]
fn a_prompt_has_text_and_no_control_characters() {
    for good in ["x", " x ", "a\tb\r\nc", "\u{e4}\u{2028}"] {
        assert_eq!(build(|spec| spec.prompt = good.to_owned()), GOOD, "{good:?}");
    }
    for bad in ["", " ", "\n\t", "a\0b", "a\u{1b}[0m", "a\u{7f}", "a\u{85}"] {
        assert_eq!(build(|spec| spec.prompt = bad.to_owned()), ["prompt"], "{bad:?}");
    }
    assert_eq!(build(|spec| spec.prompt = "\u{b}".to_owned()), ["prompt", "prompt"]);
    assert!(plain_text("") && plain_text("\t\r\n") && !plain_text("\u{8}"));
}

#[test]
fn times_lie_between_one_second_and_two_hours() {
    for good in [1, 2, 7199, 7200] {
        assert_eq!(build(|spec| spec.timeout_s = good), GOOD, "{good}");
        assert_eq!(build(|spec| spec.stall_timeout_s = good), GOOD, "{good}");
        assert_eq!(check(|spec| spec.timeout_s = good), GOOD, "{good}");
    }
    for bad in [0, 7201, u32::MAX] {
        assert_eq!(build(|spec| spec.timeout_s = bad), ["timeout_s"], "{bad}");
        assert_eq!(build(|spec| spec.stall_timeout_s = bad), ["stall_timeout_s"], "{bad}");
        assert_eq!(check(|spec| spec.timeout_s = bad), ["timeout_s"], "{bad}");
    }
}

#[test]
fn turns_and_costs_are_above_zero() {
    for good in [None, Some(1), Some(u32::MAX)] {
        assert_eq!(build(|spec| spec.max_turns = good), GOOD, "{good:?}");
    }
    assert_eq!(build(|spec| spec.max_turns = Some(0)), ["max_turns"]);
    for good in [None, Some(f64::MIN_POSITIVE), Some(0.01), Some(1e9)] {
        assert_eq!(build(|spec| spec.max_cost_usd = good), GOOD, "{good:?}");
    }
    for bad in [0.0, -0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(build(|spec| spec.max_cost_usd = Some(bad)), ["max_cost_usd"], "{bad}");
    }
}

#[test]
fn a_model_is_a_name_of_up_to_200_bytes() {
    for good in ["m", "vendor/model-1.5", " ", &"m".repeat(200)] {
        assert_eq!(build(|spec| spec.model = Some(good.to_owned())), GOOD, "{good}");
    }
    for bad in ["", "-m", "a\nb", "a\0", &"m".repeat(201)] {
        assert_eq!(build(|spec| spec.model = Some(bad.to_owned())), ["model"], "{bad:?}");
    }
}

#[test]
fn there_are_up_to_twenty_commands_of_up_to_4000_bytes() {
    let one = |text: &str| vec![text.to_owned()];
    for good in [vec!["true".to_owned(); 20], one(&"x".repeat(4000)), one("a\nb\t")] {
        assert_eq!(build(|spec| spec.verify = good.clone()), GOOD);
        assert_eq!(check(|spec| spec.commands = good.clone()), GOOD);
    }
    for bad in [vec!["true".to_owned(); 21], one(&"x".repeat(4001)), one(""), one(" "), one("\0")] {
        assert_eq!(build(|spec| spec.verify = bad.clone()), ["verify"]);
        assert_eq!(check(|spec| spec.commands = bad.clone()), ["commands"]);
    }
    let second = vec!["true".to_owned(), String::new()];
    assert_eq!(check(|spec| spec.commands = second), ["commands"]);
    assert_eq!(build(|spec| spec.verify = vec![]), GOOD, "a build needs none");
    assert_eq!(check(|spec| spec.commands = vec![]), ["commands"], "a check needs one");
}

#[test]
fn a_commit_message_has_text_and_up_to_10000_bytes() {
    for good in ["x", "a\n\nb", &"x".repeat(10_000)] {
        assert_eq!(build(|spec| spec.commit_message = Some(good.to_owned())), GOOD);
    }
    for bad in ["", " \n", "a\0", &"x".repeat(10_001)] {
        assert_eq!(build(|spec| spec.commit_message = Some(bad.to_owned())), ["commit_message"]);
    }
}

#[test]
fn a_pull_request_needs_a_commit_and_a_push() {
    for (commit, push) in [(true, true), (true, false), (false, true), (false, false)] {
        let errors = |pull_request| {
            build(|spec| {
                spec.pull_request = pull_request;
                (spec.auto_commit, spec.auto_push) = (commit, push);
            })
        };
        assert_eq!(errors(None), GOOD);
        assert_eq!(errors(Some(false)), GOOD);
        assert_eq!(errors(Some(true)).is_empty(), commit && push, "{commit} {push}");
    }
}

#[test]
fn the_options_of_a_pull_request_need_one_and_have_limits() {
    let with = |pull_request, labels| {
        build(|spec| {
            spec.pull_request = pull_request;
            let label = "x".parse().expect("a label");
            spec.pull_request_options.labels = Some(vec![label; labels]);
        })
    };
    assert_eq!(with(Some(true), 20), GOOD);
    assert_eq!(with(Some(true), 21), ["pull_request_options.labels"]);
    for without in [None, Some(false)] {
        assert_eq!(with(without, 0), ["pull_request_options"]);
    }
}

#[test]
fn every_broken_rule_is_reported_with_its_field() {
    let errors = build(|spec| {
        spec.prompt = String::new();
        (spec.timeout_s, spec.stall_timeout_s) = (0, 0);
        spec.max_turns = Some(0);
    });
    assert_eq!(errors, ["prompt", "timeout_s", "stall_timeout_s", "max_turns"]);
}

#[test]
fn a_spec_says_its_type_its_agent_and_its_time() {
    let build =
        Work::Build(BuildSpec { agent: AgentName::Codex, timeout_s: 90, ..BuildSpec::of("x") });
    assert_eq!((build.kind(), build.agent()), ("build", Some(AgentName::Codex)));
    assert_eq!(build.timeout(), Duration::from_secs(90));
    let check = Work::Check(CheckSpec { timeout_s: 91, ..CheckSpec::of(vec![]) });
    assert_eq!((check.kind(), check.agent()), ("check", None));
    assert_eq!(check.timeout(), Duration::from_secs(91));
}

#[test]
fn what_a_request_leaves_out_has_its_default() {
    let read: BuildSpec = serde_json::from_str(r#"{"prompt":"x"}"#).expect("a build");
    assert_eq!(read, BuildSpec::of("x"));
    assert_eq!((read.timeout_s, read.stall_timeout_s, read.agent), (3600, 600, AgentName::Command));
    assert_eq!((read.auto_commit, read.auto_push, read.pull_request), (true, true, None));
    let read: CheckSpec = serde_json::from_str(r#"{"commands":["x"]}"#).expect("a check");
    assert_eq!(read, CheckSpec::of(vec!["x".to_owned()]));
    assert_eq!(read.timeout_s, 3600);
    for unknown in [r#"{"prompt":"x","y":1}"#, r#"{}"#] {
        assert!(serde_json::from_str::<BuildSpec>(unknown).is_err(), "{unknown}");
    }
}
