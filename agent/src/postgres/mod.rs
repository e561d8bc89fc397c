//! Everything the agent does to its local PostgreSQL. Effects only: nothing here knows who leads.

pub mod archive;
pub mod bootstrap;
pub mod clone;
pub mod control;
pub mod controldata;
pub mod data_dir;
pub mod descent;
pub mod files;
pub mod identify;
pub mod instance;
pub mod lineage;
pub mod outgrown;
mod patience;
pub mod pending;
mod pidfd;
pub mod probe;
pub mod process;
pub mod recovery;
pub mod rewind;
mod roles;
pub mod settings;
pub mod slots;
pub mod standby_names;
pub mod tls;
pub mod unanswered;
pub mod vetted;
pub mod wal;

pub use instance::{Instance, PostgresError};
