//! `cargo xtask bench`: pgvane beside no proxy at all and beside the proxies it is to replace, in one run.
//!
//! Every measurement has processes of its own, started for it and ended after it; everything takes turns within
//! a round, in an order that rotates, so that what the machine does meanwhile hits all alike. Method and figures
//! are described in benches/README.md.
//!
//! Arrows: `workloads` -> { `line`, `load` } -> `stage` -> the playground.

mod encryption;
mod figures;
mod keys;
mod line;
mod load;
mod machine;
mod meter;
mod options;
mod report;
mod rest;
mod rivals;
mod settings;
mod stage;
pub mod stub;
mod wire;
mod workloads;

use std::time::{Duration, Instant};

use serde_json::json;

use self::machine::Machine;
pub use self::options::{Options, Peer};
use self::report::{Block, Run};
use self::rivals::Rivals;
use self::stage::Stage;
use self::workloads::Workload;
use crate::interrupt::told_to_stop;
use crate::{install, programs};

/// Installs, builds, measures and prints. Everything but the result goes to standard error.
pub fn run(options: &Options) -> Result<(), String> {
    let wanted: Vec<_> = workloads::ALL.iter().filter(|workload| workload.is_wanted(options)).collect();
    if wanted.is_empty() {
        let names: Vec<_> = workloads::ALL.iter().map(|workload| workload.name).collect();
        return Err(format!("no workload is called so; there are {}", names.join(", ")));
    }
    let servers = install::servers().map_err(|e| e.to_string())?;
    let (rivals, left_out) = Rivals::gather(options);
    left_out.iter().for_each(|line| eprintln!("{line}"));
    let proxy = programs::build_for_release().map_err(|e| e.to_string())?;
    let machine = Machine::look(&servers, &rivals, &proxy);
    let runtime = tokio::runtime::Runtime::new().map_err(|e| format!("no runtime: {e}"))?;
    let say = |line: &str| eprintln!("  {line}");
    let done = runtime.block_on(async {
        let work = async {
            let mut stage = Stage::set_up(&servers, rivals, &proxy, &say).await?;
            let mut bench = Bench { options, wanted: &wanted, runs: Vec::new(), failures: Vec::new() };
            bench.play(&mut stage).await;
            bench.print(&machine, &stage, &left_out)
        };
        tokio::select! {
            done = work => done,
            () = told_to_stop() => Err("stopped".to_owned()),
        }
    });
    runtime.shutdown_background();
    done
}

struct Bench<'a> {
    options: &'a Options,
    wanted: &'a [&'static Workload],
    runs: Vec<Run>,
    failures: Vec<String>,
}

impl Bench<'_> {
    async fn play(&mut self, stage: &mut Stage) {
        let started = Instant::now();
        let rounds = self.options.rounds();
        let length = Duration::from_secs(self.options.seconds().into());
        for round in 0..rounds {
            for workload in self.wanted {
                let may = |peer: &Peer| {
                    self.options.wants(*peer) && stage.rivals.has(*peer) && workload.suits(*peer)
                };
                let mut peers: Vec<_> = Peer::ALL.iter().copied().filter(may).collect();
                // Who comes first finds another machine than who comes last.
                let shift = usize::try_from(round).unwrap_or(0) % peers.len().max(1);
                peers.rotate_left(shift);
                for peer in peers {
                    let what = format!("{} through {}", workload.name, peer.name());
                    let elapsed = started.elapsed().as_secs();
                    eprintln!("  {elapsed:>4} s, round {} of {rounds}: {what}", round + 1);
                    match workload.run(stage, peer, length).await {
                        Ok(sample) => self.runs.push(Run { workload: workload.name, peer, sample }),
                        Err(why) => {
                            eprintln!("  FAILED: {why}");
                            self.failures.push(format!("round {}, {what}: {why}", round + 1));
                        }
                    }
                }
            }
        }
    }

    fn print(&self, machine: &Machine, stage: &Stage, left_out: &[String]) -> Result<(), String> {
        let blocks: Vec<_> =
            self.wanted.iter().filter_map(|workload| Block::of(workload, &self.runs)).collect();
        let (rounds, seconds) = (self.options.rounds(), self.options.seconds());
        if self.options.json {
            let document = json!({
                "machine": machine,
                "rounds": rounds,
                "seconds": seconds,
                "sessions": stage.sessions,
                "left_out": left_out,
                "failures": self.failures,
                "workloads": blocks,
            });
            println!("{document}");
        } else {
            machine.lines(stage).iter().for_each(|line| println!("{line}"));
            println!("rounds: {rounds}, seconds: {seconds}; median (min..max)\n");
            blocks.iter().for_each(|block| println!("{}", block.table()));
            left_out.iter().chain(&self.failures).for_each(|line| println!("{line}"));
        }
        if self.failures.is_empty() {
            Ok(())
        } else {
            Err(format!("{} measurements failed", self.failures.len()))
        }
    }
}
