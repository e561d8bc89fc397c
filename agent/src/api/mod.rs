//! The REST API (contract section 6): health checks for proxies, facts for members, wishes of operators.
//!
//! Answers come from memory, the [`ApiSnapshot`] that the loop publishes: a PostgreSQL that hangs or a store
//! that is away never hangs a health check. Wishes go to the store directly, as compare-and-swap, or to the
//! loop as a [`Command`].

mod snapshot;

pub use snapshot::{
    ApiSnapshot, Command, FailsafeAnswer, FailsafeAsk, LocalPostgres, ServerAnswer, Wal, Walsender,
};
