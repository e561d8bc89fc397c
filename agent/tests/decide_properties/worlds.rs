//! Worlds of every kind: likely ones, with any part replaced by anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgvane_agent::decide::action::Request;
use pgvane_agent::decide::bootstrap::Progress;
use pgvane_agent::decide::memory::{Consent, HandOver, Memory, Pause, Released, Vouch};
use pgvane_agent::decide::reinit::Reinit;
use pgvane_agent::decide::restart::{Filters, Restart, ScheduledRestart};
use pgvane_agent::decide::schedule::Wall;
use pgvane_agent::decide::sync::choose::{Confirms, Standby, SyncState};
use pgvane_agent::decide::sync::{self, InForce, Replication};
use pgvane_agent::decide::world::{
    Abilities, Control, DataDir, Dcs, Guard, LocalRole, Ongoing, OwnLease, Peer, Peers, Process, Slot, Sql,
    World,
};
use pgvane_agent::timing::{Timing, TimingOverrides};
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, LeaseId, Lsn, NodeName, Revision, Timeline};
use pgvane_cluster::records::{
    FailoverRecord, FailsafeRecord, HistoryEntry, HistoryRecord, MemberRecord, MemberRole, MemberState,
    NativeMember, StatusRecord, SyncRecord, Tags,
};
use pgvane_cluster::reigns::{Descent, PublishedReigns, Reign, Reigns};
use pgvane_cluster::settings::{ClusterSettings, StandbyCluster, SynchronousMode};
use pgvane_cluster::view::{ClusterView, LeaderKey, Member, Versioned};
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

use crate::decide_support::{
    EPOCH, HEAD, LEASE, ME, NOW, OTHER_LEASE, REQUESTED, SCHEDULED, SYSTEM, WALL, a_restart, claimed,
    consent, control, edit, empty, following, handed_over, lead, leaderless, leading, ms, nofailover,
    renewed, request, standby_at, stopped, store_away, view as healthy,
};

/// A revision of `sync` in the present reign.
const SYNC_WRITTEN: Revision = Revision(EPOCH.0 + 5);

const NAMES: [&str; 4] = ["pg1", ME, "pg3", "pg9"];

pub(crate) const SLOTS: [Slot; 7] = [
    Slot::Postgres,
    Slot::Store,
    Slot::Peers,
    Slot::Failsafe,
    Slot::Guard,
    Slot::SyncKey,
    Slot::StandbyNames,
];

pub(crate) const LABELS: [&str; 30] = [
    "wait",
    "race_initialize",
    "bootstrap",
    "set_initialize",
    "write_config",
    "clone",
    "start_primary",
    "start_standby",
    "rejoin",
    "follow",
    "copy_slots",
    "poll_peers",
    "campaign",
    "take_over_key",
    "arm_guard",
    "disarm_guard",
    "promote",
    "checkpoint",
    "stop_to_hand_over",
    "stop_to_restart",
    "stop",
    "release",
    "ask_failsafe",
    "clear_request",
    "request_now",
    "write_sync_key",
    "delete_sync_key",
    "set_standby_names",
    "exit",
    "halt",
];

// Parts of worlds.

fn name() -> impl Strategy<Value = NodeName> {
    select(&NAMES[..]).prop_map(NodeName::from)
}

fn tick() -> impl Strategy<Value = Tick> {
    prop_oneof![
        6 => (0_u64..3200).prop_map(|age| NOW - ms(age)),
        1 => (3200_u64..400_000).prop_map(|age| NOW - ms(age)),
        1 => Just(NOW),
        // Clocks of one boot agree, but nothing may depend on it.
        1 => (1_u64..3200).prop_map(|ahead| NOW + ms(ahead)),
    ]
}

fn soon() -> impl Strategy<Value = Tick> {
    prop_oneof![4 => (1_u64..3200).prop_map(|ahead| NOW + ms(ahead)), 1 => tick()]
}

fn ttl() -> impl Strategy<Value = Duration> {
    select(vec![ms(3000), ms(10_000), ms(100), ms(0)])
}

