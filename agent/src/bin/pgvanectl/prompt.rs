//! Questions to the operator.

use std::io::{self, BufRead, Write};

use crate::{Failed, fail};

/// Asks; anything but yes ends the command.
pub(crate) fn confirm(question: &str) -> Result<(), Failed> {
    print!("{question} [y/N]: ");
    io::stdout().flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    if matches!(line.trim().to_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    // Without a newline of the operator's the error would stand behind the question.
    if line.is_empty() {
        println!();
    }
    fail("declined; nothing was changed")
}
