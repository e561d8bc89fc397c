//! One thing that is wrong with the settings.

use std::ops::Range;

use pgvane_cluster::settings_file::Spanned;

/// What is wrong, where in the text, and what to write instead.
pub(super) struct Problem {
    /// `None` for what is missing from the file as a whole.
    pub(super) at: Option<Range<usize>>,
    pub(super) text: String,
    pub(super) help: Option<String>,
}

impl Problem {
    pub(super) fn of_file(text: impl Into<String>) -> Problem {
        Problem { at: None, text: text.into(), help: None }
    }

    pub(super) fn at<T>(what: &Spanned<T>, text: impl Into<String>) -> Problem {
        Problem { at: Some(what.span()), text: text.into(), help: None }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Problem {
        Problem { help: Some(help.into()), ..self }
    }
}
