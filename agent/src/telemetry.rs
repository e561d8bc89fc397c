//! Where the agent's log lines go and what they look like.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// The environment variable that replaces `log.level`, for one start only.
pub const LEVEL_VARIABLE: &str = "PGVANE_LOG";

/// Starts logging to standard error; only the first call in a process has an effect.
pub fn start(log: &Log) {
    let level = std::env::var(LEVEL_VARIABLE).unwrap_or_else(|_| log.level.clone());
    // The settings were checked; what does not parse here comes from the environment.
    let filter = EnvFilter::try_new(&level).unwrap_or_else(|_| EnvFilter::new(&log.level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    let started = match log.format {
        LogFormat::Text | LogFormat::Patroni => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    drop(started);
}