pub(crate) fn lsn() -> impl Strategy<Value = Lsn> {
    prop_oneof![
        4 => Just(HEAD),
        2 => (0_u64..4).prop_map(|past| Lsn(HEAD.0 + past)),
        2 => (0_u64..4).prop_map(|short| Lsn(HEAD.0 - short)),
        1 => Just(Lsn(0)),
        1 => any::<u64>().prop_map(Lsn),
    ]
}

fn timeline() -> impl Strategy<Value = Timeline> {
    prop_oneof![4 => Just(Timeline(1)), 2 => (0_u32..4).prop_map(Timeline), 1 => Just(Timeline(u32::MAX))]
}

fn epoch() -> impl Strategy<Value = Epoch> {
    prop_oneof![3 => Just(EPOCH), 1 => (EPOCH.0 - 1..EPOCH.0 + 2).prop_map(Epoch)]
}

fn lease_id() -> impl Strategy<Value = LeaseId> {
    select(vec![LEASE, OTHER_LEASE])
}

pub(crate) fn tags() -> impl Strategy<Value = Tags> {
    let one = |key: &str, value: serde_json::Value| Tags([(key.to_owned(), value)].into());
    prop_oneof![
        4 => Just(Tags::default()),
        1 => Just(nofailover()),
        1 => (-1_i64..4).prop_map(move |n| one("failover_priority", n.into())),
        1 => Just(one("clonefrom", true.into())),
        1 => name().prop_map(move |n| one("replicatefrom", n.as_str().into())),
        1 => Just(one("nofailover", serde_json::Value::Null)),
    ]
}

fn record() -> BoxedStrategy<MemberRecord> {
    let states = select(vec![
        MemberState::Initializing,
        MemberState::CreatingReplica,
        MemberState::Running,
        MemberState::Running,
        MemberState::Starting,
        MemberState::StartFailed,
        MemberState::Stopping,
        MemberState::Stopped,
        MemberState::Crashed,
        MemberState::Other("dreaming".to_owned()),
    ]);
    let roles = select(vec![
        MemberRole::Primary,
        MemberRole::Replica,
        MemberRole::StandbyLeader,
        MemberRole::Promoted,
        MemberRole::Demoted,
        MemberRole::Uninitialized,
        MemberRole::Other("ghost".to_owned()),
    ]);
    let urls =
        vec![None, Some("postgres://pg1:5432/postgres"), Some("postgres://:x"), Some("nonsense"), Some("")];
    let reign = (epoch(), name()).prop_map(|(epoch, leader)| Reign { epoch, leader });
    let native = of(of(reign))
        .prop_map(|native| native.map(|reign| NativeMember { reign, ..NativeMember::default() }));
    let positions = (of(lsn()), of(timeline()));
    (states, roles, select(urls), of(Just("http://pg1:8008/patroni")), tags(), positions, native)
        .prop_map(|(state, role, conn_url, api_url, tags, (xlog_location, timeline), pgvane)| MemberRecord {
            conn_url: conn_url.map(str::to_owned),
            api_url: api_url.map(str::to_owned),
            tags,
            xlog_location,
            timeline,
            pgvane,
            ..MemberRecord::new(state, role)
        })
        .boxed()
}

pub(crate) fn history() -> BoxedStrategy<HistoryRecord> {
    let entry = (timeline(), lsn()).prop_map(|(timeline, switch_lsn)| HistoryEntry {
        timeline: Timeline(timeline.0.min(1000)),
        switch_lsn,
        reason: String::new(),
        timestamp: None,
        new_leader: None,
    });
    vec(entry, 0..4).prop_map(HistoryRecord).boxed()
}

pub(crate) fn failover() -> BoxedStrategy<Versioned<FailoverRecord>> {
    let later = of(Just("2030-01-01T00:00:00+00:00".to_owned()));
    (of(name()), of(name()), later, 79_i64..82)
        .prop_map(|(leader, member, scheduled_at, revision)| Versioned {
            value: FailoverRecord { leader, member, scheduled_at },
            mod_revision: Revision(revision),
        })
        .boxed()
}

pub(crate) fn sync() -> BoxedStrategy<Versioned<SyncRecord>> {
    let standbys = of(select(vec!["pg2", "pg1,pg3", "", "PG2, x", ",,"]).prop_map(str::to_owned));
    (of(name()), standbys, 0_u32..3, select(vec![3, SYNC_WRITTEN.0]))
        .prop_map(|(leader, sync_standby, quorum, revision)| Versioned {
            value: SyncRecord { leader, quorum, sync_standby },
            mod_revision: Revision(revision),
        })
        .boxed()
}

