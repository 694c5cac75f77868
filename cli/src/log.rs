//! Log lines, on stderr.

use std::error::Error;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;
use crate::usage::UsageError;

/// Sets up logging for the process. `RUST_LOG` overrides `level`.
///
/// # Errors
/// When `RUST_LOG` is invalid.
pub(crate) fn init(
    format: LogFormat,
    level: &str,
    rust_log: Option<&str>,
) -> Result<(), UsageError> {
    let filter = EnvFilter::try_new(rust_log.unwrap_or(level))
        .map_err(|error| UsageError(format!("RUST_LOG is invalid: {error}")))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => subscriber
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .compact()
            .init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
    Ok(())
}

/// An error and its sources, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
