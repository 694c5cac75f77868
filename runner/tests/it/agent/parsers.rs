//! Recorded output of the agents, and how the runner reads it.

use std::fs;
use std::path::{Path, PathBuf};

use rdev_domain::event::EventKind;
use rdev_domain::failure::FailureClass;
use rdev_domain::result::Usage;
use rdev_domain::spec::AgentName;
use rdev_domain::time::Timestamp;
use rdev_runner::agent::{End, Progress, Report, replay};
use rdev_runner::config::{AgentSettings, Price};
use rdev_runner::process::{Exit, Stream};
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

struct Capture {
    agent: AgentName,
    stdout: String,
    stderr: String,
    exit: Exit,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/captures")
}

fn capture(name: &str) -> Capture {
    let read = |ending: &str| fs::read_to_string(folder().join(format!("{name}{ending}")));
    let exits: Value =
        serde_json::from_str(&fs::read_to_string(folder().join("exits.json")).expect("exits"))
            .expect("JSON");
    let status = exits[name]["exit_status"].as_i64().and_then(|status| i32::try_from(status).ok());
    let status = status.expect("an exit status");
    Capture {
        agent: match name.split_once('-').expect("a prefix").0 {
            "claude" => AgentName::ClaudeCode,
            "cx" => AgentName::Codex,
            _ => AgentName::Opencode,
        },
        stdout: read(".stdout.jsonl").expect("a capture"),
        stderr: read(".stderr.txt").unwrap_or_default(),
        exit: if status < 0 { killed(-status) } else { exited(status) },
    }
}

fn all() -> Vec<String> {
    let names =
        fs::read_dir(folder()).expect("captures").map(|entry| entry.expect("a file").file_name());
    let names =
        names.filter_map(|name| Some(name.to_str()?.strip_suffix(".stdout.jsonl")?.to_owned()));
    names.collect()
}

fn exited(code: i32) -> Exit {
    Exit { code: Some(code), signal: None }
}

fn killed(signal: i32) -> Exit {
    Exit { code: None, signal: Some(signal) }
}

fn settings() -> AgentSettings {
    let price = Price { input: 3.0, output: 15.0, cached: 0.3 };
    AgentSettings {
        model: Some("m".to_owned()),
        base_url: Some("http://127.0.0.1:1/v1".to_owned()),
        prices: [("m".to_owned(), price)].into(),
        ..AgentSettings::default()
    }
}

fn play(capture: &Capture) -> (Report, Vec<Progress>) {
    let stdout = capture.stdout.lines().map(|line| (Stream::Stdout, line));
    let stderr = capture.stderr.lines().map(|line| (Stream::Stderr, line));
    replay(capture.agent, &settings(), stdout.chain(stderr), capture.exit, NOW)
}

fn replay_of(name: &str) -> (Report, Vec<Progress>) {
    play(&capture(name))
}

fn class(report: &Report) -> Option<FailureClass> {
    match &report.end {
        End::Done => None,
        End::Failed(failure) => Some(failure.class),
        End::Stopped => panic!("a replay is never stopped"),
    }
}

fn kinds(progress: &[Progress]) -> Vec<EventKind> {
    let events = progress.iter().filter_map(|item| match item {
        Progress::Event(kind, _) => Some(*kind),
        Progress::Usage(_) => None,
    });
    events.collect()
}

