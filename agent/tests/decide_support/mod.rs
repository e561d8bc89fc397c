//! Worlds to decide on: a healthy base for each role, and short ways to change one thing in it.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::sync::Arc;
use std::time::Duration;

use pgvane_agent::decide::action::{Action, Decision, Reason, Request};
use pgvane_agent::decide::announce::{self, Identity};
use pgvane_agent::decide::decide;
use pgvane_agent::decide::memory::{Consent, HandOver, Memory, Vouch};
use pgvane_agent::decide::restart::Restart;
use pgvane_agent::decide::sync::Replication;
use pgvane_agent::decide::world::{
    Abilities, Control, DataDir, Dcs, Guard, Local, LocalRole, Ongoing, OwnLease, Peer, Peers, Process, Slot,
    Sql, Upstream, World,
};
use pgvane_agent::timing::{Timing, TimingOverrides};
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, LeaseId, Lsn, NodeName, Revision, Timeline};
use pgvane_cluster::records::{
    FailoverRecord, FailsafeRecord, HistoryEntry, HistoryRecord, MemberRecord, MemberRole, MemberState,
    NativeMember, StatusRecord, Tags,
};
use pgvane_cluster::reigns::{PublishedReigns, Reigns};
use pgvane_cluster::settings::ClusterSettings;
use pgvane_cluster::view::{ClusterView, ConfigDocument, LeaderKey, Member, Versioned};

/// The instant of every decision.
pub const NOW: Tick = Tick::from_millis(100_000);
/// The lease time: step down 2120 ms, guard 2620 ms after the renewal was sent.
pub const TTL: Duration = Duration::from_secs(3);
/// Our lease.
pub const LEASE: LeaseId = LeaseId(7);
/// The lease of whoever else leads.
pub const OTHER_LEASE: LeaseId = LeaseId(8);
/// The reign.
pub const EPOCH: Epoch = Epoch(40);
/// Where the WAL of the cluster ends.
pub const HEAD: Lsn = Lsn(0x500_0000);
/// This node.
pub const ME: &str = "pg2";
/// The cluster's system identifier.
pub const SYSTEM: &str = "7300000000000000001";

/// Milliseconds.
pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What a node publishes that never changes.
pub fn identity(name: &str) -> Identity {
    Identity {
        conn_url: format!("postgres://{name}:5432/postgres"),
        api_url: format!("http://{name}:8008/patroni"),
        version: "0".to_owned(),
        proxy_url: None,
    }
}

/// The server of `name` to follow or to clone.
pub fn upstream(name: &str) -> Upstream {
    Upstream { name: name.into(), host: name.to_owned(), port: 5432 }
}

/// A member's answer: a running standby at `position` of the cluster's timeline.
pub fn standby_at(position: Lsn) -> Peer {
    Peer::Answered {
        is_primary: false,
        running: true,
        timeline: Some(Timeline(1)),
        position,
        fresh: true,
        tags: Tags::default(),
    }
}

/// Tags that keep a node from leading.
pub fn nofailover() -> Tags {
    Tags([("nofailover".to_owned(), true.into())].into())
}

fn record(name: &str, role: MemberRole) -> MemberRecord {
    let primary = role == MemberRole::Primary;
    let identity = identity(name);
    MemberRecord {
        conn_url: Some(identity.conn_url),
        api_url: Some(identity.api_url),
        xlog_location: Some(HEAD),
        timeline: Some(Timeline(1)),
        replication_state: (!primary).then(|| "streaming".to_owned()),
        pgvane: Some(NativeMember {
            version: "0".to_owned(),
            serving_epoch: primary.then_some(EPOCH.0),
            ..NativeMember::default()
        }),
        ..MemberRecord::new(MemberState::Running, role)
    }
}

/// pg1, pg2 and pg3 run; pg1 leads and serves.
pub fn view() -> ClusterView {
    let mut view = ClusterView {
        revision: Revision(90),
        newest_epoch: EPOCH,
        initialize: Some(SYSTEM.to_owned()),
        leader: Some(LeaderKey { name: "pg1".into(), epoch: EPOCH, lease: Some(OTHER_LEASE) }),
        status: Some(StatusRecord { optime: HEAD, ..StatusRecord::default() }),
        has_status_key: true,
        ..ClusterView::default()
    };
    let document = ConfigDocument { json: serde_json::json!({}), settings: settings() };
    view.config = Some(Versioned { value: document, mod_revision: Revision(2) });
    for name in ["pg1", "pg2", "pg3"] {
        let role = if name == "pg1" { MemberRole::Primary } else { MemberRole::Replica };
        let member = Member { record: record(name, role), lease: Some(OTHER_LEASE) };
        view.members.insert(name.into(), member);
    }
    let all = ["pg1", "pg2", "pg3"].map(|n| (NodeName::from(n), identity(n).api_url));
    view.failsafe = Some(FailsafeRecord(all.into()));
    view.reigns = Some(PublishedReigns { epoch: EPOCH, timelines: Reigns::default() });
    view
}

