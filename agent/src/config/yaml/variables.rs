//! `PATRONI_*` variables as a document that is merged over the files (contract section 5).

use pgvane_cluster::settings_file::{Source, Syntax};

use super::section::Remarks;
use super::tree::{self, Key, Node, Tree};
use crate::config::check::{Checked, Remark};
use crate::config::environment::Environment;
use crate::config::sources::Sources;

/// How the value of a variable is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One value.
    Single,
    /// A YAML list, or values with commas.
    List,
    /// A YAML mapping, with or without its braces.
    Map,
    /// A list where it has no placeholder.
    LogFormat,
}

/// Keys of the sections, as they stand in the names of variables: section, then key.
const SECTIONS: &[(&str, &[(&str, Form)])] = &[
    (
        "restapi",
        &[
            ("listen", Form::Single),
            ("connect_address", Form::Single),
            ("certfile", Form::Single),
            ("keyfile", Form::Single),
            ("keyfile_password", Form::Single),
            ("cafile", Form::Single),
            ("ciphers", Form::Single),
            ("verify_client", Form::Single),
            ("http_extra_headers", Form::Map),
            ("https_extra_headers", Form::Map),
            ("allowlist", Form::List),
            ("allowlist_include_members", Form::Single),
            ("request_queue_size", Form::Single),
            ("thread_pool_size", Form::Single),
            ("server_tokens", Form::Single),
        ],
    ),
    (
        "ctl",
        &[
            ("insecure", Form::Single),
            ("cacert", Form::Single),
            ("certfile", Form::Single),
            ("keyfile", Form::Single),
            ("keyfile_password", Form::Single),
        ],
    ),
    (
        "postgresql",
        &[
            ("listen", Form::Single),
            ("connect_address", Form::Single),
            ("proxy_address", Form::Single),
            ("config_dir", Form::Single),
            ("data_dir", Form::Single),
            ("pgpass", Form::Single),
            ("bin_dir", Form::Single),
        ],
    ),
    (
        "log",
        &[
            ("type", Form::Single),
            ("level", Form::Single),
            ("traceback_level", Form::Single),
            ("format", Form::LogFormat),
            ("dateformat", Form::Single),
            ("static_fields", Form::Map),
            ("max_queue_size", Form::Single),
            ("dir", Form::Single),
            ("mode", Form::Single),
            ("file_size", Form::Single),
            ("file_num", Form::Single),
            ("loggers", Form::Map),
            ("deduplicate_heartbeat_logs", Form::Single),
        ],
    ),
    ("etcd", ETCD),
    ("etcd3", ETCD),
    ("citus", &[("group", Form::Single), ("database", Form::Single)]),
];

const ETCD: &[(&str, Form)] = &[
    ("host", Form::Single),
    ("hosts", Form::List),
    ("port", Form::Single),
    ("use_proxies", Form::Single),
    ("protocol", Form::Single),
    ("srv", Form::Single),
    ("srv_suffix", Form::Single),
    ("url", Form::Single),
    ("proxy", Form::Single),
    ("cacert", Form::Single),
    ("cert", Form::Single),
    ("key", Form::Single),
    ("username", Form::Single),
    ("password", Form::Single),
];

/// What a role may be told of a connection.
pub(super) const ROLE_KEYS: &[&str] = &[
    "username",
    "password",
    "sslmode",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "gssencmode",
    "channel_binding",
    "sslnegotiation",
];

