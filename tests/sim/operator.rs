//! What an operator does: requests, and changes of the dynamic configuration.

use pgvane_cluster::keyspace::Key;
use pgvane_cluster::records::FailoverRecord;
use pgvane_cluster::store::Txn;
use serde_json::Value;

use crate::agent;
use crate::etcd;
use crate::fact::Fact;
use crate::plan::Sync;
use crate::runtime::Sim;
use crate::schedule::Fault;

/// Carries out a command.
pub(crate) fn begin(sim: &Sim, command: Fault) {
    match command {
        Fault::Switchover(named) => request(sim, true, named),
        Fault::Failover(n) => {
            request(sim, false, Some(n));
            sim.w().fact(Fact::InsistedOn { node: n });
        }
        Fault::Pause => configure(sim, &[("pause", true.into())]),
        Fault::SetTtl(ttl) => configure(sim, &[("ttl", ttl.as_secs().into())]),
        Fault::SetFailsafe(on) => configure(sim, &[("failsafe_mode", on.into())]),
        Fault::SetStartTimeout(secs) => configure(sim, &[("primary_start_timeout", secs.into())]),
        Fault::SetMaximumLag(bytes) => configure(sim, &[("maximum_lag_on_failover", bytes.into())]),
        Fault::SetSync(sync) => {
            configure(sim, &sync.settings());
            sim.w().fact(Fact::Synchronous { on: sync != Sync::Off });
        }
        other => unreachable!("{other:?} is no command"),
    }
}

/// Automatic failover goes on.
pub(crate) fn end_pause(sim: &Sim) {
    configure(sim, &[("pause", false.into())]);
}

/// What an agent's API writes for an operator. A switchover names the leader, a failover does not.
fn request(sim: &Sim, switchover: bool, named: Option<usize>) {
    let put = {
        let w = sim.w();
        if w.etcd.down > 0 {
            return;
        }
        let leader = w.etcd.truth().leader.as_ref().map(|l| l.name.clone()).filter(|_| switchover);
        if switchover && leader.is_none() {
            return;
        }
        let record = FailoverRecord { leader, member: named.map(agent::name), scheduled_at: None };
        Txn::put(w.etcd.space.path(&Key::Failover), record.to_json(), None)
    };
    etcd::put_now(sim, &put);
}

fn configure(sim: &Sim, changes: &[(&'static str, Value)]) {
    let put = {
        let w = sim.w();
        let Some(config) = &w.etcd.truth().config else { return };
        let mut document = config.value.json.clone();
        for (key, value) in changes {
            document[*key] = value.clone();
        }
        Txn::put(w.etcd.space.path(&Key::Config), document.to_string().into_bytes(), None)
    };
    etcd::put_now(sim, &put);
}
