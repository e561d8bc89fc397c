//! `bootstrap`.

use std::collections::BTreeMap;
use std::ops::Range;

use pgvane_cluster::settings_file::Spanned;

use super::super::scalar;
use super::super::section::{Remarks, Section};
use super::super::tree::{Key, Node, Tree};
use super::postgresql::options;
use crate::config::check::{Checked, Problem};
use crate::config::raw::{RawBootstrap, RawMethod, RawUser};

pub(super) fn convert(mut section: Section, remarks: &mut Remarks) -> Checked<RawBootstrap> {
    // Without the section another member has to begin.
    let allowed = (!section.is_there()).then_some(false);
    let mut places = BTreeMap::new();
    let dcs = match section.take("dcs") {
        None => None,
        Some(tree) => match &tree.node {
            Node::Map(entries) => {
                note(entries, "", &mut places);
                Some(Spanned::new(tree.at.clone(), scalar::object(entries)))
            }
            Node::Null | Node::Plain(_) | Node::Text(_) | Node::List(_) => {
                let text = format!("bootstrap.dcs: a section with keys is expected, not {}", tree.kind());
                return Err(Problem { at: Some(tree.at), text });
            }
        },
    };
    let initdb = match section.take("initdb") {
        Some(tree) => Some(options(&section, "initdb", &tree, remarks)?),
        None => None,
    };
    let post_bootstrap = section.take_first(&["post_bootstrap", "post_init"]);
    let post_bootstrap = match post_bootstrap {
        Some(tree) => Some(section.text_of("post_bootstrap", &tree)?),
        None => None,
    };
    let raw = RawBootstrap {
        preset: None,
        dcs,
        initdb,
        users: users(section.section("users")?, remarks)?,
        post_bootstrap,
        method: method(&mut section)?,
        pg_hba: section.lines("pg_hba")?.map(Spanned::into_inner).unwrap_or_default(),
        places,
        allowed,
    };
    section.finish(remarks);
    Ok(raw)
}

/// Where the values stand, by dotted path.
fn note(entries: &[(Key, Tree)], path: &str, places: &mut BTreeMap<String, Range<usize>>) {
    for (key, tree) in entries {
        let full = if path.is_empty() { key.name.clone() } else { format!("{path}.{}", key.name) };
        if let Node::Map(inner) = &tree.node {
            note(inner, &full, places);
        }
        places.insert(full, tree.at.clone());
    }
}

fn users(section: Section, remarks: &mut Remarks) -> Checked<BTreeMap<String, RawUser>> {
    let mut users = BTreeMap::new();
    let names: Vec<String> = section.keys().map(str::to_owned).collect();
    let mut section = section;
    for name in names {
        let mut user = section.section(&name)?;
        let password = user.secret("password")?.map(Spanned::into_inner);
        let options = user.texts("options")?.map(Spanned::into_inner).unwrap_or_default();
        user.finish(remarks);
        users.insert(name, RawUser { password, options });
    }
    section.finish(remarks);
    Ok(users)
}

/// The method that is named, with the section of its name.
fn method(section: &mut Section) -> Checked<Option<RawMethod>> {
    let Some(name) = section.text("method")?.filter(|name| name.get_ref() != "initdb") else {
        return Ok(None);
    };
    let mut own = section.section(name.get_ref())?;
    let Some(command) = own.text("command")? else {
        let text = format!("{} is needed by bootstrap.method", own.name("command"));
        return Err(Problem { at: Some(name.span()), text });
    };
    Ok(Some(RawMethod {
        command,
        no_params: own.is("no_params")?.unwrap_or(false),
        keep_existing_recovery_conf: own.is("keep_existing_recovery_conf")?.unwrap_or(false),
        recovery_conf: own.section("recovery_conf")?.values(),
        parameters: own.values(),
        name,
    }))
}
