//! The cluster's history from a timeline history file (contract section 1.3); pure.

use pgvane_cluster::ids::{Lsn, NodeName, Timeline};
use pgvane_cluster::records::{HistoryEntry, HistoryRecord};

/// The lines of a PostgreSQL timeline history file: timeline, switch position, reason. Lines of another
/// shape are comments.
pub fn parse_file(text: &str) -> Vec<HistoryEntry> {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, '\t');
            let timeline = Timeline(parts.next()?.trim().parse().ok()?);
            let switch_lsn: Lsn = parts.next()?.parse().ok()?;
            let reason = parts.next().unwrap_or("").trim().to_owned();
            Some(HistoryEntry { timeline, switch_lsn, reason, timestamp: None, new_leader: None })
        })
        .collect()
}

/// The record to write after a promotion: what the file says, with the stamps that the store has for the same
/// switches, the newest one stamped with `now` and `leader`, trimmed to the last `keep` (0 keeps all).
pub fn merge(
    file: Vec<HistoryEntry>,
    stored: Option<&HistoryRecord>,
    now: &str,
    leader: &NodeName,
    keep: usize,
) -> HistoryRecord {
    let mut entries = file;
    let newest = entries.len().saturating_sub(1);
    for (i, entry) in entries.iter_mut().enumerate() {
        let known = stored.and_then(|s| {
            s.0.iter().find(|e| e.timeline == entry.timeline && e.switch_lsn == entry.switch_lsn)
        });
        if let Some(known) = known.filter(|k| k.timestamp.is_some()) {
            entry.timestamp.clone_from(&known.timestamp);
            entry.new_leader.clone_from(&known.new_leader);
        } else if i == newest {
            entry.timestamp = Some(now.to_owned());
            entry.new_leader = Some(leader.clone());
        }
    }
    if keep > 0 && entries.len() > keep {
        entries.drain(..entries.len() - keep);
    }
    HistoryRecord(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_stamped() {
        let file = parse_file("1\t0/3000148\tno recovery target specified\n\n2\t0/5000060\tx\n");
        assert_eq!(file.len(), 2);
        let stored = HistoryRecord(vec![HistoryEntry {
            timestamp: Some("2026-01-01T00:00:00+00:00".to_owned()),
            new_leader: Some("b".into()),
            ..file[0].clone()
        }]);
        let merged = merge(file.clone(), Some(&stored), "2026-02-02T00:00:00+00:00", &"a".into(), 0);
        assert_eq!(merged.0[0], stored.0[0]);
        assert_eq!(merged.0[1].new_leader, Some("a".into()));
        assert_eq!(merged.cluster_timeline(), Timeline(3));
        assert_eq!(merge(file, None, "t", &"a".into(), 1).0.len(), 1);
    }
}
