//! One section of a YAML document, read key by key. What nobody asked for is remarked upon by name.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use pgvane_cluster::settings_file::{Interval, Secret, Spanned, nearest};
use pgvane_cluster::units;
use serde_json::Value;

use super::scalar;
use super::tree::{Key, Node, Tree};
use crate::config::check::{Checked, Problem, Remark};
use crate::config::raw::RawValues;

/// What was found odd so far.
pub(super) type Remarks = Vec<Remark>;

/// A section, of which what was read is gone.
pub(super) struct Section {
    /// Dotted path of the section; empty at the top.
    path: String,
    /// Where it stands; `None`: it is not there.
    at: Option<Range<usize>>,
    entries: Vec<(Key, Tree)>,
    /// Keys that were asked for, for "did you mean".
    asked: Vec<String>,
}

impl Section {
    /// The whole document.
    pub(super) fn top(tree: Tree) -> Checked<Section> {
        Section::of("", tree)
    }

    fn of(path: &str, tree: Tree) -> Checked<Section> {
        let kind = tree.kind();
        match tree.node {
            Node::Map(entries) => {
                Ok(Section { path: path.to_owned(), at: Some(tree.at), entries, asked: vec![] })
            }
            Node::Null => Ok(Section::absent(path)),
            Node::Plain(_) | Node::Text(_) | Node::List(_) => {
                let place = if path.is_empty() { "the file" } else { path };
                let text = format!("{place}: a section with keys is expected, not {kind}");
                Err(Problem { at: Some(tree.at), text })
            }
        }
    }

    fn absent(path: &str) -> Section {
        Section { path: path.to_owned(), at: None, entries: vec![], asked: vec![] }
    }

    pub(super) fn is_there(&self) -> bool {
        self.at.is_some()
    }

    pub(super) fn at(&self) -> Option<Range<usize>> {
        self.at.clone()
    }

    /// The full name of a key in it.
    pub(super) fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Removes a key; `None` where it is not there or has no value.
    pub(super) fn take(&mut self, key: &str) -> Option<Tree> {
        self.asked.push(key.to_owned());
        let place = self.entries.iter().position(|(k, _)| k.name == key)?;
        let (_, tree) = self.entries.remove(place);
        match tree.node {
            Node::Null => None,
            Node::Plain(_) | Node::Text(_) | Node::List(_) | Node::Map(_) => Some(tree),
        }
    }

    /// Removes the first of several names for the same.
    pub(super) fn take_first(&mut self, keys: &[&str]) -> Option<Tree> {
        keys.iter().fold(None, |found, key| {
            let tree = self.take(key);
            found.or(tree)
        })
    }

    fn refuse<T>(&self, key: &str, tree: &Tree, expected: &str) -> Checked<T> {
        let seen = match tree.scalar() {
            Some(text) => format!("{text:?}"),
            None => tree.kind().to_owned(),
        };
        let text = format!("{}: {expected} is expected, not {seen}", self.name(key));
        Err(Problem { at: Some(tree.at.clone()), text })
    }

    pub(super) fn text(&mut self, key: &str) -> Checked<Option<Spanned<String>>> {
        let Some(tree) = self.take(key) else { return Ok(None) };
        self.text_of(key, &tree).map(Some)
    }

    pub(super) fn text_of(&self, key: &str, tree: &Tree) -> Checked<Spanned<String>> {
        match tree.scalar() {
            Some(text) => Ok(Spanned::new(tree.at.clone(), text.to_owned())),
            None => self.refuse(key, tree, "text"),
        }
    }

    /// Text without its place.
    pub(super) fn word(&mut self, key: &str) -> Checked<Option<String>> {
        Ok(self.text(key)?.map(Spanned::into_inner))
    }

    pub(super) fn file(&mut self, key: &str) -> Checked<Option<Spanned<PathBuf>>> {
        let text = self.text(key)?;
        Ok(text.map(|text| Spanned::new(text.span(), PathBuf::from(text.into_inner()))))
    }

    pub(super) fn secret(&mut self, key: &str) -> Checked<Option<Spanned<Secret>>> {
        let Some(tree) = self.take(key) else { return Ok(None) };
        match tree.scalar() {
            Some(text) => Ok(Some(Spanned::new(tree.at.clone(), Secret::new(text)))),
            // What was seen is not told.
            None => Err(Problem { at: Some(tree.at), text: format!("{}: text is expected", self.name(key)) }),
        }
    }

