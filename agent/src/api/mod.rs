//! The REST API (contract section 6): health checks for proxies, facts for members, wishes of operators.
//!
//! Answers come from memory, the [`ApiSnapshot`] that the loop publishes: a PostgreSQL that hangs or a store
//! that is away never hangs a health check. Wishes go to the store directly, as compare-and-swap, or to the
//! loop as a [`Command`]. Each connection is a task of its own and their number is bounded (`listen`): who is slow,
//! in TLS or in asking, holds up nobody.

mod access;
mod answer;
mod body;
mod document;
#[cfg(test)]
pub(crate) mod fixture;
mod health;
mod listen;
mod places;
mod reach;
mod restart;
mod schedule;
mod serve;
mod settings;
mod snapshot;
mod switchover;

pub(crate) use body::patroni_time;
pub use body::{cluster as cluster_body, lag, listed, shown_role, shown_state};
pub use document::check as check_document;
pub(crate) use health::leader_position;
pub use listen::serve;
pub use serve::Api;
pub use settings::Settings;
pub use snapshot::{
    ApiSnapshot, Command, FailsafeAnswer, FailsafeAsk, LocalPostgres, Operations, RestartAnswer, RestartAsk,
    ServerAnswer, Wal, Walsender,
};
