//! The REST API (contract section 6): health checks for proxies, facts for members, wishes of operators.
//!
//! Answers come from memory, the [`ApiSnapshot`] that the loop publishes: a PostgreSQL that hangs or a store
//! that is away never hangs a health check. Wishes go to the store directly, as compare-and-swap, or to the
//! loop as a [`Command`].

mod answer;
mod body;
mod document;
#[cfg(test)]
pub(crate) mod fixture;
mod health;
mod serve;
mod snapshot;
mod switchover;

pub use body::{cluster as cluster_body, lag, listed, shown_role, shown_state};
pub use document::check as check_document;
pub use serve::{Api, serve};
pub use snapshot::{
    ApiSnapshot, Command, FailsafeAnswer, FailsafeAsk, LocalPostgres, ServerAnswer, Wal, Walsender,
};
