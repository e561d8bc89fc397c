//! `ClusterView` + change -> `ClusterView`, pure. Unknown keys are ignored, unreadable values are named.

use crate::changes::{Changes, Farewell};
use crate::ids::{Epoch, NodeName, Revision};
use crate::keyspace::{Key, Keyspace};
use crate::records::{
    FailoverRecord, FailsafeRecord, HistoryRecord, MemberRecord, RecordError, StatusRecord, SyncRecord,
};
use crate::reigns::PublishedReigns;
use crate::settings::{ClusterSettings, SettingWarning};
use crate::store::{KeyEvent, KeyValue, Snapshot};
use crate::view::{ClusterView, ConfigDocument, LeaderKey, Member, Versioned};

/// The view a snapshot shows, after `before`. The last good configuration of `before` stays when the new one
/// is unreadable (trap 14: garbage in `config` must not become the defaults).
pub fn from_snapshot(space: &Keyspace, snapshot: &Snapshot, before: Option<&ClusterView>) -> ClusterView {
    // Reigns are counted by revisions: those of another era say nothing about this one.
    let newest_epoch = before.filter(|b| b.era == snapshot.era).map_or(Epoch(0), |b| b.newest_epoch);
    let mut view = ClusterView {
        revision: snapshot.revision,
        era: snapshot.era,
        newest_epoch,
        ..ClusterView::default()
    };
    for kv in &snapshot.keys {
        put(&mut view, space, kv);
    }
    if view.config.is_none()
        && view.malformed.contains_key(&space.path(&Key::Config))
        && let Some(before) = before
    {
        view.config.clone_from(&before.config);
    }
    view
}

/// Applies one change. Changes at or below the view's revision were seen already and are ignored, so a watch
/// that repeats itself or goes back in time cannot undo anything; changes of one revision must arrive
/// together, through [`apply_all`].
pub fn apply(view: &mut ClusterView, space: &Keyspace, event: &KeyEvent) {
    apply_all(view, space, std::slice::from_ref(event));
}

/// Applies changes in order, those of one revision together; one that is older than the one before it is
/// passed over.
pub fn apply_all(view: &mut ClusterView, space: &Keyspace, events: &[KeyEvent]) {
    let seen = view.revision;
    for event in events.iter().filter(|e| e.revision() > seen) {
        if event.revision() < view.revision {
            continue;
        }
        match event {
            KeyEvent::Put(kv) => put(view, space, kv),
            KeyEvent::Delete { key, .. } => delete(view, space, key),
        }
        view.revision = view.revision.max(event.revision());
    }
}

/// Notes that nothing changed up to `revision`.
pub fn progress(view: &mut ClusterView, revision: Revision) {
    view.revision = view.revision.max(revision);
}

fn put(view: &mut ClusterView, space: &Keyspace, kv: &KeyValue) {
    let Some(key) = space.parse(&kv.key) else { return };
    let result = read(view, &key, kv);
    let path = space.path(&key);
    match result {
        Ok(()) => {
            view.malformed.remove(&path);
        }
        Err(RecordError(why)) => {
            match key {
                Key::Config => {}
                // The key is there, so the old one must not speak for it.
                Key::Status => view.status = None,
                _ => forget(view, &key),
            }
            view.malformed.insert(path, why);
        }
    }
}

