//! The raw form of a patroni.yml as the table of an agent.toml: what the two files have otherwise is said in words.

use std::path::Path;

use pgvane_cluster::settings::ClusterSettings;
use pgvane_cluster::settings_file::Spanned;
use serde_json::{Map, Value as Json};
use toml::{Table, Value};

use super::super::check::{Checked, Preset, Problem, Remark};
use super::super::raw::{RawConfig, RawValues};
use super::Fate;

/// An agent.toml before it is text.
pub(super) struct Native {
    pub(super) table: Table,
    /// Keys that the patroni.yml does not set, and that would mean something else here if they were left out.
    pub(super) written_out: Vec<String>,
}

/// The sections in the order of agent.toml.example.
const SECTIONS: &[&str] =
    &["etcd", "restapi", "ctl", "postgresql", "bootstrap", "tags", "timing", "guard", "watchdog", "log"];

/// Keys that name files and directories.
const PATHS: &[&str] = &[
    "etcd.cacert",
    "etcd.cert",
    "etcd.key",
    "restapi.certfile",
    "restapi.keyfile",
    "restapi.cafile",
    "ctl.cafile",
    "ctl.certfile",
    "ctl.keyfile",
    "postgresql.data_dir",
    "postgresql.bin_dir",
    "postgresql.pgpass",
    "postgresql.use_unix_socket",
    "postgresql.config_dir",
    "postgresql.custom_conf",
    "guard.socket",
    "guard.log",
    "watchdog.device",
    "log.dir",
];

/// The table that means what `raw` does. What a remark was made upon is left out.
pub(super) fn table(mut raw: RawConfig, remarks: &[Remark], base: &Path) -> Checked<Native> {
    let mut written_out = Vec::new();
    leave_out(&mut raw, remarks);
    reword(&mut raw);
    write_out_defaults(&mut raw, &mut written_out);
    let mut table = Table::try_from(&raw).map_err(|e| unwritable(&e))?;
    prune(&mut table);
    for key in PATHS {
        if let Some(Value::String(path)) = find_mut(&mut table, key)
            && !Path::new(path).is_absolute()
        {
            *path = base.join(&*path).display().to_string();
        }
    }
    Ok(Native { table, written_out })
}

fn unwritable(e: &impl std::fmt::Display) -> Problem {
    Problem { at: None, text: format!("it cannot be written as TOML: {e}") }
}

/// The text of the table.
pub(super) fn print(table: &Table) -> Checked<String> {
    let printed = |table: &Table| toml::to_string_pretty(table).map_err(|e| unwritable(&e));
    let mut text =
        "# Made from a patroni.yml by `pgvanectl import`. It holds passwords: keep its mode at 600.\n\n"
            .to_owned();
    let heads: Table =
        table.iter().filter(|(_, v)| !v.is_table()).map(|(k, v)| (k.clone(), v.clone())).collect();
    text += &printed(&heads)?;
    for section in SECTIONS {
        if let Some(value) = table.get(*section) {
            let alone: Table = [((*section).to_owned(), value.clone())].into_iter().collect();
            text.push('\n');
            text += &printed(&alone)?;
        }
    }
    Ok(text)
}

/// Removes what the agent would ignore, because it would refuse it in an agent.toml.
fn leave_out(raw: &mut RawConfig, remarks: &[Remark]) {
    fn is_left(remarks: &[Remark], at: &std::ops::Range<usize>) -> bool {
        remarks.iter().any(|remark| remark.at.as_ref() == Some(at))
    }
    let values = |values: &mut RawValues| values.retain(|_, value| !is_left(remarks, &value.span()));
    let pg = &mut raw.postgresql;
    values(&mut pg.parameters);
    values(&mut pg.recovery_conf);
    values(&mut raw.log.static_fields);
    pg.bin_names.retain(|_, name| !is_left(remarks, &name.span()));
    pg.basebackup.retain(|option| !is_left(remarks, &option.span()));
    pg.rewind_options.retain(|option| !is_left(remarks, &option.span()));
    if let Some(initdb) = &mut raw.bootstrap.initdb {
        initdb.retain(|option| !is_left(remarks, &option.span()));
    }
    raw.log.line_format.take_if(|format| is_left(remarks, &format.span()));
    // Published as they are by a patroni.yml alone.
    raw.tags.retain(|_, tag| !tag.get_ref().is_object() && !tag.get_ref().is_array());
}

/// Says in the words of agent.toml what patroni.yml may say in others.
fn reword(raw: &mut RawConfig) {
    if let Some(mode) = &mut raw.watchdog.mode {
        let word = match mode.get_ref().to_ascii_lowercase().as_str() {
            "auto" => "automatic",
            "require" => "required",
            "disabled" | "disable" | "false" | "no" => "off",
            _ => mode.get_ref().as_str(),
        }
        .to_owned();
        *mode = Spanned::new(mode.span(), word);
    }
    if let Some(Json::Number(mode)) = raw.log.mode.as_ref().map(Spanned::get_ref)
        && let Some(mode) = mode.as_u64()
    {
        raw.log.mode = Some(Spanned::new(0..0, Json::String(format!("{mode:04o}"))));
    }
    if let Some(listen) = &mut raw.postgresql.listen {
        let has_port = listen.get_ref().rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        if !has_port {
            *listen = Spanned::new(listen.span(), format!("{}:5432", listen.get_ref()));
        }
    }
    // The key may stand in the certificate's file; agent.toml wants to hear it.
    if raw.etcd.key.is_none() {
        raw.etcd.key.clone_from(&raw.etcd.cert);
    }
    for method in raw.postgresql.replica_methods.iter_mut().flatten() {
        as_python_prints(&mut method.parameters);
    }
    if let Some(method) = &mut raw.bootstrap.method {
        as_python_prints(&mut method.parameters);
    }
    if let Some(dcs) = &mut raw.bootstrap.dcs {
        without_nulls(dcs.get_mut());
    }
}

