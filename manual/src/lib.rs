//! Manual pages and completions of a program, from the definition of its command line: what packages ship and what
//! `--help` says cannot differ.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use clap::Command;
use clap_complete::Shell;

/// The argument with which a program writes both into a directory and ends. It is no option: nobody but who makes
/// packages needs it.
pub const REQUEST: &str = "--write-manual";

/// The shells, and the directories below the one that was named.
const SHELLS: [(Shell, &str); 3] = [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")];

/// Does what this program was started for, where that is to write its manual: `DIR/man1`, `DIR/bash`, `DIR/zsh`,
/// `DIR/fish`. To be asked before the command line is parsed.
pub fn on_request(command: Command) -> Option<ExitCode> {
    let dir = requested(env::args_os().skip(1))?;
    Some(match write(command, &dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to hear of a standard error that cannot be written to.
            let _ = writeln!(io::stderr(), "{}: {error}", dir.display());
            ExitCode::FAILURE
        }
    })
}

fn requested(mut arguments: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    let first = arguments.next()?;
    let dir = arguments.next()?;
    (first == REQUEST && arguments.next().is_none()).then(|| dir.into())
}

/// Writes the pages of `command` and of its subcommands, and its completions.
pub fn write(mut command: Command, dir: &Path) -> io::Result<()> {
    // First: completions build the command, which makes its `help` a subcommand like any other.
    let pages = dir.join("man1");
    fs::create_dir_all(&pages)?;
    clap_mangen::generate_to(without_help(command.clone()), pages)?;
    let name = command.get_name().to_owned();
    for (shell, below) in SHELLS {
        let dir = dir.join(below);
        fs::create_dir_all(&dir)?;
        clap_complete::generate_to(shell, &mut command, &name, dir)?;
    }
    Ok(())
}

/// Without the subcommand `help`, whose pages would say what the others say.
fn without_help(command: Command) -> Command {
    command.disable_help_subcommand(true).mut_subcommands(without_help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_completions_say_what_the_definition_says() {
        let list = Command::new("list").about("Shows the members");
        let hidden = Command::new("guard").hide(true);
        let list = list.subcommand(Command::new("again"));
        let tool = Command::new("tool").version("1.2").about("Does it").subcommands([list, hidden]);
        let dir = tempfile::tempdir().expect("a directory");
        write(tool, dir.path()).expect("writes");
        let read = |file: &str| fs::read_to_string(dir.path().join(file)).expect("was written");
        assert!(read("man1/tool.1").contains("Does it"));
        assert!(read("man1/tool-list.1").contains("Shows the members"));
        assert!(!dir.path().join("man1/tool-guard.1").exists());
        let pages = fs::read_dir(dir.path().join("man1")).expect("is there");
        let mut pages: Vec<_> = pages.map(|page| page.expect("an entry").file_name()).collect();
        pages.sort();
        assert_eq!(pages, ["tool-list-again.1", "tool-list.1", "tool.1"], "none of `help`");
        for file in ["bash/tool.bash", "zsh/_tool", "fish/tool.fish"] {
            assert!(read(file).contains("list"), "{file}");
        }
    }

    #[test]
    fn nothing_but_the_request_is_one() {
        let asked = |arguments: &[&str]| requested(arguments.iter().map(OsString::from));
        assert_eq!(asked(&[REQUEST, "/a"]), Some("/a".into()));
        for other in [&[][..], &["/a"], &[REQUEST], &["/a", REQUEST], &[REQUEST, "/a", "b"]] {
            assert_eq!(asked(other), None, "{other:?}");
        }
    }
}
