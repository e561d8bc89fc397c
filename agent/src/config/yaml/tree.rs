//! A YAML document as a tree of values that know where they stand.
//!
//! Values that are not quoted stay the text they were written as: what `on`, `0644` or `1e3` means depends on what is
//! wanted, and where nothing is known of it, on the rules of Patroni's own parser (`scalar`).

use std::fmt;
use std::ops::Range;

use pgvane_cluster::settings_file::Source;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Location, Spanned as At};

use crate::config::check::{Problem, Remark};

/// A value and where it stands, in the numbering of all sources.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) at: Range<usize>,
    pub(super) node: Node,
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    /// Nothing, `null` or `~`.
    Null,
    /// Not quoted: may be a number or a flag.
    Plain(String),
    /// Text and nothing else.
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(Key, Tree)>),
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) at: Range<usize>,
    pub(super) name: String,
}

/// Deepest nesting that is followed, and most nodes that are read: far beyond any settings.
const DEEPEST: usize = 64;
const MOST_NODES: usize = 100_000;

/// Reads the text of `source`, which begins at `start` in the numbering of all sources.
pub(super) fn parse(source: &Source, start: usize) -> Result<Tree, Problem> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEEPEST,
            max_nodes: MOST_NODES,
        },
        // As Patroni's parser has it, the last one wins.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<At<Raw>>(source.text(), options) {
        Ok(raw) => Ok(placed(raw, source.text(), start)),
        Err(error) => {
            let offset = error.location().map(|place| offset(&place, source.text()));
            let said = error.without_snippet().to_string();
            // The place is told in our own way.
            let said = said.rsplit_once(" at line ").map_or(said.as_str(), |(said, _)| said);
            Err(Problem {
                at: offset.map(|at| start + at..start + at + 1),
                text: format!("this is not YAML: {said}"),
            })
        }
    }
}

/// Where a place begins, in bytes. The parser's own errors tell lines and characters only.
fn offset(place: &Location, text: &str) -> usize {
    let bytes = place.span().byte_offset().and_then(|at| usize::try_from(at).ok());
    bytes.unwrap_or_else(|| {
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).saturating_sub(1);
        let lines: usize = text.split_inclusive('\n').take(number(place.line())).map(str::len).sum();
        let line = text[lines..].split('\n').next().unwrap_or("");
        lines + line.chars().take(number(place.column())).map(char::len_utf8).sum::<usize>()
    })
}

/// A value as the parser gives it, before its text is looked up.
enum Raw {
    Null,
    /// The parser takes it for something else than text.
    Plain,
    Text(String),
    List(Vec<At<Raw>>),
    Map(Vec<(At<String>, At<Raw>)>),
}

fn placed(raw: At<Raw>, text: &str, start: usize) -> Tree {
    let within = span(&raw.defined, text);
    let at = start + within.start..start + within.end;
    let node = match raw.value {
        Raw::Null => Node::Null,
        Raw::Plain => {
            let written = text[within].trim();
            let quoted = written.strip_prefix(['"', '\'']).and_then(|rest| rest.strip_suffix(['"', '\'']));
            Node::Plain(quoted.unwrap_or(written).to_owned())
        }
        Raw::Text(value) => Node::Text(value),
        Raw::List(items) => Node::List(items.into_iter().map(|item| placed(item, text, start)).collect()),
        Raw::Map(entries) => {
            let entry = |(key, value): (At<String>, At<Raw>)| {
                let within = span(&key.defined, text);
                let at = start + within.start..start + within.end;
                (Key { at, name: key.value }, placed(value, text, start))
            };
            Node::Map(entries.into_iter().map(entry).collect())
        }
    };
    Tree { at, node }
}

/// The bytes that a place covers, whole characters and never beyond the text.
fn span(place: &Location, text: &str) -> Range<usize> {
    let floor = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let begin = floor(offset(place, text));
    let length = place.span().byte_len().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    begin..floor(begin.saturating_add(length)).max(begin)
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Raw, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_unit<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }

            fn visit_none<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Raw, D::Error> {
                Raw::deserialize(d)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Raw, E> {
                Ok(Raw::Plain)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Raw, E> {
                Ok(Raw::Plain)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Raw, E> {
                Ok(Raw::Plain)
            }

            fn visit_i128<E>(self, _: i128) -> Result<Raw, E> {
                Ok(Raw::Plain)
            }

            fn visit_u128<E>(self, _: u128) -> Result<Raw, E> {
                Ok(Raw::Plain)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
                Ok(Raw::Plain)
            }

            fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
                Ok(Raw::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Raw::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
                let mut map = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    map.push(entry);
                }
                Ok(Raw::Map(map))
            }
        }

        d.deserialize_any(Any)
    }
}

impl Tree {
    /// What kind of value it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self.node {
            Node::Null => "nothing",
            Node::Plain(_) | Node::Text(_) => "a single value",
            Node::List(_) => "a list",
            Node::Map(_) => "a section with keys",
        }
    }

    /// The text of a single value.
    pub(super) fn scalar(&self) -> Option<&str> {
        match &self.node {
            Node::Plain(text) | Node::Text(text) => Some(text),
            Node::Null | Node::List(_) | Node::Map(_) => None,
        }
    }

    /// Leaves the last of keys that are there several times, as Patroni's parser does, and says so.
    pub(super) fn single_out(&mut self, path: &str, remarks: &mut Vec<Remark>) {
        match &mut self.node {
            Node::Null | Node::Plain(_) | Node::Text(_) => {}
            Node::List(items) => items.iter_mut().for_each(|item| item.single_out(path, remarks)),
            Node::Map(entries) => {
                let mut kept: Vec<(Key, Tree)> = Vec::with_capacity(entries.len());
                for (key, mut value) in entries.drain(..) {
                    let full =
                        if path.is_empty() { key.name.clone() } else { format!("{path}.{}", key.name) };
                    value.single_out(&full, remarks);
                    if let Some(place) = kept.iter().position(|(before, _)| before.name == key.name) {
                        let (before, _) = kept.remove(place);
                        let text = format!("{full} is ignored: it is there again, and the last one counts");
                        remarks.push(Remark { at: Some(before.at), text });
                    }
                    kept.push((key, value));
                }
                *entries = kept;
            }
        }
    }

    /// Merges `patch` over it: sections merge, null deletes, all else replaces.
    pub(super) fn merge(&mut self, patch: Tree) {
        match (&mut self.node, patch.node) {
            (Node::Map(entries), Node::Map(changes)) => {
                for (key, value) in changes {
                    let known = entries.iter().position(|(k, _)| k.name == key.name);
                    match (known, &value.node) {
                        (Some(place), Node::Null) => {
                            entries.remove(place);
                        }
                        (Some(place), _) => entries[place].1.merge(value),
                        (None, Node::Null) => {}
                        (None, _) => entries.push((key, value)),
                    }
                }
            }
            (node, changed) => {
                *node = changed;
                self.at = patch.at;
            }
        }
    }
}
