//! The race: two nodes that judge each other.

use std::time::Duration;

use pgvane_agent::decide::candidate::{self, Verdict};
use pgvane_agent::decide::world::{Peer, Peers, Sql, World};
use pgvane_cluster::ids::{Lsn, Timeline};
use pgvane_cluster::records::{MemberRecord, MemberRole, MemberState, StatusRecord, Tags};
use pgvane_cluster::settings::SynchronousMode;
use pgvane_cluster::view::Member;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

use crate::CASES;
use crate::decide_support::{ME, OTHER_LEASE, edit, leaderless, member, ms, standby_sql};
use crate::worlds::{failover, history, lsn, sync, tags};

/// Where a racer stands.
#[derive(Clone, Debug)]
struct Stand {
    timeline: Timeline,
    position: Lsn,
    tags: Tags,
}

fn stand() -> impl Strategy<Value = Stand> {
    (1_u32..4, lsn(), tags()).prop_map(|(timeline, position, tags)| Stand {
        timeline: Timeline(timeline),
        position,
        tags,
    })
}

/// The world of `me`, `elapsed` after the leader was gone, which knows all about `rival`.
fn racer(base: &World, me: (&str, &Stand), rival: (&str, &Stand), elapsed: Duration) -> World {
    let mut world = base.clone();
    world.me = me.0.into();
    world.tags = me.1.tags.clone();
    world.memory.leaderless_since = Some(world.now - elapsed);
    world.local.sql =
        Some(Sql { timeline: me.1.timeline, position: me.1.position, streaming: false, ..standby_sql() });
    let answer = Peer::Answered {
        is_primary: false,
        running: true,
        timeline: Some(rival.1.timeline),
        position: rival.1.position,
        fresh: true,
        tags: rival.1.tags.clone(),
    };
    world.peers =
        Peers { asked_at: world.now - elapsed.min(ms(100)), answers: [(rival.0.into(), answer)].into() };
    for (name, stand) in [me, rival] {
        member(&mut world, name, |record| {
            record.tags = stand.tags.clone();
            record.timeline = Some(stand.timeline);
            record.xlog_location = Some(stand.position);
        });
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    /// The order is total: of two that know each other's position only one campaigns, but for equals once the
    /// turn of the one that goes first has passed (it may have died); then the store lets one win.
    #[test]
    fn of_two_that_judge_each_other_one_campaigns(
        ours in stand(),
        theirs in stand(),
        same in any::<bool>(),
        parts in (of(history()), of(failover()), of(sync()), lsn()),
        modes in (any::<bool>(), select(vec![SynchronousMode::Off, SynchronousMode::On, SynchronousMode::Quorum]), any::<bool>()),
        elapsed in prop_oneof![0_u64..100, 0_u64..2999],
    ) {
        let theirs = if same { Stand { tags: theirs.tags, ..ours.clone() } } else { theirs };
        let (history, failover, sync, optime) = parts;
        let (clean, synchronous_mode, failsafe_mode) = modes;
        let mut base = leaderless();
        base.settings.synchronous_mode = synchronous_mode;
        // A former leader that is ahead keeps nobody from the race who surely holds all that was acknowledged.
        let led = |name: &str| {
            synchronous_mode.is_on() && sync.as_ref().is_some_and(|s| s.value.leader == Some(name.into()))
        };
        let led_by_one = led(ME) || led("pg3");
        base.settings.failsafe_mode = failsafe_mode;
        edit(&mut base, |view| {
            view.history = history;
            view.failover = failover;
            view.sync = sync;
            view.status = Some(StatusRecord { optime, ..StatusRecord::default() });
            if clean {
                let record = MemberRecord::new(MemberState::Stopped, MemberRole::Demoted);
                view.members.insert("pg1".into(), Member { record, lease: Some(OTHER_LEASE) });
            }
        });
        let judge = |me, rival| {
            let world = racer(&base, me, rival, ms(elapsed));
            let view = world.dcs.last_view().expect("has one");
            candidate::judge(&world, view)
        };
        let verdicts = (judge((ME, &ours), ("pg3", &theirs)), judge(("pg3", &theirs), (ME, &ours)));
        if verdicts == (Verdict::Campaign, Verdict::Campaign) {
            let place = |s: &Stand| (s.timeline, s.position);
            let has_all = |s: &Stand| clean && s.position >= optime;
            let same_line = ours.timeline == theirs.timeline;
            let equal = place(&ours) == place(&theirs) || same_line && has_all(&ours) && has_all(&theirs);
            prop_assert!(equal || led_by_one, "the one behind campaigns against {ours:?} and {theirs:?}");
            prop_assert!(elapsed >= 100 || led_by_one, "both at once after {elapsed} ms");
        }
    }
}
