//! Every metric: name, labels, help; all series exist at zero from the start. Durations are in seconds.
//!
//! The recorder is owned, not global: handles are made once per listener and cluster, so that counting costs
//! an atomic add and two proxies in one test process do not share counters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use pgvane_cluster::ids::NodeName;

use crate::close::{CloseReason, Side};
use crate::tls::Shown;
use crate::topology::freshness::Standing;
use crate::topology::origin::Origin;
use crate::topology::{Admission, Topology};

/// Counter, gauge or histogram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// A current value.
    Gauge,
    /// A distribution, in seconds.
    Histogram,
}

/// One metric family as documented and exported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Family {
    /// The name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The labels of its series.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

macro_rules! families {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(const $constant: Family =
            Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)+

        /// All families, in the order of the table in docs/metrics.md.
        pub const FAMILIES: &[Family] = &[$($constant),+];
    };
}

families! {
    BUILD_INFO = Gauge "pgvane_build_info" ["version"] "Always 1; the version is the label.";
    READY = Gauge "pgvane_ready" [] "1 while /readyz answers 200.";
    RELOADS = Counter "pgvane_reloads_total" ["result"] "Reloads of the settings: applied, refused.";
    LISTENER_INFO = Gauge "pgvane_listener_info" ["listener", "cluster", "role"]
        "1 while the listener serves this cluster in this role; joins listeners to clusters.";
    SESSIONS = Gauge "pgvane_sessions" ["listener"] "Client connections now, held ones included.";
    SESSIONS_TOTAL = Counter "pgvane_sessions_total" ["listener"] "Client connections accepted.";
    SESSION_ENDS = Counter "pgvane_session_ends_total" ["listener", "reason"] "Sessions ended, by reason.";
    ACCEPT_ERRORS = Counter "pgvane_accept_errors_total" ["listener"]
        "Accepts that failed, for want of file descriptors for example.";
    HELD = Gauge "pgvane_held" ["listener"] "Connections waiting for somebody to serve.";
    HELD_TOTAL = Counter "pgvane_held_total" ["listener"] "Connections that had to wait.";
    HOLD_SECONDS = Histogram "pgvane_hold_seconds" ["listener"]
        "How long held connections waited, whichever way it ended.";
    CONNECT_SECONDS = Histogram "pgvane_connect_seconds" ["listener"]
        "TCP connect to a server, successful ones.";
    CONNECT_FAILURES = Counter "pgvane_connect_failures_total" ["listener", "cause"]
        "Servers that could not be opened: refused, timed_out, unresolved, other, not_now, no_answer, tls.";
    TLS_HANDSHAKES = Counter "pgvane_tls_handshakes_total" ["listener", "side", "result"]
        "TLS handshakes, with clients and with servers: done, failed.";
    CERTIFICATE_EXPIRY = Gauge "pgvane_certificate_expiry_timestamp_seconds" ["listener", "file"]
        "Epoch seconds at which the first certificate in a file that clients are shown expires; 0 where they are shown none.";
    BYTES = Counter "pgvane_bytes_total" ["listener", "direction"] "Bytes forwarded: to_client, to_server.";
    CLUSTER_INFO = Gauge "pgvane_cluster_info" ["cluster", "scope", "source"]
        "Always 1; its scope (its own name without etcd), and who tells of it: etcd, patroni_rest, probe.";
    SERVING = Gauge "pgvane_serving" ["cluster"] "1 while a primary takes new sessions.";
    SERVING_SINCE = Gauge "pgvane_serving_since_timestamp_seconds" ["cluster"]
        "Epoch seconds since when this proxy has seen the present primary serve; 0 while nobody does.";
    STANDING = Gauge "pgvane_leader_standing" ["cluster", "standing"]
        "1 for what backs the leader now: never_seen, proven, vouched (its agent's word), suspended, lost.";
    REPLICAS = Gauge "pgvane_replicas" ["cluster"] "Replicas that take new sessions.";
    EPOCH = Gauge "pgvane_epoch" ["cluster"] "Newest epoch seen (create revision of the leader key).";
    REVISION = Gauge "pgvane_revision" ["cluster"] "Store revision the topology was derived from.";
    STORE_UP = Gauge "pgvane_store_up" ["cluster"] "1 while the store answers.";
    AGE = Gauge "pgvane_topology_age_seconds" ["cluster"]
        "Time since the topology was last proven true; -1 before the first proof.";
    READS = Counter "pgvane_store_reads_total" ["cluster"] "Linearizable reads of the whole cluster.";
    WATCHES = Counter "pgvane_store_watches_total" ["cluster"] "Watches opened.";
    EVENTS = Counter "pgvane_store_events_total" ["cluster"] "Changes received by watch.";
    MISSED = Counter "pgvane_store_missed_events_total" ["cluster"]
        "Reads that showed what the watch had not told.";
    STORE_FAILURES = Counter "pgvane_store_failures_total" ["cluster"] "Questions the store did not answer.";
    MALFORMED = Gauge "pgvane_malformed_keys" ["cluster"]
        "Keys whose value cannot be read; they are left out.";
    EPOCH_ENDS = Counter "pgvane_epoch_ends_total" ["cluster", "reason"]
        "Reigns whose sessions were cut: epoch_ended, store_lost.";
    LAST_OUTAGE = Gauge "pgvane_last_outage_seconds" ["cluster"]
        "How long nobody served before the present primary did; 0 before the first change.";
    CHECKS = Counter "pgvane_checks_total" ["cluster", "result"] "Active checks of servers: answered, failed.";
    TARGET_ANSWERS = Gauge "pgvane_target_answers" ["cluster", "target"]
        "0 when checks get no answer from it; 1 else.";
    TARGET_SESSIONS = Gauge "pgvane_target_sessions" ["cluster", "target"]
        "Sessions on this server now.";
    TARGET_SERVES = Gauge "pgvane_target_serves" ["cluster", "target", "role"]
        "1 while it takes new sessions as this: primary, replica.";
    TARGET_LAG = Gauge "pgvane_target_lag_bytes" ["cluster", "target"]
        "WAL it has to replay to reach the leader's last known position; -1 where it is not known.";
    TARGET_ADMISSION = Gauge "pgvane_target_admission" ["cluster", "target"]
        "What an operator lets it take: 0 all, 1 no new sessions (drain), 2 none (disable).";
}