fn read(view: &mut ClusterView, key: &Key, kv: &KeyValue) -> Result<(), RecordError> {
    let bytes = &kv.value;
    match key {
        Key::Initialize => {
            view.initialize = Some(text(bytes)?);
            view.initialize_revision = Some(kv.mod_revision);
        }
        Key::Bootstrap => view.bootstrap = Some(versioned(kv, NodeName::new(text(bytes)?))),
        Key::Config => view.config = Some(versioned(kv, config(bytes)?)),
        Key::Leader => {
            let name = text(bytes)?;
            if name.is_empty() {
                return Err(RecordError("the leader key names nobody".to_owned()));
            }
            let epoch = Epoch(kv.create_revision.0);
            let newest = view.newest_epoch;
            if epoch < newest {
                return Err(RecordError(format!("the leader key is of reign {epoch}, older than {newest}")));
            }
            view.newest_epoch = epoch;
            view.leader = Some(LeaderKey { name: NodeName::new(name), epoch, lease: kv.lease });
        }
        Key::Member(name) => {
            let member = Member { record: MemberRecord::parse(bytes)?, lease: kv.lease };
            view.members.insert(name.clone(), member);
        }
        // `status` wins where both exist, also over an older value of itself that could be read.
        Key::Status => {
            view.has_status_key = true;
            view.status = Some(StatusRecord::parse(bytes)?);
        }
        Key::OptimeLeader => {
            view.optime_leader = Some(StatusRecord::parse(bytes)?);
            use_optime_leader(view);
        }
        Key::History => view.history = Some(HistoryRecord::parse(bytes)?),
        Key::Failover => {
            let record = FailoverRecord::parse(bytes)?;
            view.failover_revision = Some(kv.mod_revision);
            view.failover = (!record.is_empty()).then(|| versioned(kv, record));
        }
        Key::Sync => view.sync = Some(versioned(kv, SyncRecord::parse(bytes)?)),
        Key::Failsafe => view.failsafe = Some(FailsafeRecord::parse(bytes)?),
        Key::Reigns => view.reigns = Some(PublishedReigns::parse(bytes)?),
        Key::Farewell => view.farewell = Some(Farewell::parse(bytes)?),
        Key::Changes => view.changes = Some(Changes::parse(bytes)?),
    }
    Ok(())
}

fn delete(view: &mut ClusterView, space: &Keyspace, path: &[u8]) {
    let Some(key) = space.parse(path) else { return };
    view.malformed.remove(&space.path(&key));
    forget(view, &key);
}

fn forget(view: &mut ClusterView, key: &Key) {
    match key {
        Key::Initialize => {
            view.initialize = None;
            view.initialize_revision = None;
        }
        Key::Bootstrap => view.bootstrap = None,
        Key::Config => view.config = None,
        Key::Leader => view.leader = None,
        Key::Member(name) => {
            view.members.remove(name);
        }
        Key::Status => {
            view.has_status_key = false;
            view.status = None;
            use_optime_leader(view);
        }
        Key::OptimeLeader => {
            view.optime_leader = None;
            use_optime_leader(view);
        }
        Key::History => view.history = None,
        Key::Failover => {
            view.failover = None;
            view.failover_revision = None;
        }
        Key::Sync => view.sync = None,
        Key::Failsafe => view.failsafe = None,
        Key::Reigns => view.reigns = None,
        Key::Farewell => view.farewell = None,
        Key::Changes => view.changes = None,
    }
}

fn use_optime_leader(view: &mut ClusterView) {
    if !view.has_status_key {
        view.status.clone_from(&view.optime_leader);
    }
}

fn versioned<T>(kv: &KeyValue, value: T) -> Versioned<T> {
    Versioned { value, mod_revision: kv.mod_revision }
}

fn text(bytes: &[u8]) -> Result<String, RecordError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|e| RecordError(e.to_string()))
}

fn config(bytes: &[u8]) -> Result<ConfigDocument, RecordError> {
    let json: serde_json::Value = serde_json::from_slice(bytes)?;
    if !json.is_object() {
        return Err(RecordError("the dynamic configuration is not an object".to_owned()));
    }
    let (settings, _) = ClusterSettings::from_json(&json);
    Ok(ConfigDocument { json, settings })
}

/// What was passed over in the configuration of `view`, for the log.
pub fn config_warnings(view: &ClusterView) -> Vec<SettingWarning> {
    view.config.as_ref().map(|c| ClusterSettings::from_json(&c.value.json).1).unwrap_or_default()
}

#[cfg(all(test, feature = "model"))]
mod tests;
