//! What a build costs in calls, as docs/aws.md says.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdev_domain::lease::RENEW_EVERY;
use rdev_testkit::servers::emulator::Emulator;
use rdev_testkit::servers::proxy::{Proxy, Seen, Service};
use rdev_testkit::servers::runtime_api::Function;
use rdev_testkit::tools::needs::NotRun;
use rdev_testkit::tools::trial::Outcome;
use serde_json::json;

use crate::aws::stack::{PATIENCE, Runner, Stack, built_functions, deployed, root};

rdev_testkit::trials! {
    async a_build_of_one_minute_and_an_idle_runner_cost_the_calls_that_the_docs_tell;
    async a_build_of_two_minutes_costs_the_calls_that_the_docs_tell;
}

/// How often the runner extends a wake-up's visibility.
const EXTEND_EVERY: Duration = Duration::from_secs(40);

/// Calls of all who use the proxy, heartbeats of workers apart, by operation.
fn counts(seen: &[Seen]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for seen in seen.iter().filter(|seen| seen.call.service != Service::Other) {
        let heartbeat = seen.item.as_deref().is_some_and(|item| item.starts_with("W#"));
        // A long poll that still waits is an idle runner's.
        let waits = seen.call.operation == "ReceiveMessage" && seen.status.is_none();
        if !heartbeat && !waits {
            *counts.entry(seen.call.to_string()).or_default() += 1;
        }
    }
    counts
}

/// What the docs say: by operation, for builds of one and of two minutes.
fn documented() -> BTreeMap<String, (usize, usize)> {
    let docs = std::fs::read_to_string(root().join("docs/aws.md")).expect("the docs");
    let (_, section) = docs.split_once("## Calls of a build").expect("the section");
    let section = section.split("\n## ").next().expect("its text");
    let row = |line: &str| {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let (name, one, two) = (cells.next()?, cells.next()?, cells.next()?);
        Some((name.to_owned(), (one.parse().ok()?, two.parse().ok()?)))
    };
    section.lines().filter_map(row).collect()
}

/// An event of the gateway for `POST /projects/site/builds`.
fn request(key: &str, seconds: u64) -> serde_json::Value {
    let text = std::fs::read_to_string(root().join("events/builds.json")).expect("an event");
    let mut event: serde_json::Value =
        serde_json::from_str(&text.replace("RDEV_KEY", key)).expect("JSON");
    let spec = json!({"prompt": format!("sleep {seconds}; echo x > x-{seconds}.txt")});
    event["body"] = json!(spec.to_string());
    let headers = event["headers"].as_object_mut().expect("headers");
    headers.remove("idempotency-key");
    event
}

/// The queries by which a runner asks at its start, and once an hour, which looks for refs are due.
/// They may fall into a build.
const HOURLY: usize = 2;

/// A build that has ended.
struct Build {
    /// Its calls, by operation.
    counts: BTreeMap<String, usize>,
    /// From the request to its end, as a client sees it.
    took: Duration,
}

