//! Process trees that do not want to end, and ones that do.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdev_runner::process::{
    self, Ended, Exit, Flow, Launch, Limits, MARKER, Marker, RunError, Stream,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(600);

fn attempt() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn shell(attempt: &TempDir, script: &str) -> Launch {
    let path = std::env::var_os("PATH").expect("PATH");
    Launch {
        program: PathBuf::from("/bin/sh"),
        args: vec!["-c".into(), script.into()],
        env: vec![("PATH".into(), path)],
        cwd: attempt.path().to_owned(),
        stdin: None,
        marker: Marker::new(attempt.path()),
        grace: Duration::from_millis(300),
    }
}

fn limits() -> Limits {
    Limits { deadline: Instant::now() + LONG, stall: None }
}

async fn run(launch: Launch, limits: Limits) -> (Ended, Vec<(Stream, String)>) {
    let (stop, mut lines) = (CancellationToken::new(), Vec::new());
    let ended = process::run(launch, limits, &stop, |stream, line| {
        lines.push((stream, line.to_owned()));
        Flow::Continue
    });
    (ended.await.expect("it runs"), lines)
}

/// Runs `script` and fires the token at the first line that says "ready".
async fn stop_when_ready(attempt: &TempDir, script: &str) -> (Ended, Vec<String>) {
    let (stop, mut lines) = (CancellationToken::new(), Vec::new());
    let ended = process::run(shell(attempt, script), limits(), &stop, |_, line| {
        lines.push(line.to_owned());
        if line == "ready" {
            stop.cancel();
        }
        Flow::Continue
    });
    (ended.await.expect("it runs"), lines)
}

fn exited(code: i32) -> Ended {
    Ended::Exited(Exit { code: Some(code), signal: None })
}

fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

fn pids(lines: impl IntoIterator<Item = String>) -> Vec<i32> {
    let pids = lines.into_iter().filter_map(|line| line.strip_prefix("pid ")?.parse().ok());
    pids.collect()
}

#[tokio::test]
async fn lines_and_the_exit_status_arrive() {
    let attempt = attempt();
    let (ended, lines) =
        run(shell(&attempt, "echo out; echo err >&2; printf last; exit 3"), limits()).await;
    assert_eq!(ended, exited(3));
    let of = |expected| {
        lines.iter().filter(move |(stream, _)| *stream == expected).map(|(_, line)| line.as_str())
    };
    assert_eq!(of(Stream::Stdout).collect::<Vec<_>>(), ["out", "last"]);
    assert_eq!(of(Stream::Stderr).collect::<Vec<_>>(), ["err"]);
    let (ended, _) = run(shell(&attempt, "kill -SEGV $$"), limits()).await;
    assert_eq!(ended, Ended::Exited(Exit { code: None, signal: Some(11) }));
}

#[tokio::test]
async fn the_environment_is_what_was_given_and_the_marker() {
    let attempt = attempt();
    let mut launch = shell(&attempt, "");
    launch.program = "/usr/bin/env".into();
    launch.args = Vec::new();
    launch.env = vec![("ONE".into(), "1".into())];
    let (_, lines) = run(launch, limits()).await;
    let mut lines: Vec<_> = lines.into_iter().map(|(_, line)| line).collect();
    lines.sort();
    assert_eq!(lines, ["ONE=1".to_owned(), format!("{MARKER}={}", attempt.path().display())]);
}

#[tokio::test]
async fn a_long_input_is_read_or_left_alone() {
    let attempt = attempt();
    let input = vec![b'x'; 1 << 20];
    let mut launch = shell(&attempt, "wc -c");
    launch.stdin = Some(input.clone());
    let (ended, lines) = run(launch, limits()).await;
    assert_eq!((ended, lines[0].1.trim()), (exited(0), "1048576"));
    for script in ["exit 4", "exec <&-; echo done; exit 4", "sleep 0.3; exit 4"] {
        let mut launch = shell(&attempt, script);
        launch.stdin = Some(input.clone());
        assert_eq!(run(launch, limits()).await.0, exited(4), "{script}");
    }
}

#[tokio::test]
async fn one_that_heeds_term_ends_in_peace_and_is_heard_out() {
    let attempt = attempt();
    let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let (ended, lines) = stop_when_ready(&attempt, script).await;
    assert_eq!(ended, Ended::Stopped);
    // The shell may say on standard error that TERM has ended its child too.
    assert!(lines.iter().any(|line| line == "bye"), "{lines:?}");
}

