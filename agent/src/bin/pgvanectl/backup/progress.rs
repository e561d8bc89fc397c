//! How far a backup is: a bar on a terminal, a line for each stage elsewhere, nothing where nobody wants to hear it.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};

/// What a bar shows where the end is known, and where it is not.
const KNOWN: &str = "{msg} [{wide_bar}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}";
const UNKNOWN: &str = "{msg} {decimal_bytes} {decimal_bytes_per_sec}";

/// Tells on standard error.
#[derive(Clone)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Progress {
        let shown = !quiet && std::io::stderr().is_terminal();
        Progress { bar: shown.then(ProgressBar::no_length), quiet }
    }

    /// Whether there is a bar.
    pub(crate) fn is_shown(&self) -> bool {
        self.bar.is_some()
    }

    /// Something begins that takes its time; `total` are the bytes that it has to do with, where they are known.
    pub(crate) fn stage(&self, what: &str, total: Option<u64>) {
        match &self.bar {
            Some(bar) => {
                bar.reset();
                bar.set_message(what.to_owned());
                bar.set_style(style(if total.is_some() { KNOWN } else { UNKNOWN }));
                if let Some(total) = total {
                    bar.set_length(total);
                }
            }
            None => self.tell(what),
        }
    }

    /// So many bytes are done.
    pub(crate) fn at(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }

    /// So many bytes are done, of so many.
    pub(crate) fn of(&self, bytes: u64, total: u64) {
        if let Some(bar) = &self.bar {
            if bar.length() != Some(total) {
                bar.set_style(style(KNOWN));
                bar.set_length(total);
            }
            bar.set_position(bytes);
        }
    }

    /// A line for whoever reads along.
    pub(crate) fn tell(&self, line: &str) {
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) if !bar.is_finished() => bar.println(line),
            // Who has closed it does not want to know.
            _ => drop(writeln!(std::io::stderr(), "{line}")),
        }
    }

    /// The bar goes.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_known_to_the_crate() {
        for template in [KNOWN, UNKNOWN] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