    pub(super) fn flag(&mut self, key: &str) -> Checked<Option<Spanned<bool>>> {
        let Some(tree) = self.take(key) else { return Ok(None) };
        match tree.scalar().and_then(units::parse_bool) {
            Some(flag) => Ok(Some(Spanned::new(tree.at, flag))),
            None => self.refuse(key, &tree, "on or off"),
        }
    }

    /// A flag without its place.
    pub(super) fn is(&mut self, key: &str) -> Checked<Option<bool>> {
        Ok(self.flag(key)?.map(Spanned::into_inner))
    }

    pub(super) fn number(&mut self, key: &str) -> Checked<Option<Spanned<u32>>> {
        let Some(tree) = self.take(key) else { return Ok(None) };
        match tree.scalar().and_then(|text| text.trim().parse().ok()) {
            Some(number) => Ok(Some(Spanned::new(tree.at, number))),
            None => self.refuse(key, &tree, "a whole number, not negative,"),
        }
    }

    /// Seconds, or a time with a unit.
    pub(super) fn interval(&mut self, key: &str) -> Checked<Option<Spanned<Interval>>> {
        let Some(tree) = self.take(key) else { return Ok(None) };
        match tree.scalar().and_then(|text| units::parse_duration(text, Duration::from_secs(1))) {
            Some(time) => Ok(Some(Spanned::new(tree.at, Interval(time)))),
            None => self.refuse(key, &tree, "a number of seconds, or a time such as \"5min\","),
        }
    }

    /// Whatever it is, as JSON.
    pub(super) fn value(&mut self, key: &str) -> Option<Spanned<Value>> {
        self.take(key).map(|tree| Spanned::new(tree.at.clone(), scalar::json(&tree)))
    }

    /// A list of texts; a single one will do.
    pub(super) fn texts(&mut self, key: &str) -> Checked<Option<Spanned<Vec<Spanned<String>>>>> {
        let Some(tree) = self.take(key) else { return Ok(None) };
        let texts = match &tree.node {
            Node::List(items) => {
                items.iter().map(|item| self.text_of(key, item)).collect::<Checked<Vec<_>>>()?
            }
            Node::Null | Node::Plain(_) | Node::Text(_) | Node::Map(_) => vec![self.text_of(key, &tree)?],
        };
        Ok(Some(Spanned::new(tree.at, texts)))
    }

    /// Lines of a file: a list of texts.
    pub(super) fn lines(&mut self, key: &str) -> Checked<Option<Spanned<Vec<String>>>> {
        let texts = self.texts(key)?;
        Ok(texts.map(|texts| {
            let at = texts.span();
            Spanned::new(at, texts.into_inner().into_iter().map(Spanned::into_inner).collect())
        }))
    }

    /// A section within, empty where it is not there.
    pub(super) fn section(&mut self, key: &str) -> Checked<Section> {
        let path = self.name(key);
        match self.take(key) {
            Some(tree) => Section::of(&path, tree),
            None => Ok(Section::absent(&path)),
        }
    }

    /// All that is left, as values of any kind.
    pub(super) fn values(self) -> RawValues {
        let value = |(key, tree): (Key, Tree)| (key.name, Spanned::new(tree.at.clone(), scalar::json(&tree)));
        self.entries.into_iter().map(value).collect()
    }

    /// All that is left, as texts.
    pub(super) fn words(self) -> Checked<BTreeMap<String, Spanned<String>>> {
        let mut words = BTreeMap::new();
        for (key, tree) in &self.entries {
            if !matches!(tree.node, Node::Null) {
                words.insert(key.name.clone(), self.text_of(&key.name, tree)?);
            }
        }
        Ok(words)
    }

    /// The names of what is left.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(key, _)| key.name.as_str())
    }

    /// Removes keys that mean nothing here, and says so.
    pub(super) fn pass_over(&mut self, keys: &[&str], why: &str, remarks: &mut Remarks) {
        for key in keys {
            self.asked.push((*key).to_owned());
            if let Some(place) = self.entries.iter().position(|(k, _)| k.name == *key) {
                let (found, _) = self.entries.remove(place);
                let text = format!("{} is ignored: {why}", self.name(key));
                remarks.push(Remark { at: Some(found.at), text });
            }
        }
    }

    /// Remarks upon whatever nobody asked for.
    pub(super) fn finish(self, remarks: &mut Remarks) {
        for (key, _) in &self.entries {
            let name = self.name(&key.name);
            let text = match nearest(&key.name, self.asked.iter().map(String::as_str)) {
                Some(near) => format!("{name} is unknown and ignored; did you mean {}?", self.name(near)),
                None => format!("{name} is unknown and ignored"),
            };
            remarks.push(Remark { at: Some(key.at.clone()), text });
        }
    }
}