#[tokio::test]
async fn one_that_ignores_term_is_killed_with_its_children() {
    let attempt = attempt();
    let script = "trap '' TERM; sleep 300 & echo pid $!; echo pid $$; echo ready; while :; do sleep 0.05; done";
    let (ended, lines) = stop_when_ready(&attempt, script).await;
    assert_eq!(ended, Ended::Stopped);
    let pids = pids(lines);
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|pid| !alive(*pid)));
}

/// Children in every way of getting away. Each says its pid.
const RUNAWAYS: &str = r#"
    sleep 300 & echo pid $!
    setsid sh -c 'echo pid $$; exec sleep 300' &
    (setsid sh -c 'echo pid $$; exec sleep 300' &)
    (cd / && setsid env -i PATH="$PATH" sh -c 'echo pid $$; exec sleep 300' &)
    (setsid env -i PATH="$PATH" sh -c 'echo pid $$; exec sleep 300 >/dev/null 2>&1 </dev/null' &)
    (trap '' TERM HUP; cd / && setsid sh -c '(setsid env -i sh -c "echo pid \$\$; exec sleep 300" &)' &)
"#;

#[tokio::test]
async fn whoever_ran_away_is_found_when_the_process_is_stopped() {
    let attempt = attempt();
    let script =
        format!("{RUNAWAYS}\nwhile [ ! -e go ]; do sleep 0.02; done; echo ready; sleep 300");
    let ended = ended_with_runaways(&attempt, &script).await;
    assert_eq!(ended, Ended::Stopped);
}

#[tokio::test]
async fn whoever_outlives_a_good_end_is_killed_and_does_not_delay_it() {
    let attempt = attempt();
    let script = format!("{RUNAWAYS}\nwhile [ ! -e go ]; do sleep 0.02; done; exit 0");
    let ended = ended_with_runaways(&attempt, &script).await;
    assert_eq!(ended, exited(0));
}

async fn ended_with_runaways(attempt: &TempDir, script: &str) -> Ended {
    let go = attempt.path().join("go");
    let (stop, mut lines, begun) = (CancellationToken::new(), Vec::new(), Instant::now());
    let ended = process::run(shell(attempt, script), limits(), &stop, |_, line| {
        lines.push(line.to_owned());
        match line {
            "ready" => stop.cancel(),
            _ if pids(lines.clone()).len() == 6 => fs::write(&go, "").expect("a file"),
            _ => {}
        }
        Flow::Continue
    });
    let ended = ended.await.expect("it runs");
    let pids = pids(lines);
    assert_eq!(pids.len(), 6);
    assert!(pids.iter().all(|pid| !alive(*pid)), "some of {pids:?} live");
    assert!(begun.elapsed() < LONG / 4);
    ended
}

#[tokio::test]
async fn killing_the_guardian_frees_nobody() {
    let attempt = attempt();
    let script = "(setsid sh -c 'echo pid $$; exec sleep 300' &); echo pid $$; sleep 0.3; kill -9 $PPID; sleep 300";
    let (ended, lines) = run(shell(&attempt, script), limits()).await;
    assert_eq!(ended, Ended::Exited(Exit { code: None, signal: Some(9) }));
    let pids = pids(lines.into_iter().map(|(_, line)| line));
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|pid| !alive(*pid)), "some of {pids:?} live");
}

