//! `[bootstrap]`.

use std::collections::BTreeMap;
use std::ops::Range;

use pgvane_cluster::settings::{ClusterSettings, merge_patch};
use pgvane_cluster::settings_file::Spanned;
use serde_json::{Map, Value};

use super::super::default;
use super::super::raw::{RawBootstrap, RawMethod, RawUser};
use super::super::{Bootstrap, BootstrapMethod, NewUser};
use super::commands::{arguments, options, script};
use super::postgresql::recovery_parameters;
use super::{Check, Checked, Preset, Problem};
use crate::timing::{Timing, TimingOverrides};

/// initdb options that are the agent's own business (contract 8.1).
const FORBIDDEN_INITDB: &[&str] = &["pgdata", "nosync", "no-sync", "pwfile", "sync-only", "version"];

const ROLE_OPTIONS: &[&str] = &[
    "SUPERUSER",
    "NOSUPERUSER",
    "CREATEDB",
    "NOCREATEDB",
    "CREATEROLE",
    "NOCREATEROLE",
    "INHERIT",
    "NOINHERIT",
    "LOGIN",
    "NOLOGIN",
    "REPLICATION",
    "NOREPLICATION",
    "BYPASSRLS",
    "NOBYPASSRLS",
];

pub(super) fn check(raw: RawBootstrap, timing: &TimingOverrides, cx: &mut Check<'_>) -> Checked<Bootstrap> {
    let dcs = dcs(raw.preset.as_ref(), raw.dcs.as_ref(), &raw.places, timing, cx)?;
    let initdb = match &raw.initdb {
        Some(given) => options(given, "bootstrap.initdb", FORBIDDEN_INITDB, cx)?,
        None if cx.is_patroni() => vec![],
        None => default::INITDB.map(|option| format!("--{option}")).to_vec(),
    };
    Ok(Bootstrap {
        dcs,
        initdb,
        users: users(raw.users, cx)?,
        // `post_bootstrap:` without a value means none.
        post_bootstrap: raw
            .post_bootstrap
            .map(Spanned::into_inner)
            .filter(|command| !command.trim().is_empty()),
        method: match raw.method {
            Some(method) => custom(method, cx)?,
            None => BootstrapMethod::Initdb,
        },
        pg_hba: raw.pg_hba,
        allowed: raw.allowed.unwrap_or(true),
    })
}

/// The first dynamic configuration. In agent.toml it changes a preset; that of a patroni.yml is whole, and what it
/// does not say has Patroni's defaults.
fn dcs(
    preset: Option<&Spanned<String>>,
    given: Option<&Spanned<Map<String, Value>>>,
    places: &BTreeMap<String, Range<usize>>,
    timing: &TimingOverrides,
    cx: &Check<'_>,
) -> Checked<Value> {
    let mut dcs = match preset {
        None if cx.is_patroni() => Value::Object(Map::new()),
        None => Preset::Normal.document(),
        Some(name) => match Preset::ALL.iter().find(|(n, _)| n == name.get_ref()) {
            Some((_, preset)) => preset.document(),
            None => {
                let names = Preset::ALL.map(|(n, _)| n).join(", ");
                let why = format!("{:?} is not one of {names}", name.get_ref());
                return cx.wrong(name, "bootstrap.preset", why);
            }
        },
    };
    if let Some(table) = given {
        merge_patch(&mut dcs, &Value::Object(table.get_ref().clone()));
    }
    let whole = given.map(Spanned::span).or_else(|| preset.map(Spanned::span));
    let place = |key: &str| places.get(key).cloned().or_else(|| whole.clone());
    let (settings, warnings) = ClusterSettings::from_json(&dcs);
    if let Some(w) = warnings.first() {
        return Err(Problem { at: place(&w.key), text: format!("bootstrap.dcs.{}: {}", w.key, w.message) });
    }
    if let Err(e) = Timing::derive(settings.ttl, timing) {
        return Err(Problem { at: place("ttl"), text: format!("bootstrap.dcs.ttl: {e}") });
    }
    Ok(dcs)
}

fn users(raw: BTreeMap<String, RawUser>, cx: &Check<'_>) -> Checked<Vec<NewUser>> {
    let mut users = Vec::new();
    for (name, user) in raw {
        let mut options = Vec::new();
        for option in &user.options {
            let upper = option.get_ref().to_ascii_uppercase();
            if !ROLE_OPTIONS.contains(&upper.as_str()) {
                let why = format!("{:?} is not one of {}", option.get_ref(), ROLE_OPTIONS.join(", "));
                return cx.wrong(option, &format!("bootstrap.users.{name}.options"), why);
            }
            // LOGIN is what every role has unless it is told otherwise, and PostgreSQL takes no option twice.
            if upper != "LOGIN" && !options.contains(&upper) {
                options.push(upper);
            }
        }
        users.push(NewUser { name, password: user.password, options });
    }
    Ok(users)
}

fn custom(raw: RawMethod, cx: &Check<'_>) -> Checked<BootstrapMethod> {
    let name = raw.name.into_inner();
    let key = format!("bootstrap.{name}");
    Ok(BootstrapMethod::Custom {
        command: script(&raw.command, &format!("{key}.command"), cx)?,
        no_params: raw.no_params,
        keep_existing_recovery_conf: raw.keep_existing_recovery_conf,
        recovery_conf: recovery_parameters(&raw.recovery_conf, &format!("{key}.recovery_conf"), cx)?,
        parameters: arguments(raw.parameters, &key, cx)?,
        name,
    })
}