/// Where a variable's value belongs: keys from the top, and how it is written.
fn place(name: &str) -> Option<(Vec<&str>, Form)> {
    match name {
        "name" | "namespace" | "scope" | "thread_pool_size" | "thread_stack_size" => {
            return Some((vec![name], Form::Single));
        }
        // As they were called once.
        "loglevel" => return Some((vec!["log", "level"], Form::Single)),
        "logformat" => return Some((vec!["log", "format"], Form::LogFormat)),
        "log_datefmt" => return Some((vec!["log", "dateformat"], Form::Single)),
        _ => {}
    }
    if let Some(program) = name.strip_prefix("postgresql_bin_")
        && program != "dir"
    {
        return Some((vec!["postgresql", "bin_name", program], Form::Single));
    }
    let (section, key) = name.split_once('_')?;
    if ["superuser", "replication", "rewind"].contains(&section) {
        return ROLE_KEYS
            .contains(&key)
            .then(|| (vec!["postgresql", "authentication", section, key], Form::Single));
    }
    if ["restapi", "ctl"].contains(&section) && ["username", "password"].contains(&key) {
        return Some((vec![section, "authentication", key], Form::Single));
    }
    let (_, keys) = SECTIONS.iter().find(|(known, _)| *known == section)?;
    let (key, form) = keys.iter().find(|(known, _)| *known == key)?;
    Some((vec![section, key], *form))
}

/// The document that the variables add up to. Variables that mean nothing are remarked upon by name.
pub(super) fn document(
    environment: &Environment,
    sources: &mut Sources,
    remarks: &mut Remarks,
) -> Checked<Tree> {
    let mut document = section(vec![]);
    // Old names first, so that the new ones win.
    let (old, new): (Vec<_>, Vec<_>) =
        environment.iter().partition(|(name, _)| ["LOGLEVEL", "LOGFORMAT", "LOG_DATEFMT"].contains(name));
    for (name, value) in old.into_iter().chain(new) {
        if name == "CONFIGURATION" {
            continue;
        }
        let source = Source::new(Environment::full_name(name), value, Syntax::Yaml);
        let start = sources.add_variable(source);
        let at = start..start + value.len();
        let lower = name.to_ascii_lowercase();
        let Some((keys, form)) = place(&lower) else {
            let text = "it is unknown and ignored".to_owned();
            remarks.push(Remark { at: Some(at), text });
            continue;
        };
        let mut tree = self::value(value, form, start)?;
        // A place within the variable, whatever was put around its value.
        relocate(&mut tree, &at);
        for key in keys.into_iter().rev() {
            tree = section(vec![(Key { at: at.clone(), name: key.to_owned() }, tree)]);
        }
        document.merge(tree);
    }
    Ok(document)
}

fn section(entries: Vec<(Key, Tree)>) -> Tree {
    Tree { at: 0..0, node: Node::Map(entries) }
}

fn value(text: &str, form: Form, start: usize) -> Checked<Tree> {
    let trimmed = text.trim();
    let in_brackets = |form: Form| match form {
        Form::List => !(trimmed.starts_with('-') || text.contains('[')),
        Form::Map => !trimmed.starts_with('{'),
        Form::Single | Form::LogFormat => false,
    };
    let document = match form {
        Form::Single => None,
        Form::LogFormat if text.contains("%(") => None,
        Form::LogFormat if in_brackets(Form::List) => Some(format!("[{text}]")),
        Form::List if in_brackets(form) => Some(format!("[{text}]")),
        Form::Map if in_brackets(form) => Some(format!("{{{text}}}")),
        Form::LogFormat | Form::List | Form::Map => Some(text.to_owned()),
    };
    match document {
        None => Ok(Tree { at: start..start + text.len(), node: Node::Plain(text.to_owned()) }),
        Some(document) => {
            tree::parse(&Source::new("", document, Syntax::Yaml), start).map_err(|mut problem| {
                problem.at = Some(start..start + text.len());
                problem
            })
        }
    }
}

fn relocate(tree: &mut Tree, at: &std::ops::Range<usize>) {
    tree.at = at.clone();
    match &mut tree.node {
        Node::Null | Node::Plain(_) | Node::Text(_) => {}
        Node::List(items) => items.iter_mut().for_each(|item| relocate(item, at)),
        Node::Map(entries) => {
            for (key, value) in entries {
                key.at = at.clone();
                relocate(value, at);
            }
        }
    }
}
