//! The feed over hand-made observations: what it publishes, when it ends reigns, whom it asks.

use std::sync::atomic::{AtomicU16, Ordering};

use pgvane_cluster::follow::LeaderLease;
use pgvane_cluster::ids::{LeaseId, Revision};
use pgvane_cluster::records::{MemberRecord, MemberRole, MemberState};
use pgvane_cluster::settings::ClusterSettings;
use pgvane_cluster::view::{ConfigDocument, LeaderKey, Member, Versioned};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::metrics::Metrics;

/// Bound on every wait: only a broken feed reaches it.
const SOON: Duration = Duration::from_secs(20);

struct Fixture {
    observations: watch::Sender<Observation>,
    rx: TopologyRx,
    stop: CancellationToken,
    metrics: Metrics,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn start(on_store_loss: OnStoreLoss) -> Fixture {
    let nothing = Observation {
        view: None,
        confirmed_at: Tick::ZERO,
        contact: Contact::Down { since: Tick::now(), why: "not asked yet".to_owned() },
        leader_lease: None,
    };
    let (observations, rx) = watch::channel(nothing);
    let metrics = Metrics::new();
    let input = FeedInput {
        cluster: "main".into(),
        on_store_loss,
        agents: None,
        source: Source {
            origin: Origin::Etcd,
            observations: rx,
            stats: Box::new(FollowStats::default),
            refresh: Box::new(|| {}),
        },
        metrics: metrics.cluster("main", "main", Origin::Etcd),
        timeline: Arc::default(),
    };
    let stop = CancellationToken::new();
    let (rx, task) = feed(input, stop.clone());
    tokio::spawn(task);
    Fixture { observations, rx, stop, metrics }
}

impl Fixture {
    fn observe(&self, view: &ClusterView) {
        self.observe_with(view, Contact::Up, None);
    }

    fn observe_with(&self, view: &ClusterView, contact: Contact, lives_until: Option<Tick>) {
        let leader_lease = lives_until.map(|lives_until| LeaderLease { lease: LeaseId(1), lives_until });
        let view = Some(Arc::new(view.clone()));
        self.observations.send_replace(Observation {
            view,
            confirmed_at: Tick::now(),
            contact,
            leader_lease,
        });
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Topology) -> bool) -> Arc<Topology> {
        let wait = async {
            loop {
                let topology = self.rx.see();
                if holds(&topology) {
                    return topology;
                }
                self.rx.changed().await;
            }
        };
        match timeout(SOON, wait).await {
            Ok(topology) => topology,
            Err(elapsed) => panic!("never came to: {what} ({elapsed}); last: {:?}", self.rx.current()),
        }
    }

    async fn serving(&mut self) -> Arc<Reign> {
        let topology = self.until("a primary serves", |t| t.primary.is_ok()).await;
        let target = topology.primary.clone().expect("serves");
        target.reign.clone().expect("a primary has a reign")
    }
}

/// pg1 leads at `epoch` and serves; its agent is at `agent`.
fn led(epoch: i64, agent: u16) -> ClusterView {
    let settings = ClusterSettings { ttl: Duration::from_secs(2), ..ClusterSettings::default() };
    let document = ConfigDocument { json: serde_json::Value::Null, settings };
    let mut view = ClusterView { revision: Revision(epoch + 1), ..ClusterView::default() };
    view.config = Some(Versioned { value: document, mod_revision: Revision(1) });
    view.leader = Some(LeaderKey { name: "pg1".into(), epoch: Epoch(epoch), lease: Some(LeaseId(1)) });
    let record = MemberRecord {
        conn_url: Some("postgres://127.0.0.1:5432/postgres".to_owned()),
        api_url: Some(format!("http://127.0.0.1:{agent}/patroni")),
        ..MemberRecord::new(MemberState::Running, MemberRole::Primary)
    };
    view.members.insert("pg1".into(), Member { record, lease: None });
    view
}

fn leaderless(mut view: ClusterView) -> ClusterView {
    view.leader = None;
    view.revision = Revision(view.revision.0 + 1);
    view
}

fn down() -> Contact {
    Contact::Down { since: Tick::now(), why: "refused".to_owned() }
}

