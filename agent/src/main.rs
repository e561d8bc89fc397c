//! The agent's command line.

use std::process::ExitCode;

use clap::Parser;
use pgvane_agent::guard;

#[derive(Parser)]
#[command(version, about = "One per PostgreSQL node: lease-based failover driven by events")]
enum Cli {
    /// Holds the lease deadline of one data directory; started by the agent.
    #[command(hide = true)]
    Guard(guard::GuardArgs),
}

fn main() -> ExitCode {
    match Cli::parse() {
        Cli::Guard(args) => guard::main(&args),
    }
}
