//! What all functions share: environment, log, clients, and the loop over events.

mod platform;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use rdev_aws::Aws;
use rdev_aws::secrets::Secrets;
use rdev_functions::{Context, lambda};
use serde_json::Value;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// `EX_CONFIG`: trying again changes nothing.
const BAD_CONFIGURATION: u8 = 78;

/// Answers events until Lambda ends the process.
///
/// `prepare` runs once, at the cold start; AWS has not been called then.
pub(crate) fn run<F>(prepare: impl FnOnce(Context) -> F) -> ExitCode
where
    F: AsyncFn(Value) -> Result<Value, Error>,
{
    match start(prepare) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the function cannot start");
            ExitCode::from(BAD_CONFIGURATION)
        }
    }
}

fn start<F>(prepare: impl FnOnce(Context) -> F) -> anyhow::Result<()>
where
    F: AsyncFn(Value) -> Result<Value, Error>,
{
    log();
    let variables: Vec<_> = std::env::vars_os()
        .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)))
        .collect();
    let (settings, retention) = lambda::environment::settings(&variables)?;
    let platform = platform::read(&variables)?;
    let resources = rdev_aws::Settings::from_env()?;
    // One event at a time, on a part of a core: more threads would only cost their start.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(async {
        let sdk = rdev_aws::config::load().await;
        let aws = Aws::new(&sdk, &resources, retention);
        let context = Context {
            store: aws.store,
            queue: aws.queue,
            forge: Arc::new(rdev_aws::NoForge),
            ci: None,
            dns: None,
            settings,
            metrics: None,
            on_cancel: None,
        };
        let answer = prepare(platform::add(context, &platform, &Secrets::new(&sdk))?);
        let serve = |event: LambdaEvent<Value>| answer(event.payload);
        let ended = lambda_runtime::run(service_fn(serve)).await;
        ended.map_err(|error| anyhow!(error).context("the Lambda runtime does not answer"))
    })
}

/// One JSON object a line; CloudWatch adds the time.
fn log() {
    let filter = std::env::var("RUST_LOG").ok();
    // Without empty directives, each of which would mean the level ERROR.
    let filter = filter.and_then(|text| {
        let directives = text.split(',').map(str::trim).filter(|one| !one.is_empty());
        directives.collect::<Vec<_>>().join(",").parse::<Targets>().ok()
    });
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        // The list of spans has it too.
        .with_current_span(false)
        .without_time()
        .with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines).with(filter).init();
}
