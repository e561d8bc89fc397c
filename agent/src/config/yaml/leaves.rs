//! The settings of a document one by one, for who wants to say something of each.

use std::ops::Range;

use super::tree::{Node, Tree};

/// A setting, or a section that holds some.
#[derive(Debug)]
pub(in crate::config) struct Leaf {
    /// Its dotted path.
    pub(in crate::config) path: String,
    /// Where its key stands.
    pub(in crate::config) key: Range<usize>,
    /// Where its value stands.
    pub(in crate::config) at: Range<usize>,
    /// What it holds.
    pub(in crate::config) shape: Shape,
}

/// What a setting holds.
#[derive(Debug)]
pub(in crate::config) enum Shape {
    /// Nothing.
    Empty,
    /// A single value.
    Value(String),
    /// Values in a row: they are one setting.
    List,
    /// Settings, which follow.
    Section,
}

/// All of them, sections before what is in them.
pub(super) fn of(tree: &Tree) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    gather(tree, "", &mut leaves);
    leaves
}

fn gather(tree: &Tree, path: &str, leaves: &mut Vec<Leaf>) {
    let Node::Map(entries) = &tree.node else { return };
    for (key, value) in entries {
        let path = if path.is_empty() { key.name.clone() } else { format!("{path}.{}", key.name) };
        let shape = match &value.node {
            Node::Null => Shape::Empty,
            Node::Plain(text) | Node::Text(text) => Shape::Value(text.clone()),
            Node::List(_) => Shape::List,
            Node::Map(entries) if entries.is_empty() => Shape::Empty,
            Node::Map(_) => Shape::Section,
        };
        leaves.push(Leaf { path: path.clone(), key: key.at.clone(), at: value.at.clone(), shape });
        gather(value, &path, leaves);
    }
}
