//! `cargo xtask mutants`: does a deliberate bug in the core go unnoticed?
//!
//! Each bug of [`list`] is planted in a copy of the workspace, one at a time. The core's own tests must catch it, or
//! the simulation. A bug that survives, or whose line is not in the source any more, fails the command.

pub mod list;
mod tree;

use std::path::PathBuf;
use std::process::Output;
use std::time::Instant;

use clap::Args;

use self::list::{MUTANTS, Mutant};
use self::tree::Tree;
use crate::programs::{cargo, root};

/// The command's options.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Only bugs whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// How many schedules the simulation plays to find one.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    seeds: u64,
    /// Play the simulation also where the core's tests have caught the bug.
    #[arg(long)]
    both: bool,
    /// Say which there are, and end.
    #[arg(long)]
    list: bool,
}

/// What noticed a bug.
struct Caught {
    by_tests: Option<String>,
    by_simulation: Option<String>,
}

impl Caught {
    fn is_caught(&self) -> bool {
        self.by_tests.is_some() || self.by_simulation.is_some()
    }
}

/// Plants one bug after the other and prints the score.
pub fn run(options: &Options) -> Result<(), String> {
    let chosen = MUTANTS.iter().filter(|m| options.only.as_ref().is_none_or(|part| m.name.contains(part)));
    let chosen: Vec<&Mutant> = chosen.collect();
    if options.list {
        chosen.iter().for_each(|m| println!("{:<28} {}: {}", m.name, m.file, m.story));
        return Ok(());
    }
    let dir = root().join("target/mutants");
    let tree = Tree::new(dir.join("tree")).map_err(|e| format!("{}: {e}", dir.display()))?;
    let build = dir.join("target");
    eprintln!("==> the source as it is");
    let sound = try_all(&tree, &build, options)?;
    if let Some(what) = sound.by_tests.or(sound.by_simulation) {
        return Err(format!("the source as it is does not pass: {what}"));
    }
    let mut survivors = Vec::new();
    for (number, mutant) in chosen.iter().enumerate() {
        let began = Instant::now();
        eprintln!("==> {}/{} {}: {}", number + 1, chosen.len(), mutant.name, mutant.story);
        tree.plant(mutant)?;
        let caught = try_all(&tree, &build, options);
        tree.restore(mutant)?;
        let caught = caught.map_err(|e| format!("{}: {e}", mutant.name))?;
        let how = [&caught.by_tests, &caught.by_simulation];
        let how: Vec<&str> = how.into_iter().flatten().map(String::as_str).collect();
        let how = if caught.is_caught() { how.join("; ") } else { "SURVIVED".to_owned() };
        println!("{:<28} {how} ({:.0} s)", mutant.name, began.elapsed().as_secs_f64());
        if !caught.is_caught() {
            survivors.push(mutant.name);
        }
    }
    println!("{} of {} were caught", chosen.len() - survivors.len(), chosen.len());
    if survivors.is_empty() { Ok(()) } else { Err(format!("not noticed: {}", survivors.join(", "))) }
}

/// What the tests of the core say of the tree, and the simulation where they say nothing.
fn try_all(tree: &Tree, build: &std::path::Path, options: &Options) -> Result<Caught, String> {
    let tests = ["--package", "pgvane-agent", "--lib", "--test", "decide_*"];
    let by_tests = try_one(tree, build, &tests, &[])?;
    if by_tests.is_some() && !options.both {
        return Ok(Caught { by_tests, by_simulation: None });
    }
    let seeds = options.seeds.to_string();
    let simulation = ["--package", "pgvane", "--test", "sim", SIMULATION];
    let by_simulation = try_one(tree, build, &simulation, &[("PGVANE_SIM_RUNS", &seeds)])?;
    Ok(Caught { by_tests, by_simulation })
}

/// The test that plays many schedules.
const SIMULATION: &str = "many_schedules";

/// Runs some tests; what failed in them, if anything did.
fn try_one(
    tree: &Tree,
    build: &std::path::Path,
    tests: &[&str],
    environment: &[(&str, &str)],
) -> Result<Option<String>, String> {
    let mut command = cargo();
    command.current_dir(tree.root()).args(["test", "--locked", "--no-fail-fast"]).args(tests);
    command.env("CARGO_TARGET_DIR", build).env("RUST_BACKTRACE", "0").env_remove("PGVANE_SIM_SEED");
    command.envs(environment.iter().copied());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let output = command.output().map_err(|e| format!("cargo: {e}"))?;
    if output.status.success() {
        return Ok(None);
    }
    what_failed(&output).map(Some)
}

fn what_failed(output: &Output) -> Result<String, String> {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // The simulation says which promise was broken.
    if let Some(line) =
        out.lines().chain(err.lines()).find(|l| l.starts_with("seed ") && l.contains(" breaks "))
    {
        return Ok(line.trim().to_owned());
    }
    let failed = out.lines().filter_map(|l| l.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let failed: Vec<&str> = failed.collect();
    match failed.split_first() {
        Some((first, [])) => Ok(format!("test {first}")),
        Some((first, more)) => Ok(format!("test {first} and {} more", more.len())),
        None => {
            let end: Vec<&str> = err.lines().rev().take(30).collect();
            Err(format!(
                "does not build or ends oddly:\n{}",
                end.into_iter().rev().collect::<Vec<_>>().join("\n")
            ))
        }
    }
}

/// Where a planted bug is.
fn place(tree: &Tree, mutant: &Mutant) -> PathBuf {
    tree.root().join(mutant.file)
}
