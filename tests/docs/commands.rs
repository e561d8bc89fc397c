//! Commands of our programs that are named: the programs themselves are asked whether there are such.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use super::pages;

/// What the programs say of themselves.
struct Manual {
    programs: BTreeMap<&'static str, PathBuf>,
    helps: BTreeMap<Vec<String>, Option<String>>,
}

impl Manual {
    fn new() -> Manual {
        let built = xtask::programs::built().expect("built");
        let programs = [
            ("pgvane", built.proxy),
            ("pgvane-agent", built.agent),
            ("pgvanectl", built.ctl),
            ("cargo xtask", built.xtask),
        ];
        Manual { programs: programs.into(), helps: BTreeMap::new() }
    }

    /// The help of a program or of its subcommand; `None` where it knows no such.
    fn help(&mut self, words: &[String]) -> Option<&str> {
        if !self.helps.contains_key(words) {
            let program = &self.programs[words[0].as_str()];
            let run = Command::new(program).args(&words[1..]).arg("--help").output().expect("runs");
            let help = run.status.success().then(|| String::from_utf8_lossy(&run.stdout).into_owned());
            self.helps.insert(words.to_vec(), help);
        }
        self.helps[words].as_deref()
    }

    /// Checks a command line as far as it is one of ours: subcommands, then options.
    fn check(&mut self, line: &str, from: &str) -> bool {
        let mut words =
            line.split_whitespace().skip_while(|word| ["sudo", "-u", "postgres"].contains(word)).peekable();
        let program = match words.next() {
            Some("cargo") if words.next_if_eq(&"xtask").is_some() => "cargo xtask",
            Some(word) => word.rsplit('/').next().unwrap_or(word),
            None => return false,
        };
        if !self.programs.contains_key(program) {
            return false;
        }
        let has_subcommands = ["pgvanectl", "cargo xtask"].contains(&program);
        let mut path = vec![program.to_owned()];
        let mut takes_value = false;
        for word in words {
            if ["#", "&&", ";", "|", ">", "2>&1", "--"].contains(&word) || word.starts_with('#') {
                break;
            }
            let word = word.trim_matches(['[', ']', ',', ';']);
            if word.starts_with('-') && word.len() > 1 {
                let option = word.split('=').next().unwrap_or(word);
                let help =
                    self.help(&path).unwrap_or_else(|| panic!("{from}: `{line}`: there is no {path:?}"));
                let is_known = |line: &str| {
                    line.trim_start().starts_with('-')
                        && line.split([' ', ',', '=']).any(|known| known == option)
                };
                let place = help.lines().find(|line| is_known(line));
                let also =
                    help.contains(&format!("[aliases: {option}")) || help.contains(&format!(", {option}]"));
                assert!(place.is_some() || also, "{from}: `{line}`: {path:?} has no {option}");
                takes_value = place.is_some_and(|line| line.contains('<')) && !word.contains('=');
                continue;
            }
            let is_name = word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            if std::mem::take(&mut takes_value) || !has_subcommands || !is_name || path.len() > 2 {
                continue;
            }
            let deeper = [path.as_slice(), &[word.to_owned()]].concat();
            let below = path.len() == 1 || ["proxy", "flush"].contains(&path[1].as_str());
            if below {
                assert!(self.help(&deeper).is_some(), "{from}: `{line}`: there is no {deeper:?}");
                path = deeper;
            }
        }
        true
    }
}

#[test]
fn commands_that_are_named_exist() {
    let mut manual = Manual::new();
    let mut named = 0;
    for page in pages() {
        let from = page.file.display().to_string();
        for line in page.shell() {
            for part in line.split("&&") {
                named += usize::from(manual.check(part.trim(), &from));
            }
        }
        for quoted in page.quoted() {
            named += usize::from(manual.check(quoted, &from));
        }
    }
    assert!(named > 100, "{named} commands");
}

#[test]
fn variables_that_are_named_exist() {
    let mut manual = Manual::new();
    let helps = ["pgvanectl", "pgvanectl proxy"].map(|words| {
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        manual.help(&words).expect("helps").to_owned()
    });
    let mut named = 0;
    for page in pages() {
        for variable in
            page.quoted().filter(|quoted| quoted.starts_with("PGVANECTL_") && !quoted.ends_with('.'))
        {
            let is_known = helps.iter().any(|help| help.contains(&format!("[env: {variable}=")));
            assert!(is_known, "{} names {variable}", page.file.display());
            named += 1;
        }
    }
    assert!(named > 5, "{named} variables");
}

#[test]
fn what_is_not_there_is_found() {
    for line in
        ["pgvanectl lsit", "pgvanectl switchover --dryrun", "pgvanectl proxy darin", "cargo xtask dmeo"]
    {
        let found = std::panic::catch_unwind(|| Manual::new().check(line, "a page"));
        assert!(found.is_err(), "{line} went through");
    }
}
