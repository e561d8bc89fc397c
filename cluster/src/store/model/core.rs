//! The store: keys, leases, history. Deterministic; time is a parameter.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::clock::Tick;
use crate::ids::{LeaseId, Revision};
use crate::store::{
    Compare, KeepAlive, KeyEvent, KeyValue, Lease, Snapshot, StoreError, Txn, TxnOutcome, Write,
};

/// The least lease time etcd grants with its default election timeout.
const MIN_TTL: Duration = Duration::from_secs(2);

/// Revisions up to this one are not in the history any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compacted(pub Revision);

impl From<Compacted> for StoreError {
    fn from(c: Compacted) -> StoreError {
        StoreError::Compacted(c.0)
    }
}

/// An etcd in memory.
///
/// A lease that is due goes on existing until [`Model::expire`] is called, as in etcd, which looks for due
/// leases twice a second: who drives the model decides how late that is. A due lease cannot be renewed, though.
#[derive(Clone, Debug)]
pub struct Model {
    revision: i64,
    /// The first revision the history still has is the one after this.
    compacted: i64,
    keys: BTreeMap<Vec<u8>, KeyValue>,
    leases: BTreeMap<LeaseId, LeaseState>,
    /// In revision order.
    events: VecDeque<KeyEvent>,
    next_lease: i64,
}

#[derive(Clone, Copy, Debug)]
struct LeaseState {
    ttl: Duration,
    due: Tick,
}

impl Default for Model {
    fn default() -> Model {
        Model::new()
    }
}

impl Model {
    /// An empty store at revision 1, as etcd starts.
    pub fn new() -> Model {
        Model {
            revision: 1,
            compacted: 0,
            keys: BTreeMap::new(),
            leases: BTreeMap::new(),
            events: VecDeque::new(),
            next_lease: 1,
        }
    }

    /// The revision of the last write.
    pub fn revision(&self) -> Revision {
        Revision(self.revision)
    }

    /// One key.
    pub fn get(&self, key: &str) -> Option<&KeyValue> {
        self.keys.get(key.as_bytes())
    }

    /// All keys under `prefix`; `asked_at` goes into the answer as it is.
    pub fn snapshot(&self, prefix: &str, asked_at: Tick) -> Snapshot {
        let from = prefix.as_bytes().to_vec();
        let keys = self.keys.range(from..).map(|(_, kv)| kv);
        let keys = keys.take_while(|kv| kv.key.starts_with(prefix.as_bytes())).cloned().collect();
        Snapshot { revision: self.revision(), keys, asked_at, era: 0 }
    }

