//! Gives a lease back: one attempt, on a thread of its own, so that the guard's loop never waits for a network.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::time::Duration;

use pgvane_cluster::ids::{Epoch, LeaseId, Revision};
use pgvane_cluster::store::etcd::EtcdStore;
use pgvane_cluster::store::{Compare, Store, Txn, Write};

use super::protocol::{Parting, StoreAccess};

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(1);

/// How long the words before it may take.
const WORDS: Duration = Duration::from_millis(200);

/// How one attempt ended.
pub(super) struct Answer {
    pub(super) lease: LeaseId,
    pub(super) result: Result<(), String>,
}

/// Starts an attempt. Its [`Answer`] is sent before a byte is written to `wake`.
pub(super) fn start(
    access: StoreAccess,
    lease: LeaseId,
    parting: Option<(Parting, Epoch)>,
    answers: &Sender<Answer>,
    mut wake: &UnixStream,
) {
    let attempt = std::thread::Builder::new().name("guard-revoke".to_owned()).spawn({
        let (answers, wake) = (answers.clone(), wake.try_clone());
        move || {
            let result = revoke(&access, lease, parting);
            let _ = answers.send(Answer { lease, result });
            if let Ok(mut wake) = wake {
                let _ = wake.write(&[1]);
            }
        }
    });
    if let Err(e) = attempt {
        let _ = answers.send(Answer { lease, result: Err(format!("no thread: {e}")) });
        let _ = wake.write(&[1]);
    }
}

fn revoke(access: &StoreAccess, lease: LeaseId, parting: Option<(Parting, Epoch)>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("no runtime: {e}"))?;
    runtime.block_on(async {
        let store = EtcdStore::new(access.etcd_options());
        if let Some((parting, epoch)) = parting {
            // Whatever becomes of it: the lease is what matters.
            let _ = tokio::time::timeout(WORDS, store.txn(said(parting, epoch))).await;
        }
        match tokio::time::timeout(ATTEMPT, store.revoke(lease)).await {
            Ok(result) => result.map_err(|e| e.to_string()),
            Err(_) => Err("no answer within 1s".to_owned()),
        }
    })
}

fn said(parting: Parting, epoch: Epoch) -> Txn {
    let when = vec![
        Compare::ValueIs(parting.leader_key.clone(), parting.leader.into_bytes()),
        Compare::CreateRevisionIs(parting.leader_key, Revision(epoch.0)),
    ];
    Txn { when, then: vec![Write::Put(parting.key, parting.words.into_bytes(), None)] }
}
