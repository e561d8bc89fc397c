//! What differs between the settings in force and those read again, and which of it can come into force now. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{
    Access, Bootstrap, Config, Ctl, Etcd, Guard, Log, Login, Postgresql, Restapi, Role, Watchdog,
};
use crate::timing::TimingOverrides;

/// The settings that come into force.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// All of them; those that need a restart are still the old ones.
    pub config: Config,
    /// Names of settings that change now.
    pub changed: Vec<String>,
    /// Names of settings that would change if the agent were restarted.
    pub kept: Vec<String>,
}

impl Change {
    /// From `old` to as much of `new` as a running agent can take.
    pub fn between(old: &Config, new: Config) -> Change {
        let wanted = differences(old, &new);
        let config = within_reach(old, new);
        let changed = differences(old, &config);
        let now: BTreeSet<&String> = changed.iter().collect();
        let kept = wanted.iter().filter(|name| !now.contains(name)).cloned().collect();
        Change { config, changed, kept }
    }
}

/// `new`, with what identifies this member, where it keeps its state and where it listens as it was: others know it
/// by these, and what runs was started with them.
fn within_reach(old: &Config, new: Config) -> Config {
    let old = old.clone();
    Config {
        name: old.name,
        scope: old.scope,
        namespace: old.namespace,
        etcd: old.etcd,
        restapi: Restapi { listen: old.restapi.listen, ..new.restapi },
        postgresql: Postgresql {
            data_dir: old.postgresql.data_dir,
            listen_addresses: old.postgresql.listen_addresses,
            port: old.postgresql.port,
            socket_dir: old.postgresql.socket_dir,
            config_dir: old.postgresql.config_dir,
            config_base_name: old.postgresql.config_base_name,
            ..new.postgresql
        },
        guard: old.guard,
        ..new
    }
}

/// Names the fields that differ. Every field must be listed: one that is left out does not compile.
macro_rules! compare {
    ($names:ident, $prefix:literal, $old:expr, $new:expr, $type:ident { $($field:ident),+ $(,)? }) => {
        let $type { $($field: _),+ } = $old;
        $(if $old.$field != $new.$field {
            $names.push(concat!($prefix, stringify!($field)).to_owned());
        })+
    };
}

/// Fields that are called otherwise in the settings file, or that are several keys there.
const SPELLED: &[(&str, &str)] = &[
    ("etcd.client_cert", "etcd.cert"),
    ("restapi.tls", "restapi.certfile"),
    ("restapi.include_members", "restapi.allowlist_include_members"),
    ("ctl.client_cert", "ctl.certfile"),
    ("postgresql.listen_addresses", "postgresql.listen"),
    ("postgresql.port", "postgresql.listen"),
    ("postgresql.socket_dir", "postgresql.use_unix_socket"),
    ("watchdog.testing", "watchdog.driver"),
    ("log.line", "log.line_format"),
    ("log.file", "log.dir"),
];

/// Fields whose parts are named one by one.
const NAMED_IN_PARTS: &[&str] = &[
    "etcd.login",
    "restapi.login",
    "restapi.access",
    "ctl.login",
    "postgresql.superuser",
    "postgresql.replication",
    "postgresql.rewind",
    "postgresql.parameters",
    "postgresql.recovery_conf",
];

/// The names of all settings that differ, as agent.toml has them. No value is among them.
pub fn differences(old: &Config, new: &Config) -> Vec<String> {
    let mut names = fields(old, new);
    names.retain(|name| !NAMED_IN_PARTS.contains(&name.as_str()));
    for name in &mut names {
        if let Some((_, spelled)) = SPELLED.iter().find(|(field, _)| *field == name.as_str()) {
            *name = (*spelled).to_owned();
        }
    }
    names.dedup();
    names
}

