//! A line in Patroni's format: `YYYY-MM-DD HH:MM:SS,mmm LEVEL: text`, or what the operator has made of it.

use std::fmt::{self, Write as _};
use std::path::Path;

use jiff::ZonedDateTime;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::DECIDED;
use crate::config::{Line, LogField, Piece};

/// Writes events as such lines.
pub(super) struct PatroniLines {
    line: Line,
    date_format: Option<String>,
}

impl PatroniLines {
    pub(super) fn new(line: Line, date_format: Option<String>) -> PatroniLines {
        PatroniLines { line, date_format }
    }
}

impl<S, N> FormatEvent<S, N> for PatroniLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // Decisions are told in Patroni's words.
        if event.metadata().target() == DECIDED {
            return Ok(());
        }
        let mut said = Said::default();
        event.record(&mut said);
        let facts = Facts { time: ZonedDateTime::now(), metadata: event.metadata(), message: said.text() };
        writeln!(writer, "{}", render(&self.line, self.date_format.as_deref(), &facts))
    }
}

/// What one line is made of.
struct Facts<'a> {
    time: ZonedDateTime,
    metadata: &'a Metadata<'a>,
    message: String,
}

fn render(line: &Line, date_format: Option<&str>, facts: &Facts<'_>) -> String {
    match line {
        Line::Plain(pieces) => {
            let mut text = String::new();
            for piece in pieces {
                match piece {
                    Piece::Text(piece) => text.push_str(piece),
                    Piece::Field { field, width, left } => {
                        let value = shown(*field, date_format, facts);
                        // Writing to a String cannot fail.
                        let _ = if *left {
                            write!(text, "{value:<width$}")
                        } else {
                            write!(text, "{value:>width$}")
                        };
                    }
                }
            }
            text
        }
        Line::Json { fields, static_fields } => {
            let mut object: Map<String, Value> = Map::new();
            for (field, name) in fields {
                object.insert(name.clone(), Value::String(shown(*field, date_format, facts)));
            }
            object.extend(static_fields.clone());
            Value::Object(object).to_string()
        }
    }
}

fn shown(field: LogField, date_format: Option<&str>, facts: &Facts<'_>) -> String {
    let metadata = facts.metadata;
    let level = *metadata.level();
    let pathname = metadata.file().unwrap_or_default();
    let millis = facts.time.subsec_nanosecond() / 1_000_000;
    match field {
        LogField::Asctime => match date_format {
            Some(format) => facts.time.strftime(format).to_string(),
            None => format!("{},{millis:03}", facts.time.strftime("%Y-%m-%d %H:%M:%S")),
        },
        LogField::Levelname => match level {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            _ => "DEBUG",
        }
        .to_owned(),
        LogField::Levelno => match level {
            Level::ERROR => "40",
            Level::WARN => "30",
            Level::INFO => "20",
            _ => "10",
        }
        .to_owned(),
        LogField::Message => facts.message.clone(),
        LogField::Name => metadata.target().replace("::", "."),
        LogField::Module => metadata.target().rsplit("::").next().unwrap_or_default().to_owned(),
        LogField::Pathname => pathname.to_owned(),
        LogField::Filename => {
            Path::new(pathname).file_name().unwrap_or_default().to_string_lossy().into_owned()
        }
        LogField::Lineno => metadata.line().unwrap_or_default().to_string(),
        LogField::Process => std::process::id().to_string(),
        LogField::Created => format!("{}.{millis:03}", facts.time.timestamp().as_second()),
        LogField::Msecs => millis.to_string(),
    }
}

/// What an event says: its message, then its fields. One line, whatever is in it.
#[derive(Default)]
struct Said {
    message: String,
    fields: String,
}

impl Said {
    fn text(self) -> String {
        let whole = self.message + &self.fields;
        whole.trim_end().replace('\r', "").replace('\n', "\\n")
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else if value.contains([' ', '"', '\n', '\r']) || value.is_empty() {
            let _ = write!(self.fields, " {}={value:?}", field.name());
        } else {
            let _ = write!(self.fields, " {}={value}", field.name());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::json;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Kept;

        fn make_writer(&'a self) -> Kept {
            self.clone()
        }
    }

    /// What is written of two events, one of them a decision.
    fn written(line: Line, date_format: Option<&str>) -> String {
        let kept = Kept::default();
        let format = PatroniLines::new(line, date_format.map(str::to_owned));
        let subscriber = tracing_subscriber::fmt()
            .with_writer(kept.clone())
            .with_ansi(false)
            .event_format(format)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: DECIDED, "decided");
            tracing::warn!(name = "pg1", why = "no\nline", count = 3, "it failed");
        });
        let bytes = kept.0.lock().expect("not poisoned").clone();
        String::from_utf8(bytes).expect("text")
    }

    /// `YYYY-MM-DD HH:MM:SS,mmm`, digit by digit.
    fn is_time(text: &str) -> bool {
        text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).eq("0000-00-00 00:00:00,000".chars())
    }

    #[test]
    fn a_line_is_time_level_and_text() {
        let line = written(Line::usual(), None);
        let (time, rest) = line.split_at(23);
        assert!(is_time(time), "{line}");
        assert_eq!(rest, " WARNING: it failed name=pg1 why=\"no\\nline\" count=3\n");
    }

    #[test]
    fn operators_make_of_it_what_they_want() {
        let field = |field, width, left| Piece::Field { field, width, left };
        let pieces = vec![
            field(LogField::Levelname, 9, true),
            Piece::Text("|".to_owned()),
            field(LogField::Levelno, 4, false),
            field(LogField::Asctime, 0, false),
            field(LogField::Filename, 0, false),
        ];
        let line = written(Line::Plain(pieces), Some("<%Y>"));
        let year = ZonedDateTime::now().year();
        assert_eq!(line, format!("WARNING  |  30<{year}>line.rs\n"));

        let fields =
            vec![(LogField::Message, "message".to_owned()), (LogField::Levelname, "severity".to_owned())];
        let static_fields = [("app".to_owned(), json!({"a": 1}))].into_iter().collect();
        let line = written(Line::Json { fields, static_fields }, None);
        let read: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&read["severity"], &read["app"]["a"]), (&json!("WARNING"), &json!(1)));
        assert!(read["message"].as_str().is_some_and(|m| m.starts_with("it failed name=pg1")));
    }
}
