//! Clusters of both kinds of agent: real Patroni daemons and ours, as members of one.
//!
//! What must hold whoever leads and whoever follows: no acknowledged row lost in a planned change, never two
//! primaries, and each kind reads and keeps what the other wrote.

#[path = "../cluster_support/mod.rs"]
mod cluster_support;

#[path = "../sync_support/mod.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod sync_support;

mod cluster;
mod leadership;
mod migration;
mod outage;
mod synchronous;