fn view() -> BoxedStrategy<ClusterView> {
    let member = record().prop_map(|record| Member { record, lease: Some(OTHER_LEASE) });
    let leader =
        (name(), epoch(), of(lease_id())).prop_map(|(name, epoch, lease)| LeaderKey { name, epoch, lease });
    let failsafe = btree_map(name(), Just("http://x:8008/patroni".to_owned()), 0..4).prop_map(FailsafeRecord);
    let initialize = select(vec![None, Some(""), Some(SYSTEM), Some("1")]);
    let published = (epoch(), reigns()).prop_map(|(epoch, timelines)| PublishedReigns { epoch, timelines });
    let status = lsn().prop_map(|optime| StatusRecord { optime, ..StatusRecord::default() });
    (
        initialize,
        any::<bool>(),
        of(leader),
        btree_map(name(), member, 0..5),
        of(status),
        of(history()),
        of(failover()),
        of(sync()),
        of(failsafe),
        of(published),
    )
        .prop_map(
            |(initialize, config, leader, members, status, history, failover, sync, failsafe, reigns)| {
                ClusterView {
                    revision: Revision(90),
                    newest_epoch: EPOCH,
                    initialize: initialize.map(str::to_owned),
                    config: healthy().config.filter(|_| config),
                    leader,
                    members,
                    has_status_key: status.is_some(),
                    status,
                    history,
                    failover,
                    sync,
                    failsafe,
                    reigns,
                    ..ClusterView::default()
                }
            },
        )
        .boxed()
}

fn dcs() -> BoxedStrategy<Dcs> {
    prop_oneof![
        3 => view().prop_map(|view| Dcs::Known(Arc::new(view))),
        1 => (tick(), of(view())).prop_map(|(since, last)| Dcs::Unknown { since, last: last.map(Arc::new) }),
    ]
    .boxed()
}

fn own_lease() -> impl Strategy<Value = OwnLease> {
    prop_oneof![
        1 => Just(OwnLease::None),
        4 => (lease_id(), tick(), ttl()).prop_map(|(id, sent_at, ttl)| OwnLease::Held { id, sent_at, ttl }),
    ]
}

fn data() -> BoxedStrategy<DataDir> {
    let control = (any::<bool>(), any::<bool>(), any::<bool>(), timeline(), lsn()).prop_map(
        |(foreign, clean, standby, timeline, checkpoint)| Control {
            system_identifier: if foreign { "1" } else { SYSTEM }.to_owned(),
            clean,
            standby,
            timeline,
            checkpoint,
        },
    );
    prop_oneof![
        1 => Just(DataDir::Absent),
        4 => control.prop_map(DataDir::Present),
        1 => Just(DataDir::Spoiled),
        1 => Just(DataDir::Unreadable("no permission".to_owned())),
    ]
    .boxed()
}

fn process() -> impl Strategy<Value = Process> {
    prop_oneof![
        Just(Process::Absent),
        tick().prop_map(|since| Process::Starting { since }),
        Just(Process::Running),
        Just(Process::Stopping),
    ]
}

fn replication() -> BoxedStrategy<Replication> {
    let states = select(vec![SyncState::Async, SyncState::Potential, SyncState::Quorum, SyncState::Sync]);
    let standby = (name(), any::<bool>(), states, lsn()).prop_map(|(name, streaming, sync, at)| Standby {
        name: name.as_str().to_owned(),
        streaming,
        sync,
        write: at,
        flush: at,
        replay: at,
    });
    let names = select(vec!["", "", "pg1", "pg3", "2 (pg1,pg3)", "ANY 1 (pg1,pg3)", "*", "pg1 pg3"]);
    (names, vec(standby, 0..4))
        .prop_map(|(names, standbys)| Replication {
            names: names.to_owned(),
            confirms: Confirms::Flush,
            standbys,
        })
        .boxed()
}

