//! The HTTP side: `/livez`, `/readyz`, `/metrics`, `/topology`. It reads pictures; it changes nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use pgvane_cluster::clock::Tick;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::listen::Port;
use crate::metrics::Metrics;
use crate::shutdown::Phase;
use crate::topology::freshness::Standing;
use crate::topology::{Topology, TopologyRx};

/// How often the readiness gauge is set and histogram samples are folded.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// What the endpoints read.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) clusters: Vec<TopologyRx>,
    pub(crate) ports: watch::Receiver<Vec<Arc<Port>>>,
    pub(crate) ready_grace: Duration,
    pub(crate) metrics: Arc<Metrics>,
}

/// Answers on `listener` until `stop`.
pub(crate) async fn serve(admin: Arc<Admin>, listener: TcpListener, stop: CancellationToken) {
    let routes = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/topology", get(topology))
        .with_state(admin);
    let served = axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::warn!(%error, "the admin listener ended");
    }
}

/// Keeps what is computed on a schedule current until `stop`.
pub(crate) async fn upkeep(admin: Arc<Admin>, stop: CancellationToken) {
    let mut every = interval(UPKEEP_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        admin.metrics.set_ready(admin.readiness().is_ok());
        admin.metrics.upkeep();
    }
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    match admin.readiness() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    admin.metrics.set_ready(admin.readiness().is_ok());
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, admin.metrics.render()).into_response()
}

async fn topology(State(admin): State<Arc<Admin>>) -> Json<Status> {
    Json(admin.status())
}

impl Admin {
    fn readiness(&self) -> Result<(), String> {
        let now = Tick::now();
        let phase = *self.phase.borrow();
        if phase > Phase::Serving {
            return Err(format!("the proxy is {phase}"));
        }
        self.clusters.iter().try_for_each(|cluster| {
            let topology = cluster.current();
            let writes = self.ports.borrow().iter().any(|p| {
                *p.settings.cluster == *topology.cluster && !p.settings.rules.role.is_for_replicas()
            });
            readiness(&topology, writes, self.ready_grace, now)
        })
    }

    fn status(&self) -> Status {
        let now = Tick::now();
        let readiness = self.readiness();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            phase: self.phase.borrow().to_string(),
            ready: readiness.is_ok(),
            not_ready: readiness.err(),
            clusters: self.clusters.iter().map(|c| ClusterStatus::of(&c.current(), now)).collect(),
            listeners: self.ports.borrow().iter().map(|p| ListenerStatus::of(p)).collect(),
        }
    }
}

/// Whether a proxy that sees `topology` should be sent clients. `writes` is whether it has a port that needs
/// a primary.
fn readiness(topology: &Topology, writes: bool, grace: Duration, now: Tick) -> Result<(), String> {
    let (cluster, who) = (&topology.cluster, topology.origin.who());
    match topology.standing {
        Standing::NeverSeen => {
            let why = topology.store_down.as_ref().map(|(_, why)| format!(": {why}")).unwrap_or_default();
            return Err(format!("cluster {cluster}: {who} has not answered yet{why}"));
        }
        Standing::Lost => {
            let why = topology.primary.as_ref().err().map_or_else(String::new, ToString::to_string);
            let down =
                topology.store_down.as_ref().map(|(_, error)| format!("; {who} does not answer: {error}"));
            return Err(format!("cluster {cluster}: {why}{}", down.unwrap_or_default()));
        }
        Standing::Proven | Standing::Vouched | Standing::Suspended => {}
    }
    if let Some((since, why)) = &topology.store_down
        && now.since(*since) > grace
    {
        let seconds = now.since(*since).as_secs();
        return Err(format!("cluster {cluster}: {who} has not answered for {seconds} s: {why}"));
    }
    match (&topology.primary, topology.missing_since) {
        (Err(why), _) if writes && !topology.has_served => Err(format!("cluster {cluster}: {why}")),
        (Err(why), Some(since)) if writes && now.since(since) > grace => {
            Err(format!("cluster {cluster}: {why} (for {} s)", now.since(since).as_secs()))
        }
        _ => Ok(()),
    }
}

/// The document at `/topology`.
#[derive(Serialize)]
struct Status {
    version: &'static str,
    phase: String,
    ready: bool,
    not_ready: Option<String>,
    clusters: Vec<ClusterStatus>,
    listeners: Vec<ListenerStatus>,
}

#[derive(Serialize)]
struct ClusterStatus {
    name: String,
    /// What tells of the cluster.
    source: &'static str,
    /// Time between two questions to each member; absent where changes are told as they happen.
    poll_interval_ms: Option<u64>,
    revision: i64,
    leader: Option<String>,
    epoch: Option<i64>,
    /// Where new sessions of a primary port go.
    primary: Option<TargetStatus>,
    no_primary: Option<String>,
    no_primary_for_ms: Option<u64>,
    last_outage_ms: Option<u64>,
    members: Vec<MemberStatus>,
    /// Whether the leader is proven, and by whom.
    standing: &'static str,
    on_store_loss: &'static str,
    /// Time since the picture was last proven true.
    age_ms: Option<u64>,
    store_up: bool,
    store_down_for_ms: Option<u64>,
    store_error: Option<String>,
    malformed: Vec<MalformedStatus>,
}

#[derive(Serialize)]
struct TargetStatus {
    name: String,
    host: String,
    port: u16,
}

