//! `history`: the changes of leader so far.

use pgvane_cluster::view::ClusterView;

use crate::output::{Cell, Column, Format, Paper, Sheet};
use crate::target::Target;
use crate::{Failed, say};

pub(crate) async fn show(target: &Target, format: Format) -> Result<(), Failed> {
    let view = target.view().await?;
    say(&sheet(&view).show(format, Paper::stdout()))
}

fn sheet(view: &ClusterView) -> Sheet {
    let entries = view.history.iter().flat_map(|h| &h.0);
    let row = |entry: &pgvane_cluster::records::HistoryEntry| {
        vec![
            Cell::number(Some(entry.timeline.0.into())),
            Cell::number(Some(entry.switch_lsn.0)),
            Cell::text(entry.reason.clone()),
            Cell::text(entry.timestamp.clone().unwrap_or_default()),
            Cell::text(entry.new_leader.as_ref().map(ToString::to_string).unwrap_or_default()),
        ]
    };
    Sheet {
        title: None,
        columns: vec![
            Column::number("TL"),
            Column::number("LSN"),
            Column::text("Reason"),
            Column::text("Timestamp"),
            Column::text("New Leader"),
        ],
        rows: entries.map(row).collect(),
        footer: String::new(),
    }
}
