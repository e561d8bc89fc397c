//! `cargo xtask drill`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::Drill;
use super::fault::Kind;
use super::pair::{self, PairEvent, PairPlan};
use super::play::{self, Plan, Sync};
use super::rows::{self, Measurement};
use crate::install::Servers;
use crate::playground::network;
use crate::programs::Programs;
use crate::{install, programs};

/// How drills in namespaces are asked for.
#[derive(Args, Debug)]
pub struct DrillArgs {
    /// Which faults, on whom, when: the same seed is the same schedule. Random unless given.
    #[arg(long)]
    seed: Option<u64>,
    /// No fault begins after that: 90s, 10m, 1h.
    #[arg(long, default_value = "10m", value_parser = duration)]
    duration: Duration,
    /// No more than so many incidents.
    #[arg(long, value_name = "N")]
    incidents: Option<u64>,
    /// Only these faults.
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    only: Vec<Kind>,
    /// Whether commits wait for replicas; with --rows, several are measured one after the other.
    #[arg(long, value_name = "MODE", value_delimiter = ',', default_value = "off")]
    sync: Vec<Sync>,
    /// The lease time.
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=600))]
    ttl: u32,
    /// Write everything there, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Instead of faults at random: measure every kind of event so many times as --runs says.
    #[arg(long, conflicts_with_all = ["seed", "duration", "incidents", "only"])]
    rows: bool,
    /// How often each event is measured.
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: u32,
    /// Only these events.
    #[arg(long, value_name = "EVENT", value_delimiter = ',', requires = "rows")]
    events: Vec<Drill>,
    /// Instead: two proxies behind a virtual address, and what becomes of its clients in these events, or in all.
    #[arg(long, value_name = "EVENT", value_delimiter = ',', num_args = 0..,
          conflicts_with_all = ["seed", "duration", "incidents", "only", "rows"])]
    pair: Option<Vec<PairEvent>>,
    /// Keep data and logs, and say where.
    #[arg(long)]
    keep: bool,
}

/// Plays what was asked for, prints it on standard output, and fails if a promise was broken.
pub fn main(args: &DrillArgs) -> Result<(), String> {
    if let Some(why) = network::missing() {
        return Err(format!("a drill needs network namespaces of its own: {why}"));
    }
    let servers = install::servers().map_err(|e| e.to_string())?;
    let programs = programs::build().map_err(|e| e.to_string())?;
    let begun = Instant::now();
    let say = move |line: &str| eprintln!("[{:7.1} s] {line}", begun.elapsed().as_secs_f64());
    if let Some(events) = &args.pair {
        return pair(args, events, &programs, &servers, say);
    }
    if args.rows {
        let mut all = Vec::new();
        for sync in &args.sync {
            let measurement = Measurement {
                drills: args.events.clone(),
                runs: args.runs,
                sync: *sync,
                ttl: args.ttl,
                keep: args.keep,
            };
            all.extend(rows::run(measurement, &programs, &servers, say).map_err(|e| e.to_string())?);
        }
        print(&rows::table(&all));
        return save(args.json.as_deref(), &all);
    }
    let [sync] = args.sync[..] else { return Err("one --sync at a time, but with --rows".to_owned()) };
    let seed = args.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::from(now.subsec_nanos()) ^ now.as_secs()
    });
    say(&format!("seed {seed}"));
    let plan = Plan {
        seed,
        duration: args.duration,
        incidents: args.incidents,
        kinds: args.only.clone(),
        sync,
        ttl: args.ttl,
        keep: args.keep,
    };
    let report = play::run(plan, &programs, &servers, Box::new(say)).map_err(|e| e.to_string())?;
    save(args.json.as_deref(), &report)?;
    print(&report.table());
    match report.violations.len() {
        0 => Ok(()),
        count => Err(format!("{count} promises were broken; replay with --seed {seed}")),
    }
}

/// The drill of the pair.
fn pair(
    args: &DrillArgs,
    events: &[PairEvent],
    programs: &Programs,
    servers: &Servers,
    say: impl Fn(&str) + Send + std::marker::Sync + 'static,
) -> Result<(), String> {
    let keepalived = install::keepalived().map_err(|e| e.to_string())?;
    let events = if events.is_empty() { PairEvent::value_variants() } else { events };
    let plan = PairPlan { events: events.to_vec(), runs: args.runs, ttl: args.ttl, keep: args.keep };
    let report = pair::run(plan, programs, servers, &keepalived, say).map_err(|e| e.to_string())?;
    save(args.json.as_deref(), &report)?;
    print(&report.table());
    if report.lost_rows == 0 && report.intrusions.is_empty() && report.dual_primary_ms == 0.0 {
        return Ok(());
    }
    Err(format!("promises were broken: {:?}", report.intrusions))
}

fn print(text: &str) {
    // Who reads no more has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn save(file: Option<&Path>, what: &impl Serialize) -> Result<(), String> {
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_string_pretty(what).map_err(|e| e.to_string())?;
    std::fs::write(file, text).map_err(|e| format!("{}: {e}", file.display()))
}

/// `90s`, `10m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let number: u64 = number.parse().map_err(|_| format!("`{text}`: a number and s, m or h, such as 10m"))?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(format!("`{text}`: the unit is s, m or h, such as 10m")),
    };
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h"), Ok(Duration::from_hours(1)));
        assert!(duration("10").is_err() && duration("h").is_err() && duration("1d").is_err());
    }
}
