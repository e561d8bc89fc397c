//! `history`: the changes of leader so far, why each came to be, and how long nobody served.

use pgvane_cluster::changes::Change;
use pgvane_cluster::records::HistoryEntry;
use pgvane_cluster::view::ClusterView;

use crate::output::{Cell, Column, Format, Paper, Sheet};
use crate::target::Target;
use crate::{Failed, say};

/// Said for what nobody wrote down.
const UNKNOWN: &str = "unknown";

/// Said below the table, where there is one with an outage in it.
const FOOTER: &str = " Outage: up to the end of the promotion, from what stands beside it. What came before that \
                      was not measured.\n";

pub(crate) async fn show(target: &Target, format: Format) -> Result<(), Failed> {
    let view = target.view().await?;
    say(&sheet(&view).show(format, Paper::stdout()))
}

/// What has come to the history since `before`, if anything has.
pub(crate) fn latest(before: &ClusterView, after: &ClusterView) -> Result<(), Failed> {
    let known = before.history.as_ref().map_or(0, |history| history.0.len());
    let mut news = sheet(after);
    news.rows.drain(..known.min(news.rows.len()));
    if news.rows.is_empty() { Ok(()) } else { say(&news.show(Format::Pretty, Paper::stdout())) }
}

fn sheet(view: &ClusterView) -> Sheet {
    let entries = view.history.iter().flat_map(|h| &h.0);
    let change = |entry: &HistoryEntry| view.changes.as_ref().and_then(|changes| changes.of(entry));
    let rows: Vec<_> = entries.map(|entry| row(entry, change(entry))).collect();
    let is_measured = rows.iter().any(|row| row.last().is_some_and(|cell| !cell.text.is_empty()));
    Sheet {
        title: None,
        columns: vec![
            Column::number("TL"),
            Column::number("LSN"),
            Column::text("Reason"),
            Column::text("Timestamp"),
            Column::text("New Leader"),
            Column::text("Old Leader"),
            Column::text("Why"),
            Column { shown: "Outage (s)", ..Column::number("Outage Seconds") },
            Column { shown: "Since", ..Column::text("Outage Since") },
        ],
        rows,
        footer: if is_measured { FOOTER.to_owned() } else { String::new() },
    }
}

/// Patroni's columns, then ours.
fn row(entry: &HistoryEntry, change: Option<&Change>) -> Vec<Cell> {
    let name = |name: Option<&pgvane_cluster::ids::NodeName>| {
        Cell::text(name.map(ToString::to_string).unwrap_or_default())
    };
    let outage = change.and_then(Change::outage);
    vec![
        Cell::number(Some(entry.timeline.0.into())),
        Cell::number(Some(entry.switch_lsn.0)),
        Cell::text(entry.reason.clone()),
        Cell::text(entry.timestamp.clone().unwrap_or_default()),
        name(entry.new_leader.as_ref()),
        name(change.and_then(|change| change.from.as_ref())),
        Cell::text(why(change)),
        outage.map_or_else(Cell::default, |(length, _)| Cell {
            text: format!("{:.3}", length.as_secs_f64()),
            value: length.as_secs_f64().into(),
        }),
        Cell::text(outage.map(|(_, since)| since.explain()).unwrap_or_default()),
    ]
}

fn why(change: Option<&Change>) -> String {
    let Some(cause) = change.and_then(|change| change.cause.as_ref()) else { return UNKNOWN.to_owned() };
    match change.and_then(|change| change.detail.as_ref()) {
        Some(detail) => format!("{}: {detail}", cause.explain()),
        None => cause.explain().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use pgvane_cluster::changes::{Cause, Changes};
    use pgvane_cluster::ids::{Lsn, Timeline};
    use pgvane_cluster::records::HistoryRecord;
    use serde_json::{Value, json};

    use super::*;

    /// A line that Patroni wrote, then two of ours.
    fn view() -> ClusterView {
        let entry = |timeline, leader: &str| HistoryEntry {
            timeline: Timeline(timeline),
            switch_lsn: Lsn(u64::from(timeline) * 16),
            reason: "no recovery target specified".to_owned(),
            timestamp: Some("2026-01-01T00:00:00.000000+00:00".to_owned()),
            new_leader: Some(leader.into()),
        };
        let history = HistoryRecord(vec![entry(1, "b"), entry(2, "a"), entry(3, "c")]);
        let change = |timeline, from: &str, cause, detail, down_ms| Change {
            timeline: Timeline(timeline),
            switch_lsn: Lsn(u64::from(timeline) * 16),
            from: Some(from.into()),
            cause: Some(cause),
            detail,
            down_ms,
            unfed_ms: None,
            leaderless_ms: Some(40),
        };
        let changes = Changes(vec![
            change(2, "b", Cause::Switchover, None, Some(25)),
            change(3, "a", Cause::GaveUp, Some("a watchdog is missing".to_owned()), None),
        ]);
        ClusterView { history: Some(history), changes: Some(changes), ..ClusterView::default() }
    }

    #[test]
    fn each_change_says_why_and_what_is_known_of_its_outage() {
        let show = |format| sheet(&view()).show(format, Paper::default());
        let rows: Value = serde_json::from_str(&show(Format::Json)).expect("JSON");
        let ours = |row: &Value| {
            ["Old Leader", "Why", "Outage Seconds", "Outage Since"].map(|column| row[column].clone())
        };
        assert_eq!(ours(&rows[0]), [Value::Null, json!("unknown"), Value::Null, Value::Null]);
        let switchover = ["b", "switchover by the operator", "", "the old primary stopped"].map(|t| json!(t));
        assert_eq!(ours(&rows[1])[..2], switchover[..2]);
        assert_eq!((&rows[1]["Outage Seconds"], &rows[1]["Outage Since"]), (&json!(0.065), &switchover[3]));
        assert_eq!(rows[2]["Why"], "the leader gave its key back: a watchdog is missing");
        assert_eq!(rows[2]["Outage Since"], "its leader key went");
        assert_eq!(serde_saphyr::from_str::<Value>(&show(Format::Yaml)).expect("YAML"), rows);
        let tsv = show(Format::Tsv);
        assert!(
            tsv.contains("\ta\tb\tswitchover by the operator\t0.065\tthe old primary stopped\n"),
            "{tsv}"
        );
        assert!(tsv.contains("\tb\t\tunknown\t\t\n"), "{tsv}");
        let pretty = show(Format::Pretty);
        assert!(pretty.contains("| unknown ") && pretty.ends_with(FOOTER), "{pretty}");
    }

    #[test]
    fn what_patroni_alone_wrote_has_no_footer() {
        let view = ClusterView { changes: None, ..view() };
        assert!(!sheet(&view).show(Format::Pretty, Paper::default()).contains("Outage:"));
    }
}
