//! Which slots a node should have, case by case.

use std::time::Duration;

use pgvane_cluster::ids::{Epoch, Timeline};
use pgvane_cluster::records::{MemberRole, MemberState, NativeMember, StatusRecord};
use pgvane_cluster::reigns::{Reign, Reigns};
use pgvane_cluster::settings::{PermanentSlot, StandbyCluster};
use pgvane_cluster::view::{LeaderKey, Member};
use serde_json::{Value, json};

use super::*;

/// Members by their tags; `a` leads, and its slots are where the key says.
struct World {
    view: ClusterView,
    settings: ClusterSettings,
    retained: BTreeSet<String>,
    descent: Descent,
}

fn tags(tags: &Value) -> Tags {
    serde_json::from_value(tags.clone()).expect("tags")
}

fn world(members: &[(&str, Value)]) -> World {
    let mut view = ClusterView {
        leader: Some(LeaderKey { name: "a".into(), epoch: Epoch(1), lease: None }),
        ..ClusterView::default()
    };
    for (name, of) in members {
        let mut record = MemberRecord::new(MemberState::Running, MemberRole::Replica);
        record.tags = tags(of);
        record.xlog_location = Some(Lsn(100));
        view.members.insert((*name).into(), Member { record, lease: None });
    }
    let slots = ["a", "b", "c", "gone", "perm"].map(|name| (name.to_owned(), Lsn(90)));
    view.status = Some(StatusRecord { slots: Some(slots.into()), ..StatusRecord::default() });
    World {
        view,
        settings: ClusterSettings::default(),
        retained: BTreeSet::new(),
        descent: Descent::default(),
    }
}

fn of<'a>(w: &'a World, me: &'a NodeName, leads: bool) -> Basis<'a> {
    Basis {
        me,
        tags: &w.view.members[me].record.tags,
        leads,
        view: &w.view,
        settings: &w.settings,
        retained: &w.retained,
        descent: &w.descent,
    }
}

fn wanted(w: &World, me: &str) -> Wanted {
    of(w, &me.into(), me == "a").wanted()
}

fn names(w: &World, me: &str) -> String {
    wanted(w, me).into_keys().collect::<Vec<_>>().join(" ")
}

fn physical(active: Option<bool>, place: Option<u64>) -> Slot {
    Slot::Physical { active, place: place.map(Lsn), create: true }
}

fn three() -> World {
    world(&[("a", json!({})), ("b", json!({})), ("c", json!({}))])
}

#[test]
fn everybody_who_may_lead_keeps_a_slot_for_everybody_else() {
    let w = three();
    assert_eq!((names(&w, "a"), names(&w, "b"), names(&w, "c")), ("b c".into(), "a c".into(), "a b".into()));
    assert_eq!(wanted(&w, "a")["b"], physical(Some(true), None));
    assert_eq!(wanted(&w, "b")["c"], physical(Some(false), Some(90)));
    let off = World { settings: ClusterSettings::default(), ..three() };
    let mut none = off;
    none.settings.postgresql.use_slots = false;
    none.settings.slots =
        [("perm".to_owned(), PermanentSlot { kind: SlotKind::Physical, on: SlotsOn::Any })].into();
    assert_eq!(names(&none, "a"), "");
}

#[test]
fn who_never_leads_keeps_slots_for_those_behind_it_and_nobody_for_an_archive() {
    let mut w = world(&[
        ("a", json!({})),
        ("b", json!({"nofailover": true})),
        ("c", json!({"replicatefrom": "b"})),
        ("d", json!({"nostream": true})),
    ]);
    w.retained = ["gone".to_owned()].into();
    assert_eq!(names(&w, "a"), "b c gone");
    assert_eq!(names(&w, "b"), "c");
    assert_eq!(names(&w, "c"), "a b gone");
    assert_eq!(wanted(&w, "b")["c"], physical(Some(true), Some(90)));
    // It takes its WAL from b, so a needs to keep none from before what it has; a dead b is another matter.
    assert_eq!(wanted(&w, "a")["c"], physical(Some(false), Some(100)));
    assert_eq!(wanted(&w, "a")["b"], physical(Some(true), None));
    assert_eq!(wanted(&w, "a")["gone"], physical(None, None));
    assert_eq!(wanted(&w, "c")["gone"], physical(None, Some(90)));
}

#[test]
fn our_own_name_is_kept_by_the_others() {
    let mut w = three();
    w.retained = ["b".to_owned(), "gone".to_owned()].into();
    assert_eq!(names(&w, "b"), "a c gone");
}

#[test]
fn with_no_time_to_keep_them_only_those_that_stream_from_here_have_slots() {
    let mut w = world(&[
        ("a", json!({})),
        ("b", json!({})),
        ("c", json!({"replicatefrom": "b"})),
        ("d", json!({"replicatefrom": "nobody"})),
    ]);
    w.settings.member_slots_ttl = Duration::ZERO;
    w.retained = ["gone".to_owned()].into();
    assert_eq!((names(&w, "a"), names(&w, "b"), names(&w, "c")), ("b d".into(), "c".into(), String::new()));
}

