//! Where log lines go and what they look like.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Changes what is logged from now on.
static SET_FILTER: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// Starts logging to standard error; only the first call in a process has an effect.
pub fn start(log: &Log) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(&log.level))
        .with_writer(io::stderr)
        // Whoever read the log may be gone: to complain of that where it was is to panic.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    // The two shapes are two types. A filter can always be set while its subscriber lives, which is for ever.
    macro_rules! start {
        ($builder:expr) => {{
            let builder = $builder.with_filter_reloading();
            let handle = builder.reload_handle();
            if builder.try_init().is_ok() {
                let _ = SET_FILTER.set(Box::new(move |filter| drop(handle.reload(filter))));
            }
        }};
    }
    match log.format {
        LogFormat::Text => start!(builder),
        LogFormat::Json => start!(builder.json().flatten_event(true).with_current_span(false)),
    }
}

/// Logs at this level from now on, where [`start`] has started.
pub(crate) fn set_level(level: &str) {
    if let Some(set) = SET_FILTER.get() {
        set(filter(level));
    }
}

/// The settings were checked; a level that does not parse here cannot come from them.
fn filter(level: &str) -> EnvFilter {
    EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"))
}

/// Whether `level` is something [`start`] understands.
pub fn level_is_valid(level: &str) -> bool {
    !level.trim().is_empty() && EnvFilter::try_new(level).is_ok()
}