    /// Runs a transaction. Like etcd, it refuses two writes of one key and a lease that does not exist, and
    /// makes a new revision only when something was put or deleted.
    pub fn txn(&mut self, txn: &Txn) -> Result<TxnOutcome, StoreError> {
        if let Some(key) = twice(&txn.then) {
            return Err(StoreError::Denied(format!("the transaction writes {key} twice")));
        }
        if !txn.when.iter().all(|compare| self.holds(compare)) {
            return Ok(TxnOutcome { succeeded: false, revision: self.revision() });
        }
        let missing = |write: &Write| match write {
            Write::Put(_, _, Some(lease)) => !self.leases.contains_key(lease),
            Write::Put(_, _, None) | Write::Delete(_) => false,
        };
        if txn.then.iter().any(missing) {
            return Err(StoreError::LeaseNotFound);
        }
        let revision = Revision(self.revision + 1);
        let mut changed = false;
        for write in &txn.then {
            match write {
                Write::Put(key, value, lease) => {
                    self.put(key, value, *lease, revision);
                    changed = true;
                }
                Write::Delete(key) => changed |= self.delete(key.as_bytes(), revision),
            }
        }
        if changed {
            self.revision = revision.0;
        }
        Ok(TxnOutcome { succeeded: true, revision: self.revision() })
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => self.get(key).is_none(),
            Compare::ValueIs(key, value) => self.get(key).is_some_and(|kv| kv.value == *value),
            // A missing key has revision 0, as in etcd.
            Compare::ModRevisionIs(key, r) => self.get(key).map_or(0, |kv| kv.mod_revision.0) == r.0,
            Compare::CreateRevisionIs(key, r) => self.get(key).map_or(0, |kv| kv.create_revision.0) == r.0,
        }
    }

    fn put(&mut self, key: &str, value: &[u8], lease: Option<LeaseId>, revision: Revision) {
        let key = key.as_bytes().to_vec();
        let create_revision = self.keys.get(&key).map_or(revision, |kv| kv.create_revision);
        let kv = KeyValue {
            key: key.clone(),
            value: value.to_vec(),
            create_revision,
            mod_revision: revision,
            lease,
        };
        self.events.push_back(KeyEvent::Put(kv.clone()));
        self.keys.insert(key, kv);
    }

    /// Whether there was anything to delete.
    fn delete(&mut self, key: &[u8], revision: Revision) -> bool {
        let existed = self.keys.remove(key).is_some();
        if existed {
            self.events.push_back(KeyEvent::Delete { key: key.to_vec(), revision });
        }
        existed
    }

    /// Grants a lease. Times are whole seconds, rounded up, and no shorter than etcd's floor of 2 s.
    pub fn grant(&mut self, ttl: Duration, now: Tick) -> Lease {
        let whole = Duration::from_secs(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0));
        let ttl = whole.max(MIN_TTL);
        let id = LeaseId(self.next_lease);
        self.next_lease += 1;
        self.leases.insert(id, LeaseState { ttl, due: now + ttl });
        Lease { id, ttl }
    }

    /// Renews a lease. One that is due ends here, as in etcd, where the renewal waits for its revocation.
    pub fn keep_alive(&mut self, lease: LeaseId, now: Tick) -> KeepAlive {
        match self.leases.get_mut(&lease) {
            Some(state) if state.due > now => {
                state.due = now + state.ttl;
                KeepAlive::Renewed { ttl: state.ttl }
            }
            Some(_) => {
                self.revoke(lease);
                KeepAlive::Gone
            }
            None => KeepAlive::Gone,
        }
    }

    /// Time a lease still has, in whole seconds as etcd answers; `None` when it does not exist.
    pub fn time_to_live(&self, lease: LeaseId, now: Tick) -> Option<Duration> {
        let left = now.until(self.leases.get(&lease)?.due);
        Some(Duration::from_secs(left.as_secs()))
    }

    /// Ends a lease and deletes its keys at one revision; answers whether it existed.
    pub fn revoke(&mut self, lease: LeaseId) -> bool {
        let existed = self.leases.remove(&lease).is_some();
        let hanging = self.keys.values().filter(|kv| kv.lease == Some(lease)).map(|kv| kv.key.clone());
        let hanging: Vec<_> = hanging.collect();
        if !hanging.is_empty() {
            self.revision += 1;
            for key in hanging {
                self.delete(&key, Revision(self.revision));
            }
        }
        existed
    }

    /// Ends all leases that are due, each at a revision of its own, and answers which.
    pub fn expire(&mut self, now: Tick) -> Vec<LeaseId> {
        let due: Vec<_> = self.leases.iter().filter(|(_, s)| s.due <= now).map(|(id, _)| *id).collect();
        for lease in &due {
            self.revoke(*lease);
        }
        due
    }

    /// When the next lease is due; `None` when there is no lease.
    pub fn next_expiry(&self) -> Option<Tick> {
        self.leases.values().map(|s| s.due).min()
    }

    /// What a new etcd leader does: every lease has its full time again.
    pub fn restart_leases(&mut self, now: Tick) {
        for state in self.leases.values_mut() {
            state.due = now + state.ttl;
        }
    }

    /// The leases that exist.
    pub fn leases(&self) -> impl Iterator<Item = LeaseId> + '_ {
        self.leases.keys().copied()
    }

    /// Forgets the history up to and including `revision`.
    pub fn compact(&mut self, revision: Revision) {
        self.compacted = self.compacted.max(revision.0.min(self.revision));
        let keep = self.events.partition_point(|e| e.revision().0 <= self.compacted);
        self.events.drain(..keep);
    }

    /// All changes under `prefix` at revision `from` and later.
    pub fn events_since(&self, prefix: &str, from: Revision) -> Result<Vec<KeyEvent>, Compacted> {
        if from.0 <= self.compacted {
            return Err(Compacted(Revision(self.compacted)));
        }
        let first = self.events.partition_point(|e| e.revision() < from);
        let ours = self.events.range(first..).filter(|e| e.key().starts_with(prefix.as_bytes()));
        Ok(ours.cloned().collect())
    }
}

/// A key that is put and written once more. Etcd lets a key be deleted twice.
fn twice(writes: &[Write]) -> Option<&str> {
    let mut seen: BTreeMap<&str, bool> = BTreeMap::new();
    for write in writes {
        let (key, is_put) = match write {
            Write::Put(key, ..) => (key.as_str(), true),
            Write::Delete(key) => (key.as_str(), false),
        };
        if seen.insert(key, is_put).is_some_and(|was_put| was_put || is_put) {
            return Some(key);
        }
    }
    None
}
