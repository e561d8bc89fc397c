//! Calls of the system's own tools: `ip`, `tc`, `nft`, `mount` and the like.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};

/// Runs `program` to its end; the error is what was called and what it said.
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Result<(), String> {
    run_with(program, args, "")
}

/// The same for a command line without blanks in its words.
pub(crate) fn line(line: &str) -> Result<(), String> {
    let mut words = line.split_whitespace();
    run(words.next().unwrap_or_default(), words)
}

/// Like [`line`], for what it prints.
pub(crate) fn read(line: &str) -> Result<String, String> {
    let mut words = line.split_whitespace();
    output(words.next().unwrap_or_default(), words, "")
}

/// Runs `program` with `input` on its standard input.
pub(crate) fn run_with<S: AsRef<OsStr>>(
    program: &str,
    args: impl IntoIterator<Item = S>,
    input: &str,
) -> Result<(), String> {
    output(program, args, input).map(drop)
}

fn output<S: AsRef<OsStr>>(
    program: &str,
    args: impl IntoIterator<Item = S>,
    input: &str,
) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let called = format!("{command:?}").replace('"', "");
    let failed = |why: &dyn std::fmt::Display| format!("`{called}`: {why}");
    let mut child = command.spawn().map_err(|e| failed(&e))?;
    // Who does not want it closes its end; that is no error of ours.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(|e| failed(&e))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(if said.trim().is_empty() { &output.status } else { &said }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_call_and_what_was_said() {
        assert_eq!(line("true"), Ok(()));
        assert_eq!(read("echo so be it"), Ok("so be it\n".to_owned()));
        let why = line("ls /nowhere/at/all").expect_err("fails");
        assert!(why.starts_with("`ls /nowhere/at/all`: ") && why.contains("No such file"), "{why}");
        let why = line("false").expect_err("fails");
        assert!(why.contains("exit status: 1"), "{why}");
        assert!(line("no-such-program-here").expect_err("fails").starts_with("`no-such-program-here`"));
    }
}
