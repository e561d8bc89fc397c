//! Wishes that are refused, and how the others end.

use serde_json::json;

use super::super::fixture::{PAIR, view};
use super::*;
use Kind::{Failover, Switchover};

fn with(extra: &[(&str, &str)]) -> ClusterView {
    view(&PAIR.iter().chain(extra).copied().collect::<Vec<_>>())
}

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn judge(kind: Kind, body: &Value, view: &ClusterView) -> Result<Vec<(NodeName, String)>, (u16, String)> {
    let judged = parse(kind, body, view, NOW).and_then(|wish| candidates(&wish, view));
    judged.map_err(|Refused(status, text)| (status.as_u16(), text))
}

#[test]
fn what_patronictl_users_are_told() {
    let plain = view(PAIR);
    let paused = with(&[("config", r#"{"pause":true}"#)]);
    let sync = with(&[
        ("config", r#"{"synchronous_mode":true}"#),
        ("sync", r#"{"leader":"a","sync_standby":null}"#),
    ]);
    let alone = view(&[
        ("leader", "a"),
        ("members/a", r#"{"state":"running","role":"primary","api_url":"http://x"}"#),
    ]);
    for (kind, body, view, expected) in [
        (
            Failover,
            json!({"leader": "a"}),
            &plain,
            (400, "Failover could be performed only to a specific candidate"),
        ),
        (
            Switchover,
            json!({"candidate": "b"}),
            &plain,
            (400, "Switchover could be performed only from a specific leader"),
        ),
        (
            Failover,
            json!({"candidate": "b", "scheduled_at": "2027-01-01T00:00Z"}),
            &plain,
            (400, "Failover can't be scheduled"),
        ),
        (
            Switchover,
            json!({"leader": "a", "scheduled_at": "x"}),
            &paused,
            (400, "Can't schedule switchover in the paused state"),
        ),
        (
            Switchover,
            json!({"leader": "a", "scheduled_at": "1970-01-01T00:00:01"}),
            &plain,
            (400, "Timezone information is mandatory for the scheduled switchover"),
        ),
        (
            Switchover,
            json!({"leader": "a", "scheduled_at": "1969-12-31T23:59:59Z"}),
            &plain,
            (422, "Cannot schedule switchover in the past"),
        ),
        (
            Switchover,
            json!({"leader": "a", "scheduled_at": "soon"}),
            &plain,
            (
                422,
                "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601",
            ),
        ),
        (
            Switchover,
            json!({"leader": "a"}),
            &paused,
            (400, "Switchover is possible only to a specific candidate in a paused state"),
        ),
        (
            Switchover,
            json!({"leader": "a", "candidate": "a"}),
            &plain,
            (400, "Switchover target and source are the same"),
        ),
        (Switchover, json!({"leader": "b"}), &plain, (412, "leader name does not match")),
        (Switchover, json!({"leader": "a", "member": "z"}), &plain, (412, "candidate does not exists")),
        (
            Switchover,
            json!({"leader": "a", "candidate": "b"}),
            &sync,
            (412, "candidate name does not match with sync_standby"),
        ),
        (
            Switchover,
            json!({"leader": "a"}),
            &sync,
            (412, "switchover is not possible: can not find sync_standby"),
        ),
        (
            Switchover,
            json!({"leader": "a"}),
            &alone,
            (412, "switchover is not possible: cluster does not have members except leader"),
        ),
    ] {
        let refused = judge(kind, &body, view).expect_err("must be refused");
        assert_eq!((refused.0, refused.1.as_str()), expected, "{kind:?} {body}");
    }
}

#[test]
fn what_is_allowed_asks_the_right_members() {
    let b = vec![("b".into(), "http://10.0.0.2:8008/patroni".to_owned())];
    assert_eq!(judge(Kind::Switchover, &json!({"leader": "a"}), &view(PAIR)), Ok(b.clone()));
    assert_eq!(judge(Kind::Failover, &json!({"candidate": "b"}), &view(PAIR)), Ok(b.clone()));
    // A manual failover is the operator's override of the synchronous rule.
    let sync = with(&[
        ("config", r#"{"synchronous_mode":true}"#),
        ("sync", r#"{"leader":"a","sync_standby":null}"#),
    ]);
    assert_eq!(judge(Kind::Failover, &json!({"candidate": "b"}), &sync), Ok(b));
}

#[test]
fn a_scheduled_switchover_is_kept_in_utc() {
    let body = json!({"leader": "a", "candidate": "b", "scheduled_at": "1970-01-01T03:00:00+02:00"});
    let wish = parse(Switchover, &body, &view(PAIR), NOW).expect("allowed");
    assert_eq!(wish.scheduled_at.as_deref(), Some("1970-01-01T01:00:00+00:00"));
    for none in [json!(null), json!("")] {
        let body = json!({"leader": "a", "scheduled_at": none});
        assert_eq!(parse(Switchover, &body, &view(PAIR), NOW).map(|w| w.scheduled_at), Ok(None));
    }
}

fn ends(view: &ClusterView, candidate: Option<&str>) -> Option<Result<String, String>> {
    let candidate = candidate.map(NodeName::from);
    let wish = Wish { kind: Kind::Switchover, leader: Some("a".into()), candidate, scheduled_at: None };
    let end = outcome(view, &wish, Some(&"a".into()), Revision(100));
    end.map(|end| end.map_err(|Refused(_, text)| text))
}

#[test]
fn a_wish_ends_when_the_new_leader_serves() {
    let wanted = ("failover", r#"{"leader":"a","member":"b"}"#);
    assert_eq!(ends(&with(&[wanted]), Some("b")), None);
    let mut not_yet_seen = view(PAIR);
    not_yet_seen.revision = Revision(99);
    assert_eq!(ends(&not_yet_seen, Some("b")), None);
    // The key alone is not enough.
    assert_eq!(ends(&with(&[("leader", "b")]), Some("b")), None);
    let serving = [("leader", "b"), ("members/b", r#"{"state":"running","role":"primary"}"#)];
    assert_eq!(ends(&with(&serving), Some("b")), Some(Ok("Successfully switched over to \"b\"".to_owned())));
    let other = "Switched over to \"b\" instead of \"c\"".to_owned();
    assert_eq!(ends(&with(&serving), Some("c")), Some(Ok(other)));
    assert_eq!(ends(&view(PAIR), None), Some(Err("Switchover failed".to_owned())));
}
