//! `postgresql`.

use std::path::PathBuf;

use pgvane_cluster::settings_file::{Spanned, is_secret};

use super::super::section::{Remarks, Section};
use super::super::tree::{Key, Node, Tree};
use super::super::variables::ROLE_KEYS;
use super::ReachPostgresql;
use crate::config::check::{Checked, Problem, Remark};
use crate::config::raw::{RawCallbacks, RawPostgresql, RawReplicaMethod, RawRole, RawValues};

/// The section, and the name that members once had in it.
pub(super) struct Converted {
    pub(super) raw: RawPostgresql,
    pub(super) name: Option<Spanned<String>>,
}

pub(super) fn convert(mut section: Section, remarks: &mut Remarks) -> Checked<Converted> {
    let name = section.text("name")?;
    let roles = roles(&mut section, remarks)?;
    let parameters = section.section("parameters")?.values();
    let unix_socket = section.flag("use_unix_socket")?;
    let replica_methods = replica_methods(&mut section)?;
    let basebackup = match section.take("basebackup") {
        Some(tree) => options(&section, "basebackup", &tree, remarks)?,
        None => vec![],
    };
    let rewind_options = match section.take("rewind") {
        Some(tree) => options(&section, "rewind", &tree, remarks)?,
        None => vec![],
    };
    let why = "it belongs to the dynamic configuration alone: bootstrap.dcs, or edit-config";
    section.pass_over(&["use_slots"], why, remarks);
    let by_role = [
        "parameters_primary",
        "parameters_replica",
        "parameters_standby_leader",
        "pg_hba_primary",
        "pg_hba_replica",
        "pg_hba_standby_leader",
        "pg_ident_primary",
        "pg_ident_replica",
        "pg_ident_standby_leader",
    ];
    section.pass_over(&by_role, "this agent has no settings by role", remarks);
    let Some(data_dir) = section.file("data_dir")? else {
        let text = "postgresql.data_dir is needed: PostgreSQL's data directory".to_owned();
        return Err(Problem { at: section.at(), text });
    };
    let mut callbacks = section.section("callbacks")?;
    let raw = RawPostgresql {
        data_dir,
        bin_dir: bin_dir(&mut section)?,
        listen: section.text("listen")?,
        connect_address: section.text("connect_address")?,
        proxy_address: section.text("proxy_address")?,
        database: section.word("database")?,
        superuser: roles.superuser,
        replication: roles.replication,
        rewind: roles.rewind,
        pgpass: section.file("pgpass")?,
        use_unix_socket: unix_socket.and_then(|flag| socket_dir(&flag, &parameters)),
        use_unix_socket_repl: section.is("use_unix_socket_repl")?,
        krbsrvname: section.word("krbsrvname")?,
        parameters,
        pg_hba: section.lines("pg_hba")?,
        keep_pg_hba: None,
        pg_ident: section.lines("pg_ident")?.map(Spanned::into_inner).unwrap_or_default(),
        recovery_conf: section.section("recovery_conf")?.values(),
        config_dir: section.file("config_dir")?,
        config_base_name: section.text("config_base_name")?,
        custom_conf: section.file("custom_conf")?,
        bin_names: section.section("bin_name")?.words()?,
        replica_methods,
        basebackup,
        callbacks: RawCallbacks {
            on_start: callbacks.text("on_start")?,
            on_stop: callbacks.text("on_stop")?,
            on_restart: callbacks.text("on_restart")?,
            on_reload: callbacks.text("on_reload")?,
            on_role_change: callbacks.text("on_role_change")?,
        },
        pre_promote: section.text("pre_promote")?,
        before_stop: section.text("before_stop")?,
        pg_ctl_timeout: section.interval("pg_ctl_timeout")?,
        use_pg_rewind: section.is("use_pg_rewind")?,
        remove_data_directory_on_rewind_failure: section.is("remove_data_directory_on_rewind_failure")?,
        remove_data_directory_on_diverged_timelines: section
            .is("remove_data_directory_on_diverged_timelines")?,
        rewind_options,
    };
    callbacks.finish(remarks);
    section.finish(remarks);
    Ok(Converted { raw, name })
}

/// All that an operator's tool needs of the section.
pub(super) fn reach(mut section: Section) -> Checked<ReachPostgresql> {
    let Roles { superuser, replication, .. } = roles(&mut section, &mut Remarks::new())?;
    Ok(ReachPostgresql { superuser, replication, bin_dir: bin_dir(&mut section)? })
}

/// An empty one says nothing.
fn bin_dir(section: &mut Section) -> Checked<Option<Spanned<PathBuf>>> {
    Ok(section.file("bin_dir")?.filter(|dir| !dir.get_ref().as_os_str().is_empty()))
}

struct Roles {
    superuser: RawRole,
    replication: RawRole,
    rewind: Option<RawRole>,
}

