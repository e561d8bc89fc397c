//! Results as a table for people and as JSON for programs.

use serde::Serialize;

use super::figures::{Figure, Sample, Summary};
use super::options::Peer;
use super::workloads::Workload;

/// One measurement.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) workload: &'static str,
    pub(super) peer: Peer,
    pub(super) sample: Sample,
}

/// One workload, all rounds.
#[derive(Debug, Serialize)]
pub(super) struct Block {
    workload: &'static str,
    title: &'static str,
    figures: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    figure: Figure,
    best_peer: Option<Peer>,
    peers: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    peer: Peer,
    #[serde(flatten)]
    summary: Summary,
    to_direct: Option<f64>,
    to_best_peer: Option<f64>,
}

impl Block {
    /// `None` when nothing of `workload` was measured.
    pub(super) fn of(workload: &Workload, runs: &[Run]) -> Option<Block> {
        let runs: Vec<_> = runs.iter().filter(|run| run.workload == workload.name).collect();
        let mut figures: Vec<Figure> = Vec::new();
        // Direct has no CPU of its own: the order is that of whoever has most figures.
        let longest = runs.iter().max_by_key(|run| run.sample.len())?;
        for (figure, _) in longest.sample.iter().chain(runs.iter().flat_map(|run| &run.sample)) {
            if !figures.contains(figure) {
                figures.push(*figure);
            }
        }
        let figures = figures.into_iter().map(|figure| Row::of(figure, &runs)).collect();
        Some(Block { workload: workload.name, title: workload.title, figures })
    }

    /// A line per peer, a column per figure.
    pub(super) fn table(&self) -> String {
        let mut cells = vec![vec![String::new()]];
        cells[0].extend(self.figures.iter().map(|row| format!("{} {}", row.figure.name, row.figure.unit)));
        for peer in Peer::ALL {
            let line: Vec<_> = self.figures.iter().map(|row| row.entry(*peer).map(Entry::cell)).collect();
            if line.iter().any(Option::is_some) {
                let line = line.into_iter().map(|cell| cell.unwrap_or_else(|| "-".to_owned()));
                cells.push([peer.name().to_owned()].into_iter().chain(line).collect());
            }
        }
        let ours = |ratio: &dyn Fn(&Row, &Entry) -> Option<String>| {
            let cell = |row: &Row| row.entry(Peer::Pgvane).and_then(|entry| ratio(row, entry));
            self.figures.iter().map(|row| cell(row).unwrap_or_else(|| "-".to_owned())).collect::<Vec<_>>()
        };
        let to_direct = ours(&|_, entry| entry.to_direct.map(|ratio| format!("{ratio:.2}x")));
        let to_best =
            ours(&|row, entry| Some(format!("{:.2}x {}", entry.to_best_peer?, row.best_peer?.name())));
        for (name, line) in [("pgvane : direct", to_direct), ("pgvane : best peer", to_best)] {
            if line.iter().any(|cell| cell != "-") {
                cells.push([name.to_owned()].into_iter().chain(line).collect());
            }
        }
        format!("{}  [{}]\n{}", self.title, self.workload, aligned(&cells))
    }
}

impl Row {
    fn of(figure: Figure, runs: &[&Run]) -> Row {
        let summary = |peer: Peer| {
            let of_peer = runs.iter().filter(|run| run.peer == peer).flat_map(|run| &run.sample);
            Summary::of(of_peer.filter(|(f, _)| *f == figure).map(|(_, value)| *value).collect())
        };
        let all: Vec<_> = Peer::ALL.iter().filter_map(|peer| Some((*peer, summary(*peer)?))).collect();
        let direct = all.iter().find(|(peer, _)| *peer == Peer::Direct).map(|(_, s)| s.median);
        let rivals = all.iter().filter(|(peer, _)| peer.is_rival());
        let best = rivals.min_by(|(_, a), (_, b)| {
            let ascending = a.median.total_cmp(&b.median);
            if figure.more_is_better { ascending.reverse() } else { ascending }
        });
        let best = best.map(|(peer, summary)| (*peer, summary.median));
        let entries = all.into_iter().map(|(peer, summary)| Entry {
            peer,
            to_direct: ratio(summary.median, direct),
            to_best_peer: ratio(summary.median, best.map(|(_, median)| median)),
            summary,
        });
        Row { figure, best_peer: best.map(|(peer, _)| peer), peers: entries.collect() }
    }

    fn entry(&self, peer: Peer) -> Option<&Entry> {
        self.peers.iter().find(|entry| entry.peer == peer)
    }
}

impl Entry {
    fn cell(&self) -> String {
        let Summary { median, min, max, .. } = &self.summary;
        format!("{} ({}..{})", number(*median), number(*min), number(*max))
    }
}

/// Nothing compares to nothing.
fn ratio(value: f64, base: Option<f64>) -> Option<f64> {
    base.filter(|base| *base > 0.0).map(|base| value / base)
}

/// Three digits that count.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

fn aligned(cells: &[Vec<String>]) -> String {
    let columns = cells.first().map_or(0, Vec::len);
    let width = |column: usize| cells.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let line = |cells: &Vec<String>| {
        let padded: String =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect();
        format!("  {}\n", padded.trim_end())
    };
    cells.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::figures::{PROXY_PER_TRANSACTION, TRANSACTIONS};
    use super::super::workloads::ALL;
    use super::*;

    fn run(peer: Peer, tps: f64, cpu: Option<f64>) -> Run {
        let mut sample = vec![(TRANSACTIONS, tps)];
        sample.extend(cpu.map(|cpu| (PROXY_PER_TRANSACTION, cpu)));
        Run { workload: ALL[0].name, peer, sample }
    }

    #[test]
    fn ours_is_compared_to_direct_and_to_the_best_of_each_figure() {
        let runs = [
            run(Peer::Direct, 20_000.0, None),
            run(Peer::Haproxy, 10_000.0, Some(40.0)),
            run(Peer::Nginx, 8_000.0, Some(30.0)),
            run(Peer::Pgvane, 12_000.0, Some(15.0)),
            run(Peer::Pgvane, 13_000.0, Some(15.0)),
        ];
        let table = Block::of(&ALL[0], &runs).expect("a block").table();
        let lines: Vec<_> =
            table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[1], "tps tx/s proxy_cpu us/tx");
        assert_eq!(lines[2], "direct 20000 (20000..20000) -");
        assert_eq!(lines[5], "pgvane 12500 (12000..13000) 15.0 (15.0..15.0)");
        assert_eq!(lines[6], "pgvane : direct 0.62x -");
        assert_eq!(lines[7], "pgvane : best peer 1.25x haproxy 0.50x nginx");
    }

    #[test]
    fn what_was_not_measured_has_no_block() {
        assert!(Block::of(&ALL[1], &[run(Peer::Direct, 1.0, None)]).is_none());
    }
}
