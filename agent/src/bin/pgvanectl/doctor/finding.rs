//! What was looked at, how it is, and what is to be done.

use crate::output::{Cell, Column};
use crate::terminal::Colour;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Level {
    /// As it should be.
    Good,
    /// It works, and may hurt one day.
    Warning,
    /// A failover will not work, or is not safe.
    Critical,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Good => "ok",
            Level::Warning => "warning",
            Level::Critical => "critical",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// What was looked at.
    pub(super) what: String,
    /// How it is.
    pub(super) found: String,
    /// What to do; empty where all is well.
    pub(super) advice: String,
}

impl Finding {
    /// As it should be.
    pub(super) fn good(what: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding { level: Level::Good, what: what.into(), found: found.into(), advice: String::new() }
    }

    /// It works, and may hurt one day.
    pub(super) fn warning(
        what: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        Finding { level: Level::Warning, what: what.into(), found: found.into(), advice: advice.into() }
    }

    /// A failover will not work, or is not safe.
    pub(super) fn critical(
        what: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        Finding { level: Level::Critical, what: what.into(), found: found.into(), advice: advice.into() }
    }

    pub(super) fn row(&self) -> Vec<Cell> {
        [self.level.name(), &self.what, &self.found, &self.advice].map(Cell::text).into()
    }
}

/// The table's columns.
pub(super) const COLUMNS: [Column; 4] = [
    Column {
        colour: |level| match level {
            "ok" => Some(Colour::Green),
            "warning" => Some(Colour::Yellow),
            "critical" => Some(Colour::Red),
            _ => None,
        },
        ..Column::text("Level")
    },
    Column::text("What"),
    Column::text("Found"),
    Column::text("Do"),
];
