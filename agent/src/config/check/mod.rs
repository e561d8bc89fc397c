//! `RawConfig` -> [`Config`]: fills defaults, refuses what cannot work, says where and why. One file a section.

mod address;
mod bootstrap;
mod commands;
mod context;
mod etcd;
mod log;
mod postgresql;
mod preset;
mod restapi;
mod small;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use pgvane_cluster::ids::NodeName;
use pgvane_cluster::settings_file::Spanned;

pub use self::address::etcd_url;
use self::context::missing;
pub(super) use self::context::{Check, Checked, Dialect, Problem, Remark, Resolve, native_key, patroni_key};
pub(super) use self::log::python_level;
pub use self::postgresql::CONTROLLED_PARAMETERS;
pub use self::preset::Preset;
use super::default;
use super::raw::{RawConfig, RawGuard};
use super::yaml::Reach as RawReach;
use super::{Config, Guard, Reach};
use crate::guard::{check_socket_path, default_socket};
use crate::timing::TimingOverrides;

/// Checks a whole file.
pub(super) fn check(raw: RawConfig, cx: &mut Check<'_>) -> Checked<Config> {
    let name = name(&raw.name, cx)?;
    let scope = scope(raw.scope, cx)?;
    let postgresql = postgresql::check(raw.postgresql, cx)?;
    let timing = small::timing(&raw.timing, cx)?;
    let guard = guard(raw.guard, &postgresql.data_dir, cx)?;
    let restapi = restapi::check(raw.restapi, cx)?;
    let ctl = restapi::ctl(raw.ctl, &restapi, cx)?;
    Ok(Config {
        name,
        scope,
        namespace: namespace(raw.namespace),
        etcd: etcd::check(raw.etcd, cx)?,
        restapi,
        ctl,
        bootstrap: bootstrap::check(raw.bootstrap, &timing, cx)?,
        tags: small::tags(&raw.tags, cx)?,
        postgresql,
        timing,
        guard,
        watchdog: small::watchdog(raw.watchdog, cx)?,
        log: log::check(raw.log, cx)?,
    })
}

fn name(raw: &Spanned<String>, cx: &Check<'_>) -> Checked<NodeName> {
    if NodeName::is_valid(raw.get_ref()) {
        return Ok(NodeName::new(raw.get_ref().clone()));
    }
    let why = "is not a member name: it must not be empty, hold a slash or a control character, or be Patroni's \
               placeholder";
    cx.wrong(raw, "name", format!("{:?} {why}", raw.get_ref()))
}

/// The name of the cluster.
fn scope(raw: Spanned<String>, cx: &Check<'_>) -> Checked<String> {
    if raw.get_ref().trim_matches('/').is_empty() {
        return cx.wrong(&raw, "scope", "the cluster needs a name");
    }
    Ok(raw.into_inner())
}

/// The part of the key space.
fn namespace(raw: Option<Spanned<String>>) -> String {
    raw.map_or_else(|| default::NAMESPACE.to_owned(), Spanned::into_inner)
}

/// What an operator's tool needs of the settings.
pub(super) fn reach((raw, _): (RawReach, Vec<Remark>), cx: &mut Check<'_>) -> Checked<Reach> {
    let scope = match raw.scope {
        Some(scope) => Some(self::scope(scope, cx)?),
        None => None,
    };
    let etcd = match raw.etcd {
        Some(etcd) => Some(etcd::check(etcd, cx)?),
        None => None,
    };
    let ctl = restapi::ctl_of_a_tool(raw.restapi, raw.ctl, cx)?;
    let (mut superuser, mut replication, mut bin_dir) = (None, None, None);
    if let Some(raw) = raw.postgresql {
        superuser = Some(postgresql::role(raw.superuser, "superuser", default::SUPERUSER, cx)?);
        replication = Some(postgresql::role(raw.replication, "replication", default::REPLICATION, cx)?);
        bin_dir = raw.bin_dir.map(|dir| cx.path(&dir));
    }
    let (namespace, timing) = (namespace(raw.namespace), TimingOverrides::default());
    Ok(Reach { scope, namespace, etcd, ctl, timing, superuser, replication, bin_dir })
}

fn guard(raw: RawGuard, data_dir: &std::path::Path, cx: &Check<'_>) -> Checked<Guard> {
    let socket = match raw.socket {
        Some(path) => {
            let resolved = cx.path(&path);
            if let Err(text) = check_socket_path(&resolved) {
                return cx.wrong(&path, "guard.socket", text);
            }
            resolved
        }
        None => {
            let socket = default_socket(data_dir);
            if let Err(text) = check_socket_path(&socket) {
                return missing(format!("{text}; set {}", cx.key("guard.socket")));
            }
            socket
        }
    };
    let log: Option<PathBuf> = raw.log.map(|p| cx.path(&p));
    Ok(Guard { socket, log })
}
