//! Everything the agent does to its local PostgreSQL. Effects only: nothing here knows who leads.

pub mod bootstrap;
pub mod clone;
pub mod control;
pub mod controldata;
pub mod identify;
pub mod instance;
mod pidfd;
pub mod probe;
pub mod process;
pub mod rewind;
pub mod settings;
pub mod slots;
pub mod standby_names;
pub mod vetted;

pub use instance::{Instance, PostgresError};
