//! Replication slots (contract 8.4, 8.5): which a node should have, what is to be done to have them, how long those
//! of absent members are kept: pure. [`keeper`] looks after them, `postgres::slots` does it.

pub mod keeper;
pub mod names;
pub mod plan;
pub mod retain;
pub mod wanted;
