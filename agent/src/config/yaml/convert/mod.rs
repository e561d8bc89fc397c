//! The sections of a patroni.yml, one file each for the large ones.

mod bootstrap;
mod etcd;
mod log;
mod postgresql;
mod restapi;

use std::path::PathBuf;

use pgvane_cluster::settings_file::Spanned;
use pgvane_cluster::units;
use serde_json::{Number, Value};

use super::section::{Remarks, Section};
use crate::config::check::{Checked, Problem, Remark};
use crate::config::raw::{
    RawConfig, RawCtl, RawEtcd, RawGuard, RawRestapi, RawRole, RawTiming, RawValues, RawWatchdog,
};

/// What an operator's tool needs.
pub(in crate::config) struct Reach {
    pub(in crate::config) scope: Option<Spanned<String>>,
    pub(in crate::config) namespace: Option<Spanned<String>>,
    pub(in crate::config) etcd: Option<RawEtcd>,
    pub(in crate::config) restapi: RawRestapi,
    pub(in crate::config) ctl: RawCtl,
    /// How PostgreSQL is reached, where an agent's settings tell.
    pub(in crate::config) postgresql: Option<ReachPostgresql>,
}

/// Who may ask PostgreSQL and who may copy it, and where its programs are.
pub(in crate::config) struct ReachPostgresql {
    pub(in crate::config) superuser: RawRole,
    pub(in crate::config) replication: RawRole,
    pub(in crate::config) bin_dir: Option<Spanned<PathBuf>>,
}

/// Keys of the dynamic configuration that people write at the top of the local one, where Patroni passes over them.
const DYNAMIC: &[&str] = &[
    "ttl",
    "loop_wait",
    "retry_timeout",
    "maximum_lag_on_failover",
    "maximum_lag_on_syncnode",
    "check_timeline",
    "primary_race_backoff",
    "max_timelines_history",
    "primary_start_timeout",
    "master_start_timeout",
    "primary_stop_timeout",
    "master_stop_timeout",
    "synchronous_mode",
    "synchronous_mode_strict",
    "synchronous_node_count",
    "failsafe_mode",
    "pause",
    "member_slots_ttl",
    "slots",
    "ignore_slots",
    "standby_cluster",
];

/// The settings of an agent.
pub(super) fn agent(mut top: Section, remarks: &mut Remarks) -> Checked<RawConfig> {
    let scope = top.text("scope")?;
    let namespace = top.text("namespace")?;
    let name = top.text("name")?;
    let etcd = etcd::convert(&mut top, remarks)?;
    let restapi = restapi::convert(top.section("restapi")?, remarks)?;
    let ctl = restapi::ctl(top.section("ctl")?, remarks)?;
    let postgresql = postgresql::convert(top.section("postgresql")?, remarks)?;
    let bootstrap = bootstrap::convert(top.section("bootstrap")?, remarks)?;
    let tags = tags(top.section("tags")?);
    let watchdog = watchdog(top.section("watchdog")?, remarks)?;
    let log = log::convert(top.section("log")?, remarks)?;
    let (timing, guard) = own(top.section("pgvane")?, remarks)?;
    if let Some(citus) = top.take("citus") {
        let text = "citus: this agent does not run members of Citus clusters".to_owned();
        return Err(Problem { at: Some(citus.at), text });
    }
    let why = "it belongs to the dynamic configuration: bootstrap.dcs for a new cluster, edit-config later";
    top.pass_over(DYNAMIC, why, remarks);
    top.pass_over(&["thread_pool_size", "thread_stack_size"], "this agent has no such threads", remarks);
    top.finish(remarks);
    let Some(scope) = scope else {
        return Err(Problem { at: None, text: "scope is needed: the name of the cluster".to_owned() });
    };
    let Some(etcd) = etcd else {
        let text =
            "etcd3 is needed: where etcd is, such as `etcd3: {hosts: \"10.0.0.1:2379,10.0.0.2:2379\"}`";
        return Err(Problem { at: None, text: text.to_owned() });
    };
    Ok(RawConfig {
        name: member_name(name, postgresql.name, remarks)?,
        scope,
        namespace,
        etcd,
        restapi,
        ctl,
        postgresql: postgresql.raw,
        bootstrap,
        tags,
        timing,
        guard,
        watchdog,
        log,
    })
}

