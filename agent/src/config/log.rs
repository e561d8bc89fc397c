//! How to log: which lines, what they look like, where they go.

use std::path::PathBuf;

use serde_json::{Map, Value};

/// How to log.
#[derive(Clone, PartialEq, Debug)]
pub struct Log {
    /// The shape of a line.
    pub format: LogFormat,
    /// A level, or directives such as `info,pgvane_agent=debug`.
    pub level: String,
    /// What a line of [`LogFormat::Patroni`] looks like.
    pub line: Line,
    /// `strftime` of its time; the usual `YYYY-MM-DD HH:MM:SS,mmm` where absent.
    pub date_format: Option<String>,
    /// Whether a heartbeat that says what the one before it said is left out.
    pub deduplicate_heartbeats: bool,
    /// A file that rotates; standard error where absent.
    pub file: Option<LogFile>,
}

/// The shape of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people and journald.
    Text,
    /// One JSON object, for collectors.
    Json,
    /// `YYYY-MM-DD HH:MM:SS,mmm LEVEL: text`, as Patroni writes it.
    Patroni,
}

/// What a line in Patroni's format looks like.
#[derive(Clone, PartialEq, Debug)]
pub enum Line {
    /// Text with values in it.
    Plain(Vec<Piece>),
    /// A JSON object.
    Json {
        /// Its fields: which value, under which name.
        fields: Vec<(LogField, String)>,
        /// Fields that are the same in every line.
        static_fields: Map<String, Value>,
    },
}

/// A part of a plain line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// As it is.
    Text(String),
    /// A value.
    Field {
        /// Which.
        field: LogField,
        /// The least characters it takes, filled with spaces.
        width: usize,
        /// Whether the spaces come after it.
        left: bool,
    },
}

/// A value of a log line, by the name that Python's logging has for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogField {
    /// The time.
    Asctime,
    /// `INFO` and its like.
    Levelname,
    /// 10 for `DEBUG`, 20 for `INFO`, 30 for `WARNING`, 40 for `ERROR`.
    Levelno,
    /// What happened.
    Message,
    /// What it concerns: the path of the module.
    Name,
    /// The last part of that path.
    Module,
    /// The source file's path.
    Pathname,
    /// The source file's name.
    Filename,
    /// The line in it.
    Lineno,
    /// Our process id.
    Process,
    /// Seconds since 1970.
    Created,
    /// Milliseconds of the time.
    Msecs,
}

impl LogField {
    /// All of them, by name.
    pub const ALL: [(&'static str, LogField); 12] = [
        ("asctime", LogField::Asctime),
        ("levelname", LogField::Levelname),
        ("levelno", LogField::Levelno),
        ("message", LogField::Message),
        ("name", LogField::Name),
        ("module", LogField::Module),
        ("pathname", LogField::Pathname),
        ("filename", LogField::Filename),
        ("lineno", LogField::Lineno),
        ("process", LogField::Process),
        ("created", LogField::Created),
        ("msecs", LogField::Msecs),
    ];

    /// The one of that name.
    pub fn named(name: &str) -> Option<LogField> {
        LogField::ALL.iter().find(|(known, _)| *known == name).map(|(_, field)| *field)
    }
}

/// A log file that rotates: `NAME`, `NAME.1`, `NAME.2`...
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogFile {
    /// The newest file.
    pub path: PathBuf,
    /// How many older ones are kept.
    pub keep: u32,
    /// How large it grows before it is turned, in bytes; 0: it is not.
    pub size: u64,
    /// Its permissions; what the process's umask leaves where absent.
    pub mode: Option<u32>,
}

impl Log {
    /// Lines at `level` on standard error, for people.
    pub fn to_stderr(level: &str) -> Log {
        Log {
            format: LogFormat::Text,
            level: level.to_owned(),
            line: Line::usual(),
            date_format: None,
            deduplicate_heartbeats: false,
            file: None,
        }
    }
}

impl Line {
    /// `%(asctime)s %(levelname)s: %(message)s`.
    pub fn usual() -> Line {
        let field = |field| Piece::Field { field, width: 0, left: false };
        let text = |text: &str| Piece::Text(text.to_owned());
        Line::Plain(vec![
            field(LogField::Asctime),
            text(" "),
            field(LogField::Levelname),
            text(": "),
            field(LogField::Message),
        ])
    }
}
