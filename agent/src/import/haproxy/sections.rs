//! The sections of haproxy.cfg.

use std::collections::BTreeMap;

use super::Wrong;
use super::words::{Variables, Word, split};

/// What a section is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Global,
    Defaults,
    Frontend,
    Backend,
    Listen,
    /// Of no interest here: `peers`, `resolvers`, `userlist` and their like.
    Other,
}

/// A line that says something.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) number: usize,
    /// At least one.
    pub(crate) words: Vec<Word>,
}

impl Line {
    /// The text of a word; empty where there is none.
    pub(crate) fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", |word| word.text.as_str())
    }
}

/// A section and its lines.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) kind: Kind,
    /// The line that begins it.
    pub(crate) head: Line,
    pub(crate) lines: Vec<Line>,
    /// The `defaults` that it has, by their place in the list of sections.
    pub(crate) defaults: Option<usize>,
}

impl Section {
    /// Its name; empty where it has none.
    pub(crate) fn name(&self) -> &str {
        match self.head.word(1) {
            // `defaults from NAME` has none.
            "from" if self.kind == Kind::Defaults => "",
            name => name,
        }
    }

    /// How the report calls it.
    pub(crate) fn title(&self) -> String {
        [self.head.word(0), self.name()].join(" ").trim_end().to_owned()
    }
}

/// Words that begin sections of no interest here.
const OTHERS: &[&str] = &[
    "userlist",
    "peers",
    "resolvers",
    "mailers",
    "program",
    "ring",
    "log-forward",
    "log-profile",
    "cache",
    "http-errors",
    "fcgi-app",
    "traces",
    "crt-store",
    "acme",
];

fn kind(word: &str) -> Option<Kind> {
    match word {
        "global" => Some(Kind::Global),
        "defaults" => Some(Kind::Defaults),
        "frontend" => Some(Kind::Frontend),
        "backend" => Some(Kind::Backend),
        "listen" => Some(Kind::Listen),
        other => OTHERS.contains(&other).then_some(Kind::Other),
    }
}

/// The sections of a text, in their order.
pub(crate) fn parse(text: &str, variables: Variables<'_>) -> Result<Vec<Section>, Wrong> {
    let mut sections: Vec<Section> = Vec::new();
    // What `setenv` of the file itself says.
    let mut own: BTreeMap<String, String> = BTreeMap::new();
    for (index, text) in text.lines().enumerate() {
        let number = index + 1;
        let words = split(text, number, &|name| own.get(name).cloned().or_else(|| variables(name)))?;
        let Some(first) = words.first().cloned() else { continue };
        let line = Line { number, words };
        match (kind(&first.text), sections.last_mut()) {
            (Some(kind), _) => {
                let defaults = defaults_of(&sections, kind, &line)?;
                if matches!(kind, Kind::Frontend | Kind::Backend | Kind::Listen) && line.word(1).is_empty() {
                    return Err(Wrong::at(
                        number,
                        &first,
                        format!("{} without a name", first.text),
                        format!("{} NAME", first.text),
                    ));
                }
                sections.push(Section { kind, head: line, lines: vec![], defaults });
            }
            (None, _) if first.text.starts_with('.') => match first.text.as_str() {
                ".notice" | ".warning" | ".alert" | ".diag" => {}
                other => {
                    let allowed =
                        "a file without conditional blocks, such as the part of it that counts on this host";
                    return Err(Wrong::at(
                        number,
                        &first,
                        format!("the conditional block {other:?}"),
                        allowed,
                    ));
                }
            },
            (None, Some(section)) => {
                if section.kind == Kind::Global && ["setenv", "presetenv"].contains(&first.text.as_str()) {
                    let (name, value) = (line.word(1).to_owned(), line.word(2).to_owned());
                    let is_known = first.text == "presetenv" && variables(&name).is_some();
                    if !is_known {
                        own.insert(name, value);
                    }
                }
                section.lines.push(line);
            }
            (None, None) => {
                let seen = format!("{:?} before any section", first.text);
                return Err(Wrong::at(number, &first, seen, "global, defaults, frontend, backend, listen"));
            }
        }
    }
    Ok(sections)
}

/// Those it names with `from`, else the last ones before it.
fn defaults_of(sections: &[Section], kind: Kind, head: &Line) -> Result<Option<usize>, Wrong> {
    let from = head.words.iter().skip(1).position(|word| word.text == "from").map(|at| at + 2);
    let named = from.and_then(|at| head.words.get(at));
    let is_one = |section: &Section| section.kind == Kind::Defaults;
    match named {
        Some(name) => {
            let found = sections.iter().rposition(|section| is_one(section) && section.name() == name.text);
            if found.is_none() {
                let known: Vec<&str> = sections.iter().filter(|s| is_one(s)).map(Section::name).collect();
                let seen = format!("from {:?}, but there are no such defaults above", name.text);
                return Err(Wrong::at(
                    head.number,
                    name,
                    seen,
                    format!("those above it: {}", known.join(", ")),
                ));
            }
            Ok(found)
        }
        None if matches!(kind, Kind::Frontend | Kind::Backend | Kind::Listen) => {
            Ok(sections.iter().rposition(is_one))
        }
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Section>, String> {
        parse(text, &|_| None).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn sections_have_the_defaults_before_them_or_those_they_name() {
        let text = "global\n setenv A 10.0.0.1\ndefaults a\n mode tcp\ndefaults b from a\nlisten x\n bind \"$A:1\"\n\
                    listen y from a\n balance first\npeers p\n peer q 1:2\n";
        let sections = read(text).expect("reads");
        let seen: Vec<_> = sections.iter().map(|s| (s.title(), s.defaults)).collect();
        let expected = [
            ("global", None),
            ("defaults a", None),
            ("defaults b", Some(1)),
            ("listen x", Some(2)),
            ("listen y", Some(1)),
            ("peers p", None),
        ];
        assert_eq!(seen, expected.map(|(title, defaults)| (title.to_owned(), defaults)));
        assert_eq!(sections[3].lines[0].word(1), "10.0.0.1:1");
    }

    #[test]
    fn what_is_no_section_is_refused_with_its_place() {
        for (text, place, part) in [
            ("\nbalance roundrobin\n", "2:1: ", "before any section"),
            ("listen\n", "1:1: ", "without a name"),
            ("listen a from b\n", "1:15: ", "no such defaults"),
            ("global\n.if defined(X)\n", "2:1: ", "conditional"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.starts_with(place) && error.contains(part), "{text}: {error}");
        }
    }
}
