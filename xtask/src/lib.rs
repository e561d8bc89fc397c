//! `cargo xtask demo | test | bench`: what a developer or a first-time user types, and the playground it all
//! runs on.
//!
//! Arrows: `demo` -> { `drill`, `playground` }; { `drill`, `bench` } -> `playground`; all -> { `install`,
//! `programs` }. Nothing here is linked into what users install; integration tests use [`playground`] and
//! [`drill`] as a library.

pub mod bench;
pub mod checks;
pub mod demo;
pub mod dist;
pub mod docs;
pub mod drill;
pub mod install;
mod interrupt;
pub mod mutants;
pub mod playground;
pub mod programs;
pub mod simulate;
pub mod versions;
