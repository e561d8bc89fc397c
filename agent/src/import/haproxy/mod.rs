//! haproxy.cfg, read as far as PostgreSQL is concerned: sections of words, then what each proxy in it does.

mod bind;
mod check;
mod proxy;
mod sections;
mod server;
mod units;
mod words;

use std::fmt;

pub(super) use self::bind::{Bind, FLAGS as BIND_FLAGS};
pub(super) use self::check::{Health, Role, Wanted, wanted};
pub(super) use self::proxy::{Condition, Proxy, Tcp, proxies};
pub(super) use self::sections::{Kind, Section, parse};
pub(super) use self::server::{FLAGS as SERVER_FLAGS, Server, Verify, parameters};
pub(super) use self::units::time;
pub(super) use self::words::Word;

/// What cannot be read, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wrong {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) seen: String,
    pub(super) allowed: String,
}

impl fmt::Display for Wrong {
    /// The line itself is not quoted: it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wrong { line, column, seen, allowed } = self;
        write!(f, "{line}:{column}: {seen}; allowed: {allowed}")
    }
}

impl Wrong {
    /// About a word.
    fn at(line: usize, word: &Word, seen: impl Into<String>, allowed: impl Into<String>) -> Wrong {
        Wrong { line, column: word.column, seen: seen.into(), allowed: allowed.into() }
    }
}
