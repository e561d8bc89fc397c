//! `pgvane-agent`: the command line, the exit code, nothing else.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use pgvane_agent::config::{self, Environment, Loaded, Origin};
use pgvane_agent::guard::GuardArgs;
use pgvane_agent::handover;
use pgvane_agent::reload::Reloader;
use pgvane_agent::run::Stuck;
use pgvane_agent::telemetry::Telemetry;

/// Runs one PostgreSQL node of a highly available cluster.
///
/// Exit codes: 0 told to stop; 1 failed, may be started again; 64 the settings are wrong; 78 something here only
/// an operator can resolve, such as the data of another cluster: nothing was touched.
#[derive(Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    /// The settings: agent.toml, a patroni.yml, or a directory of *.yml files, merged in the order of their names.
    /// `PATRONI_*` variables replace what YAML files say; without a file they are all there is.
    #[arg(value_name = "CONFIG")]
    config: Option<PathBuf>,
    /// Only read the settings and say what is wrong with them.
    #[arg(long, visible_alias = "validate-config")]
    check: bool,
    /// As Patroni spells it; ports are never looked at.
    #[arg(short, long, hide = true)]
    ignore_listen_port: bool,
    /// The variables of the environment come through the standard input.
    #[arg(long = handover::OPTION, hide = true)]
    environment_on_stdin: bool,
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
    if let Some(done) = manual::on_request(Cli::command()) {
        return done;
    }
    let cli = Cli::parse();
    if let Some(Internal::Guard(args)) = &cli.command {
        return pgvane_agent::guard::main(args);
    }
    let environment = match cli.environment_on_stdin.then(handover::taken) {
        None => Environment::of_process(),
        Some(Ok(environment)) => environment,
        Some(Err(error)) => {
            eprintln!("the settings of the environment did not come: {error}");
            return ExitCode::FAILURE;
        }
    };
    if cli.config.is_none() && environment.is_empty() {
        let text = "name a settings file, or set PATRONI_* variables";
        Cli::command().error(ErrorKind::MissingRequiredArgument, text).exit();
    }
    let origin = Origin::of(cli.config.as_deref());
    let loaded = match config::read(&origin, &environment) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(BAD_CONFIG);
        }
    };
    if cli.check {
        for warning in &loaded.warnings {
            eprintln!("warning: {warning}");
        }
        println!("{origin}: ok");
        return ExitCode::SUCCESS;
    }
    if rustix::process::geteuid().is_root() {
        eprintln!(
            "pgvane-agent must not run as root: PostgreSQL refuses to. Run it as the owner of the data directory."
        );
        return ExitCode::FAILURE;
    }
    if !cli.environment_on_stdin && !environment.is_empty() {
        let error = handover::start_without(&environment);
        eprintln!("PATRONI_* variables cannot be kept from what this program starts: {error}");
        return ExitCode::FAILURE;
    }
    run(loaded, origin, environment)
}

fn run(loaded: Loaded, origin: Origin, environment: Environment) -> ExitCode {
    let telemetry = match Telemetry::start(&loaded.config.log) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(BAD_CONFIG);
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let reloader = Reloader::new(origin, environment, telemetry);
    let result = runtime.block_on(pgvane_agent::run::run(loaded.config, reloader));
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
