//! `cargo xtask sim`: as many schedules of the simulation as one likes.

use clap::Args;

use crate::programs::cargo;

/// The command's options.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// How many schedules.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, value_name = "SEED")]
    from: Option<u64>,
    /// Show one seed with its whole event log instead.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "from"])]
    replay: Option<u64>,
    /// Say of every seed that fails, rather than stop at the first.
    #[arg(long)]
    survey: bool,
}

/// Plays them.
pub fn run(options: &Options) -> Result<(), String> {
    let mut command = cargo();
    let test = if options.replay.is_some() { "one_schedule" } else { "many_schedules" };
    command.args(["test", "--locked", "--package", "pgvane", "--test", "sim", test, "--", "--nocapture"]);
    command.env("PGVANE_SIM_RUNS", options.seeds.to_string());
    if let Some(seed) = options.replay.or(options.from) {
        command.env("PGVANE_SIM_SEED", seed.to_string());
    }
    if options.survey {
        command.env("PGVANE_SIM_SURVEY", "1");
    }
    // What it says is the result of this command.
    command.stdout(std::process::Stdio::inherit());
    let status = command.status().map_err(|e| format!("cargo: {e}"))?;
    if status.success() { Ok(()) } else { Err("a schedule failed; see above".to_owned()) }
}
