//! Log lines, on stderr.

use std::io::IsTerminal;

use rdev_configuration::log_directives;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

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
    let filter: Targets = log_directives(rust_log.unwrap_or(level))
        .parse()
        .map_err(|error| UsageError(format!("RUST_LOG is invalid: {error}")))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry();
    match format {
        LogFormat::Text => {
            let ansi = std::io::stderr().is_terminal();
            registry.with(lines.with_ansi(ansi).with_target(false).compact()).with(filter).init();
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).with(filter).init(),
    }
    Ok(())
}
