//! Where log lines go: standard error, as text or JSON, one line per event.

use std::io::IsTerminal as _;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("the log filter {filter:?} cannot be read")]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging had begun before.
    #[error("logging had begun before")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Begins logging. `filter` is a level or a list such as `info,runner_coordinator::jobs=debug`.
///
/// # Errors
/// When the filter cannot be read.
pub fn init(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let read = EnvFilter::from_str(filter).map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
    // The engine's client logs the bodies of its requests at debug, and a container's environment holds its runner's token.
    let quiet = Directive::from_str("bollard=info").map_err(|source| TelemetryError::Filter { filter: "bollard=info".to_owned(), source })?;
    let registry = tracing_subscriber::registry().with(read.add_directive(quiet));
    match format {
        LogFormat::Text => {
            registry.with(tracing_subscriber::fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr)).try_init()?;
        }
        LogFormat::Json => registry.with(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr)).try_init()?,
    }
    Ok(())
}