#[derive(Serialize)]
struct MemberStatus {
    name: String,
    role: String,
    state: String,
    host: Option<String>,
    port: Option<u16>,
    lag_bytes: Option<u64>,
    /// Whether it takes new sessions as a replica.
    takes_reads: bool,
    no_reads: Option<String>,
    sessions: usize,
}

#[derive(Serialize)]
struct MalformedStatus {
    key: String,
    reason: String,
}

#[derive(Serialize)]
struct ListenerStatus {
    name: String,
    cluster: String,
    role: &'static str,
    listen: Vec<String>,
    sessions: usize,
    held: usize,
}

impl ClusterStatus {
    fn of(t: &Topology, now: Tick) -> ClusterStatus {
        let ms_since = |since: Tick| millis(now.since(since));
        let target = |t: &Arc<crate::topology::Target>| TargetStatus {
            name: t.name.to_string(),
            host: t.address.0.clone(),
            port: t.address.1,
        };
        let member = |m: &crate::topology::MemberPlan| MemberStatus {
            name: m.name.to_string(),
            role: m.role.to_string(),
            state: m.state.to_string(),
            host: m.address.as_ref().map(|(host, _)| host.clone()),
            port: m.address.as_ref().map(|(_, port)| *port),
            lag_bytes: m.lag,
            takes_reads: m.reads.is_ok(),
            no_reads: m.reads.as_ref().err().map(ToString::to_string),
            sessions: t.nodes.get(&m.name).map_or(0, |node| node.sessions()),
        };
        ClusterStatus {
            name: t.cluster.to_string(),
            source: t.origin.label(),
            poll_interval_ms: t.origin.polls_every().map(millis),
            revision: t.revision.0,
            leader: t.leader.as_ref().map(|(name, _)| name.to_string()),
            epoch: t.leader.as_ref().map(|(_, epoch)| epoch.0),
            primary: t.primary.as_ref().ok().map(target),
            no_primary: t.primary.as_ref().err().map(ToString::to_string),
            no_primary_for_ms: t.missing_since.map(ms_since),
            last_outage_ms: t.last_outage.map(millis),
            members: t.members.iter().map(member).collect(),
            standing: t.standing.label(),
            on_store_loss: t.on_store_loss.label(),
            age_ms: (t.standing != Standing::NeverSeen).then(|| ms_since(t.confirmed_at)),
            store_up: t.standing != Standing::NeverSeen && t.store_down.is_none(),
            store_down_for_ms: t.store_down.as_ref().map(|(since, _)| ms_since(*since)),
            store_error: t.store_down.as_ref().map(|(_, why)| why.clone()),
            malformed: t
                .malformed
                .iter()
                .map(|(key, reason)| MalformedStatus { key: key.clone(), reason: reason.clone() })
                .collect(),
        }
    }
}

impl ListenerStatus {
    fn of(port: &Port) -> ListenerStatus {
        ListenerStatus {
            name: port.settings.name.clone(),
            cluster: port.settings.cluster.clone(),
            role: port.settings.rules.role.label(),
            listen: port.settings.listen.iter().map(ToString::to_string).collect(),
            sessions: port.open_sessions(),
            held: port.held(),
        }
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::NoPrimary;
    use crate::topology::fixture::{primary, topology};

    const GRACE: Duration = Duration::from_secs(30);

    fn ready(change: impl FnOnce(&mut Topology, Tick)) -> Result<(), String> {
        let now = Tick::now() + Duration::from_secs(1000);
        let mut t = topology(Some(primary("pg1", 7)), vec![]);
        t.has_served = true;
        change(&mut t, now);
        readiness(&t, true, GRACE, now)
    }

    #[test]
    fn a_serving_primary_is_ready_and_a_short_absence_does_not_move_the_vip() {
        assert_eq!(ready(|_, _| {}), Ok(()));
        let missing = |t: &mut Topology, now: Tick, seconds| {
            t.primary = Err(NoPrimary::NoLeader);
            t.missing_since = Some(now - Duration::from_secs(seconds));
        };
        assert_eq!(ready(|t, now| missing(t, now, 29)), Ok(()));
        let why = ready(|t, now| missing(t, now, 31)).expect_err("too long");
        assert_eq!(why, "cluster main: nobody holds the leader key (for 31 s)");
        let why = ready(|t, now| {
            missing(t, now, 0);
            t.has_served = false;
        });
        assert!(why.is_err(), "a proxy that has never seen a primary is not ready");
    }

    #[test]
    fn a_silent_store_makes_it_unready_after_the_grace_and_a_lost_leader_at_once() {
        let down = |t: &mut Topology, now: Tick, seconds| {
            t.store_down = Some((now - Duration::from_secs(seconds), "refused".to_owned()));
        };
        assert_eq!(ready(|t, now| down(t, now, 29)), Ok(()));
        assert!(ready(|t, now| down(t, now, 31)).is_err());
        assert!(ready(|t, _| t.standing = Standing::Lost).is_err());
        assert!(ready(|t, _| t.standing = Standing::NeverSeen).is_err());
        assert_eq!(ready(|t, _| t.standing = Standing::Vouched), Ok(()));
    }

    #[test]
    fn who_only_reads_needs_no_primary() {
        let now = Tick::now();
        let t = topology(None, vec![]);
        assert_eq!(readiness(&t, false, GRACE, now), Ok(()));
        assert!(readiness(&t, true, GRACE, now).is_err());
    }
}
