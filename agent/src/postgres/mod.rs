//! Everything the agent does to its local PostgreSQL. Effects only: nothing here knows who leads.

pub mod bootstrap;
pub mod clone;
pub mod control;
pub mod controldata;
pub mod descent;
pub mod identify;
pub mod instance;
pub mod lineage;
mod pidfd;
pub mod probe;
pub mod process;
pub mod rewind;
pub mod settings;
pub mod slots;
pub mod vetted;
pub mod wal;

pub use instance::{Instance, PostgresError};
