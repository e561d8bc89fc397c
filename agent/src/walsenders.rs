//! The walsenders of a primary that commits wait for: their end is an event, and one that was left behind by a
//! standby that has connected again is ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgvane_cluster::ids::NodeName;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::postgres::probe::Walsender;
use crate::postgres::process::Postmaster;

/// The ones that are watched.
#[derive(Debug, Default)]
pub struct Walsenders(BTreeMap<i32, AbortHandle>);

impl Walsenders {
    /// Watches those that are new among `now`: when one ends, the server is asked at once who is left.
    pub fn watch(&mut self, now: &[Walsender], hurry: &Arc<Notify>) {
        self.0.retain(|pid, task| {
            let stays = now.iter().any(|w| w.pid == *pid);
            if !stays {
                task.abort();
            }
            stays
        });
        for walsender in now {
            self.0.entry(walsender.pid).or_insert_with(|| {
                let (pid, hurry) = (walsender.pid, Arc::clone(hurry));
                tokio::spawn(async move {
                    // One that is gone already will be missing in the next answer, which comes by itself.
                    let Some(process) = u32::try_from(pid).ok().and_then(|pid| Postmaster::watch(pid).ok())
                    else {
                        return;
                    };
                    if process.ended().await.is_ok() {
                        hurry.notify_one();
                    }
                })
                .abort_handle()
            });
        }
    }

    /// Watches none any more.
    pub fn forget(&mut self) {
        for task in std::mem::take(&mut self.0).into_values() {
            task.abort();
        }
    }
}

impl Drop for Walsenders {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Walsenders of standbys that have connected again from the same address: nobody listens to them, and they count
/// as synchronous standbys until TCP or `wal_sender_timeout` notices. Only members are standbys by that name, and
/// only what sends them WAL is ended: a tool that copies has two connections under one name, and needs both.
pub fn left_behind(all: &[Walsender], members: &[&NodeName]) -> Vec<i32> {
    let is_member =
        |w: &&Walsender| members.iter().any(|name| name.as_str().eq_ignore_ascii_case(&w.application_name));
    let replaces = |newer: &Walsender, older: &Walsender| {
        newer.pid != older.pid
            && newer.application_name.eq_ignore_ascii_case(&older.application_name)
            && (&newer.usename, &newer.client_addr) == (&older.usename, &older.client_addr)
            && matches!(older.state.as_str(), "streaming" | "catchup")
            && newer.state == "streaming"
            && newer.connected_epoch > older.connected_epoch
    };
    let older = all.iter().filter(is_member);
    older.filter(|older| all.iter().any(|newer| replaces(newer, older))).map(|w| w.pid).collect()
}

#[cfg(test)]
mod tests {
    use pgvane_cluster::ids::Lsn;

    use super::*;

    fn walsender(pid: i32, name: &str, state: &str, connected_epoch: f64) -> Walsender {
        Walsender {
            usename: "replicator".to_owned(),
            application_name: name.to_owned(),
            client_addr: Some("10.0.0.2".to_owned()),
            state: state.to_owned(),
            sync_state: "sync".to_owned(),
            sync_priority: 1,
            pid,
            connected_epoch,
            written: Lsn(0),
            flushed: Lsn(0),
            replayed: Lsn(0),
        }
    }

    /// Of members pg2 and pg3.
    fn left_behind(all: &[Walsender]) -> Vec<i32> {
        super::left_behind(all, &[&"pg2".into(), &"pg3".into()])
    }

    #[test]
    fn a_copy_keeps_both_its_connections() {
        for name in ["pg_basebackup", "pg2"] {
            for state in ["startup", "backup"] {
                let copy = [walsender(1, name, state, 1.0), walsender(2, name, "streaming", 2.0)];
                assert!(left_behind(&copy).is_empty(), "{name} {state}");
            }
        }
    }

    #[test]
    fn the_older_connection_of_one_standby_is_left_behind() {
        let (old, new) = (walsender(1, "pg2", "streaming", 1.0), walsender(2, "PG2", "streaming", 2.0));
        assert_eq!(left_behind(&[old.clone(), new.clone()]), [1]);
        assert!(
            left_behind(&[old.clone(), walsender(2, "pg2", "catchup", 2.0)]).is_empty(),
            "it may fail yet"
        );
        assert!(left_behind(&[old.clone(), walsender(2, "pg3", "streaming", 2.0)]).is_empty());
        let elsewhere = Walsender { client_addr: Some("10.0.0.3".to_owned()), ..new };
        assert!(
            left_behind(&[old, elsewhere]).is_empty(),
            "two nodes of one name: nobody knows which is right"
        );
    }

    #[tokio::test]
    async fn the_end_of_a_walsender_is_noticed() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("starts");
        let pid = i32::try_from(child.id()).expect("a pid");
        let (hurry, mut watched) = (Arc::new(Notify::new()), Walsenders::default());
        watched.watch(&[walsender(pid, "pg2", "streaming", 1.0)], &hurry);
        // The task has to have opened the process before it ends.
        tokio::task::yield_now().await;
        child.kill().expect("kills");
        child.wait().expect("ends");
        hurry.notified().await;
    }
}
