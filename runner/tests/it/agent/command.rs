//! The `command` agent, run for real: its environment, its output, its end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rdev_domain::event::EventKind;
use rdev_domain::failure::FailureClass;
use rdev_domain::secret::Secret;
use rdev_domain::spec::AgentName;
use rdev_runner::agent::{self, AgentContext, AgentRequest, End, Progress, Report};
use rdev_runner::config::AgentSettings;
use rdev_runner::redact::Redactor;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const SECRET: &str = "hunter2-hunter2";

struct Bench {
    folder: TempDir,
    settings: AgentSettings,
}

struct Ran {
    report: Report,
    progress: Vec<Progress>,
    checkout: PathBuf,
}

/// An agent that is a shell script.
fn bench(script: &str) -> Bench {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["checkout", "home", "tmp"] {
        fs::create_dir(folder.path().join(name)).expect("a folder");
    }
    let program = folder.path().join("agent.sh");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a script");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    Bench { folder, settings: AgentSettings { program: Some(program), ..AgentSettings::default() } }
}

impl Bench {
    async fn run(&self) -> Ran {
        self.run_with(|request| request).await
    }

    async fn run_with(&self, change: impl Fn(AgentRequest<'_>) -> AgentRequest<'_>) -> Ran {
        let folder = |name| self.folder.path().join(name);
        let (checkout, home, tmp) = (folder("checkout"), folder("home"), folder("tmp"));
        let request = AgentRequest {
            prompt: "make it blue",
            model: Some("m1"),
            max_turns: None,
            max_cost_usd: None,
            resume: Some("s0"),
            checkout: &checkout,
            home: &home,
            tmp: &tmp,
            attempt_dir: self.folder.path(),
            deadline: Instant::now() + Duration::from_secs(600),
            stall: Duration::from_secs(600),
            grace: Duration::from_millis(200),
        };
        let mut progress = Vec::new();
        let redactor = Redactor::new([Secret::new(SECRET)]);
        let stop = CancellationToken::new();
        let context = AgentContext {
            agent: AgentName::Command,
            settings: &self.settings,
            redactor: &redactor,
            stop: &stop,
        };
        let report = agent::run(&context, &change(request), &mut |item| progress.push(item)).await;
        Ran { report, progress, checkout }
    }
}

impl Ran {
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.checkout.join(name))
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn class(&self) -> FailureClass {
        match &self.report.end {
            End::Failed(failure) => failure.class,
            other => panic!("it should have failed, but: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_command_gets_the_prompt_twice_and_works_in_the_checkout() {
    let bench = bench(
        "cat > stdin; printf %s \"$RDEV_PROMPT\" > variable; echo \"$RDEV_MODEL $RDEV_SESSION\" > named",
    );
    let ran = bench.run().await;
    assert!(matches!(ran.report.end, End::Done), "{:?}", ran.report.end);
    assert_eq!(
        (ran.read("stdin"), ran.read("variable")),
        ("make it blue".to_owned(), "make it blue".to_owned())
    );
    assert_eq!(ran.read("named"), "m1 s0\n");
    assert_eq!(ran.report.run.provider, AgentName::Command);
}

#[tokio::test]
async fn a_prompt_that_no_variable_can_hold_still_arrives() {
    static LONG: LazyLock<String> = LazyLock::new(|| "x".repeat(200_000));
    let bench = bench("wc -c > size; echo \"${RDEV_PROMPT-unset}\" > variable");
    let ran = bench.run_with(|request| AgentRequest { prompt: LONG.as_str(), ..request }).await;
    assert!(matches!(ran.report.end, End::Done), "{:?}", ran.report.end);
    assert_eq!((ran.read("size").trim(), ran.read("variable").trim()), ("200000", "unset"));
}

#[tokio::test]
async fn the_environment_holds_only_what_is_allowed() {
    let mut bench = bench("env > env");
    bench.settings.env = ["CARGO_MANIFEST_DIR", "AWS_REGION"].map(str::to_owned).into();
    let set =
        [("GIVEN", "yes"), ("AWS_SECRET_ACCESS_KEY", "no"), ("RDEV_KEY", "no"), ("ECS_X", "no")];
    bench.settings.set_env = set.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let ran = bench.run().await;
    let env = ran.read("env");
    let mut names: Vec<_> = env.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    // The shell's own, and those that the machine may or may not have.
    names.retain(|name| {
        !["PWD", "OLDPWD", "SHLVL", "_", "LANG", "LC_ALL", "TERM", "TZ"].contains(name)
    });
    names.sort_unstable();
    let expected = [
        "CARGO_MANIFEST_DIR",
        "GIVEN",
        "HOME",
        "PATH",
        "RDEV_ATTEMPT",
        "RDEV_MODEL",
        "RDEV_PROMPT",
        "RDEV_SESSION",
        "TMPDIR",
    ];
    assert_eq!(names, expected);
    assert!(env.contains(&format!("HOME={}", bench.folder.path().join("home").display())));
}

#[tokio::test]
async fn secrets_are_in_no_event_summary_or_failure() {
    let script = format!(
        "echo 'the key is {SECRET}'; echo 'oh {SECRET}' >&2; \
         echo '{{\"kind\": \"agent.text\", \"text\": \"{SECRET}\"}}'; exit 1"
    );
    let ran = bench(&script).run().await;
    let all = format!("{:?} {:?}", ran.report, ran.progress);
    assert!(!all.contains(SECRET), "{all}");
    assert_eq!(all.matches("[secret]").count(), 6, "{all}");
    assert_eq!(ran.class(), FailureClass::AgentFailed);
}

#[tokio::test]
async fn a_secret_that_arrives_in_two_reads_is_redacted() {
    let (first, second) = SECRET.split_at(7);
    let script = format!("printf 'the key is {first}'; sleep 0.3; echo '{second}!'");
    let ran = bench(&script).run().await;
    let all = format!("{:?} {:?}", ran.report, ran.progress);
    assert!(!all.contains(first) && !all.contains(second), "{all}");
    assert_eq!(ran.report.summary, "the key is [secret]!");
}

#[tokio::test]
async fn a_command_that_reports_its_usage_is_held_to_the_limits() {
    let usage = |fields: &str| format!("echo '{{\"kind\": \"agent.usage\", {fields}}}'; sleep 300");
    let turns = bench(&usage("\"turns\": 3"))
        .run_with(|request| AgentRequest { max_turns: Some(3), ..request })
        .await;
    assert_eq!(turns.class(), FailureClass::BudgetExceeded);
    assert_eq!(turns.report.usage.turns, 3);
    let cost = bench(&usage("\"cost_usd\": 2.5"))
        .run_with(|request| AgentRequest { max_cost_usd: Some(2.0), ..request })
        .await;
    assert_eq!(cost.class(), FailureClass::BudgetExceeded);
}

#[tokio::test]
async fn a_result_ends_a_command_that_does_not_end_itself() {
    let ran = bench("echo '{\"kind\": \"result\", \"summary\": \"blue\"}'; sleep 300").run().await;
    assert!(matches!(ran.report.end, End::Done), "{:?}", ran.report.end);
    assert_eq!(ran.report.summary, "blue");
}

#[tokio::test]
async fn silence_and_the_deadline_have_classes_of_their_own() {
    let short = Duration::from_millis(200);
    let silent =
        bench("sleep 300").run_with(|request| AgentRequest { stall: short, ..request }).await;
    assert_eq!(silent.class(), FailureClass::AgentStalled);
    let late = bench("while :; do echo x; sleep 0.05; done");
    let late =
        late.run_with(|request| AgentRequest { deadline: Instant::now() + short, ..request }).await;
    assert_eq!(late.class(), FailureClass::Timeout);
}

#[tokio::test]
async fn a_program_that_is_not_there_is_invalid_and_is_not_offered() {
    let mut bench = bench("");
    bench.settings.program = None;
    assert_eq!(bench.run().await.class(), FailureClass::Invalid);
    bench.settings.program = Some("no-such-program-anywhere".into());
    let ran = bench.run().await;
    assert_eq!(ran.class(), FailureClass::Invalid);
    let offered = |settings: &AgentSettings| {
        agent::available(&[(AgentName::Command, settings.clone())].into())
            .contains(&AgentName::Command)
    };
    assert!(!offered(&bench.settings));
    bench.settings.program = Some("sh".into());
    assert!(offered(&bench.settings));
}

#[tokio::test]
async fn an_event_with_a_very_long_text_is_cut() {
    let ran = bench("head -c 300000 /dev/zero | tr '\\0' x; echo").run().await;
    let texts = ran.progress.iter().filter_map(|item| match item {
        Progress::Event(EventKind::Log, data) => data["text"].as_str(),
        _ => None,
    });
    assert!(
        matches!(texts.collect::<Vec<_>>()[..], [text] if text.len() < 70_000 && text.ends_with("[…]"))
    );
}

#[test]
fn keys_and_configured_secrets_are_known() {
    let set = [("MY_TOKEN", "token-value"), ("COLOUR", "blue-value")];
    let settings = AgentSettings {
        set_env: set.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..AgentSettings::default()
    };
    let found = agent::secrets(&[(AgentName::Command, settings.clone())].into());
    let has = |text: &str| found.iter().any(|secret| secret.expose() == text);
    assert!(has("token-value") && !has("blue-value"));
    assert!(!agent::has_credentials(AgentName::Command, &settings));
    let keyed = AgentSettings {
        set_env: [("OPENAI_API_KEY".to_owned(), "k".to_owned())].into(),
        ..settings
    };
    assert!(agent::has_credentials(AgentName::Codex, &keyed));
}
