//! An etcd in memory, for tests and the simulation: keys, revisions, leases, history and compaction.
//!
//! [`Model`] is plain data without a clock: every call that depends on time is told the time, and leases that
//! are due by then end first. Equal calls give equal models. [`ModelStore`] serves one as a [`super::Store`].

mod served;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use self::served::{Clock, ModelStore, ModelWatch};
use super::{Compare, KeepAlive, KeyEvent, KeyValue, Lease, Snapshot, StoreError, Txn, TxnOutcome, Write};
use crate::clock::Tick;
use crate::ids::{LeaseId, Revision};

/// The shortest lease etcd grants with its default election timeout.
const LEAST_TTL: Duration = Duration::from_secs(2);

/// The state of an etcd cluster. Revisions start at 1; each transaction that changes something takes the next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Model {
    revision: Revision,
    compacted: Revision,
    keys: BTreeMap<Vec<u8>, KeyValue>,
    history: BTreeMap<Revision, Vec<KeyEvent>>,
    leases: BTreeMap<LeaseId, Granted>,
    next_lease: i64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Granted {
    ttl: Duration,
    due: Tick,
    keys: BTreeSet<Vec<u8>>,
}

impl Default for Model {
    fn default() -> Model {
        Model::new()
    }
}

impl Model {
    /// An empty store.
    pub fn new() -> Model {
        Model {
            revision: Revision(1),
            compacted: Revision(0),
            keys: BTreeMap::new(),
            history: BTreeMap::new(),
            leases: BTreeMap::new(),
            next_lease: 1,
        }
    }

    /// The revision of the last change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// One key.
    pub fn get(&self, key: &str) -> Option<&KeyValue> {
        self.keys.get(key.as_bytes())
    }

    /// All keys under `prefix`. Leases that are due but not yet ended still count, as in etcd.
    pub fn snapshot(&self, prefix: &str, asked_at: Tick) -> Snapshot {
        let prefix = prefix.as_bytes();
        let from = self.keys.range(prefix.to_vec()..);
        let keys = from.take_while(|(k, _)| k.starts_with(prefix)).map(|(_, kv)| kv.clone()).collect();
        Snapshot { revision: self.revision, keys, asked_at }
    }