#[tokio::test]
async fn a_deleted_leader_key_ends_the_reign_after_the_new_picture_is_out() {
    let mut feed = start(OnStoreLoss::Hold);
    feed.observe(&led(7, 1));
    let reign = feed.serving().await;
    assert_eq!(reign.epoch(), Epoch(7));
    feed.observe(&leaderless(led(7, 1)));
    let reason = timeout(SOON, reign.ended()).await.expect("ends");
    assert_eq!(reason, CloseReason::EpochEnded);
    let nobody = "pgvane_serving_since_timestamp_seconds{cluster=\"main\"} 0\n";
    assert!(feed.metrics.render().contains(nobody));
    assert_eq!(feed.rx.current().primary.as_ref().err(), Some(&NoPrimary::NoLeader), "published first");
    feed.observe(&led(9, 1));
    let next = feed.serving().await;
    assert_eq!(next.epoch(), Epoch(9));
    assert!(feed.rx.current().last_outage.is_some_and(|outage| outage < SOON));
    let text = feed.metrics.render();
    assert!(!text.contains(nobody), "somebody has served since");
    for line in [
        "pgvane_epoch{cluster=\"main\"} 9",
        "pgvane_leader_standing{cluster=\"main\",standing=\"proven\"} 1",
        "pgvane_epoch_ends_total{cluster=\"main\",reason=\"epoch_ended\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn the_same_leader_at_another_epoch_is_another_reign() {
    let mut feed = start(OnStoreLoss::Hold);
    feed.observe(&led(7, 1));
    let reign = feed.serving().await;
    feed.observe(&led(8, 1));
    assert_eq!(timeout(SOON, reign.ended()).await, Ok(CloseReason::EpochEnded));
    assert_eq!(feed.serving().await.epoch(), Epoch(8));
}

#[tokio::test]
async fn an_older_epoch_is_never_served() {
    let mut feed = start(OnStoreLoss::Hold);
    feed.observe(&led(7, 1));
    let reign = feed.serving().await;
    feed.observe(&led(3, 1));
    assert_eq!(timeout(SOON, reign.ended()).await, Ok(CloseReason::EpochEnded));
    let back = Some(NoPrimary::EpochWentBack { shown: Epoch(3), seen: Epoch(7) });
    feed.until("an epoch that went back", |t| t.primary.as_ref().err() == back.as_ref()).await;
}

#[tokio::test]
async fn a_leader_that_stops_takes_no_new_sessions_and_keeps_those_it_has() {
    let mut feed = start(OnStoreLoss::Hold);
    let mut view = led(7, 1);
    feed.observe(&view);
    let reign = feed.serving().await;
    view.members.get_mut(&"pg1".into()).expect("a member").record.state = MemberState::Stopping;
    feed.observe(&view);
    feed.until("no primary", |t| t.primary.is_err()).await;
    assert!(!reign.has_ended() && reign.is_open(Tick::now()));
    feed.observe(&led(7, 1));
    assert!(Arc::ptr_eq(&reign, &feed.serving().await), "the same reign goes on");
}

#[tokio::test]
async fn fence_ends_the_reign_at_the_deadline() {
    let mut feed = start(OnStoreLoss::Fence);
    feed.observe_with(&led(7, 1), down(), Some(Tick::now() + Duration::from_millis(700)));
    let reign = feed.serving().await;
    let reason = timeout(SOON, reign.ended()).await.expect("ends");
    assert_eq!(reason, CloseReason::StoreLost);
    let lost = Some(NoPrimary::StoreLost("pg1".into()));
    feed.until("no proof", |t| t.primary.as_ref().err() == lost.as_ref()).await;
    feed.observe_with(&led(7, 1), Contact::Up, Some(Tick::now() + Duration::from_mins(1)));
    let again = feed.serving().await;
    assert_eq!(again.epoch(), Epoch(7), "the same epoch may serve again once it is proven");
    assert!(!Arc::ptr_eq(&reign, &again));
}

/// An agent that answers with `status` and tells of every question.
async fn agent(status: Arc<AtomicU16>, asked: watch::Sender<u64>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut request = vec![];
            while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.expect("read") > 0 {}
            let answer = format!("HTTP/1.0 {} x\r\n\r\n", status.load(Ordering::SeqCst));
            stream.write_all(answer.as_bytes()).await.expect("write");
            asked.send_modify(|n| *n += 1);
        }
    });
    port
}

#[tokio::test]
async fn hold_keeps_the_reign_while_the_agent_vouches_and_not_longer() {
    let status = Arc::new(AtomicU16::new(200));
    let (asked, mut questions) = watch::channel(0);
    let port = agent(Arc::clone(&status), asked).await;
    let mut feed = start(OnStoreLoss::Hold);
    feed.observe_with(&led(7, port), down(), Some(Tick::now() + Duration::from_millis(400)));
    let reign = feed.serving().await;
    let vouched = feed.until("vouched", |t| t.standing == Standing::Vouched).await;
    assert!(vouched.primary.is_ok() && !reign.has_ended() && reign.is_open(Tick::now()));
    assert!(*questions.borrow() > 0);
    status.store(503, Ordering::SeqCst);
    questions.mark_unchanged();
    timeout(SOON, questions.changed()).await.expect("asked again").expect("the agent lives");
    assert_eq!(timeout(SOON, reign.ended()).await, Ok(CloseReason::StoreLost));
    assert_eq!(feed.rx.current().standing, Standing::Lost);
}

#[tokio::test]
async fn nobody_is_asked_while_the_store_answers() {
    let (asked, questions) = watch::channel(0);
    let port = agent(Arc::new(AtomicU16::new(200)), asked).await;
    let mut feed = start(OnStoreLoss::Hold);
    for _ in 0..3 {
        feed.observe_with(&led(7, port), Contact::Up, Some(Tick::now() + Duration::from_mins(1)));
        feed.serving().await;
    }
    assert_eq!(*questions.borrow(), 0);
}

#[tokio::test]
async fn an_unreadable_key_is_named_and_all_else_goes_on() {
    let mut feed = start(OnStoreLoss::Hold);
    let mut view = led(7, 1);
    view.malformed.insert("/service/main/members/pg2".to_owned(), "not JSON".to_owned());
    feed.observe(&view);
    feed.serving().await;
    let topology = feed.rx.current();
    assert_eq!(topology.malformed, [("/service/main/members/pg2".to_owned(), "not JSON".to_owned())]);
    assert!(feed.metrics.render().contains("pgvane_malformed_keys{cluster=\"main\"} 1"));
}
