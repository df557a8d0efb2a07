//! Where log lines go: to standard error as text or JSON, one line per event, or to systemd's journal with each field as one of its own. Which ones are written can change while the program runs.

use std::io::IsTerminal as _;
use std::str::FromStr as _;

use tracing::{Level, Metadata};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt};

use crate::config::LogFormat;

/// What the journal calls us.
const IDENTIFIER: &str = "runner-coordinator";
/// What our fields begin with in the journal, because it has fields such as `JOB_ID` of its own: `job.id` becomes `RC_JOB_ID`.
const FIELD_PREFIX: &str = "RC";
/// The engine's client, which logs the bodies of its requests at debug, and a container's environment holds its runner's token.
const ENGINES_CLIENT: &str = "bollard";

/// Why logging could not begin, or not change.
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
    /// There is no journal.
    #[error("the journal cannot be written to at /run/systemd/journal/socket: use the log format text or json")]
    Journal(#[source] std::io::Error),
    /// Logging had begun before.
    #[error("logging had begun before")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Who says which lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LevelSource {
    /// The command line or its variable; a reload changes nothing.
    CommandLine,
    /// `log.level`.
    Configuration,
}

/// A filter that was read and may be put in force.
#[derive(Debug)]
pub struct LogFilter(EnvFilter);

/// Decides which lines are written from now on.
#[derive(Debug, Clone)]
pub struct LogLevel {
    handle: Handle<EnvFilter, Registry>,
    source: LevelSource,
}

impl LogLevel {
    /// Reads a level or a list such as `info,runner_coordinator::jobs=debug`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(filter: &str) -> Result<LogFilter, TelemetryError> {
        EnvFilter::from_str(filter).map(LogFilter).map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })
    }

    /// Puts the filter in force, unless the command line decides.
    pub fn set(&self, filter: LogFilter) {
        if !self.is_fixed() {
            // It fails only when logging has ended.
            let _ = self.handle.reload(filter.0);
        }
    }

    /// Whether the command line decides.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.source == LevelSource::CommandLine
    }
}

/// Begins logging. `filter` is a level or a list such as `info,runner_coordinator::jobs=debug`, and `source` says where it stands.
///
/// # Errors
/// When the filter cannot be read, or when the journal is asked for and there is none.
pub fn init(format: LogFormat, filter: &str, source: LevelSource) -> Result<LogLevel, TelemetryError> {
    let LogFilter(filter) = LogLevel::read(filter)?;
    let (filter, handle) = reload::Layer::new(filter);
    // No directive of a filter, however particular, wins over this one.
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(shows_no_secret));
    match format {
        LogFormat::Text => {
            registry.with(fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr)).try_init()?;
        }
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init()?,
        LogFormat::Journald => registry.with(journal().map_err(TelemetryError::Journal)?).try_init()?,
    }
    Ok(LogLevel { handle, source })
}

/// Whether a line may be written at all, whatever is asked for.
fn shows_no_secret(line: &Metadata<'_>) -> bool {
    let of_the_client = line.target().strip_prefix(ENGINES_CLIENT).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    !of_the_client || *line.level() <= Level::INFO
}

/// systemd's journal; an event at info is informational there, as other programs have it.
fn journal() -> std::io::Result<tracing_journald::Layer> {
    let priorities = PriorityMappings { info: Priority::Informational, debug: Priority::Debug, trace: Priority::Debug, ..PriorityMappings::new() };
    let layer = tracing_journald::layer()?.with_field_prefix(Some(FIELD_PREFIX.to_owned()));
    Ok(layer.with_syslog_identifier(IDENTIFIER.to_owned()).with_priority_mappings(priorities))
}
