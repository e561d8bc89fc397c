//! What clients were told is committed.

use std::collections::BTreeMap;

use crate::wal::Wal;

/// Acknowledged commits. WAL that holds one holds all before it on its branch, so the last of each is enough.
#[derive(Clone, Default, Debug)]
pub(crate) struct Ledger(BTreeMap<u64, u64>);

impl Ledger {
    pub(crate) fn add(&mut self, branch: u64, end: u64) {
        let last = self.0.entry(branch).or_default();
        *last = end.max(*last);
    }

    /// A commit that `wal` lacks: its branch and place.
    pub(crate) fn missing(&self, wal: &Wal) -> Option<(u64, u64)> {
        self.0.iter().map(|(branch, end)| (*branch, *end)).find(|(branch, end)| !wal.holds(*branch, *end))
    }

    /// Nothing of it is promised any longer.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}