fn settings() -> ClusterSettings {
    ClusterSettings { ttl: TTL, ..ClusterSettings::default() }
}

/// What a healthy standby of pg1 at the head of the WAL answers.
pub fn standby_sql() -> Sql {
    Sql {
        asked_at: NOW,
        in_recovery: true,
        timeline: Timeline(1),
        position: HEAD,
        received: Some(HEAD),
        replayed: Some(HEAD),
        checkpointed: None,
        streaming: true,
        upstream: Some(("pg1".to_owned(), 5432)),
        replication: Replication::default(),
    }
}

/// What a healthy primary answers.
pub fn primary_sql() -> Sql {
    Sql {
        in_recovery: false,
        received: None,
        replayed: None,
        checkpointed: Some(Timeline(1)),
        streaming: false,
        upstream: None,
        ..standby_sql()
    }
}

/// pg_control of this node.
pub fn control(standby: bool, clean: bool) -> Control {
    Control { system_identifier: SYSTEM.to_owned(), clean, standby, timeline: Timeline(1), checkpoint: HEAD }
}

/// We follow pg1, which serves.
pub fn following() -> World {
    World {
        now: NOW,
        me: ME.into(),
        dcs: Dcs::Known(Arc::new(view())),
        lease: OwnLease::Held { id: LEASE, sent_at: NOW - ms(100), ttl: TTL },
        local: Local {
            data: DataDir::Present(control(true, false)),
            process: Process::Running,
            role: LocalRole::Standby,
            sql: Some(standby_sql()),
            ongoing: [].into(),
            guard: Guard::Idle,
        },
        peers: Peers::default(),
        memory: Memory { last_leader: Some("pg1".into()), ..Memory::default() },
        settings: settings(),
        tags: Tags::default(),
        timing: Timing::derive(TTL, &TimingOverrides::default()).expect("3 s fit"),
        abilities: Abilities::default(),
    }
}

/// We lead and serve; pg1 and pg3 follow.
pub fn leading() -> World {
    let mut world = following();
    world.local.data = DataDir::Present(control(false, false));
    world.local.role = LocalRole::Primary;
    world.local.sql = Some(primary_sql());
    world.local.guard = Guard::Armed { epoch: EPOCH };
    world.memory.last_leader = Some(ME.into());
    edit(&mut world, |view| {
        lead(view, ME, LEASE);
        for (name, member) in &mut view.members {
            let role = if name.as_str() == ME { MemberRole::Primary } else { MemberRole::Replica };
            member.record = record(name.as_str(), role);
        }
    });
    world
}

/// pg1 led until half a second ago and its key vanished; all are standbys at the head of the WAL.
pub fn leaderless() -> World {
    let mut world = following();
    edit(&mut world, |view| {
        view.leader = None;
        view.members.remove(&NodeName::from("pg1"));
    });
    world.memory.leaderless_since = Some(NOW - ms(500));
    world.local.sql.as_mut().expect("answers").streaming = false;
    world.peers = Peers { asked_at: NOW - ms(100), answers: [("pg3".into(), standby_at(HEAD))].into() };
    world
}

/// A node without data in a cluster that was never initialized.
pub fn empty() -> World {
    let mut world = following();
    stopped(&mut world, DataDir::Absent);
    world.dcs = Dcs::Known(Arc::new(ClusterView { revision: Revision(1), ..ClusterView::default() }));
    world.memory = Memory::default();
    world
}

/// Changes the view of `world`, whether the store answers or not.
pub fn edit(world: &mut World, change: impl FnOnce(&mut ClusterView)) {
    match &mut world.dcs {
        Dcs::Known(view) | Dcs::Unknown { last: Some(view), .. } => change(Arc::make_mut(view)),
        Dcs::Unknown { last: None, .. } => panic!("this world has no view"),
    }
}

/// This node won the race for `initialize` at `revision`.
pub fn claimed(world: &mut World, revision: i64) {
    edit(world, |view| {
        view.initialize = Some(String::new());
        view.initialize_revision = Some(Revision(revision));
        view.bootstrap = Some(Versioned { value: ME.into(), mod_revision: Revision(revision) });
    });
}

