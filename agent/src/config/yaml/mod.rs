//! patroni.yml (contract section 5): files and `PATRONI_*` variables become one tree, the tree becomes the raw form
//! that agent.toml is read into. What is allowed is checked there, once for both.

mod convert;
mod leaves;
mod scalar;
mod section;
#[cfg(test)]
mod tests;
mod tree;
mod variables;

use pgvane_cluster::settings_file::Source;

use self::section::{Remarks, Section};
use self::tree::{Node, Tree};
use super::check::{Checked, Problem, Remark};
use super::environment::Environment;
use super::raw::RawConfig;
use super::sources::Sources;

pub(super) use self::convert::Reach;
pub(super) use self::leaves::{Leaf, Shape};

/// Everything that was said, merged.
#[derive(Clone)]
pub(super) struct Document {
    tree: Tree,
    pub(super) remarks: Remarks,
}

/// Merges the files in their order, and the variables over them.
pub(super) fn read(
    files: Vec<Source>,
    environment: &Environment,
    sources: &mut Sources,
) -> Checked<Document> {
    let mut remarks = Remarks::new();
    let mut whole = Tree { at: 0..0, node: Node::Map(vec![]) };
    for source in files {
        let start = sources.add_file(source.clone());
        let mut tree = tree::parse(&source, start)?;
        tree.single_out("", &mut remarks);
        let kind = tree.kind();
        match tree.node {
            Node::Map(_) => whole.merge(tree),
            // A file of comments.
            Node::Null => {}
            Node::Plain(_) | Node::Text(_) | Node::List(_) => {
                let text = format!("the file holds {kind}; sections such as `scope: demo` are expected");
                return Err(Problem { at: Some(tree.at), text });
            }
        }
    }
    whole.merge(variables::document(environment, sources, &mut remarks)?);
    Ok(Document { tree: whole, remarks })
}

impl Document {
    /// The settings of an agent, none checked beyond its form.
    pub(super) fn agent(self) -> Checked<(RawConfig, Vec<Remark>)> {
        let mut remarks = self.remarks;
        let raw = convert::agent(Section::top(self.tree)?, &mut remarks)?;
        Ok((raw, remarks))
    }

    /// Every setting that was written, in its order.
    pub(super) fn leaves(&self) -> Vec<Leaf> {
        leaves::of(&self.tree)
    }

    /// What an operator's tool needs of it; the rest is nobody's business here.
    pub(super) fn reach(self) -> Checked<(Reach, Vec<Remark>)> {
        let mut remarks = self.remarks;
        let reach = convert::reach(Section::top(self.tree)?, &mut remarks)?;
        Ok((reach, remarks))
    }
}