#[test]
fn a_member_of_another_history_gets_no_slot_to_stream_by() {
    let mut w = three();
    let begun = |leader: &str| Reign { epoch: Epoch(9), leader: leader.into() };
    w.descent.known = Reigns([(Timeline(2), begun("a"))].into());
    let record = &mut w.view.members.get_mut(&NodeName::from("b")).expect("b").record;
    record.timeline = Some(Timeline(2));
    let native = |reign| Some(NativeMember { reign, ..NativeMember::default() });
    record.pgvane = native(Some(begun("b")));
    assert!(matches!(wanted(&w, "a")["b"], Slot::Physical { create: false, .. }));
    for same in [native(Some(begun("a"))), native(None), None] {
        w.view.members.get_mut(&NodeName::from("b")).expect("b").record.pgvane = same;
        assert_eq!(wanted(&w, "a")["b"], physical(Some(true), None));
    }
}

#[test]
fn permanent_slots_are_on_all_who_may_lead() {
    let mut w = world(&[("a", json!({})), ("b", json!({})), ("c", json!({"nofailover": true}))]);
    let slot = |kind: &SlotKind, on| PermanentSlot { kind: kind.clone(), on };
    let logical = SlotKind::Logical { database: "d".to_owned(), plugin: "p".to_owned() };
    w.settings.slots = [
        ("perm".to_owned(), slot(&SlotKind::Physical, SlotsOn::Any)),
        ("first".to_owned(), slot(&SlotKind::Physical, SlotsOn::Primary)),
        ("second".to_owned(), slot(&SlotKind::Physical, SlotsOn::Standby)),
        ("sub".to_owned(), slot(&logical, SlotsOn::Any)),
        ("c".to_owned(), slot(&logical, SlotsOn::Any)),
        ("b".to_owned(), slot(&SlotKind::Physical, SlotsOn::Any)),
    ]
    .into();
    assert_eq!(names(&w, "a"), "b c first perm sub");
    assert_eq!(names(&w, "b"), "a c first perm sub", "none for the member of that name");
    assert_eq!(names(&w, "c"), "");
    let sub = |place| Slot::Logical { database: "d".to_owned(), plugin: "p".to_owned(), place };
    assert_eq!(wanted(&w, "a")["sub"], sub(None));
    assert_eq!(wanted(&w, "b")["perm"], physical(None, Some(90)));
    assert_eq!(wanted(&w, "a")["c"], physical(Some(true), None), "a member's slot is physical");
    assert_eq!(of(&w, &"a".into(), true).misnamed(), ["c"]);

    w.settings.standby_cluster = Some(StandbyCluster::default());
    assert_eq!(names(&w, "a"), "b c perm second");
}

#[test]
fn logical_slots_are_not_where_wal_comes_by_archive() {
    let mut w = world(&[
        ("a", json!({})),
        ("b", json!({"nostream": true})),
        ("c", json!({"replicatefrom": "b"})),
        ("d", json!({})),
    ]);
    let kind = SlotKind::Logical { database: "d".to_owned(), plugin: "p".to_owned() };
    w.settings.slots = [("sub".to_owned(), PermanentSlot { kind, on: SlotsOn::Any })].into();
    let has = |w: &World, me: &str| wanted(w, me).contains_key("sub");
    assert_eq!(["a", "b", "c", "d"].map(|me| has(&w, me)), [true, false, false, true]);
}

#[test]
fn the_key_tells_of_slots_that_are_the_clusters() {
    let w = three();
    let there = [("b", Some(7)), ("mine", Some(8)), ("c", None)];
    let there: Vec<_> = there.map(|(name, at)| (name.to_owned(), at.map(Lsn))).into();
    let told = |w: &World| published(&there, &wanted(w, "a"), &w.settings, &"a".into(), Lsn(50));
    assert_eq!(told(&w), [("a".to_owned(), Lsn(50)), ("b".to_owned(), Lsn(7))].into());
    let mut brief = three();
    brief.settings.member_slots_ttl = Duration::ZERO;
    assert_eq!(told(&brief), [("a".to_owned(), Lsn(50))].into());
}

#[test]
fn rows_are_kept_for_logical_slots_along_the_whole_way() {
    let mut w = world(&[
        ("a", json!({})),
        ("b", json!({"nofailover": true})),
        ("c", json!({"replicatefrom": "b"})),
        ("d", json!({"nofailover": true})),
    ]);
    let wants = |w: &World, me: &str| {
        let me = NodeName::from(me);
        wants_feedback(&w.view, &w.settings, &me, &w.view.members[&me].record.tags)
    };
    assert_eq!(["b", "c"].map(|me| wants(&w, me)), [false, false]);
    let kind = SlotKind::Logical { database: "d".to_owned(), plugin: "p".to_owned() };
    w.settings.slots = [("sub".to_owned(), PermanentSlot { kind, on: SlotsOn::Any })].into();
    assert_eq!(["b", "c", "d"].map(|me| wants(&w, me)), [true, true, false]);
    w.settings.standby_cluster = Some(StandbyCluster::default());
    assert_eq!(["b", "c", "d"].map(|me| wants(&w, me)), [false, false, false]);
}
