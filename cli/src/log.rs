//! Log lines, on stderr.

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