/// Puts `name` in the leader key.
pub fn lead(view: &mut ClusterView, name: &str, lease: LeaseId) {
    view.leader = Some(LeaderKey { name: name.into(), epoch: EPOCH, lease: Some(lease) });
}

/// Stops the server of `world` on `data`.
pub fn stopped(world: &mut World, data: DataDir) {
    world.local.data = data;
    world.local.process = Process::Absent;
    world.local.role = LocalRole::Unknown;
    world.local.sql = None;
}

/// Takes the store away.
pub fn store_away(world: &mut World) {
    let last = match &world.dcs {
        Dcs::Known(view) => Some(Arc::clone(view)),
        Dcs::Unknown { last, .. } => last.clone(),
    };
    world.dcs = Dcs::Unknown { since: world.now - ms(500), last };
}

/// Makes the last answered renewal one that was sent `age` ago.
pub fn renewed(world: &mut World, age: Duration) {
    world.lease = OwnLease::Held { id: LEASE, sent_at: world.now - age, ttl: TTL };
}

/// Occupies `slot` with the effect `what`.
pub fn busy(world: &mut World, slot: Slot, what: &'static str) {
    world.local.ongoing.insert(slot, Ongoing { what, since: world.now - ms(50) });
}

/// Changes the record of `name`.
pub fn member(world: &mut World, name: &str, change: impl FnOnce(&mut MemberRecord)) {
    edit(world, |view| change(&mut view.members.get_mut(&NodeName::from(name)).expect("a member").record));
}

/// An operator's request.
pub fn request(world: &mut World, leader: Option<&str>, candidate: Option<&str>) {
    let value = FailoverRecord {
        leader: leader.map(NodeName::from),
        member: candidate.map(NodeName::from),
        scheduled_at: None,
    };
    edit(world, |view| view.failover = Some(Versioned { value, mod_revision: REQUESTED }));
}

/// The revision of [`request`].
pub const REQUESTED: Revision = Revision(80);

/// When [`SCHEDULED`] is, in milliseconds since 1970.
pub const WALL: i64 = 1_798_761_600_000;

/// A time of the wall clock.
pub const SCHEDULED: &str = "2027-01-01T00:00:00+00:00";

/// A restart that was asked for a moment ago.
pub fn a_restart() -> Restart {
    Restart {
        id: 1,
        asked_at: NOW - ms(50),
        timeout: None,
        checkpointed: false,
        stopped: None,
        failed: false,
    }
}

/// Another member's history of timelines: timeline 1 ended at `at`.
pub fn ended_at(world: &mut World, at: Lsn) {
    let entry = HistoryEntry {
        timeline: Timeline(1),
        switch_lsn: at,
        reason: "no recovery target specified".to_owned(),
        timestamp: None,
        new_leader: None,
    };
    edit(world, |view| view.history = Some(HistoryRecord(vec![entry])));
}

/// The promise of all others, asked for `age` ago.
pub fn consent(world: &World, age: Duration) -> Consent {
    Consent { asked_at: world.now - age, ttl: TTL, epoch: EPOCH }
}

/// Our promise to `leader` for another second.
pub fn vouch(world: &World, leader: &str) -> Vouch {
    Vouch { leader: leader.into(), until: world.now + ms(1000) }
}

/// A hand-over that stopped PostgreSQL `age` ago at `shutdown_lsn`.
pub fn handed_over(world: &World, request: Request, age: Duration, shutdown_lsn: Option<Lsn>) -> HandOver {
    HandOver { request, checkpointed: true, stopped: Some((world.now - age, shutdown_lsn)) }
}

/// Asserts what is decided in `world`; answers the decision for further looks.
#[track_caller]
pub fn check(world: &World, action: &Action, reason: &Reason) -> Decision {
    let decision = decide(world);
    assert_eq!((&decision.action, &decision.reason), (action, reason), "in {world:#?}");
    assert!(decision.wake_at >= world.now, "wake_at in the past: {decision:?}");
    assert!(decision.wake_at <= world.now + world.timing.renew_interval, "wake_at too late: {decision:?}");
    decision
}

/// Asserts that nothing is done in `world`, for `reason`.
#[track_caller]
pub fn check_wait(world: &World, reason: &Reason) -> Decision {
    check(world, &Action::Wait, reason)
}

/// The member record of `world`'s node.
pub fn announced(world: &World) -> MemberRecord {
    announce::member(world, &identity(world.me.as_str()))
}
