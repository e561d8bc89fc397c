//! One error of a settings file, and how it is shown.

use std::fmt;
use std::ops::Range;

use super::{Source, Syntax, mask};

/// What is wrong with a settings file, where, and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SettingsError {
    file: String,
    place: Option<Place>,
    message: String,
    help: Option<String>,
}

/// A place in the text.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Place {
    /// From 1.
    line: usize,
    /// From 1, in characters.
    column: usize,
    /// The line, with passwords masked.
    text: String,
    /// Characters to underline, at least one.
    width: usize,
}

impl SettingsError {
    pub(super) fn at(
        source: &Source,
        span: Range<usize>,
        message: String,
        help: Option<String>,
    ) -> SettingsError {
        let place = Some(Place::of(&source.text, span, source.syntax));
        SettingsError { file: source.file.clone(), place, message, help }
    }

    pub(super) fn whole(file: &str, message: String, help: Option<String>) -> SettingsError {
        SettingsError { file: file.to_owned(), place: None, message, help }
    }

    pub(super) fn unreadable(file: &str, error: &std::io::Error) -> SettingsError {
        let (message, help) = match error.kind() {
            std::io::ErrorKind::NotFound => ("there is no such file".to_owned(), None),
            std::io::ErrorKind::PermissionDenied => (
                "this user may not read the file".to_owned(),
                Some("run this as the owner of the file, or let this user read it"),
            ),
            std::io::ErrorKind::IsADirectory => {
                ("this is a directory".to_owned(), Some("name the file in it"))
            }
            _ => (format!("the file cannot be read: {error}"), None),
        };
        SettingsError::whole(file, message, help.map(str::to_owned))
    }

    pub(super) fn not_text(file: &str, offset: usize, bytes: &[u8]) -> SettingsError {
        let line = bytes[..offset].split(|b| *b == b'\n').count();
        let byte = bytes.get(offset).copied().unwrap_or(0);
        let message = format!("line {line} is not UTF-8 text (byte 0x{byte:02x})");
        SettingsError::whole(file, message, None)
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What is allowed, or what to do.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The line, from 1; `None` for errors of the whole file.
    pub fn line(&self) -> Option<usize> {
        self.place.as_ref().map(|p| p.line)
    }
}

impl Place {
    fn of(text: &str, span: Range<usize>, syntax: Syntax) -> Place {
        // Spans come from the parser, but a caller may pass one of another text: never panic on it.
        let mut start = span.start.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let line_start = text[..start].rfind('\n').map_or(0, |n| n + 1);
        let line = text[line_start..].split('\n').next().unwrap_or("").trim_end_matches('\r');
        let before = &text[line_start..start];
        let in_line = span.end.saturating_sub(start).min(line.len().saturating_sub(before.len()));
        let width = line.get(before.len()..before.len() + in_line).map_or(1, |s| s.chars().count());
        Place {
            line: text[..start].matches('\n').count() + 1,
            column: before.chars().count() + 1,
            text: mask::shown(&text[..line_start], line, syntax),
            width: width.max(1),
        }
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(place) = &self.place else {
            write!(f, "{}: {}", self.file, self.message)?;
            return match &self.help {
                Some(help) => write!(f, "\nhelp: {help}"),
                None => Ok(()),
            };
        };
        let number = place.line.to_string();
        let gutter = " ".repeat(number.len());
        writeln!(f, "{}:{}:{}: {}", self.file, place.line, place.column, self.message)?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{number} | {}", place.text)?;
        // Tabs stay tabs, so that the caret stands where the line has it.
        let indent: String = place
            .text
            .chars()
            .chain(std::iter::repeat(' '))
            .take(place.column - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let room = place.text.chars().count().saturating_sub(place.column - 1).max(1);
        write!(f, "{gutter} | {indent}{}", "^".repeat(place.width.min(room)))?;
        match &self.help {
            Some(help) => write!(f, "\n{gutter} = help: {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for SettingsError {}
