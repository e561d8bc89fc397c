//! Everything settings were read from, laid end to end, so that one span tells which source and where in it.

use std::ops::Range;

use pgvane_cluster::settings_file::{SettingsError, Source};

use super::check::{Problem, Remark};

/// All sources of one set of settings.
#[derive(Default)]
pub(super) struct Sources {
    parts: Vec<Part>,
    end: usize,
}

struct Part {
    start: usize,
    source: Source,
    /// Whether it is a variable of the environment, which has no lines to point at.
    variable: bool,
}

impl Sources {
    /// Adds a file; answers where its text begins.
    pub(super) fn add_file(&mut self, source: Source) -> usize {
        self.add(source, false)
    }

    /// Adds a variable of the environment; answers where its value begins.
    pub(super) fn add_variable(&mut self, source: Source) -> usize {
        self.add(source, true)
    }

    fn add(&mut self, source: Source, variable: bool) -> usize {
        let start = self.end;
        // One apart, so that an empty value has a place of its own.
        self.end = start + source.text().len() + 1;
        self.parts.push(Part { start, source, variable });
        start
    }

    /// The first file, or variable, is what is wrong as a whole.
    pub(super) fn error(&self, problem: Problem) -> SettingsError {
        match problem.at.and_then(|at| self.part(at)) {
            Some((part, _)) if part.variable => part.source.error(problem.text, None),
            Some((part, at)) => part.source.error_at(at, problem.text, None),
            None => match self.parts.first().filter(|part| !part.variable) {
                Some(part) => part.source.error(problem.text, None),
                None => Source::new("the environment", "", pgvane_cluster::settings_file::Syntax::Yaml)
                    .error(problem.text, None),
            },
        }
    }

    /// `file:line: text`.
    pub(super) fn remark(&self, remark: &Remark) -> String {
        match remark.at.clone().and_then(|at| self.part(at)) {
            Some((part, _)) if part.variable => format!("{}: {}", part.source.file(), remark.text),
            Some((part, at)) => {
                let line = part.source.error_at(at, "", None).line().unwrap_or(1);
                format!("{}:{line}: {}", part.source.file(), remark.text)
            }
            None => match self.parts.first().filter(|part| !part.variable) {
                Some(part) => format!("{}: {}", part.source.file(), remark.text),
                None => remark.text.clone(),
            },
        }
    }

    /// `file:line`, or the variable's name.
    pub(super) fn place(&self, at: Range<usize>) -> Option<String> {
        let (part, at) = self.part(at)?;
        if part.variable {
            return Some(part.source.file().to_owned());
        }
        let line = part.source.error_at(at, "", None).line().unwrap_or(1);
        Some(format!("{}:{line}", part.source.file()))
    }

    fn part(&self, at: Range<usize>) -> Option<(&Part, Range<usize>)> {
        let part = self.parts.iter().rev().find(|part| part.start <= at.start)?;
        Some((part, at.start - part.start..at.end.saturating_sub(part.start)))
    }
}