/// Why a server could not be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectFailure {
    /// Nobody listens, or a firewall says no.
    Refused,
    /// No answer in time.
    TimedOut,
    /// The name has no address.
    Unresolved,
    /// Another error.
    Other,
    /// The server said 57P03.
    NotNow,
    /// The server closed or stayed silent before it said anything.
    NoAnswer,
    /// The server offers no TLS, or the handshake failed.
    Tls,
}

impl ConnectFailure {
    const ALL: [ConnectFailure; 7] = [
        ConnectFailure::Refused,
        ConnectFailure::TimedOut,
        ConnectFailure::Unresolved,
        ConnectFailure::Other,
        ConnectFailure::NotNow,
        ConnectFailure::NoAnswer,
        ConnectFailure::Tls,
    ];

    const fn label(self) -> &'static str {
        match self {
            ConnectFailure::Refused => "refused",
            ConnectFailure::TimedOut => "timed_out",
            ConnectFailure::Unresolved => "unresolved",
            ConnectFailure::Other => "other",
            ConnectFailure::NotNow => "not_now",
            ConnectFailure::NoAnswer => "no_answer",
            ConnectFailure::Tls => "tls",
        }
    }
}

const CONNECT_BUCKETS: &[f64] =
    &[0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
const HOLD_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0];

