//! Where the agent's log lines go and what they look like. All of it can be changed while the agent runs.
//!
//! In Patroni's format the events that its operators look for carry its words (`patroni`): they are events of a target
//! of their own, which the other formats leave out, as this one leaves out the decisions they stand for.

mod file;
mod line;
pub mod patroni;

use std::io::{self, IsTerminal};

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use self::file::Rotating;
use self::line::PatroniLines;
use crate::config::{Log, LogFormat};

/// The environment variable that replaces `log.level`, for one start only.
pub const LEVEL_VARIABLE: &str = "PGVANE_LOG";

/// Events in Patroni's words.
pub const PATRONI: &str = "pgvane_agent::patroni";

/// Decisions in our own words.
pub const DECIDED: &str = "pgvane_agent::decided";

type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;
type Output = Box<dyn Layer<Filtered> + Send + Sync>;

/// The log of this process.
pub struct Telemetry {
    filter: reload::Handle<EnvFilter, Registry>,
    output: reload::Handle<Output, Filtered>,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Starts logging; only the first call in a process has an effect. The error says which file cannot be written.
    pub fn start(log: &Log) -> Result<Telemetry, String> {
        let (filter, filter_handle) = reload::Layer::new(filter(log));
        let (output, output_handle) = reload::Layer::new(output(log)?);
        // Where another subscriber runs already, as in tests, it stays.
        drop(tracing_subscriber::registry().with(filter).with(output).try_init());
        Ok(Telemetry { filter: filter_handle, output: output_handle })
    }

    /// Logs as it is told from here on; a file is opened anew, so that others may have moved it away. Nothing
    /// changes where it cannot be.
    pub fn apply(&self, log: &Log) -> Result<(), String> {
        let output = output(log)?;
        self.output.reload(output).map_err(|e| e.to_string())?;
        self.filter.reload(filter(log)).map_err(|e| e.to_string())
    }
}

fn filter(log: &Log) -> EnvFilter {
    let level = std::env::var(LEVEL_VARIABLE).unwrap_or_else(|_| log.level.clone());
    // The settings were checked; what does not parse here comes from the environment.
    EnvFilter::try_new(&level).unwrap_or_else(|_| EnvFilter::new(&log.level))
}

fn output(log: &Log) -> Result<Output, String> {
    let (writer, colours) = match &log.file {
        None => (BoxMakeWriter::new(io::stderr), io::stderr().is_terminal()),
        Some(file) => {
            let opened = Rotating::open(file.clone());
            let opened = opened.map_err(|e| format!("log.dir: {}: {e}", file.path.display()))?;
            (BoxMakeWriter::new(opened), false)
        }
    };
    // Whoever read the log may be gone, or its disk full: to complain of that on standard error may be to panic.
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
    let usual = tracing_subscriber::fmt::format().with_target(false).with_ansi(colours);
    Ok(match log.format {
        LogFormat::Text => layer.with_ansi(colours).event_format(Native(usual)).boxed(),
        LogFormat::Json => {
            let json = usual.json().flatten_event(true).with_current_span(false);
            layer.fmt_fields(JsonFields::new()).event_format(Native(json)).boxed()
        }
        LogFormat::Patroni => layer
            .with_ansi(false)
            .event_format(PatroniLines::new(log.line.clone(), log.date_format.clone()))
            .boxed(),
    })
}

/// All events but those in Patroni's words.
struct Native<F>(F);

impl<S, N, F> FormatEvent<S, N> for Native<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        if event.metadata().target() == PATRONI { Ok(()) } else { self.0.format_event(ctx, writer, event) }
    }
}