fn sync_memory() -> BoxedStrategy<sync::Memory> {
    let value = select(vec![None, Some(""), Some("pg1"), Some("2 (pg1,pg3)"), Some("ANY 1 (pg1,pg3)")]);
    let names = (value, of((epoch(), lsn())))
        .prop_map(|(names, noted)| InForce { names: names.map(str::to_owned), noted });
    let settled = (epoch(), select(vec![Revision(3), SYNC_WRITTEN]));
    (of(settled), of(names), of(tick()), of(epoch()), of(tick()), of(tick()))
        .prop_map(|(settled, names, names_at, waits, started_at, leaving_since)| sync::Memory {
            settled,
            names,
            names_at,
            waits,
            started_at,
            leaving_since,
        })
        .boxed()
}

fn sql() -> BoxedStrategy<Sql> {
    let upstream = of(select(&NAMES[..]).prop_map(|n| (n.to_owned(), 5432)));
    let standby = (of(lsn()), any::<bool>(), upstream);
    (tick(), any::<bool>(), timeline(), lsn(), of(timeline()), standby, replication())
        .prop_map(|(asked_at, in_recovery, timeline, position, checkpointed, standby, replication)| Sql {
            asked_at,
            in_recovery,
            timeline,
            position,
            received: standby.0,
            replayed: standby.0,
            checkpointed,
            streaming: standby.1,
            upstream: standby.2,
            replication,
        })
        .boxed()
}

fn ongoing() -> BoxedStrategy<BTreeMap<Slot, Ongoing>> {
    let one = (select(&LABELS[..]), tick()).prop_map(|(what, since)| Ongoing { what, since });
    btree_map(select(&SLOTS[..]), one, 0..4).boxed()
}

fn guard() -> impl Strategy<Value = Guard> {
    prop_oneof![
        Just(Guard::Absent),
        Just(Guard::Idle),
        Just(Guard::Outdated),
        epoch().prop_map(|epoch| Guard::Armed { epoch }),
    ]
}

fn peers() -> BoxedStrategy<Peers> {
    let answered = (any::<bool>(), any::<bool>(), of(timeline()), lsn(), any::<bool>(), tags()).prop_map(
        |(is_primary, running, timeline, position, fresh, tags)| Peer::Answered {
            is_primary,
            running,
            timeline,
            position,
            fresh,
            tags,
        },
    );
    let peer = prop_oneof![1 => Just(Peer::Unreachable), 4 => answered];
    let asked = prop_oneof![1 => Just(Tick::ZERO), 4 => tick()];
    (asked, btree_map(name(), peer, 0..4)).prop_map(|(asked_at, answers)| Peers { asked_at, answers }).boxed()
}

pub(crate) fn a_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        Just(Request::Shutdown),
        (79_i64..82).prop_map(|r| Request::Operator(Revision(r))),
        (1_u64..3).prop_map(Request::Restart),
    ]
}

fn a_consent() -> impl Strategy<Value = Consent> {
    (tick(), ttl(), epoch()).prop_map(|(asked_at, ttl, epoch)| Consent { asked_at, ttl, epoch })
}

fn a_vouch() -> impl Strategy<Value = Vouch> {
    (name(), soon()).prop_map(|(leader, until)| Vouch { leader, until })
}

fn hand_over() -> BoxedStrategy<HandOver> {
    (a_request(), any::<bool>(), of((tick(), of(lsn()))))
        .prop_map(|(request, checkpointed, stopped)| HandOver { request, checkpointed, stopped })
        .boxed()
}

fn released() -> impl Strategy<Value = Released> {
    (epoch(), any::<bool>()).prop_map(|(epoch, done)| Released { epoch, done })
}