/// The calls from the request to the commit and what follows it at once.
async fn calls_of_a_build(
    stack: &Stack,
    proxy: &Proxy,
    function: &Function,
    seconds: u64,
) -> Build {
    // From the beginning of a poll on, so that it counts as the one that finds the build.
    let polls = || proxy.seen().iter().filter(|s| s.call.operation == "ReceiveMessage").count();
    let (before, end) = (polls(), Instant::now() + PATIENCE);
    while polls() == before {
        assert!(Instant::now() < end, "the runner does not poll: {}", stack.logs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    proxy.forget_seen();
    let begun = Instant::now();
    let answer = function.invoke(&request(&stack.key, seconds)).await.expect("an answer");
    assert_eq!(answer["statusCode"], 202, "{answer:#}");
    let task: serde_json::Value =
        serde_json::from_str(answer["body"].as_str().expect("a body")).expect("JSON");
    let task = task["id"].as_str().expect("an id").to_owned();
    // Past the proxy: a client's own reads are not the build's.
    let record = stack.ended("site", &task).await;
    let took = begun.elapsed();
    stack.assert_delivered("site", &record);
    // The wake-up of the freed slot is dealt with after the end of the task.
    let end = Instant::now() + PATIENCE;
    loop {
        let stats = stack.expect(200, "GET", "/work/stats", None).await;
        let queue = &stats["wake_ups"];
        if (&queue["visible"], &queue["in_flight"]) == (&json!(0), &json!(0)) {
            return Build { counts: counts(&proxy.seen()), took };
        }
        assert!(Instant::now() < end, "{stats:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// How often each call is made, an hour, by the time between its first and its last within `span`.
async fn rates(proxy: &Proxy, span: Duration) -> BTreeMap<String, f64> {
    proxy.forget_seen();
    let mut times: BTreeMap<String, Vec<Instant>> = BTreeMap::new();
    let (begun, mut known) = (Instant::now(), 0);
    while begun.elapsed() < span {
        let seen = proxy.seen();
        for seen in seen[known..].iter().filter(|seen| seen.call.service != Service::Other) {
            times.entry(seen.call.to_string()).or_default().push(Instant::now());
        }
        known = seen.len();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let rate = |name: String, times: Vec<Instant>| {
        let (first, last) = (times[0], times[times.len() - 1]);
        assert!(times.len() > 2, "{name} belongs to no idle runner, or its time is too short");
        #[expect(clippy::cast_precision_loss, reason = "they are few")]
        let intervals = (times.len() - 1) as f64;
        (name, intervals * 3600.0 / last.duration_since(first).as_secs_f64())
    };
    times.into_iter().map(|(name, times)| rate(name, times)).collect()
}

/// A runner of one slot and the function of builds, whose calls go through a proxy that counts.
struct Counted {
    stack: Stack,
    proxy: Proxy,
    function: Function,
    runner: Runner,
    _emulator: Emulator,
}

impl Counted {
    async fn start() -> Result<Self, NotRun> {
        let (emulator, stack) = deployed().await?;
        // The stack's own functions, the sweep's among them, do not go through this one.
        let proxy = Proxy::start(&emulator.endpoint(), 1);
        stack.project("site", 1).await;
        let variables = stack.variables(&proxy.endpoint());
        let variables: Vec<(&str, &str)> =
            variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let program = built_functions()?.join("builds/bootstrap");
        let function = Function::start(&program, &variables).await.expect("it starts");
        let runner = stack.runner("one", &proxy.endpoint(), 1);
        Ok(Self { stack, proxy, function, runner, _emulator: emulator })
    }

    /// Holds the calls of a build whose agent sleeps for `seconds` to the docs' figures: `said`
    /// picks the column, `less` is how far the sum may stay behind it.
    #[expect(clippy::print_stdout, reason = "who changes the docs needs the figures")]
    async fn assert_as_documented(
        &self,
        seconds: u64,
        said: fn((usize, usize)) -> usize,
        less: usize,
    ) {
        let build = calls_of_a_build(&self.stack, &self.proxy, &self.function, seconds).await;
        let (counts, sum) = (&build.counts, build.counts.values().sum::<usize>());
        println!("{seconds} s took {:?}: {sum} calls {counts:#?}", build.took);
        let all = documented();
        let (one, two) = all["all"];
        assert!(one <= 22 && two - one <= 10, "the docs tell of {one}, {two}");
        // The docs tell of a machine that is not busy; each renewal more has to be paid by time.
        let late = build.took.saturating_sub(Duration::from_secs(seconds + 5));
        let more = |every: Duration| {
            let shortest = every.as_millis() * 9 / 10;
            usize::try_from(late.as_millis().div_ceil(shortest)).expect("they are few")
        };
        let (leases, wake_ups) = (more(RENEW_EVERY), more(EXTEND_EVERY));
        for (name, count) in counts {
            let row = *all.get(name).unwrap_or_else(|| panic!("no {name} in the docs"));
            let more = match name.as_str() {
                "DynamoDB UpdateItem" => leases,
                "DynamoDB Query" => HOURLY,
                "SQS ChangeMessageVisibility" => wake_ups,
                _ => 0,
            };
            assert!(*count <= said(row) + more, "{name}: {counts:?}");
        }
        // A renewal more or less, by its jitter; and no calls that are not made.
        let said = said(all["all"]);
        let expected = said - less..=said + leases + wake_ups + HOURLY;
        assert!(expected.contains(&sum), "{sum} calls: {counts:#?}");
    }
}

async fn a_build_of_one_minute_and_an_idle_runner_cost_the_calls_that_the_docs_tell() -> Outcome {
    let counted = Counted::start().await?;
    counted.assert_as_documented(60, |(one, _)| one, 3).await;
    let idle = rates(&counted.proxy, Duration::from_secs(100)).await;
    let an_hour: f64 = idle.values().sum();
    assert!(an_hour <= 320.0, "an idle runner makes {an_hour} calls an hour: {idle:?}");
    counted.runner.stop().await;
    Ok(())
}

async fn a_build_of_two_minutes_costs_the_calls_that_the_docs_tell() -> Outcome {
    let counted = Counted::start().await?;
    counted.assert_as_documented(120, |(_, two)| two, 5).await;
    counted.runner.stop().await;
    Ok(())
}
