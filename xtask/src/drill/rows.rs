//! Measures the outage of every kind of event several times, on a cluster in namespaces, and takes the medians.

use clap::ValueEnum;
use serde::Serialize;

use super::play::Sync;
use super::story::median;
use super::{Drill, Plan, Report, run as run_drill};
use crate::install::Servers;
use crate::interrupt::told_to_stop;
use crate::playground::{Options, Playground, PlaygroundError, Prepared, Wanted};
use crate::programs::Programs;

/// Lines of each log shown when a drill fails.
const TAIL: usize = 30;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// Which events; empty: all.
    pub drills: Vec<Drill>,
    /// How often each.
    pub runs: u32,
    /// Whether commits wait for replicas.
    pub sync: Sync,
    /// The lease time, in seconds.
    pub ttl: u32,
    /// Whether data and logs stay.
    pub keep: bool,
}

/// The figures of one event. Times in milliseconds.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// Which one.
    pub drill: Drill,
    /// `off`, `on`, `strict` or `quorum`.
    pub sync: &'static str,
    /// The cluster's lease time.
    pub ttl_s: u32,
    /// The outages of writes, least first.
    pub outages_ms: Vec<f64>,
    /// Their median.
    pub outage_median_ms: f64,
    /// The median of the longest times without an answered read.
    pub read_outage_median_ms: f64,
    /// Statements that failed, in all runs.
    pub failed_writes: u64,
    /// Connections that failed.
    pub failed_connects: u64,
    /// Statements refused by a read-only server.
    pub read_only_refusals: u64,
    /// Reads that failed.
    pub failed_reads: u64,
    /// Acknowledged rows lost.
    pub lost_rows: u64,
    /// How long two servers accepted writes.
    pub dual_primary_ms: f64,
    /// Proofs of a second primary that need not last.
    pub intrusions: usize,
}

/// Measures, in namespaces that are made for it.
pub fn run(
    measurement: Measurement,
    programs: &Programs,
    servers: &Servers,
    say: impl Fn(&str) + Send + std::marker::Sync + 'static,
) -> Result<Vec<Row>, PlaygroundError> {
    let Measurement { ttl, keep, sync, .. } = measurement;
    let options = Options { ttl, keep, etcds: 3, dcs: sync.dcs(), ..Options::default() };
    let servers = servers.clone();
    let prepared = Prepared::create(&options, &Wanted::default(), programs)?;
    prepared.run(async move |prepared| {
        let mut playground = Playground::start_prepared(prepared, &options, &servers, &say).await?;
        if sync != Sync::Off {
            super::play::until_synchronous(&playground).await?;
        }
        let measured = tokio::select! {
            measured = measure(&mut playground, &measurement, &say) => measured,
            () = told_to_stop() => return Err(PlaygroundError::Refused("stopped".to_owned())),
        };
        if measured.is_err() {
            say(&playground.log_tails(TAIL));
        }
        measured
    })?
}

async fn measure(
    playground: &mut Playground,
    measurement: &Measurement,
    say: &(impl Fn(&str) + std::marker::Sync),
) -> Result<Vec<Row>, PlaygroundError> {
    let Measurement { runs, sync, ttl, .. } = measurement;
    let drills = if measurement.drills.is_empty() { Drill::value_variants() } else { &measurement.drills };
    let mut rows = Vec::new();
    for drill in drills {
        let mut reports = Vec::new();
        for number in 1..=*runs {
            say(&format!("{drill:?}, {number} of {runs}"));
            let report = run_drill(playground, *drill, Plan::default(), say).await?;
            say(&format!("  outage {} ms, {} rows lost", report.outage_ms, report.lost_rows));
            reports.push(report);
        }
        rows.push(row(*drill, sync.name(), *ttl, &reports));
    }
    Ok(rows)
}

fn row(drill: Drill, sync: &'static str, ttl_s: u32, reports: &[Report]) -> Row {
    let sum = |figure: fn(&Report) -> u64| reports.iter().map(figure).sum();
    let mut outages_ms: Vec<_> = reports.iter().map(|report| report.outage_ms).collect();
    let mut reads: Vec<_> = reports.iter().map(|report| report.read_outage_ms).collect();
    Row {
        drill,
        sync,
        ttl_s,
        outage_median_ms: median(&mut outages_ms),
        outages_ms,
        read_outage_median_ms: median(&mut reads),
        failed_writes: sum(|r| r.client_errors),
        failed_connects: sum(|r| r.failed_connects),
        read_only_refusals: sum(|r| r.read_only_refusals),
        failed_reads: sum(|r| r.read_errors),
        lost_rows: sum(|r| r.lost_rows),
        dual_primary_ms: reports.iter().map(|r| r.dual_primary_ms).sum(),
        intrusions: reports.iter().map(|r| r.intrusions.len()).sum(),
    }
}

/// The rows, for people.
pub fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<24} {:>7} {:>4} {:>4} {:>10} {:>21} {:>10} {:>7} {:>8} {:>9} {:>6} {:>5} {:>14}\n",
        "event",
        "sync",
        "ttl",
        "runs",
        "outage",
        "least to most",
        "reads",
        "failed",
        "connects",
        "read-only",
        "reads",
        "lost",
        "two primaries"
    );
    for row in rows {
        let name = row.drill.to_possible_value();
        let name = name.as_ref().map_or("", |name| name.get_name());
        let ends = row.outages_ms.first().zip(row.outages_ms.last());
        let spread = ends.map_or_else(String::new, |(least, most)| format!("{least:.0} to {most:.0} ms"));
        text.push_str(&format!(
            "{name:<24} {:>7} {:>3}s {:>4} {:>7.0} ms {spread:>21} {:>7.0} ms {:>7} {:>8} {:>9} {:>6} {:>5} {:>8} ms, {}\n",
            row.sync,
            row.ttl_s,
            row.outages_ms.len(),
            row.outage_median_ms,
            row.read_outage_median_ms,
            row.failed_writes,
            row.failed_connects,
            row.read_only_refusals,
            row.failed_reads,
            row.lost_rows,
            row.dual_primary_ms,
            row.intrusions,
        ));
    }
    text
}