/// What operators asked of the loop.
fn wishes() -> BoxedStrategy<Memory> {
    let restart = (tick(), of(ttl()), any::<bool>(), of((tick(), of(lsn()))), any::<bool>());
    let restart = restart.prop_map(|(asked_at, timeout, checkpointed, stopped, failed)| Restart {
        id: 1,
        asked_at,
        timeout,
        checkpointed,
        stopped,
        failed,
    });
    let reinit = (tick(), any::<bool>(), any::<bool>());
    let reinit = reinit.prop_map(|(asked_at, from_leader, cloned)| Reinit { asked_at, from_leader, cloned });
    let schedule = select(vec!["2026-01-01T00:00:00Z", "2027-01-01T00:00:00+01:00", "soon"]);
    let scheduled = schedule.prop_map(|schedule| ScheduledRestart {
        schedule: schedule.to_owned(),
        postmaster_start_time: None,
        filters: Filters::default(),
        timeout: None,
    });
    let wall =
        (tick(), select(vec![WALL, WALL + 3_000, 0, i64::MAX])).prop_map(|(at, millis)| Wall { at, millis });
    (of(restart), of(reinit), of(scheduled), of(wall), any::<bool>())
        .prop_map(|(restart, reinit, scheduled_restart, wall, handed_over)| Memory {
            restart,
            reinit,
            scheduled_restart,
            wall,
            handed_over,
            ..Memory::default()
        })
        .boxed()
}

pub(crate) fn reigns() -> BoxedStrategy<Reigns> {
    let reign = (epoch(), name()).prop_map(|(epoch, leader)| Reign { epoch, leader });
    btree_map(timeline(), reign, 0..3).prop_map(Reigns).boxed()
}

fn descent() -> BoxedStrategy<Descent> {
    (reigns(), btree_map(timeline(), epoch(), 0..3))
        .prop_map(|(known, followed)| Descent { known, followed })
        .boxed()
}

fn memory() -> BoxedStrategy<Memory> {
    let pause = (soon(), 1_u32..40).prop_map(|(until, failures)| Pause { until, failures });
    (
        of(a_consent()),
        of(tick()),
        of(a_vouch()),
        of(tick()),
        (of(name()), any::<bool>()),
        (of(tick()), of(tick())),
        (of(hand_over()), of(released()), wishes()),
        any::<bool>(),
        (0_i64..12).prop_map(Revision),
        of(tick()),
        (
            btree_map(select(&SLOTS[..]), pause, 0..3),
            descent(),
            of(epoch()),
            of((epoch(), tick())),
            sync_memory(),
        ),
    )
        .prop_map(
            |(
                consent,
                consent_asked_at,
                vouch,
                leaderless_since,
                (last_leader, led_by_patroni),
                (crashed_at, down_since),
                (hand_over, released, wishes),
                shutdown,
                gave_up_bootstrap,
                not_streaming_since,
                (pauses, descent, parted, leader_since, sync),
            )| Memory {
                consent,
                consent_asked_at,
                vouch,
                leaderless_since,
                last_leader,
                led_by_patroni,
                crashed_at,
                down_since,
                hand_over,
                released,
                shutdown,
                gave_up_bootstrap,
                not_streaming_since,
                pauses,
                descent,
                parted,
                leader_since,
                sync,
                slots_to_copy: if gave_up_bootstrap.0 % 2 == 0 {
                    ["sub".to_owned()].into()
                } else {
                    [].into()
                },
                ..wishes
            },
        )
        .boxed()
}

fn settings() -> BoxedStrategy<ClusterSettings> {
    let timeout = select(vec![ms(0), ms(500), ms(300_000)]);
    let lag = select(vec![0, 1, 1_048_576, u64::MAX]);
    let mode = select(vec![SynchronousMode::Off, SynchronousMode::On, SynchronousMode::Quorum]);
    let section = StandbyCluster { host: Some("far".to_owned()), ..StandbyCluster::default() };
    let standby = prop_oneof![9 => Just(None), 1 => Just(Some(section))];
    let backoff = select(vec![ms(0), ms(2000)]);
    (any::<bool>(), any::<bool>(), (mode, any::<bool>()), timeout, lag, ttl(), standby, backoff)
        .prop_map(
            |(
                pause,
                failsafe_mode,
                (synchronous_mode, synchronous_mode_strict),
                primary_start_timeout,
                maximum_lag_on_failover,
                ttl,
                standby_cluster,
                primary_race_backoff,
            )| {
                ClusterSettings {
                    standby_cluster,
                    primary_race_backoff,
                    check_timeline: ttl.is_zero(),
                    ttl,
                    pause,
                    failsafe_mode,
                    synchronous_mode,
                    synchronous_mode_strict,
                    primary_start_timeout,
                    maximum_lag_on_failover,
                    ..ClusterSettings::default()
                }
            },
        )
        .boxed()
}

/// What keeps a node from leading besides its data.
type Limits = (Abilities, Option<Tick>, u32, Option<Progress>);