fn data(progress: &[Progress], expected: EventKind) -> Value {
    let found = progress.iter().find_map(|item| match item {
        Progress::Event(kind, data) if *kind == expected => Some(data.clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no {expected:?} event"))
}

#[test]
fn every_capture_has_the_end_that_it_deserves() {
    use FailureClass::{AgentFailed, Auth, BudgetExceeded, Infra, RateLimited};
    let cases = [
        ("claude-ok", None),
        ("claude-resume", None),
        ("claude-flaky529", None),
        // Its name tells what was tried; the tool was allowed.
        ("claude-dontask", None),
        ("claude-err401-r0", Some(Auth)),
        ("claude-err500-r2", Some(Infra)),
        ("claude-hang-TERM", Some(AgentFailed)),
        ("claude-maxturns", Some(BudgetExceeded)),
        ("claude-budget", Some(BudgetExceeded)),
        ("cx-ok", None),
        ("cx-resume", None),
        ("cx-flaky529", None),
        ("cx-err401", Some(Auth)),
        ("cx-err500", Some(RateLimited)),
        ("cx-hang-TERM", Some(AgentFailed)),
        ("cx-ro", Some(AgentFailed)),
        ("oc-ok", None),
        ("oc-resume", None),
        ("oc-err401", Some(Auth)),
        ("oc-err500-long", Some(Infra)),
        ("oc-hang-TERM", Some(AgentFailed)),
        ("oc-maxtok", Some(AgentFailed)),
        ("oc-perm-ask", Some(AgentFailed)),
    ];
    for (name, expected) in cases {
        let (report, _) = replay_of(name);
        assert_eq!(class(&report), expected, "{name}: {:?}", report.end);
    }
    let mut names = all();
    names.retain(|name| !cases.iter().any(|(expected, _)| expected == name));
    assert!(names.is_empty(), "captures without an expectation: {names:?}");
}

#[test]
fn a_good_run_tells_who_worked_and_what_it_used() {
    let used = |cost_usd| Usage {
        input_tokens: 1400,
        output_tokens: 400,
        cache_tokens: 600,
        cost_usd: Some(cost_usd),
        turns: 2,
    };
    let claude = Usage { input_tokens: 2000, cache_tokens: 700, ..used(0.01662) };
    let cases = [
        ("claude-ok", claude, Some("2.1.330"), "938474ac-26fd-4103-be00-6815f8595a7e"),
        // 1400 × 3 + 600 × 0.3 + 400 × 15 per million.
        ("cx-ok", used(0.010_38), None, "01a207a5-a87f-7690-911c-b9aa50e4a646"),
        ("oc-ok", used(0.010_38), None, "ses_df85a6965ffe6gxZiA7Jvqz5WK"),
    ];
    for (name, usage, version, session) in cases {
        let (report, progress) = replay_of(name);
        let cost = |usage: &Usage| usage.cost_usd.expect("a cost");
        assert!((cost(&report.usage) - cost(&usage)).abs() < 1e-9, "{name}: {:?}", report.usage);
        assert_eq!(
            Usage { cost_usd: None, ..report.usage },
            Usage { cost_usd: None, ..usage },
            "{name}"
        );
        assert_eq!(
            progress.iter().rfind(|item| matches!(item, Progress::Usage(_))),
            Some(&Progress::Usage(report.usage))
        );
        assert_eq!(report.run.version.as_deref(), version, "{name}");
        assert_eq!(report.run.session_id.as_deref(), Some(session), "{name}");
        assert_eq!(report.summary, "All done: wrote hello.txt.", "{name}");
        let expected = [
            EventKind::AgentText,
            EventKind::AgentToolUse,
            EventKind::AgentToolResult,
            EventKind::AgentText,
        ];
        assert_eq!(kinds(&progress), expected, "{name}");
        assert_eq!(
            data(&progress, EventKind::AgentText),
            json!({"text": "I will write the file."})
        );
        let (used, result) =
            (data(&progress, EventKind::AgentToolUse), data(&progress, EventKind::AgentToolResult));
        assert_eq!(used["id"], result["id"], "{name}");
        assert!(used["input"].to_string().contains("/workspace/hello.txt"), "{name}: {used}");
        assert_eq!(result["is_error"], json!(false), "{name}");
    }
    assert_eq!(replay_of("claude-ok").0.run.model.as_deref(), Some("claude-opus-5-5"));
}

#[test]
fn a_resumed_claude_session_counts_only_this_run() {
    let (report, _) = replay_of("claude-resume");
    assert_eq!(report.usage.cost_usd, Some(0.01662));
    assert_eq!((report.usage.input_tokens, report.usage.turns), (2000, 2));
}

#[test]
fn a_run_that_hit_a_limit_still_tells_what_it_used() {
    let (report, _) = replay_of("claude-maxturns");
    assert_eq!((report.usage.input_tokens, report.usage.output_tokens), (300_000, 60_000));
    // `usage` of the same event says 200,000: the answer that broke the budget is missing there.
    assert_eq!(replay_of("claude-budget").0.usage.input_tokens, 300_000);
    let (report, _) = replay_of("claude-hang-TERM");
    assert!(report.run.session_id.is_some());
}

#[test]
fn retries_of_the_model_show_in_the_log() {
    for name in ["claude-flaky529", "cx-flaky529"] {
        let (_, progress) = replay_of(name);
        let tells = |item: &Progress| match item {
            Progress::Event(EventKind::Log, data) => {
                data["text"].as_str().is_some_and(|text| text.contains("529"))
            }
            _ => false,
        };
        assert!(progress.iter().any(tells), "{name}: {progress:?}");
    }
}

#[test]
fn claude_denied_a_tool_or_cut_short_did_not_succeed() {
    for (find, replace, words) in [
        (r#""permission_denials":[]"#, r#""permission_denials":[{"tool_name":"Bash"}]"#, "denied"),
        (r#""stop_reason":"end_turn""#, r#""stop_reason":"max_tokens""#, "cut"),
        (r#""is_error":false"#, r#""is_error":true"#, "success"),
    ] {
        let mut capture = capture("claude-ok");
        let (before, last) = capture.stdout.trim_end().rsplit_once('\n').expect("lines");
        assert!(last.contains(find), "{find}");
        capture.stdout = format!("{before}\n{}", last.replace(find, replace));
        let (report, _) = play(&capture);
        let End::Failed(failure) = &report.end else { panic!("{words}: {:?}", report.end) };
        assert_eq!(failure.class, FailureClass::AgentFailed);
        assert!(failure.message.contains(words), "{}", failure.message);
    }
}

#[test]
fn a_used_up_quota_is_parked_until_the_time_that_the_agent_reports() {
    let reset = json!({"type": "rate_limit_event", "rate_limit_info": {"status": "rejected", "resetsAt": 1_800_003_600}});
    let result = json!({"type": "result", "subtype": "success", "is_error": true, "terminal_reason": "api_error",
        "api_error_status": 429, "result": "You've reached your usage limit"});
    let mut claude = capture("claude-ok");
    claude.stdout = format!("{reset}\n{result}");
    let body =
        json!({"error": {"type": "usage_limit_reached", "resets_in_seconds": 3600}}).to_string();
    let error = json!({"type": "error", "error": {"name": "APIError", "data": {"message": "limit", "statusCode": 429, "responseBody": body}}});
    let mut opencode = capture("oc-ok");
    opencode.stdout = error.to_string();
    let failed = json!({"type": "turn.failed", "error": {"message": "You've hit your usage limit. Try again in 1 hour."}});
    let mut codex = capture("cx-ok");
    codex.stdout = failed.to_string();
    for mut capture in [claude, opencode, codex] {
        capture.exit = exited(1);
        let (report, _) = play(&capture);
        let End::Failed(failure) = &report.end else { panic!("{:?}", report.end) };
        assert_eq!(failure.class, FailureClass::Quota, "{:?}: {failure:?}", capture.agent);
        assert_eq!(
            failure.retry_at.map(Timestamp::as_millis),
            Some(1_800_003_600_000),
            "{:?}",
            capture.agent
        );
    }
}

#[test]
fn a_stream_that_breaks_off_anywhere_is_no_success_and_no_panic() {
    for name in all() {
        let whole = capture(&name);
        let lines: Vec<&str> = whole.stdout.lines().collect();
        for kept in 0..lines.len() {
            let half = &lines[kept][..lines[kept].floor_char_boundary(lines[kept].len() / 2)];
            let stdout = format!("{}\n{half}", lines[..kept].join("\n"));
            let cut = Capture { stdout, stderr: String::new(), ..capture(&name) };
            for exit in [exited(0), exited(1), killed(9)] {
                let (report, _) = play(&Capture {
                    exit,
                    stdout: cut.stdout.clone(),
                    stderr: String::new(),
                    ..cut
                });
                assert!(class(&report).is_some(), "{name} cut in line {kept}, {exit:?}");
            }
        }
    }
}

#[test]
fn lines_and_fields_that_nobody_knows_change_nothing() {
    let unknown_lines = [
        "plain words",
        "{\"type\":\"brand_new\",\"x\":[1,2,{}]}",
        "{\"type\":5}",
        "[1,2]",
        "null",
        "{\"type\":\"assistant\",\"message\":null}",
        "{\"type\":\"item.completed\"}",
        "{\"type\":\"tool_use\",\"part\":7}",
    ];
    for name in ["claude-ok", "cx-ok"] {
        let mut capture = capture(name);
        let (lines, last) = capture.stdout.trim_end().rsplit_once('\n').expect("lines");
        capture.stdout =
            format!("{}\n{lines}\n{}\n{last}", unknown_lines.join("\n"), unknown_lines.join("\n"));
        let (report, progress) = play(&capture);
        assert_eq!(class(&report), None, "{name}: {:?}", report.end);
        assert_eq!(report.summary, "All done: wrote hello.txt.");
        assert!(data(&progress, EventKind::Log)["text"] == "plain words");
    }
}

#[test]
fn an_opencode_that_gets_empty_answers_for_ever_is_told_to_end() {
    let step = |reason: &str| json!({"type": "step_finish", "sessionID": "s", "part": {"reason": reason, "tokens": {"input": 1}}});
    let start = json!({"type": "step_start", "sessionID": "s", "part": {}});
    let mut capture = capture("oc-ok");
    capture.stdout = format!("{start}\n{}\n", step("unknown")).repeat(5);
    let (report, _) = play(&capture);
    assert_eq!(class(&report), Some(FailureClass::AgentFailed));
}

#[test]
fn a_command_speaks_plainly_or_in_json_lines() {
    let run = |lines: &[(Stream, &str)], exit| {
        replay(AgentName::Command, &settings(), lines.iter().copied(), exit, NOW)
    };
    let (report, progress) = run(
        &[
            (Stream::Stdout, "working"),
            (Stream::Stdout, ""),
            (Stream::Stderr, "hm"),
            (Stream::Stdout, "done"),
        ],
        exited(0),
    );
    assert!(matches!(report.end, End::Done));
    assert_eq!(report.summary, "working\ndone");
    assert_eq!(kinds(&progress), [EventKind::Log; 3]);

    let lines = [
        r#"{"kind": "agent.text", "text": "hello"}"#,
        r#"{"kind": "agent.tool_use", "tool": "edit", "id": "1", "input": {"path": "a"}}"#,
        r#"{"kind": "agent.tool_result", "id": "1", "output": "ok"}"#,
        r#"{"kind": "agent.usage", "input_tokens": 5, "cost_usd": 0.5, "turns": 2}"#,
        r#"{"kind": "log", "text": "note"}"#,
        r#"{"kind": "unheard of"}"#,
        r#"{"kind": "result", "summary": "all good", "session_id": "s1", "version": "3"}"#,
    ];
    let (report, progress) = run(&lines.map(|line| (Stream::Stdout, line)), exited(0));
    assert_eq!(report.summary, "all good");
    assert_eq!(
        (report.run.session_id.as_deref(), report.run.version.as_deref()),
        (Some("s1"), Some("3"))
    );
    assert_eq!(
        (report.usage.input_tokens, report.usage.cost_usd, report.usage.turns),
        (5, Some(0.5), 2)
    );
    use EventKind::{AgentText, AgentToolResult, AgentToolUse};
    assert_eq!(
        kinds(&progress),
        [AgentText, AgentToolUse, AgentToolResult, EventKind::Log, EventKind::Log]
    );

    let (report, _) = run(&[(Stream::Stdout, "cannot do it")], exited(3));
    let End::Failed(failure) = report.end else { panic!("status 3 is no success") };
    assert_eq!(failure.class, FailureClass::AgentFailed);
    assert!(failure.message.contains("status 3") && failure.message.contains("cannot do it"));
}