/// Scripts made for Patroni are told `True` and `False`.
fn as_python_prints(parameters: &mut RawValues) {
    for value in parameters.values_mut() {
        if let Json::Bool(flag) = value.get_ref() {
            let word = if *flag { "True" } else { "False" };
            *value = Spanned::new(value.span(), Json::String(word.to_owned()));
        }
    }
}

/// TOML has no such value, and it says nothing here.
fn without_nulls(map: &mut Map<String, Json>) {
    map.retain(|_, value| !value.is_null());
    for value in map.values_mut() {
        if let Json::Object(inner) = value {
            without_nulls(inner);
        }
    }
}

/// Sets what is not set where Patroni's default is not that of agent.toml.
fn write_out_defaults(raw: &mut RawConfig, written: &mut Vec<String>) {
    let mut note = |key: &str| written.push(key.to_owned());
    let word = |word: &str| Some(Spanned::new(0..0, word.to_owned()));
    if raw.postgresql.pg_hba.is_none() {
        raw.postgresql.keep_pg_hba = Some(true);
        note("postgresql.keep_pg_hba");
    }
    if raw.bootstrap.initdb.is_none() {
        raw.bootstrap.initdb = Some(vec![]);
        note("bootstrap.initdb");
    }
    if raw.bootstrap.allowed == Some(false) {
        note("bootstrap.allowed");
    }
    if raw.watchdog.mode.is_none() {
        raw.watchdog.mode = word("automatic");
        note("watchdog.mode");
    }
    if raw.log.format.is_none() {
        raw.log.format = word("patroni");
        note("log.format");
    }
    if raw.etcd.discover {
        note("etcd.discover");
    }
    let mut dcs = raw.bootstrap.dcs.take().map(Spanned::into_inner).unwrap_or_default();
    fill_dcs(&mut dcs, &mut note);
    raw.bootstrap.dcs = Some(Spanned::new(0..0, dcs));
}

/// agent.toml changes a preset: what that one says otherwise than Patroni's defaults is said.
fn fill_dcs(dcs: &mut Map<String, Json>, note: &mut impl FnMut(&str)) {
    let Json::Object(preset) = Preset::Normal.document() else { return };
    let of_patroni = ClusterSettings::default();
    let seconds = |time: std::time::Duration| Json::from(time.as_secs());
    let default = |key: &str| match key {
        "ttl" => Some(seconds(of_patroni.ttl)),
        "loop_wait" => Some(seconds(of_patroni.loop_wait)),
        "retry_timeout" => Some(seconds(of_patroni.retry_timeout)),
        "maximum_lag_on_failover" => Some(of_patroni.maximum_lag_on_failover.into()),
        "failsafe_mode" => Some(of_patroni.failsafe_mode.into()),
        "postgresql.use_pg_rewind" => Some(of_patroni.postgresql.use_pg_rewind.into()),
        "postgresql.use_slots" => Some(of_patroni.postgresql.use_slots.into()),
        // Whatever else a preset says is not what Patroni does unless it is told to.
        _ => Some(Json::Bool(false)),
    };
    for (key, value) in &preset {
        match value {
            Json::Object(inner) => {
                let section = dcs.entry(key.clone()).or_insert_with(|| Json::Object(Map::new()));
                let Json::Object(section) = section else { continue };
                for (name, value) in inner {
                    let full = format!("{key}.{name}");
                    if !section.contains_key(name)
                        && let Some(default) = default(&full).filter(|default| default != value)
                    {
                        section.insert(name.clone(), default);
                        note(&format!("bootstrap.dcs.{full}"));
                    }
                }
            }
            value => {
                if !dcs.contains_key(key)
                    && let Some(default) = default(key).filter(|default| default != value)
                {
                    dcs.insert(key.clone(), default);
                    note(&format!("bootstrap.dcs.{key}"));
                }
            }
        }
    }
}

/// Removes sections that say nothing, and flags that are off by default.
fn prune(table: &mut Table) {
    for (_, value) in table.iter_mut() {
        if let Value::Table(inner) = value {
            prune(inner);
        }
    }
    // An empty list says something: it takes the place of a default.
    table.retain(|key, value| {
        let is_off = key == "discover" && value.as_bool() == Some(false);
        let is_empty_list = value.as_array().is_some_and(Vec::is_empty) && key != "initdb";
        !is_off && !is_empty_list && !value.as_table().is_some_and(Table::is_empty)
    });
}

/// The value under a dotted key. Names may hold dots themselves.
pub(super) fn find<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    if let Some(value) = table.get(key) {
        return Some(value);
    }
    key.match_indices('.').find_map(|(dot, _)| find(table.get(&key[..dot])?.as_table()?, &key[dot + 1..]))
}

fn find_mut<'a>(table: &'a mut Table, key: &str) -> Option<&'a mut Value> {
    match key.split_once('.') {
        None => table.get_mut(key),
        Some((section, rest)) => find_mut(table.get_mut(section)?.as_table_mut()?, rest),
    }
}

/// Says that a key is carried.
pub(super) fn carried(to: &str) -> Fate {
    Fate::Carried(to.to_owned())
}