fn limits() -> BoxedStrategy<Limits> {
    let abilities = (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(clones_alone, watchdog_failed, begins_nothing)| Abilities {
            clones_alone,
            watchdog_failed,
            begins_nothing,
        },
    );
    let failed = (any::<bool>(), tick()).prop_map(|(custom, at)| Progress::Failed { custom, at });
    let progress = prop_oneof![Just(Progress::Initdb), Just(Progress::Recovery), failed];
    (abilities, of(tick()), 0_u32..4, of(progress)).boxed()
}

fn limit(world: &mut World, limits: Limits) {
    (world.abilities, world.memory.pre_promote_failed, world.memory.failed_starts, world.memory.bootstrap) =
        limits;
}

fn timing() -> impl Strategy<Value = Timing> {
    select(vec![ms(3000), ms(10_000), ms(60_000)])
        .prop_map(|ttl| Timing::derive(ttl, &TimingOverrides::default()).expect("fits"))
}

fn anything() -> BoxedStrategy<World> {
    let role = select(vec![LocalRole::Primary, LocalRole::Standby, LocalRole::Unknown]);
    let local = (data(), process(), role, of(sql()), ongoing(), guard());
    (dcs(), own_lease(), local, peers(), memory(), settings(), (tags(), limits()), timing())
        .prop_map(|(dcs, lease, local, peers, memory, settings, (tags, limits), timing)| {
            let (data, process, role, sql, ongoing, guard) = local;
            let mut world = following();
            world.dcs = dcs;
            world.lease = lease;
            world.local.data = data;
            world.local.process = process;
            world.local.role = role;
            world.local.sql = sql;
            world.local.ongoing = ongoing;
            world.local.guard = guard;
            world.peers = peers;
            world.memory = memory;
            world.settings = settings;
            world.tags = tags;
            world.timing = timing;
            limit(&mut world, limits);
            world
        })
        .boxed()
}

// Whole worlds: a likely one in which some parts are replaced by anything.

