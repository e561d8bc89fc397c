//! `pgvane-agent`: the command line, the exit code, nothing else.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pgvane_agent::config;
use pgvane_agent::guard::GuardArgs;
use pgvane_agent::run::Stuck;

/// Runs one PostgreSQL node of a highly available cluster.
///
/// Exit codes: 0 told to stop; 1 failed, may be started again; 64 the settings are wrong; 78 something here only
/// an operator can resolve, such as the data of another cluster: nothing was touched.
#[derive(Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    /// The settings file, agent.toml.
    #[arg(value_name = "CONFIG", required = true)]
    config: Option<PathBuf>,
    /// Only read the settings and say what is wrong with them.
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    command: Option<Internal>,
}

#[derive(Subcommand)]
enum Internal {
    /// Holds the deadline of an agent; started by the agent itself.
    #[command(hide = true)]
    Guard(GuardArgs),
}

/// Wrong settings (sysexits.h: EX_USAGE).
const BAD_CONFIG: u8 = 64;

/// Something on this host that only an operator can resolve (sysexits.h: EX_CONFIG).
const NEEDS_OPERATOR: u8 = 78;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Internal::Guard(args)) = &cli.command {
        return pgvane_agent::guard::main(args);
    }
    let Some(path) = cli.config else { return ExitCode::from(BAD_CONFIG) };
    let loaded = match config::load(&path) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(BAD_CONFIG);
        }
    };
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    if cli.check {
        println!("{}: ok", path.display());
        return ExitCode::SUCCESS;
    }
    if rustix::process::geteuid().is_root() {
        eprintln!(
            "pgvane-agent must not run as root: PostgreSQL refuses to. Run it as the owner of the data directory."
        );
        return ExitCode::FAILURE;
    }
    pgvane_agent::telemetry::start(&loaded.config.log);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(pgvane_agent::run::run(loaded.config));
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(stuck) => {
            eprintln!("pgvane-agent: {stuck}");
            match stuck {
                Stuck::Failed(_) => ExitCode::FAILURE,
                Stuck::NeedsOperator(_) => ExitCode::from(NEEDS_OPERATOR),
            }
        }
    }
}