fn fields(old: &Config, new: &Config) -> Vec<String> {
    let mut names = Vec::new();
    let Config {
        name: _,
        scope: _,
        namespace: _,
        etcd: _,
        restapi: _,
        ctl: _,
        postgresql: _,
        bootstrap: _,
        tags: _,
        timing: _,
        guard: _,
        watchdog: _,
        log: _,
    } = old;
    for (name, differs) in [
        ("name", old.name != new.name),
        ("scope", old.scope != new.scope),
        ("namespace", old.namespace != new.namespace),
    ] {
        names.extend(differs.then(|| name.to_owned()));
    }
    login(&mut names, "etcd", old.etcd.login.as_ref(), new.etcd.login.as_ref());
    compare!(names, "etcd.", old.etcd, new.etcd, Etcd { endpoints, cacert, client_cert, login, discover });
    restapi(&mut names, &old.restapi, &new.restapi);
    login(&mut names, "ctl", old.ctl.login.as_ref(), new.ctl.login.as_ref());
    compare!(names, "ctl.", old.ctl, new.ctl, Ctl { login, insecure, cafile, client_cert, keyfile_password });
    postgresql(&mut names, &old.postgresql, &new.postgresql);
    compare!(
        names,
        "bootstrap.",
        old.bootstrap,
        new.bootstrap,
        Bootstrap { dcs, initdb, users, post_bootstrap, method, pg_hba, allowed }
    );
    keys(&mut names, "tags", &old.tags.0, &new.tags.0);
    compare!(
        names,
        "timing.",
        old.timing,
        new.timing,
        TimingOverrides { renew_interval, stop_budget, guard_budget, clock_drift_ppm }
    );
    compare!(names, "guard.", old.guard, new.guard, Guard { socket, log });
    compare!(
        names,
        "watchdog.",
        old.watchdog,
        new.watchdog,
        Watchdog { mode, device, safety_margin, testing }
    );
    compare!(
        names,
        "log.",
        old.log,
        new.log,
        Log { format, level, line, date_format, deduplicate_heartbeats, file }
    );
    names
}

fn login(names: &mut Vec<String>, section: &str, old: Option<&Login>, new: Option<&Login>) {
    for (key, differs) in [
        ("username", old.map(|l| &l.username) != new.map(|l| &l.username)),
        ("password", old.map(|l| &l.password) != new.map(|l| &l.password)),
    ] {
        names.extend(differs.then(|| format!("{section}.{key}")));
    }
}

fn role(names: &mut Vec<String>, section: &str, old: &Role, new: &Role) {
    let Role { username: _, password: _, connection: _ } = old;
    let section = format!("postgresql.{section}");
    for (key, differs) in
        [("username", old.username != new.username), ("password", old.password != new.password)]
    {
        names.extend(differs.then(|| format!("{section}.{key}")));
    }
    keys(names, &section, &old.connection, &new.connection);
}

fn restapi(names: &mut Vec<String>, old: &Restapi, new: &Restapi) {
    login(names, "restapi", old.login.as_ref(), new.login.as_ref());
    compare!(names, "restapi.", old.access, new.access, Access { allowlist, include_members });
    compare!(
        names,
        "restapi.",
        old,
        new,
        Restapi {
            listen,
            connect_address,
            login,
            tls,
            access,
            http_extra_headers,
            https_extra_headers,
            server_tokens,
        }
    );
}