/// Likely worlds, one for each situation that decisions of consequence are taken in.
fn bases() -> Vec<World> {
    let mut bases = vec![following(), leading(), leaderless(), empty()];
    let mut won = following();
    edit(&mut won, |view| lead(view, ME, LEASE));
    won.local.guard = Guard::Armed { epoch: EPOCH };
    won.memory.last_leader = Some(ME.into());
    bases.push(won.clone());
    won.local.guard = Guard::Idle;
    won.settings.pause = true;
    request(&mut won, None, Some(ME));
    bases.push(won.clone());
    let mut crashed = leading();
    stopped(&mut crashed, DataDir::Present(control(false, false)));
    crashed.memory.crashed_at = Some(NOW - ms(50));
    bases.push(crashed.clone());
    store_away(&mut crashed);
    bases.push(crashed.clone());
    let mut cut_off = leading();
    store_away(&mut cut_off);
    cut_off.settings.failsafe_mode = true;
    bases.push(cut_off.clone());
    renewed(&mut cut_off, ms(5000));
    cut_off.memory.consent = Some(consent(&cut_off, ms(100)));
    bases.push(cut_off);
    let mut adopting = leading();
    edit(&mut adopting, |view| lead(view, ME, OTHER_LEASE));
    bases.push(adopting);
    for by in [Request::Operator(REQUESTED), Request::Shutdown] {
        let mut switching = leading();
        request(&mut switching, Some(ME), None);
        switching.memory.shutdown = by == Request::Shutdown;
        switching.peers.asked_at = NOW - ms(100);
        switching.peers.answers.insert("pg3".into(), standby_at(HEAD));
        bases.push(switching.clone());
        let prepared = HandOver { request: by, checkpointed: true, stopped: None };
        switching.memory.hand_over = Some(prepared);
        bases.push(switching.clone());
        stopped(&mut switching, DataDir::Present(control(false, true)));
        switching.memory.hand_over = Some(handed_over(&switching, by, ms(200), Some(HEAD)));
        bases.push(switching.clone());
        switching.memory.hand_over = Some(handed_over(&switching, by, ms(2500), Some(HEAD)));
        switching.peers = Peers::default();
        bases.push(switching);
    }
    let mut released = leaderless();
    edit(&mut released, |view| {
        let record = MemberRecord::new(MemberState::Stopped, MemberRole::Demoted);
        view.members.insert("pg1".into(), Member { record, lease: Some(OTHER_LEASE) });
    });
    bases.push(released);
    let mut fresh = leaderless();
    stopped(&mut fresh, DataDir::Present(control(false, true)));
    edit(&mut fresh, |view| view.status = None);
    bases.push(fresh);
    let mut replaced = following();
    stopped(&mut replaced, DataDir::Absent);
    bases.push(replaced);
    let mut bootstrapping = empty();
    claimed(&mut bootstrapping, 9);
    bases.push(bootstrapping);
    bases.extend(wished());
    for mode in [SynchronousMode::On, SynchronousMode::Quorum, SynchronousMode::Off] {
        let mut synchronous = leading();
        synchronous.settings.synchronous_mode = mode;
        bases.push(synchronous.clone());
        let rule = SyncRecord { leader: Some(ME.into()), quorum: 0, sync_standby: None };
        edit(&mut synchronous, |view| {
            view.sync = Some(Versioned { value: rule, mod_revision: SYNC_WRITTEN });
        });
        synchronous.memory.sync.settled = Some((EPOCH, SYNC_WRITTEN));
        let sql = synchronous.local.sql.as_mut().expect("answers");
        sql.replication.standbys = ["pg1", "pg3"]
            .map(|name| Standby {
                name: name.to_owned(),
                streaming: true,
                sync: SyncState::Sync,
                write: HEAD,
                flush: HEAD,
                replay: HEAD,
            })
            .into();
        bases.push(synchronous.clone());
        synchronous.local.sql.as_mut().expect("answers").replication.names.push_str("pg1");
        let names = InForce { names: Some("pg1".to_owned()), noted: Some((EPOCH, HEAD)) };
        synchronous.memory.sync.names = Some(names);
        bases.push(synchronous);
    }
    let mut copying = following();
    copying.memory.slots_to_copy = ["sub".to_owned()].into();
    bases.push(copying);
    for mut far in [leading(), won] {
        far.settings.standby_cluster =
            Some(StandbyCluster { host: Some("far".to_owned()), ..StandbyCluster::default() });
        bases.push(far);
    }
    let mut leaving = following();
    stopped(&mut leaving, DataDir::Present(control(true, true)));
    leaving.memory.shutdown = true;
    bases.push(leaving);
    bases
}

/// What operators asked for, each on its way.
fn wished() -> Vec<World> {
    let mut all = Vec::new();
    for mut world in [leading(), following()] {
        world.memory.restart = Some(a_restart());
        all.push(world.clone());
        world.memory.restart = Some(Restart { checkpointed: true, ..a_restart() });
        all.push(world.clone());
        let standby = world.local.role == LocalRole::Standby;
        stopped(&mut world, DataDir::Present(control(standby, true)));
        let after = Restart { checkpointed: true, stopped: Some((NOW - ms(20), Some(HEAD))), ..a_restart() };
        world.memory.restart = Some(after);
        all.push(world.clone());
        world.settings.pause = true;
        world.local.guard = Guard::Idle;
        all.push(world);
    }
    let mut renewed = following();
    renewed.memory.reinit = Some(Reinit { asked_at: NOW - ms(10), from_leader: true, cloned: false });
    all.push(renewed.clone());
    stopped(&mut renewed, DataDir::Present(control(true, false)));
    all.push(renewed);
    let mut due = leading();
    request(&mut due, Some(ME), Some("pg3"));
    edit(&mut due, |view| {
        view.failover.as_mut().expect("a request").value.scheduled_at = Some(SCHEDULED.to_owned());
    });
    due.memory.wall = Some(Wall { at: NOW, millis: WALL });
    all.push(due);
    all
}

/// How many parts [`replace`] knows.
const PARTS: usize = 46;

