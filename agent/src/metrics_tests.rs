//! The page as Prometheus reads it.

use super::*;
use crate::api::fixture::{NOW, PAIR, leader, replica, view};

fn value(page: &str, name: &str) -> String {
    let sample =
        page.lines().find(|l| l.starts_with(&format!("{name}{{"))).unwrap_or_else(|| panic!("no {name}"));
    sample.rsplit(' ').next().expect("a value").to_owned()
}

#[test]
fn every_series_has_help_type_and_labels() {
    let page = render(&leader(view(PAIR)), None, NOW);
    let mut announced = "";
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            announced = rest.split(' ').next().expect("a name");
        } else if !line.starts_with("# HELP ") {
            assert!(line.starts_with(&format!("{announced}{{scope=\"demo\",name=\"a\"")), "{line}");
            let number = line.rsplit(' ').next().expect("a value");
            assert!(number.parse::<f64>().is_ok(), "{line}");
        }
    }
}

#[test]
fn a_leader_and_a_replica() {
    let page = render(&leader(view(PAIR)), None, NOW);
    for (name, expected) in [
        ("patroni_version", "040104"),
        ("patroni_primary", "1"),
        ("patroni_xlog_location", "1000"),
        ("patroni_postmaster_start_time", "1795514400.5"),
        ("patroni_postgres_state", "5"),
        ("patroni_postgres_timeline", "3"),
        ("patroni_cluster_unlocked", "0"),
        ("pgvane_agent_lease_left_seconds", "20"),
        ("pgvane_agent_lease_renewal_age_seconds", "2"),
        ("pgvane_agent_epoch", "2"),
    ] {
        assert_eq!(value(&page, name), expected, "{name}");
    }
    let mut lapsed = replica(view(PAIR));
    lapsed.renewed_at = None;
    assert_eq!(value(&render(&lapsed, None, NOW), "pgvane_agent_lease_renewal_age_seconds"), "-1");
    let page = render(&replica(view(PAIR)), None, NOW);
    for (name, expected) in [
        ("patroni_primary", "0"),
        ("patroni_replica", "1"),
        ("patroni_xlog_replayed_location", "800"),
        ("patroni_postgres_streaming", "1"),
        ("pgvane_agent_is_leader", "0"),
    ] {
        assert_eq!(value(&page, name), expected, "{name}");
    }
}

#[test]
fn the_end_of_a_certificate_is_told() {
    let name = "pgvane_agent_certificate_expiry_timestamp_seconds";
    assert_eq!(value(&render(&leader(view(PAIR)), Some(1_890_000_000), NOW), name), "1890000000");
    assert_eq!(value(&render(&leader(view(PAIR)), None, NOW), name), "0");
}

#[test]
fn labels_are_escaped() {
    let mut s = leader(view(PAIR));
    s.scope = "a\"b\\c".to_owned();
    assert!(render(&s, None, NOW).contains(r#"patroni_primary{scope="a\"b\\c",name="a"} 1"#));
}

/// The list that operators read is made of what the page serves: names, kinds and meanings.
#[test]
fn the_list_of_metrics_is_the_page() {
    let page = render(&leader(view(PAIR)), None, NOW);
    let text = |kind: &str| {
        let lines =
            page.lines().filter_map(move |l| l.strip_prefix("# ")?.strip_prefix(kind)?.split_once(' '));
        lines.map(|(name, text)| (name.to_owned(), text.to_owned())).collect::<Vec<_>>()
    };
    let rows = text("HELP ").into_iter().zip(text("TYPE "));
    let wanted: Vec<String> =
        rows.map(|((name, help), (_, kind))| format!("| `{name}` | {kind} | {help} |")).collect();
    let reference = include_str!("../../docs/metrics.md");
    let of_agents = reference.split("\n## ").find(|part| part.starts_with("Agents")).expect("a section");
    let shown: Vec<&str> = of_agents.lines().filter(|l| l.starts_with("| `")).collect();
    assert!(shown == wanted, "the table in docs/metrics.md must read:\n{}", wanted.join("\n"));
}

/// Contract 6.5, and the monitoring of the stack that is replaced.
#[test]
fn no_name_that_alerts_look_for_is_missing() {
    let page = render(&replica(view(PAIR)), None, NOW);
    for name in "patroni_version patroni_postgres_running patroni_postmaster_start_time patroni_primary \
        patroni_xlog_location patroni_standby_leader patroni_replica patroni_sync_standby patroni_quorum_standby \
        patroni_xlog_received_location patroni_xlog_replayed_location patroni_xlog_replayed_timestamp \
        patroni_xlog_paused patroni_postgres_streaming patroni_postgres_in_archive_recovery \
        patroni_postgres_server_version patroni_cluster_unlocked patroni_failsafe_mode_is_active \
        patroni_failsafe_mode_enabled patroni_failsafe_member patroni_postgres_timeline patroni_dcs_last_seen \
        patroni_pending_restart patroni_is_paused patroni_postgres_state patroni_failover_priority \
        patroni_postgresql_role patroni_postgresql_state patroni_postgresql_last_failover_timestamp_seconds \
        patroni_postgresql_replication_lag_bytes patroni_postgresql_last_wal_receive_lsn_offset"
        .split_ascii_whitespace()
    {
        value(&page, name);
    }
    for (name, expected) in [
        ("patroni_postgresql_role", "0"),
        ("patroni_postgresql_replication_lag_bytes", "200"),
        ("patroni_postgresql_last_wal_receive_lsn_offset", "100"),
        ("patroni_postgresql_last_failover_timestamp_seconds", "1767225600"),
        ("patroni_failover_priority", "1"),
        ("patroni_failsafe_mode_enabled", "0"),
    ] {
        assert_eq!(value(&page, name), expected, "{name}");
    }
    let failsafe =
        [("config", r#"{"failsafe_mode":true}"#), ("failsafe", r#"{"b":"http://10.0.0.2:8008/patroni"}"#)];
    let page = render(&replica(view(&[PAIR, &failsafe].concat())), None, NOW);
    assert_eq!(value(&page, "patroni_failsafe_mode_enabled"), "1");
    assert_eq!(value(&page, "patroni_failsafe_member"), "1");
    assert_eq!(value(&render(&leader(view(PAIR)), None, NOW), "patroni_postgresql_role"), "1");
}