/// Owns all series of one proxy.
#[derive(Debug)]
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    ready: Gauge,
    reloads: [Counter; 2],
    /// All servers there have been.
    targets: Mutex<BTreeSet<(String, NodeName)>>,
    /// What all listeners there have been were for.
    listeners: Mutex<BTreeSet<[String; 3]>>,
    /// All certificates there have been: of which listener, in which file.
    certificates: Mutex<BTreeSet<(String, String)>>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// A recorder with all families described.
    pub fn new() -> Metrics {
        let mut builder = PrometheusBuilder::new();
        for (family, buckets) in [(CONNECT_SECONDS, CONNECT_BUCKETS), (HOLD_SECONDS, HOLD_BUCKETS)] {
            let matcher = Matcher::Full(family.name.to_owned());
            // The builder refuses empty bucket lists only; these are constants with a test.
            builder =
                builder.set_buckets_for_metric(matcher, buckets).unwrap_or_else(|_| PrometheusBuilder::new());
        }
        let recorder = builder.build_recorder();
        for family in FAMILIES {
            let name = KeyName::from_const_str(family.name);
            match family.kind {
                Kind::Counter => recorder.describe_counter(name, None, family.help.into()),
                Kind::Gauge => recorder.describe_gauge(name, None, family.help.into()),
                Kind::Histogram => recorder.describe_histogram(name, None, family.help.into()),
            }
        }
        gauge(&recorder, BUILD_INFO, &[env!("CARGO_PKG_VERSION")]).set(1);
        let ready = gauge(&recorder, READY, &[]);
        let reloads = ["refused", "applied"].map(|result| counter(&recorder, RELOADS, &[result]));
        Metrics {
            handle: recorder.handle(),
            recorder,
            ready,
            reloads,
            targets: Mutex::default(),
            listeners: Mutex::default(),
            certificates: Mutex::default(),
        }
    }

    /// The series of one listener.
    pub fn listener(&self, listener: &str) -> Arc<ListenerMetrics> {
        let r = &self.recorder;
        Arc::new(ListenerMetrics {
            sessions: gauge(r, SESSIONS, &[listener]),
            sessions_total: Total::of(counter(r, SESSIONS_TOTAL, &[listener])),
            ends: CloseReason::ALL
                .map(|reason| Total::of(counter(r, SESSION_ENDS, &[listener, reason.label()]))),
            accept_errors: counter(r, ACCEPT_ERRORS, &[listener]),
            held: gauge(r, HELD, &[listener]),
            held_total: counter(r, HELD_TOTAL, &[listener]),
            hold_seconds: histogram(r, HOLD_SECONDS, &[listener]),
            connect_seconds: histogram(r, CONNECT_SECONDS, &[listener]),
            connect_failures: ConnectFailure::ALL
                .map(|cause| counter(r, CONNECT_FAILURES, &[listener, cause.label()])),
            client_handshakes: handshakes(r, listener, "client"),
            server_handshakes: handshakes(r, listener, "server"),
            to_client: Total::of(counter(r, BYTES, &[listener, "to_client"])),
            to_server: Total::of(counter(r, BYTES, &[listener, "to_server"])),
        })
    }

    /// Notes which listeners there are now: name, cluster, role. What another one was for becomes 0.
    pub(crate) fn set_listeners(&self, now: &BTreeSet<[String; 3]>) {
        let mut known = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(now.iter().cloned());
        for labels in &*known {
            let values = labels.each_ref().map(String::as_str);
            gauge_of(&self.recorder, LISTENER_INFO, &values).set(u8::from(now.contains(labels)));
        }
    }

    /// Notes what clients of each listener are shown. A file that is not shown any more becomes 0, as does the series
    /// without a file of a listener that shows none.
    pub(crate) fn set_certificates(&self, shown: &BTreeMap<String, Vec<Shown>>) {
        let mut now = BTreeMap::new();
        for (listener, shown) in shown {
            now.insert((listener.clone(), String::new()), 0);
            for Shown { file, ends } in shown {
                now.insert((listener.clone(), file.display().to_string()), *ends);
            }
        }
        let mut known = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(now.keys().cloned());
        for key in &*known {
            let ends = now.get(key).copied().unwrap_or_default();
            gauge_of(&self.recorder, CERTIFICATE_EXPIRY, &[&key.0, &key.1]).set(epoch(ends));
        }
    }

    /// The series of one cluster, known to its agents as `scope`.
    pub fn cluster(&self, cluster: &str, scope: &str, origin: Origin) -> Arc<ClusterMetrics> {
        let r = &self.recorder;
        gauge(r, CLUSTER_INFO, &[cluster, scope, origin.label()]).set(1);
        let age = gauge(r, AGE, &[cluster]);
        age.set(-1);
        Arc::new(ClusterMetrics {
            serving: gauge(r, SERVING, &[cluster]),
            serving_since: gauge(r, SERVING_SINCE, &[cluster]),
            standings: Standing::ALL.map(|standing| gauge(r, STANDING, &[cluster, standing.label()])),
            replicas: gauge(r, REPLICAS, &[cluster]),
            epoch: gauge(r, EPOCH, &[cluster]),
            revision: gauge(r, REVISION, &[cluster]),
            store_up: gauge(r, STORE_UP, &[cluster]),
            age,
            reads: counter(r, READS, &[cluster]),
            watches: counter(r, WATCHES, &[cluster]),
            events: counter(r, EVENTS, &[cluster]),
            missed: counter(r, MISSED, &[cluster]),
            store_failures: counter(r, STORE_FAILURES, &[cluster]),
            malformed: gauge(r, MALFORMED, &[cluster]),
            epoch_ended: counter(r, EPOCH_ENDS, &[cluster, CloseReason::EpochEnded.label()]),
            store_lost: counter(r, EPOCH_ENDS, &[cluster, CloseReason::StoreLost.label()]),
            last_outage: gauge(r, LAST_OUTAGE, &[cluster]),
            checks: ["failed", "answered"].map(|result| counter(r, CHECKS, &[cluster, result])),
        })
    }

    /// Sets the series of a cluster's servers; those of one that is no member any more become 0.
    pub(crate) fn set_targets(&self, topology: &Topology) {
        let (r, cluster) = (&self.recorder, &*topology.cluster);
        for (name, node) in &topology.nodes {
            let name = name.as_str();
            let member = topology.members.iter().find(|m| m.name.as_str() == name);
            let may = node.admission() == Admission::Enabled;
            let is_primary = topology.primary.as_ref().is_ok_and(|primary| primary.name.as_str() == name);
            let lag = match member {
                Some(member) => member.lag.map_or(-1.0, float),
                None => 0.0,
            };
            gauge_of(r, TARGET_ANSWERS, &[cluster, name]).set(u8::from(node.answers()));
            gauge_of(r, TARGET_SESSIONS, &[cluster, name]).set(float(node.sessions() as u64));
            gauge_of(r, TARGET_SERVES, &[cluster, name, "primary"]).set(u8::from(may && is_primary));
            let reads = may && member.is_some_and(|member| member.reads.is_ok());
            gauge_of(r, TARGET_SERVES, &[cluster, name, "replica"]).set(u8::from(reads));
            gauge_of(r, TARGET_LAG, &[cluster, name]).set(lag);
            gauge_of(r, TARGET_ADMISSION, &[cluster, name]).set(node.admission() as u8);
        }
        let mut known = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in known.iter().filter(|(of, name)| *of == *cluster && !topology.nodes.contains_key(name)) {
            let labels = [cluster, gone.1.as_str()];
            for family in [TARGET_ANSWERS, TARGET_SESSIONS, TARGET_LAG, TARGET_ADMISSION] {
                gauge_of(r, family, &labels).set(0);
            }
            for role in ["primary", "replica"] {
                gauge_of(r, TARGET_SERVES, &[labels[0], labels[1], role]).set(0);
            }
        }
        known.extend(topology.nodes.keys().map(|name| (cluster.to_owned(), name.clone())));
    }

    /// Notes what `/readyz` would answer.
    pub fn set_ready(&self, ready: bool) {
        self.ready.set(u8::from(ready));
    }

    /// Counts a reload.
    pub fn reloaded(&self, applied: bool) {
        self.reloads[usize::from(applied)].increment(1);
    }

    /// The text Prometheus reads.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds histogram samples into their buckets; without it they pile up between scrapes.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn key(family: Family, values: &[&str]) -> Key {
    debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
    let labels: Vec<Label> = family
        .labels
        .iter()
        .zip(values)
        .map(|(label, value)| Label::new(*label, (*value).to_owned()))
        .collect();
    Key::from_parts(family.name, labels)
}

