//! `cargo xtask versions`: drills and tests on every version of PostgreSQL and etcd that can be had, beside this machine's.

use std::process::Stdio;
use std::time::Duration;

use crate::drill::{self, Drill, Plan};
use crate::install::versions::{EDITIONS, Edition, Software};
use crate::install::{self, Servers};
use crate::interrupt::told_to_stop;
use crate::playground::{self, Playground, PlaygroundError};
use crate::programs::{self, Programs, cargo};

/// What is played on each.
const DRILLS: [Drill; 5] = [
    Drill::Switchover,
    Drill::KillPostgres,
    Drill::KillAgentAndPostgres,
    Drill::StopAgent,
    Drill::EtcdOutage,
];

/// How long etcd stays away in the last of them.
const ETCD_AWAY: Duration = Duration::from_secs(15);

/// The tests that are about PostgreSQL.
const TESTS: [&str; 5] = ["life_cycle", "failover", "sync", "slots", "recovery"];

/// Those of them that need TLS in PostgreSQL, or test_decoding.
const WHOLE_TESTS: [&str; 2] = ["life_cycle", "slots"];

/// The tests that are about etcd besides.
const ETCD_TESTS: [&str; 2] = ["etcd", "etcd_production"];

/// Lines of each log shown when a drill failed.
const TAIL: usize = 20;

/// Which versions, and what is done with them.
#[derive(clap::Args)]
pub struct Options {
    /// Only these: postgresql-17, etcd-3.5.16, ...; all that can be had unless given.
    only: Vec<String>,
    /// Install them and say where they are, and no more.
    #[arg(long)]
    install: bool,
    /// Only the drills.
    #[arg(long)]
    no_tests: bool,
}

/// Installs, plays, tests, and prints a table; fails if anything did.
pub fn run(options: &Options) -> Result<(), String> {
    let named = |edition: &Edition| format!("{}-{}", edition.software.name(), edition.version);
    let known: Vec<String> = EDITIONS.iter().map(named).collect();
    if let Some(unknown) = options.only.iter().find(|only| !known.contains(only)) {
        return Err(format!("{unknown} cannot be had; allowed: {}", known.join(", ")));
    }
    let wanted = EDITIONS.iter().filter(|e| options.only.is_empty() || options.only.contains(&named(e)));
    let wanted: Vec<&Edition> = wanted.collect();
    if options.install {
        for edition in wanted {
            let (variable, path) = edition.environment().map_err(|e| e.to_string())?;
            println!("{variable}={}", path.display());
        }
        return Ok(());
    }
    let servers = install::servers().map_err(|e| e.to_string())?;
    let programs = programs::build().map_err(|e| e.to_string())?;
    let drills = DRILLS.map(name).join(" | ");
    let mut lines = vec![format!("| version | {drills} | rows lost of | tests |")];
    lines.push(format!("|{}", "---|".repeat(DRILLS.len() + 3)));
    let mut failures = 0;
    for edition in wanted {
        eprintln!("==> {}", edition.name());
        let played = play(edition, &servers, &programs)?;
        let tests = if options.no_tests { "not run".to_owned() } else { test(edition)? };
        let cells: Vec<String> = played.iter().map(|drill| drill.cell.clone()).collect();
        let (lost, all) =
            played.iter().fold((0, 0), |(l, a), drill| (l + drill.lost, a + drill.acknowledged));
        failures += played.iter().filter(|drill| drill.failed).count() + usize::from(tests == FAILED);
        lines.push(format!("| {} | {} | {lost} of {all} | {tests} |", edition.name(), cells.join(" | ")));
    }
    println!("{}", lines.join("\n"));
    if failures == 0 { Ok(()) } else { Err(format!("{failures} drills and tests failed")) }
}

const FAILED: &str = "**failed**";

fn name(drill: Drill) -> String {
    use clap::ValueEnum;
    drill.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// What one drill came to.
struct Played {
    cell: String,
    failed: bool,
    lost: u64,
    acknowledged: u64,
}

/// Plays all drills on one cluster.
fn play(edition: &Edition, servers: &Servers, programs: &Programs) -> Result<Vec<Played>, String> {
    let there = edition.programs().map_err(|e| e.to_string())?;
    let servers = match edition.software {
        Software::Postgres => Servers { postgres: there, ..servers.clone() },
        Software::Etcd => Servers { etcd: there.join("etcd"), ..servers.clone() },
    };
    let runtime = tokio::runtime::Runtime::new().map_err(|e| format!("no runtime: {e}"))?;
    let done = runtime.block_on(async {
        tokio::select! {
            played = play_all(&servers, programs) => Ok(played),
            () = told_to_stop() => Err("stopped".to_owned()),
        }
    });
    runtime.shutdown_background();
    done
}

async fn play_all(servers: &Servers, programs: &Programs) -> Vec<Played> {
    let say = |line: &str| eprintln!("  {line}");
    let mut played = Vec::new();
    let mut playground = Playground::start(&playground::Options::default(), programs, servers, &say).await;
    for drill in DRILLS {
        let report = match &mut playground {
            Ok(playground) => {
                let plan = Plan { etcd_away: ETCD_AWAY };
                let report = drill::run(playground, drill, plan, &say).await;
                report.inspect_err(|_| eprintln!("{}", playground.log_tails(TAIL)))
            }
            Err(error) => Err(PlaygroundError::Refused(error.to_string())),
        };
        played.push(match report {
            Ok(report) => Played {
                cell: format!("{:.0} ms", report.outage_ms),
                failed: false,
                lost: report.lost_rows,
                acknowledged: report.acknowledged,
            },
            Err(error) => {
                eprintln!("{}: {error}", name(drill));
                Played { cell: FAILED.to_owned(), failed: true, lost: 0, acknowledged: 0 }
            }
        });
    }
    played
}

/// Runs the tests with it in place of this machine's.
fn test(edition: &Edition) -> Result<String, String> {
    let (variable, path) = edition.environment().map_err(|e| e.to_string())?;
    let more: &[&str] = match edition.software {
        Software::Postgres => &[],
        Software::Etcd => &ETCD_TESTS,
    };
    let can_be_had = |test: &&str| edition.is_whole() || !WHOLE_TESTS.contains(test);
    let tests: Vec<&str> = TESTS.iter().chain(more).copied().filter(can_be_had).collect();
    let mut cargo = cargo();
    cargo.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
    cargo.args(tests.iter().flat_map(|test| ["--test", test])).env(variable, path).stdout(Stdio::inherit());
    let status = cargo.status().map_err(|e| format!("cargo: {e}"))?;
    Ok(if status.success() { tests.join(", ") } else { FAILED.to_owned() })
}