    /// Runs a transaction. [`StoreError::LeaseNotFound`] when it comes to a put under an unknown lease, and
    /// [`StoreError::Unavailable`], as from the real client, when it names a key twice: nothing is written.
    pub fn txn(&mut self, now: Tick, txn: Txn) -> Result<TxnOutcome, StoreError> {
        self.expire(now);
        let mut named = BTreeSet::new();
        if !txn.then.iter().all(|write| named.insert(written_key(write))) {
            return Err(StoreError::Unavailable("duplicate key given in txn request".to_owned()));
        }
        if !txn.when.iter().all(|compare| self.holds(compare)) {
            return Ok(TxnOutcome { succeeded: false, revision: self.revision });
        }
        let known = |write: &Write| match write {
            Write::Put(_, _, Some(lease)) => self.leases.contains_key(lease),
            Write::Put(_, _, None) | Write::Delete(_) => true,
        };
        if !txn.then.iter().all(known) {
            return Err(StoreError::LeaseNotFound);
        }
        self.write(txn.then);
        Ok(TxnOutcome { succeeded: true, revision: self.revision })
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => self.get(key).is_none(),
            Compare::ValueIs(key, value) => self.get(key).is_some_and(|kv| kv.value == *value),
            // A key that does not exist has revision 0.
            Compare::ModRevisionIs(key, r) => self.get(key).map_or(Revision(0), |kv| kv.mod_revision) == *r,
            Compare::CreateRevisionIs(key, r) => {
                self.get(key).map_or(Revision(0), |kv| kv.create_revision) == *r
            }
        }
    }

    /// Does all writes at the next revision; none is taken when nothing changes.
    fn write(&mut self, writes: Vec<Write>) {
        let revision = Revision(self.revision.0 + 1);
        let mut events = Vec::new();
        for write in writes {
            match write {
                Write::Put(key, value, lease) => {
                    let key = key.into_bytes();
                    let create_revision = self.detach(&key).map_or(revision, |before| before.create_revision);
                    if let Some(granted) = lease.and_then(|id| self.leases.get_mut(&id)) {
                        granted.keys.insert(key.clone());
                    }
                    let kv = KeyValue { key, value, create_revision, mod_revision: revision, lease };
                    self.keys.insert(kv.key.clone(), kv.clone());
                    events.push(KeyEvent::Put(kv));
                }
                Write::Delete(key) => events.extend(self.delete(key.into_bytes(), revision)),
            }
        }
        self.record(revision, events);
    }

    fn delete(&mut self, key: Vec<u8>, revision: Revision) -> Option<KeyEvent> {
        self.detach(&key)?;
        self.keys.remove(&key);
        Some(KeyEvent::Delete { key, revision })
    }

    /// Takes a key off its lease; answers the key as it stands.
    fn detach(&mut self, key: &[u8]) -> Option<KeyValue> {
        let kv = self.keys.get(key)?.clone();
        if let Some(granted) = kv.lease.and_then(|id| self.leases.get_mut(&id)) {
            granted.keys.remove(key);
        }
        Some(kv)
    }

    fn record(&mut self, revision: Revision, events: Vec<KeyEvent>) {
        if !events.is_empty() {
            self.revision = revision;
            self.history.insert(revision, events);
        }
    }

    /// Grants a lease: whole seconds, rounded up, and no fewer than etcd allows.
    pub fn grant(&mut self, now: Tick, ttl: Duration) -> Lease {
        self.expire(now);
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let ttl = Duration::from_secs(seconds).max(LEAST_TTL);
        let id = LeaseId(self.next_lease);
        self.next_lease += 1;
        self.leases.insert(id, Granted { ttl, due: now + ttl, keys: BTreeSet::new() });
        Lease { id, ttl }
    }

    /// Renews a lease.
    pub fn keep_alive(&mut self, now: Tick, id: LeaseId) -> KeepAlive {
        self.expire(now);
        match self.leases.get_mut(&id) {
            Some(granted) => {
                granted.due = now + granted.ttl;
                KeepAlive::Renewed { ttl: granted.ttl }
            }
            None => KeepAlive::Gone,
        }
    }

    /// Whole seconds a lease still has, rounded down; `None` when it is gone.
    pub fn time_to_live(&mut self, now: Tick, id: LeaseId) -> Option<Duration> {
        self.expire(now);
        self.leases.get(&id).map(|granted| Duration::from_secs(now.until(granted.due).as_secs()))
    }

    /// Ends a lease and deletes its keys, all at one revision. Nothing happens when it is gone already.
    pub fn revoke(&mut self, now: Tick, id: LeaseId) {
        self.expire(now);
        self.end(id);
    }

    /// Ends the leases that are due, the first due first, each at a revision of its own.
    pub fn expire(&mut self, now: Tick) {
        let mut due: Vec<(Tick, LeaseId)> =
            self.leases.iter().filter(|(_, g)| g.due <= now).map(|(id, g)| (g.due, *id)).collect();
        due.sort_unstable();
        for (_, id) in due {
            self.end(id);
        }
    }

    fn end(&mut self, id: LeaseId) {
        let Some(granted) = self.leases.remove(&id) else { return };
        let revision = Revision(self.revision.0 + 1);
        let events = granted.keys.into_iter().filter_map(|key| self.delete(key, revision)).collect();
        self.record(revision, events);
    }

    /// When the next lease is due.
    pub fn next_expiry(&self) -> Option<Tick> {
        self.leases.values().map(|granted| granted.due).min()
    }

    /// Gives every lease its full time again, due or not, as a newly elected etcd leader does.
    pub fn restart_leases(&mut self, now: Tick) {
        for granted in self.leases.values_mut() {
            granted.due = now + granted.ttl;
        }
    }

    /// Forgets the changes before `revision`, which is at most the current one.
    pub fn compact(&mut self, revision: Revision) {
        self.compacted = self.compacted.max(revision.min(self.revision));
        self.history = self.history.split_off(&self.compacted);
    }

    /// The changes under `prefix` from `from` on (inclusive), in order; [`StoreError::Compacted`] when some
    /// of them were forgotten.
    pub fn events_since(&self, prefix: &str, from: Revision) -> Result<Vec<KeyEvent>, StoreError> {
        if from < self.compacted {
            return Err(StoreError::Compacted(self.compacted));
        }
        let events = self.history.range(from..).flat_map(|(_, events)| events);
        Ok(events.filter(|e| e.key().starts_with(prefix.as_bytes())).cloned().collect())
    }
}

fn written_key(write: &Write) -> &str {
    match write {
        Write::Put(key, ..) | Write::Delete(key) => key,
    }
}