const METADATA: Metadata<'static> = Metadata::new("pgvane", Level::INFO, None);

/// A counter that can be read back: the recorder's own can only be rendered.
#[derive(Debug)]
struct Total {
    counter: Counter,
    sum: AtomicU64,
}

impl Total {
    fn of(counter: Counter) -> Total {
        Total { counter, sum: AtomicU64::new(0) }
    }

    fn increment(&self, by: u64) {
        self.counter.increment(by);
        self.sum.fetch_add(by, Ordering::Relaxed);
    }

    fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }
}

/// What one listener has counted since the start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Totals {
    /// Client connections accepted.
    pub sessions: u64,
    /// Bytes forwarded to clients, counted once a megabyte and at a session's end.
    pub to_client: u64,
    /// Bytes forwarded to servers, counted likewise.
    pub to_server: u64,
    /// Sessions ended, by the reasons that have come up.
    pub ends: Vec<(CloseReason, u64)>,
}

fn counter(recorder: &PrometheusRecorder, family: Family, values: &[&str]) -> Counter {
    let counter = recorder.register_counter(&key(family, values), &METADATA);
    counter.increment(0);
    counter
}

/// Those that failed, those that were done.
fn handshakes(recorder: &PrometheusRecorder, listener: &str, side: &str) -> [Counter; 2] {
    ["failed", "done"].map(|result| counter(recorder, TLS_HANDSHAKES, &[listener, side, result]))
}