/// What an operator's tool needs.
pub(super) fn reach(mut top: Section, remarks: &mut Remarks) -> Checked<Reach> {
    let etcd = etcd::convert(&mut top, remarks)?;
    // Whatever else is in these sections was remarked upon by the agent.
    let mut passed = Remarks::new();
    Ok(Reach {
        scope: top.text("scope")?,
        namespace: top.text("namespace")?,
        etcd,
        restapi: restapi::convert(top.section("restapi")?, &mut passed)?,
        ctl: restapi::ctl(top.section("ctl")?, &mut passed)?,
        postgresql: {
            let section = top.section("postgresql")?;
            if section.is_there() { Some(postgresql::reach(section)?) } else { None }
        },
    })
}

/// The member's name: as written, or where Patroni once had it, or this host's.
fn member_name(
    name: Option<Spanned<String>>,
    of_postgresql: Option<Spanned<String>>,
    remarks: &mut Remarks,
) -> Checked<Spanned<String>> {
    if let Some(name) = name.or(of_postgresql) {
        return Ok(name);
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    if host.is_empty() {
        let text = "name is needed: this member's name in the cluster".to_owned();
        return Err(Problem { at: None, text });
    }
    let text = format!("name is not set; this host's name {host:?} is taken, which no other member may have");
    remarks.push(Remark { at: None, text });
    Ok(Spanned::new(0..0, host.to_owned()))
}

/// Flags and numbers are taken as text too, as Patroni does.
fn tags(section: Section) -> RawValues {
    let mut tags = section.values();
    tags.retain(|_, value| !value.get_ref().is_null());
    for (name, value) in &mut tags {
        let better = match (name.as_str(), value.get_ref()) {
            ("nofailover" | "noloadbalance" | "clonefrom" | "nosync" | "nostream", Value::String(text)) => {
                units::parse_bool(text).map(Value::Bool)
            }
            ("nofailover" | "noloadbalance" | "clonefrom" | "nosync" | "nostream", Value::Number(n)) => {
                units::parse_bool(&n.to_string()).map(Value::Bool)
            }
            ("failover_priority" | "sync_priority", Value::String(text)) => {
                text.trim().parse::<i64>().ok().map(|n| Value::Number(Number::from(n)))
            }
            ("replicatefrom", Value::Number(n)) => Some(Value::String(n.to_string())),
            _ => None,
        };
        if let Some(better) = better {
            *value = Spanned::new(value.span(), better);
        }
    }
    tags
}

fn watchdog(mut section: Section, remarks: &mut Remarks) -> Checked<RawWatchdog> {
    let watchdog = RawWatchdog {
        mode: section.text("mode")?,
        device: section.file("device")?,
        safety_margin: section.value("safety_margin"),
        driver: section.text("driver")?,
    };
    section.finish(remarks);
    Ok(watchdog)
}

/// What only this agent has: Patroni passes over the section.
fn own(mut section: Section, remarks: &mut Remarks) -> Checked<(RawTiming, RawGuard)> {
    let mut timing = section.section("timing")?;
    let mut guard = section.section("guard")?;
    let raw = (
        RawTiming {
            renew_interval: timing.interval("renew_interval")?,
            stop_budget: timing.interval("stop_budget")?,
            guard_budget: timing.interval("guard_budget")?,
            clock_drift_ppm: timing.number("clock_drift_ppm")?,
        },
        RawGuard { socket: guard.file("socket")?, log: guard.file("log")? },
    );
    timing.finish(remarks);
    guard.finish(remarks);
    section.finish(remarks);
    Ok(raw)
}
