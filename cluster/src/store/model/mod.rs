//! An etcd in memory, for tests and the simulation.
//!
//! [`Model`] is the store itself: revisions, leases, history and compaction the way etcd 3 has them, no clock
//! and no tasks, so that a seeded simulation can own the time. [`ModelStore`] is a client of it behind the
//! [`Store`](super::Store) trait, with switches for what goes wrong between a client and its store.

mod client;
mod core;

pub use self::client::ModelStore;
pub use self::core::{Compacted, Model};

#[cfg(test)]
mod tests;