fn gauge_of(recorder: &PrometheusRecorder, family: Family, values: &[&str]) -> Gauge {
    recorder.register_gauge(&key(family, values), &METADATA)
}

fn gauge(recorder: &PrometheusRecorder, family: Family, values: &[&str]) -> Gauge {
    let gauge = gauge_of(recorder, family, values);
    gauge.set(0);
    gauge
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in floats")]
fn float(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in floats")]
fn epoch(seconds: i64) -> f64 {
    seconds as f64
}

fn histogram(recorder: &PrometheusRecorder, family: Family, values: &[&str]) -> Histogram {
    recorder.register_histogram(&key(family, values), &METADATA)
}

/// The series of one listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    sessions: Gauge,
    sessions_total: Total,
    ends: [Total; CloseReason::ALL.len()],
    accept_errors: Counter,
    held: Gauge,
    held_total: Counter,
    hold_seconds: Histogram,
    connect_seconds: Histogram,
    connect_failures: [Counter; ConnectFailure::ALL.len()],
    client_handshakes: [Counter; 2],
    server_handshakes: [Counter; 2],
    to_client: Total,
    to_server: Total,
}

impl ListenerMetrics {
    /// Counts a session until the guard is dropped.
    pub fn session(self: &Arc<Self>) -> SessionGuard {
        self.sessions.increment(1);
        self.sessions_total.increment(1);
        SessionGuard(Arc::clone(self))
    }

    /// Counts a connection that found no free session.
    pub fn refused(&self) {
        self.sessions_total.increment(1);
    }

    /// Counts a session's end.
    pub fn ended(&self, reason: CloseReason) {
        self.ends[reason.index()].increment(1);
    }

    /// Counts a failed accept.
    pub fn accept_error(&self) {
        self.accept_errors.increment(1);
    }

    /// Counts a held connection until the guard is dropped.
    pub fn hold(self: &Arc<Self>) -> HoldGuard {
        self.held.increment(1);
        self.held_total.increment(1);
        HoldGuard { metrics: Arc::clone(self), since: std::time::Instant::now() }
    }

    /// Notes a connect that worked.
    pub fn connected(&self, took: Duration) {
        self.connect_seconds.record(took.as_secs_f64());
    }

    /// Counts a server that could not be opened.
    pub fn connect_failed(&self, cause: ConnectFailure) {
        self.connect_failures[cause as usize].increment(1);
    }

    /// Counts a TLS handshake with a client.
    pub fn client_handshake(&self, is_done: bool) {
        self.client_handshakes[usize::from(is_done)].increment(1);
    }

    /// Counts a TLS handshake with a server.
    pub fn server_handshake(&self, is_done: bool) {
        self.server_handshakes[usize::from(is_done)].increment(1);
    }

    /// Adds forwarded bytes.
    pub fn moved(&self, to: Side, bytes: u64) {
        match to {
            Side::Client => self.to_client.increment(bytes),
            Side::Server => self.to_server.increment(bytes),
        }
    }

    /// What was counted so far.
    pub fn totals(&self) -> Totals {
        let ends = CloseReason::ALL.into_iter().map(|reason| (reason, self.ends[reason.index()].sum()));
        Totals {
            sessions: self.sessions_total.sum(),
            to_client: self.to_client.sum(),
            to_server: self.to_server.sum(),
            ends: ends.filter(|(_, count)| *count > 0).collect(),
        }
    }
}

/// One session in the gauge.
#[derive(Debug)]
pub struct SessionGuard(Arc<ListenerMetrics>);

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.0.sessions.decrement(1);
    }
}

