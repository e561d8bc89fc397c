//! `remove`: forget a cluster. The servers and their data stay; the keys are gone.

use pgvane_cluster::store::{Store, Txn, Write};

use crate::prompt::{answer, confirm_words};
use crate::target::Target;
use crate::{Failed, fail, list, say};

/// Deletes all keys of the cluster, after three questions (contract section 7).
pub(crate) async fn remove(target: &Target) -> Result<(), Failed> {
    let view = target.view().await?;
    say(&list::pretty(target, &view))?;
    say(&format!(
        "Everything under {} is deleted. PostgreSQL and its data are left alone; agents that still run will \
         bring the keys back, so stop them first.\n",
        target.space.prefix()
    ))?;
    let named = answer("Please confirm the cluster name to remove")?;
    if named != target.scope {
        return fail("the names do not match; nothing was removed");
    }
    confirm_words("Yes I am aware")?;
    if let Some(leader) = &view.leader {
        let named = answer("This cluster currently is healthy. Please specify the leader name to continue")?;
        if named != leader.name.as_str() {
            return fail("that is not the current leader; nothing was removed");
        }
    }
    let snapshot = target.store.snapshot(target.space.prefix()).await?;
    // One transaction takes so many writes; what is left of a cluster is a handful of keys.
    for keys in snapshot.keys.chunks(100) {
        let then = keys.iter().map(|k| Write::Delete(String::from_utf8_lossy(&k.key).into_owned())).collect();
        target.store.txn(Txn { when: vec![], then }).await?;
    }
    say(&format!("{} was removed from the store\n", target.scope))
}
