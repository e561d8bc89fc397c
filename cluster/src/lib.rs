//! What the pgvane proxy, agent and operator tool agree on.
//!
//! The layout in etcd is Patroni's version 3 layout, so that all three work beside Patroni daemons and
//! `patronictl`. This crate decides nothing: it names things ([`ids`]), spells keys ([`keyspace`]), reads and
//! writes values ([`records`], [`settings`]), folds events into one picture ([`view`], [`fold`]) and talks to
//! the store ([`store`]). It never looks at PostgreSQL and never opens a listener.

#[cfg(feature = "tls")]
pub mod certificate;
pub mod changes;
pub mod clock;
pub mod fold;
#[cfg(feature = "follow")]
pub mod follow;
pub mod ids;
pub mod keyspace;
pub mod records;
pub mod reigns;
pub mod settings;
#[cfg(feature = "settings-file")]
pub mod settings_file;
pub mod store;
#[cfg(feature = "tls")]
pub mod trust;
pub mod units;
pub mod view;