/// One held connection in the gauge; its time goes into the histogram.
#[derive(Debug)]
pub struct HoldGuard {
    metrics: Arc<ListenerMetrics>,
    since: std::time::Instant,
}

impl Drop for HoldGuard {
    fn drop(&mut self) {
        self.metrics.held.decrement(1);
        self.metrics.hold_seconds.record(self.since.elapsed().as_secs_f64());
    }
}

/// The series of one cluster; set by its feed.
#[derive(Debug)]
pub struct ClusterMetrics {
    pub(crate) serving: Gauge,
    serving_since: Gauge,
    standings: [Gauge; Standing::ALL.len()],
    pub(crate) replicas: Gauge,
    pub(crate) epoch: Gauge,
    pub(crate) revision: Gauge,
    pub(crate) store_up: Gauge,
    pub(crate) age: Gauge,
    pub(crate) reads: Counter,
    pub(crate) watches: Counter,
    pub(crate) events: Counter,
    pub(crate) missed: Counter,
    pub(crate) store_failures: Counter,
    pub(crate) malformed: Gauge,
    pub(crate) epoch_ended: Counter,
    pub(crate) store_lost: Counter,
    pub(crate) last_outage: Gauge,
    checks: [Counter; 2],
}

impl ClusterMetrics {
    /// Notes that a primary serves from now on, or that none does any more.
    pub(crate) fn serves_from_now(&self, somebody: bool) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.serving_since.set(if somebody { now.as_secs_f64() } else { 0.0 });
    }

    /// Notes what backs the leader.
    pub(crate) fn stands(&self, now: Standing) {
        for (gauge, standing) in self.standings.iter().zip(Standing::ALL) {
            gauge.set(u8::from(standing == now));
        }
    }

    /// Counts a check.
    pub(crate) fn checked(&self, is_answered: bool) {
        self.checks[usize::from(is_answered)].increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::fixture::{primary, topology};

    #[test]
    fn every_family_is_there_at_zero_from_the_start() {
        let metrics = Metrics::new();
        let _listener = metrics.listener("primary");
        let _cluster = metrics.cluster("main", "main", Origin::Etcd);
        metrics.set_listeners(&listeners(&["primary"]));
        metrics.set_certificates(&[("primary".to_owned(), vec![])].into());
        metrics.set_targets(&picture(&["pg1"]));
        let text = metrics.render();
        for family in FAMILIES {
            assert!(text.contains(&format!("# HELP {} {}", family.name, family.help)), "{}", family.name);
            let kind = format!("{:?}", family.kind).to_lowercase();
            assert!(text.contains(&format!("# TYPE {} {kind}", family.name)), "{}\n{text}", family.name);
        }
        for line in [
            "pgvane_sessions{listener=\"primary\"} 0",
            "pgvane_session_ends_total{listener=\"primary\",reason=\"epoch_ended\"} 0",
            "pgvane_hold_seconds_bucket{listener=\"primary\",le=\"0.005\"} 0",
            "pgvane_connect_seconds_count{listener=\"primary\"} 0",
            "pgvane_serving{cluster=\"main\"} 0",
            "pgvane_ready 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    /// Listeners of the cluster `main`, each named as its role.
    fn listeners(roles: &[&str]) -> BTreeSet<[String; 3]> {
        roles.iter().map(|role| [*role, "main", *role].map(str::to_owned)).collect()
    }

    #[test]
    fn listeners_come_and_go() {
        let metrics = Metrics::new();
        metrics.set_listeners(&listeners(&["primary", "replica"]));
        metrics.set_listeners(&listeners(&["primary"]));
        let text = metrics.render();
        for line in [
            "pgvane_listener_info{listener=\"primary\",cluster=\"main\",role=\"primary\"} 1",
            "pgvane_listener_info{listener=\"replica\",cluster=\"main\",role=\"replica\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn certificates_come_and_go() {
        let metrics = Metrics::new();
        let shown = |file: &str, ends| Shown { file: file.into(), ends };
        let of = |shown: Vec<Shown>| metrics.set_certificates(&[("primary".to_owned(), shown)].into());
        of(vec![shown("/old.pem", 1_790_000_000), shown("/sni.pem", 1_800_000_000)]);
        of(vec![shown("/new.pem", 1_890_000_000), shown("/sni.pem", 1_800_000_000)]);
        let text = metrics.render();
        for (file, ends) in
            [("", 0), ("/old.pem", 0), ("/new.pem", 1_890_000_000), ("/sni.pem", 1_800_000_000)]
        {
            let series = "pgvane_certificate_expiry_timestamp_seconds";
            let line = format!("{series}{{listener=\"primary\",file=\"{file}\"}} {ends}");
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_leader_stands_in_one_way_at_a_time() {
        let metrics = Metrics::new();
        let cluster = metrics.cluster("main", "prod", Origin::Etcd);
        for standing in Standing::ALL {
            cluster.stands(standing);
            let text = metrics.render();
            let held: Vec<_> = text
                .lines()
                .filter_map(|l| l.strip_prefix("pgvane_leader_standing")?.strip_suffix(" 1"))
                .collect();
            assert_eq!(held, [format!("{{cluster=\"main\",standing=\"{}\"}}", standing.label())]);
        }
        let line = "pgvane_cluster_info{cluster=\"main\",scope=\"prod\",source=\"etcd\"} 1";
        assert!(metrics.render().lines().any(|l| l == line), "{line}");
    }

    /// A picture of a cluster with these members.
    fn picture(members: &[&str]) -> Topology {
        let node = |name: &&str| (NodeName::from(*name), Arc::default());
        Topology { nodes: members.iter().map(node).collect(), ..topology(Some(primary("pg1", 7)), vec![]) }
    }

    #[test]
    fn servers_come_and_go() {
        let metrics = Metrics::new();
        let first = picture(&["pg1", "pg2"]);
        first.nodes[&NodeName::from("pg2")].admit(Admission::Draining);
        metrics.set_targets(&first);
        let text = metrics.render();
        for line in [
            "pgvane_target_serves{cluster=\"main\",target=\"pg1\",role=\"primary\"} 1",
            "pgvane_target_serves{cluster=\"main\",target=\"pg2\",role=\"primary\"} 0",
            "pgvane_target_admission{cluster=\"main\",target=\"pg2\"} 1",
            "pgvane_target_sessions{cluster=\"main\",target=\"pg1\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        metrics.set_targets(&picture(&["pg1"]));
        let text = metrics.render();
        let line = "pgvane_target_admission{cluster=\"main\",target=\"pg2\"} 0";
        assert!(text.lines().any(|l| l == line), "{text}");
    }

    /// The reference's table is made of what the code says.
    #[test]
    fn the_reference_lists_every_family() {
        let reference = include_str!("../docs/metrics.md");
        let row = |family: &Family| {
            let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let kind = format!("{:?}", family.kind).to_lowercase();
            format!("| `{}` | {kind} | {} | {} |", family.name, labels.join(", "), family.help)
        };
        let wanted: Vec<_> = FAMILIES.iter().map(row).collect();
        let of_proxies =
            reference.split("\n## ").find(|part| part.starts_with("Proxies")).expect("a section");
        let shown: Vec<_> = of_proxies.lines().filter(|line| line.starts_with("| `")).collect();
        assert!(shown == wanted, "the table in docs/metrics.md must read:\n{}", wanted.join("\n"));
        let reasons: Vec<_> = CloseReason::ALL.iter().map(|reason| format!("`{reason}`")).collect();
        let reasons = reasons.join(", ");
        assert!(of_proxies.contains(&reasons), "docs/metrics.md must list:\n{reasons}");
    }

    #[test]
    fn guards_settle_the_gauges() {
        let metrics = Metrics::new();
        let listener = metrics.listener("primary");
        let (session, hold) = (listener.session(), listener.hold());
        assert!(metrics.render().contains("pgvane_held{listener=\"primary\"} 1"));
        drop((session, hold));
        let text = metrics.render();
        for line in [
            "pgvane_sessions{listener=\"primary\"} 0",
            "pgvane_sessions_total{listener=\"primary\"} 1",
            "pgvane_held{listener=\"primary\"} 0",
            "pgvane_held_total{listener=\"primary\"} 1",
            "pgvane_hold_seconds_count{listener=\"primary\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn totals_are_what_is_exported() {
        let metrics = Metrics::new();
        let listener = metrics.listener("primary");
        drop(listener.session());
        listener.refused();
        listener.ended(CloseReason::Killed);
        listener.moved(Side::Client, 7);
        listener.moved(Side::Server, 5);
        let ends = vec![(CloseReason::Killed, 1)];
        assert_eq!(listener.totals(), Totals { sessions: 2, to_client: 7, to_server: 5, ends });
        let text = metrics.render();
        for line in [
            "pgvane_sessions_total{listener=\"primary\"} 2",
            "pgvane_session_ends_total{listener=\"primary\",reason=\"killed\"} 1",
            "pgvane_bytes_total{listener=\"primary\",direction=\"to_client\"} 7",
            "pgvane_bytes_total{listener=\"primary\",direction=\"to_server\"} 5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn names_are_ours_and_units_are_plain() {
        for family in FAMILIES {
            assert!(family.name.starts_with("pgvane_"), "{}", family.name);
            assert_eq!(family.kind == Kind::Counter, family.name.ends_with("_total"), "{}", family.name);
        }
    }

    #[test]
    fn causes_are_counted_in_their_place() {
        for (index, cause) in ConnectFailure::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, index, "{}", cause.label());
        }
    }
}