/// `authentication`, or the roles as they once stood right in the section.
fn roles(section: &mut Section, remarks: &mut Remarks) -> Checked<Roles> {
    let mut new = section.section("authentication")?;
    let old = ["superuser", "replication", "pg_rewind"];
    if new.is_there() {
        section.pass_over(&old, "authentication is there too", remarks);
        let superuser = role(new.section("superuser")?, remarks)?;
        let replication = role(new.section("replication")?, remarks)?;
        let rewind = new.section("rewind")?;
        let rewind = if rewind.is_there() { Some(role(rewind, remarks)?) } else { None };
        new.finish(remarks);
        return Ok(Roles { superuser, replication, rewind });
    }
    let [superuser, replication, rewind] = old.map(|key| section.section(key));
    let (superuser, rewind) = (superuser?, rewind?);
    // The superuser was once needed for pg_rewind only.
    let superuser = if superuser.is_there() { superuser } else { rewind };
    Ok(Roles {
        superuser: role(superuser, remarks)?,
        replication: role(replication?, remarks)?,
        rewind: None,
    })
}

fn role(mut section: Section, remarks: &mut Remarks) -> Checked<RawRole> {
    let raw = RawRole {
        username: section.text("username")?,
        password: section.secret("password")?.map(Spanned::into_inner),
        sslmode: section.text("sslmode")?,
        sslcert: section.text("sslcert")?,
        sslkey: section.text("sslkey")?,
        sslpassword: section.secret("sslpassword")?,
        sslrootcert: section.text("sslrootcert")?,
        sslcrl: section.text("sslcrl")?,
        sslcrldir: section.text("sslcrldir")?,
        gssencmode: section.text("gssencmode")?,
        channel_binding: section.text("channel_binding")?,
        sslnegotiation: section.text("sslnegotiation")?,
    };
    section.finish(remarks);
    Ok(raw)
}

/// Patroni says whether; where is the first directory that the server is told, else where libpq would look.
fn socket_dir(flag: &Spanned<bool>, parameters: &RawValues) -> Option<Spanned<PathBuf>> {
    if !flag.get_ref() {
        return None;
    }
    match parameters.get("unix_socket_directories") {
        Some(told) => {
            let told_text = told.get_ref().as_str().unwrap_or_default();
            let first = told_text.split(',').map(str::trim).find(|dir| dir.starts_with('/'))?;
            Some(Spanned::new(told.span(), PathBuf::from(first)))
        }
        None => {
            let usual = ["/var/run/postgresql", "/tmp"].map(PathBuf::from);
            let dir = usual.into_iter().find(|dir| dir.is_dir())?;
            Some(Spanned::new(flag.span(), dir))
        }
    }
}

/// The methods in their order, each with the section of its name.
fn replica_methods(section: &mut Section) -> Checked<Option<Vec<RawReplicaMethod>>> {
    let (new, old) = (section.texts("create_replica_methods")?, section.texts("create_replica_method")?);
    let Some(names) = new.or(old) else { return Ok(None) };
    let mut methods = Vec::new();
    for name in names.into_inner() {
        if name.get_ref() == "basebackup" {
            methods.push(plain_method(name));
            continue;
        }
        let mut own = section.section(name.get_ref())?;
        methods.push(RawReplicaMethod {
            command: own.text("command")?,
            keep_data: own.is("keep_data")?.unwrap_or(false),
            no_params: own.is("no_params")?.unwrap_or(false),
            no_leader: own.is("no_leader")?.unwrap_or(false),
            parameters: own.values(),
            name,
        });
    }
    Ok(Some(methods))
}

fn plain_method(name: Spanned<String>) -> RawReplicaMethod {
    RawReplicaMethod {
        name,
        command: None,
        keep_data: false,
        no_params: false,
        no_leader: false,
        parameters: RawValues::new(),
    }
}

/// Options of a program: a list of words and of single pairs, or a mapping.
pub(super) fn options(
    section: &Section,
    key: &str,
    tree: &Tree,
    remarks: &mut Remarks,
) -> Checked<Vec<Spanned<String>>> {
    let mut options = Vec::new();
    match &tree.node {
        Node::List(items) => {
            for item in items {
                match &item.node {
                    Node::Map(pairs) => pair_options(section, key, pairs, remarks, &mut options)?,
                    Node::Null | Node::Plain(_) | Node::Text(_) | Node::List(_) => {
                        options.push(section.text_of(key, item)?);
                    }
                }
            }
        }
        Node::Map(pairs) => pair_options(section, key, pairs, remarks, &mut options)?,
        Node::Null | Node::Plain(_) | Node::Text(_) => options.push(section.text_of(key, tree)?),
    }
    Ok(options)
}

fn pair_options(
    section: &Section,
    key: &str,
    pairs: &[(Key, Tree)],
    remarks: &mut Remarks,
    options: &mut Vec<Spanned<String>>,
) -> Checked<()> {
    for (name, value) in pairs {
        let full = format!("{}.{}", section.name(key), name.name);
        // Not an option of any of these programs, and nothing for a command line.
        if is_secret(&name.name) || ROLE_KEYS.contains(&name.name.as_str()) {
            let text =
                format!("{full} is no option and ignored; roles stand under postgresql.authentication");
            remarks.push(Remark { at: Some(name.at.clone()), text });
            continue;
        }
        let option = match &value.node {
            Node::Null => name.name.clone(),
            Node::Plain(_) | Node::Text(_) | Node::List(_) | Node::Map(_) => {
                let text = section.text_of(&format!("{key}.{}", name.name), value)?.into_inner();
                let bare = text.strip_prefix(['"', '\'']).and_then(|rest| rest.strip_suffix(['"', '\'']));
                format!("{}={}", name.name, bare.unwrap_or(&text))
            }
        };
        options.push(Spanned::new(value.at.start.min(name.at.start)..value.at.end, option));
    }
    Ok(())
}
