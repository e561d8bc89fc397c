//! Questions to the operator.

use std::io::{self, BufRead};

use crate::{Failed, fail, say};

/// Asks for a word; what was typed, without blanks around it.
pub(crate) fn answer(question: &str) -> Result<String, Failed> {
    say(&format!("{question}: "))?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    if line.is_empty() {
        say("\n")?;
        return fail("nobody answers on standard input, so nothing was changed");
    }
    Ok(line.trim().to_owned())
}

/// Asks for these very words.
pub(crate) fn confirm_words(words: &str) -> Result<(), Failed> {
    if answer(&format!("Please type \"{words}\" to confirm"))? == words {
        return Ok(());
    }
    fail("declined; nothing was changed")
}

/// Asks; anything but yes ends the command.
pub(crate) fn confirm(question: &str) -> Result<(), Failed> {
    say(&format!("{question} [y/N]: "))?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    if line.is_empty() {
        // Without a newline of the operator's the error would stand behind the question.
        say("\n")?;
    }
    decide(&line)
}

/// `line` is empty where standard input has ended.
fn decide(line: &str) -> Result<(), Failed> {
    match line.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        "" if line.is_empty() => {
            fail("nobody answers on standard input, so nothing was changed; --force does not ask")
        }
        _ => fail("declined; nothing was changed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes_and_silence_names_the_option() {
        for yes in ["y\n", "Yes\n", " YES \r\n", "y"] {
            assert!(decide(yes).is_ok(), "{yes:?}");
        }
        for no in ["\n", "n\n", "yess\n"] {
            assert_eq!(decide(no).expect_err("declined").0, "declined; nothing was changed");
        }
        assert!(decide("").expect_err("nobody is there").0.contains("--force"));
    }
}
