//! Settings files in TOML, with errors that read like a compiler's. Files of another syntax are read elsewhere and
//! share the errors.
//!
//! The structs a file is read into belong to the programs; they carry `deny_unknown_fields` and keep
//! [`Spanned`] values where a later check may have to point at one. Nothing here knows a key.

mod error;
mod explain;
mod mask;
mod schema;
mod spanned;
mod values;

use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;

pub use self::error::SettingsError;
pub use self::schema::{KIND, document};
pub use self::spanned::Spanned;
pub use self::values::{Interval, Secret, Size};

/// A settings file as text: what errors quote.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    file: String,
    text: String,
    syntax: Syntax,
}

/// How a settings file is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Syntax {
    /// TOML.
    Toml,
    /// YAML.
    Yaml,
}

/// A value with the text it was read from, so that checks of its meaning can point at their line.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// What the file says.
    pub value: T,
    /// Where it says so.
    pub source: Source,
}

/// Reads the file at `path`.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<Loaded<T>, SettingsError> {
    parse(&path.display().to_string(), &read(path)?)
}

/// The text of the file at `path`.
pub fn read(path: &Path) -> Result<String, SettingsError> {
    let file = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|e| SettingsError::unreadable(&file, &e))?;
    String::from_utf8(bytes)
        .map_err(|e| SettingsError::not_text(&file, e.utf8_error().valid_up_to(), e.as_bytes()))
}

/// Whether a key of this name holds a secret, whose value is never shown.
pub fn is_secret(key: &str) -> bool {
    mask::is_secret(key)
}

/// URLs in a text without the user and password in them.
pub fn without_user_info(text: &str) -> String {
    mask::without_user_info(text)
}

/// Reads `text`; errors name it `file`.
pub fn parse<T: DeserializeOwned>(file: &str, text: &str) -> Result<Loaded<T>, SettingsError> {
    let source = Source::new(file, text, Syntax::Toml);
    match toml::from_str(text) {
        Ok(value) => Ok(Loaded { value, source }),
        Err(e) => Err(explain::explain(&source, &e)),
    }
}

impl Source {
    /// The `text` of `file`.
    pub fn new(file: impl Into<String>, text: impl Into<String>, syntax: Syntax) -> Source {
        Source { file: file.into(), text: text.into(), syntax }
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The file's name as it was given.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// An error at a span, as [`Spanned::span`] gives it.
    pub fn error_at(
        &self,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) -> SettingsError {
        SettingsError::at(self, span, message.into(), help.into())
    }

    /// An error of the file as a whole.
    pub fn error(&self, message: impl Into<String>, help: impl Into<Option<String>>) -> SettingsError {
        SettingsError::whole(&self.file, message.into(), help.into())
    }
}

impl std::fmt::Debug for Source {
    /// The text may hold passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("file", &self.file).finish_non_exhaustive()
    }
}

impl<T> Loaded<T> {
    /// An error at a span, as [`Spanned::span`] gives it.
    pub fn error_at(
        &self,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) -> SettingsError {
        self.source.error_at(span, message, help)
    }

    /// An error of the file as a whole.
    pub fn error(&self, message: impl Into<String>, help: impl Into<Option<String>>) -> SettingsError {
        self.source.error(message, help)
    }
}

/// The one of `words` that is most like `word`, when one is like it at all: for "did you mean".
pub fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    words
        .into_iter()
        .map(|w| (strsim::jaro_winkler(&lower, &w.to_lowercase()), w))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, w)| w)
}

#[cfg(test)]
mod tests;