#[tokio::test]
async fn a_run_that_is_dropped_takes_its_tree_along() {
    let attempt = attempt();
    let script =
        "(setsid sh -c 'echo $$ > child; exec sleep 300' &); echo $$ > parent; echo; sleep 300";
    let (stop, launch) = (CancellationToken::new(), shell(&attempt, script));
    // On a busy machine the script can be faster than the end of its own start.
    let started = AtomicBool::new(false);
    let read =
        |name| fs::read_to_string(attempt.path().join(name)).ok()?.trim().parse::<i32>().ok();
    let both = async {
        loop {
            if let (true, Some(child), Some(parent)) =
                (started.load(Ordering::Relaxed), read("child"), read("parent"))
            {
                return [child, parent];
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let note = |_, _: &str| {
        started.store(true, Ordering::Relaxed);
        Flow::Continue
    };
    let pids = tokio::select! {
        ended = process::run(launch, limits(), &stop, note) => panic!("{ended:?}"),
        pids = both => pids,
    };
    until(|| pids.iter().all(|pid| !alive(*pid)).then_some(()));
}

#[tokio::test]
async fn a_process_that_closes_its_outputs_is_still_waited_for() {
    let attempt = attempt();
    let (ended, _) = run(shell(&attempt, "exec >&- 2>&-; sleep 0.3; exit 7"), limits()).await;
    assert_eq!(ended, exited(7));
}

#[tokio::test]
async fn a_flood_of_output_is_read_whole_and_can_be_stopped() {
    let attempt = attempt();
    let (stop, mut bytes) = (CancellationToken::new(), 0);
    let flood = shell(&attempt, "yes 0123456789 | head -c 33000000");
    let ended = process::run(flood, limits(), &stop, |_, line| {
        bytes += line.len() + 1;
        Flow::Continue
    });
    assert_eq!(ended.await.expect("it runs"), exited(0));
    assert_eq!(bytes, 33_000_000);

    let mut count = 0;
    let ended = process::run(shell(&attempt, "yes"), limits(), &stop, |_, _| {
        count += 1;
        if count == 1000 {
            stop.cancel();
        }
        Flow::Continue
    });
    assert_eq!(ended.await.expect("it runs"), Ended::Stopped);
}

#[tokio::test]
async fn an_over_long_line_is_cut_and_the_next_one_is_whole() {
    let attempt = attempt();
    let script = "head -c 3000000 /dev/zero | tr '\\0' x; echo; printf '\\377next\\n'";
    let (_, lines) = run(shell(&attempt, script), limits()).await;
    assert_eq!(lines.len(), 2);
    assert!(lines[0].1.len() < (1 << 20) + 10 && lines[0].1.ends_with("[…]"));
    assert_eq!(lines[1].1, "\u{fffd}next");
}

#[tokio::test]
async fn silence_is_a_stall_and_output_is_not() {
    let attempt = attempt();
    let stall = |span| Limits { stall: Some(span), ..limits() };
    let (ended, _) =
        run(shell(&attempt, "echo a; sleep 300"), stall(Duration::from_millis(300))).await;
    assert_eq!(ended, Ended::Stalled);
    // Longer than the stall in all, and each pause much shorter, so that a busy machine makes none.
    let chatty = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo $i; sleep 0.5; done";
    let (ended, _) = run(shell(&attempt, chatty), stall(Duration::from_secs(5))).await;
    assert_eq!(ended, exited(0));
}

#[tokio::test]
async fn the_deadline_ends_it() {
    let attempt = attempt();
    let limits = Limits { deadline: Instant::now() + Duration::from_millis(200), stall: None };
    let (ended, _) = run(shell(&attempt, "while :; do echo x; sleep 0.05; done"), limits).await;
    assert_eq!(ended, Ended::TimedOut);
}

#[tokio::test]
async fn after_its_last_words_it_has_the_grace_time_to_end() {
    let attempt = attempt();
    let result_received = |script: &'static str, flow, grace| {
        let launch = Launch { grace, ..shell(&attempt, script) };
        async move {
            let stop = CancellationToken::new();
            process::run(launch, limits(), &stop, |_, line| {
                if line == "done" { flow } else { Flow::Continue }
            })
            .await
        }
    };
    let short = Duration::from_millis(300);
    let hung = result_received("echo done; sleep 300", Flow::ResultReceived, short).await;
    assert_eq!(hung.expect("it runs"), Ended::HungAfterResult);
    let good = result_received("echo done; sleep 0.05; exit 5", Flow::ResultReceived, LONG).await;
    assert_eq!(good.expect("it runs"), exited(5));
    let outcome = result_received("echo done; sleep 300", Flow::Stop, short).await;
    assert_eq!(outcome.expect("it runs"), Ended::Stopped);
}

#[tokio::test]
async fn what_cannot_be_started_says_which_program() {
    let attempt = attempt();
    let mut launch = shell(&attempt, "");
    launch.program = "/no/such/program".into();
    let error =
        process::run(launch, limits(), &CancellationToken::new(), |_, _| Flow::Continue).await;
    let error = error.expect_err("there is none");
    assert!(matches!(&error, RunError::Spawn { program, .. } if program == "/no/such/program"));
    assert_eq!(error.to_string(), "cannot start /no/such/program");
}

fn spawn(configure: impl FnOnce(&mut Command) -> &mut Command) -> Child {
    let mut command = Command::new("sleep");
    configure(command.arg("300").stdin(Stdio::null())).spawn().expect("sleep runs")
}

#[test]
fn leftovers_of_an_earlier_runner_are_killed_and_nobody_else() {
    let work = attempt();
    let inside = work.path().join("t1/checkout");
    fs::create_dir_all(&inside).expect("a folder");
    let mut marked = spawn(|command| command.current_dir("/").env(MARKER, work.path().join("t2")));
    let mut standing = spawn(|command| command.current_dir(&inside));
    let beside = format!("{}-beside", work.path().display());
    let mut other = spawn(|command| command.current_dir("/").env(MARKER, beside));
    assert_eq!(process::kill_leftovers(work.path()), 2);
    let ids = [&marked, &standing].map(|child| i32::try_from(child.id()).expect("a pid"));
    assert!(ids.iter().all(|pid| !alive(*pid)));
    assert!(other.try_wait().expect("its status").is_none());
    assert_eq!(process::kill_leftovers(work.path()), 0);
    for child in [&mut marked, &mut standing] {
        // Their status may have been taken already.
        let _ = child.wait();
    }
    other.kill().and_then(|()| other.wait()).expect("it ends");
}

/// This test starts itself again as a runner, and kills that.
#[tokio::test]
async fn an_agent_dies_with_its_runner() {
    const AS_RUNNER: &str = "RDEV_TEST_AS_RUNNER";
    if let Some(folder) = std::env::var_os(AS_RUNNER) {
        return be_a_runner(Path::new(&folder)).await;
    }
    let work = attempt();
    let folder = work.path().join("t1");
    fs::create_dir(&folder).expect("a folder");
    let this = std::env::current_exe().expect("this program");
    let mut runner = Command::new(this)
        .args(["--exact", "process::an_agent_dies_with_its_runner", "--nocapture"])
        .env(AS_RUNNER, &folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the runner starts");
    let pid =
        |name| -> i32 { until(|| fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()) };
    let tree = [pid("pid"), pid("child"), pid("hidden")];
    assert!(tree.iter().all(|pid| alive(*pid)));
    // The guardian needs a moment, as on a busy machine.
    let guardian = parent(tree[0]);
    kill_process(guardian, Signal::STOP).expect("the guardian lives");
    runner.kill().and_then(|()| runner.wait()).expect("the runner dies");
    let goes_on = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        kill_process(guardian, Signal::CONT)
    });
    // The next runner waits for the guardian's end.
    process::kill_leftovers(work.path());
    // Also the one that neither its environment nor its folder gives away.
    assert!(tree.iter().all(|pid| !alive(*pid)), "something outlived the start of a runner");
    goes_on.join().expect("no panic").expect("the guardian lived until then");
    assert_eq!(process::kill_leftovers(work.path()), 0, "the next runner finds nothing");
}

/// The parent of a process.
fn parent(pid: i32) -> Pid {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let after_name = stat.rsplit_once(") ").expect("a name in parentheses").1;
    let parent = after_name.split(' ').nth(1).expect("a parent").parse().expect("a number");
    Pid::from_raw(parent).expect("a process")
}

async fn be_a_runner(folder: &Path) {
    process::init_process().expect("the kernel allows it");
    let script = OsString::from(
        r#"sleep 300 & echo $! > child
        here=$PWD
        (cd / && exec setsid env -i /bin/sh -c 'echo $$ > "$0"; exec sleep 300' "$here/hidden") &
        while [ ! -s hidden ]; do sleep 0.05; done
        echo $$ > pid; sleep 300"#,
    );
    let launch = Launch {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script],
        env: vec![("PATH".into(), std::env::var_os("PATH").expect("PATH"))],
        cwd: folder.to_owned(),
        stdin: None,
        marker: Marker::new(folder),
        grace: Duration::ZERO,
    };
    let ended =
        process::run(launch, limits(), &CancellationToken::new(), |_, _| Flow::Continue).await;
    panic!("the runner was not killed: {ended:?}");
}

fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG / 4;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "it did not happen in time");
        std::thread::sleep(Duration::from_millis(10));
    }
}
