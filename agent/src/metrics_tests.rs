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
    let page = render(&leader(view(PAIR)), NOW);
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
    let page = render(&leader(view(PAIR)), NOW);
    for (name, expected) in [
        ("patroni_version", "040104"),
        ("patroni_primary", "1"),
        ("patroni_xlog_location", "1000"),
        ("patroni_postmaster_start_time", "1795514400.5"),
        ("patroni_postgres_state", "5"),
        ("patroni_postgres_timeline", "3"),
        ("patroni_cluster_unlocked", "0"),
        ("pgvane_agent_lease_left_seconds", "20"),
        ("pgvane_agent_epoch", "2"),
    ] {
        assert_eq!(value(&page, name), expected, "{name}");
    }
    let page = render(&replica(view(PAIR)), NOW);
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
fn labels_are_escaped() {
    let mut s = leader(view(PAIR));
    s.scope = "a\"b\\c".to_owned();
    assert!(render(&s, NOW).contains(r#"patroni_primary{scope="a\"b\\c",name="a"} 1"#));
}
