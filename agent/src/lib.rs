//! `pgvane-agent`: one per PostgreSQL node, lease-based failover driven by events.
//!
//! # The safety argument
//!
//! A node may accept writes only while the leader key carries its name under its own live lease, or while
//! every other member has promised not to race (S1, S3). All deadlines count from *before* the renewal was
//! sent, on a clock that also runs while the machine sleeps ([`pgvane_cluster::clock`], [`timing`]), so the
//! store can only keep the lease longer than this node believes. Three lines end writes in time, each able to
//! act alone:
//!
//! 1. [`decide`] stops PostgreSQL cleanly when a renewal is late. It is pure: the same code runs in
//!    production and in the simulation.
//! 2. `guard`, a separate process, holds the deadline and kills PostgreSQL when it passes, whatever happened
//!    to this process.
//! 3. The renewal itself depends on the decision loop: `keepalive` sends nothing unless the loop has just
//!    turned, so a stuck agent loses its lease instead of leading for ever.
//!
//! Effects live in `enact`, facts are gathered in `observe`, `reconcile` owns the state between them.

pub mod api;
pub mod backup;
pub mod callbacks;
mod chore;
pub mod config;
pub mod decide;
pub mod discover;
pub mod effects;
pub mod enact;
pub mod event;
pub mod guard;
pub mod handover;
pub mod history;
pub mod import;
pub mod keepalive;
pub mod keeper;
pub mod known_config;
pub mod metrics;
pub mod namesake;
pub mod new_node;
pub mod operator;
pub mod parts;
pub mod peers;
pub mod postgres;
pub mod preflight;
pub mod prober;
pub mod publish;
pub mod reach;
pub mod reconcile;
pub mod reload;
pub mod run;
pub mod script;
pub mod server;
pub mod slots;
pub mod telemetry;
pub mod timing;
pub mod tls;
pub mod vouch;
pub mod walsenders;
pub mod watchdog;