/// Replaces part number `part` of `world` by that of `other`.
fn replace(world: &mut World, other: &World, part: usize) {
    let nothing = ClusterView::default();
    let theirs = other.dcs.last_view().unwrap_or(&nothing).clone();
    let has_view = world.dcs.last_view().is_some();
    match part {
        0 => world.dcs = other.dcs.clone(),
        1 => store_away(world),
        2..12 if !has_view => {}
        2 => edit(world, |v| v.leader = theirs.leader),
        3 => edit(world, |v| v.leader = None),
        4 => edit(world, |v| {
            v.initialize = theirs.initialize;
            v.initialize_revision = theirs.initialize_revision;
            v.bootstrap = theirs.bootstrap;
        }),
        5 => edit(world, |v| v.config = theirs.config),
        6 => edit(world, |v| v.members = theirs.members),
        7 => edit(world, |v| v.status = theirs.status),
        8 => edit(world, |v| v.history = theirs.history),
        9 => edit(world, |v| v.failover = theirs.failover),
        10 => edit(world, |v| v.sync = theirs.sync),
        11 => edit(world, |v| v.failsafe = theirs.failsafe),
        12 => world.lease = other.lease,
        13 => renewed(world, world.now.since(other.memory.consent_asked_at.unwrap_or(NOW))),
        14 => world.local.data = other.local.data.clone(),
        15 => world.local.process = other.local.process,
        16 => world.local.role = other.local.role,
        17 => world.local.sql.clone_from(&other.local.sql),
        18 => world.local.ongoing.clone_from(&other.local.ongoing),
        19 => world.local.guard = other.local.guard,
        20 => world.peers = other.peers.clone(),
        21 => world.memory.consent = other.memory.consent,
        22 => world.memory.consent_asked_at = other.memory.consent_asked_at,
        23 => world.memory.vouch.clone_from(&other.memory.vouch),
        24 => world.memory.leaderless_since = other.memory.leaderless_since,
        25 => {
            world.memory.last_leader.clone_from(&other.memory.last_leader);
            world.memory.led_by_patroni = other.memory.led_by_patroni;
        }
        26 => {
            world.memory.crashed_at = other.memory.crashed_at;
            world.memory.down_since = other.memory.down_since;
        }
        27 => {
            world.memory.hand_over = other.memory.hand_over;
            world.memory.released = other.memory.released;
        }
        28 => world.memory.shutdown = other.memory.shutdown,
        29 => world.memory.gave_up_bootstrap = other.memory.gave_up_bootstrap,
        30 => world.memory.not_streaming_since = other.memory.not_streaming_since,
        31 => world.memory.pauses.clone_from(&other.memory.pauses),
        32 => world.settings.pause = other.settings.pause,
        33 => world.settings.failsafe_mode = other.settings.failsafe_mode,
        34 => world.settings.synchronous_mode = other.settings.synchronous_mode,
        35 => world.settings.primary_start_timeout = other.settings.primary_start_timeout,
        36 => world.settings.maximum_lag_on_failover = other.settings.maximum_lag_on_failover,
        37 => world.settings.ttl = other.settings.ttl,
        38 => world.tags = other.tags.clone(),
        39 => world.timing = other.timing,
        40 => {
            world.memory.restart = other.memory.restart;
            world.memory.scheduled_restart.clone_from(&other.memory.scheduled_restart);
            world.memory.wall = other.memory.wall;
        }
        41 => {
            world.memory.reinit = other.memory.reinit;
            world.memory.handed_over = other.memory.handed_over;
        }
        42 => world.abilities = other.abilities,
        43 => {
            let memory = &other.memory;
            let limits = (memory.pre_promote_failed, memory.failed_starts, memory.bootstrap);
            limit(world, (world.abilities, limits.0, limits.1, limits.2));
        }
        44 => world.memory.sync.clone_from(&other.memory.sync),
        45 => world.settings.synchronous_mode_strict = other.settings.synchronous_mode_strict,
        _ => unreachable!("there are {PARTS} parts"),
    }
}

pub(crate) fn world() -> BoxedStrategy<World> {
    let parts = |chance| vec(prop::bool::weighted(chance), PARTS);
    let mix = (select(bases()), anything(), prop_oneof![3 => parts(0.06), 1 => parts(0.3)]).prop_map(
        |(mut base, other, parts)| {
            for (part, _) in parts.iter().enumerate().filter(|(_, taken)| **taken) {
                replace(&mut base, &other, part);
            }
            base
        },
    );
    prop_oneof![5 => mix, 1 => anything()].boxed()
}
