//! Active checks of servers: whether PostgreSQL answers at its port at all. They corroborate what the store says and
//! carry a proxy through the store's absence, when nobody tells that a replica has died. They take nobody's role away:
//! a server that does not answer is passed over while another does. A primary that sessions did not reach is asked until
//! it answers, whatever the store says: `/readyz` tells of it, and no session may come any more to find out.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use futures_util::future::join_all;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::NodeName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use crate::config::{Checks, Tcp, When};
use crate::dial::dial;
use crate::metrics::ClusterMetrics;
use crate::pgwire;
use crate::topology::rise_fall::RiseFall;
use crate::topology::{Target, Topology, TopologyRx};

/// Checks the servers of one cluster for ever.
pub(crate) async fn check(topology: TopologyRx, settings: Checks, tcp: Tcp, metrics: Arc<ClusterMetrics>) {
    let mut verdicts: BTreeMap<NodeName, RiseFall> = BTreeMap::new();
    let mut every = interval(settings.rhythm.interval);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let picture = topology.current();
        if settings.when == When::StoreDown && picture.store_down.is_none() {
            // What was found then is not known to hold now.
            picture.nodes.values().for_each(|node| node.set_answers(true));
            verdicts.clear();
            if let Ok(primary) = &picture.primary
                && primary.node.is_unreached()
            {
                let is_there = ask(primary, &settings, &tcp).await.is_ok();
                metrics.checked(is_there);
                sought(primary, is_there);
            }
            continue;
        }
        let targets: Vec<_> = picture.replicas.iter().chain(&picture.primary).collect();
        let answers = join_all(targets.iter().map(|target| ask(target, &settings, &tcp))).await;
        verdicts.retain(|name, _| targets.iter().any(|target| target.name == *name));
        for (target, answer) in targets.into_iter().zip(answers) {
            metrics.checked(answer.is_ok());
            let verdict = verdicts
                .entry(target.name.clone())
                .or_insert_with(|| RiseFall::new(settings.rhythm.limits, true));
            note(&picture, target, verdict, answer);
        }
    }
}

/// Notes whether a server can be reached, where that is in question: of one that sessions did not reach, and of a
/// primary, since no other takes its place. A replica has its number of failures.
fn sought(target: &Target, is_there: bool) {
    let is_primary = target.reign.is_some();
    match (target.node.is_unreached(), is_there) {
        (true, true) => target.node.welcome(),
        (true, false) => target.node.shun(Tick::now()),
        (false, false) if is_primary => target.node.shun(Tick::now()),
        (false, _) => {}
    }
}

fn note(picture: &Topology, target: &Target, verdict: &mut RiseFall, answer: Result<(), String>) {
    sought(target, answer.is_ok());
    let (was_up, is_up) = (verdict.is_up(), verdict.note(answer.is_ok()));
    target.node.set_answers(is_up);
    match (was_up, is_up, answer) {
        (true, false, Err(why)) => {
            warn!(cluster = %picture.cluster, target = %target.name, why, "does not answer checks; passed over while others do");
        }
        (false, true, _) => info!(cluster = %picture.cluster, target = %target.name, "answers checks again"),
        _ => {}
    }
}

/// Asks whether it would speak TLS, which a server answers with one byte whoever asks, and logs nothing.
async fn ask(target: &Target, settings: &Checks, tcp: &Tcp) -> Result<(), String> {
    let limit = settings.rhythm.timeout;
    let answer = timeout(limit, async {
        let mut stream = dial(&target.address, tcp, limit).await.map_err(|error| error.to_string())?;
        let asked = async {
            stream.write_all(&pgwire::SSL_REQUEST_PACKET).await?;
            stream.read_u8().await
        };
        match asked.await {
            Ok(b'S' | b'N') => Ok(()),
            Ok(other) => Err(format!("it answers {:?}, not as PostgreSQL", char::from(other))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err("it closes the connection without an answer".to_owned())
            }
            Err(error) => Err(error.to_string()),
        }
    });
    answer.await.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
}