fn postgresql(names: &mut Vec<String>, old: &Postgresql, new: &Postgresql) {
    keys(names, "postgresql.parameters", &old.parameters, &new.parameters);
    keys(names, "postgresql.recovery_conf", &old.recovery_conf, &new.recovery_conf);
    role(names, "superuser", &old.superuser, &new.superuser);
    role(names, "replication", &old.replication, &new.replication);
    role(names, "rewind", &old.rewind, &new.rewind);
    compare!(
        names,
        "postgresql.",
        old,
        new,
        Postgresql {
            data_dir,
            bin_dir,
            listen_addresses,
            port,
            connect_address,
            database,
            superuser,
            replication,
            rewind,
            pgpass,
            socket_dir,
            parameters,
            pg_hba,
            pg_ident,
            recovery_conf,
            proxy_address,
            config_dir,
            bin_names,
            config_base_name,
            custom_conf,
            use_unix_socket_repl,
            krbsrvname,
            replica_methods,
            basebackup,
            callbacks,
            pre_promote,
            before_stop,
            pg_ctl_timeout,
            use_pg_rewind,
            remove_data_directory_on_rewind_failure,
            remove_data_directory_on_diverged_timelines,
            rewind_options,
        }
    );
}

/// Names the keys whose values differ.
fn keys<V: PartialEq>(
    names: &mut Vec<String>,
    section: &str,
    old: &BTreeMap<String, V>,
    new: &BTreeMap<String, V>,
) {
    let all: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differs = all.into_iter().filter(|key| old.get(*key) != new.get(*key));
    names.extend(differs.map(|key| format!("{section}.{key}")));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    const BEFORE: &str = r#"
name = "pg1"
scope = "demo"
etcd.endpoints = ["a:1"]
restapi = { connect_address = "h:8008", username = "u", password = "hunter2" }
tags = { nosync = true, dc = "a" }
[postgresql]
data_dir = "/x/data"
connect_address = "h:5432"
superuser.password = "hunter2"
replication.password = "hunter2"
parameters = { work_mem = "4MB", jit = "off" }
"#;

    fn read(text: &str) -> Config {
        parse(text, "agent.toml", Path::new("/x")).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn the_same_file_changes_nothing() {
        let old = read(BEFORE);
        let change = Change::between(&old, old.clone());
        assert_eq!(change, Change { config: old, changed: vec![], kept: vec![] });
    }

    #[test]
    fn what_can_change_does_and_what_cannot_is_kept_by_name() {
        let after = BEFORE
            .replace("pg1", "pg2")
            .replace("demo", "other")
            .replace("a:1", "b:1")
            .replace("connect_address = \"h:8008\"", "listen = \"127.0.0.1:9\", allowlist = [\"h\"]")
            .replace("hunter2", "hunter3")
            .replace("nosync = true, dc = \"a\"", "dc = \"b\"")
            .replace("connect_address = \"h:5432\"", "listen = \"*:9\"\nconnect_address = \"i:5432\"")
            .replace("/x/data", "/y/data")
            .replace("jit = \"off\"", "autovacuum = \"off\"")
            .replace("tags =", "timing.guard_budget = \"200ms\"\nlog.level = \"debug\"\ntags =");
        let (old, new) = (read(BEFORE), read(&after));
        let change = Change::between(&old, new.clone());
        assert_eq!(
            change.changed,
            [
                "restapi.password",
                "restapi.allowlist",
                "restapi.connect_address",
                "ctl.password",
                "postgresql.parameters.autovacuum",
                "postgresql.parameters.jit",
                "postgresql.superuser.password",
                "postgresql.replication.password",
                "postgresql.rewind.password",
                "postgresql.connect_address",
                "postgresql.pgpass",
                "tags.dc",
                "tags.nosync",
                "timing.guard_budget",
                "log.level",
            ]
        );
        assert_eq!(
            change.kept,
            [
                "name",
                "scope",
                "etcd.endpoints",
                "restapi.listen",
                "postgresql.data_dir",
                "postgresql.listen",
                "guard.socket",
            ]
        );
        assert_eq!((&change.config.name, change.config.restapi.listen), (&old.name, old.restapi.listen));
        assert_eq!(change.config.restapi.login, new.restapi.login);
        assert_eq!(change.config.postgresql.parameters, new.postgresql.parameters);
        assert_eq!(change.config.guard, old.guard);
        let again = Change::between(&change.config, new);
        assert_eq!((again.changed, again.kept), (vec![], change.kept));
    }
}
