//! The command line of `cargo xtask`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use xtask::demo::{self, Headless};
use xtask::drill::Drill;
use xtask::drill::command::DrillArgs;
use xtask::playground::{Options, janitor};
use xtask::{bench, checks, dist, docs, drill, install, mutants, programs, simulate, versions};

/// Try pgvane on this machine, or check a change.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Start etcd, three PostgreSQL nodes with their agents and two proxies on loopback, and watch a failover.
    ///
    /// Installs PostgreSQL and etcd where they are missing. Ctrl-C or `q` ends everything and leaves nothing.
    Demo(DemoArgs),
    /// Break a cluster at random for a while, every part in a network namespace of its own, and check that nothing
    /// acknowledged was lost, that no two primaries accepted writes, and that it recovered each time; needs root.
    ///
    /// Installs what is missing, and leaves nothing behind.
    Drill(DrillArgs),
    /// Everything a change must pass: fmt, clippy, docs, and all tests on real etcd and PostgreSQL.
    Test(TestArgs),
    /// Measure pgvane side by side with no proxy, HAProxy, nginx and PgBouncer (see benches/README.md).
    ///
    /// Installs what is missing, builds pgvane for release and leaves no process behind. HAPROXY_BIN names another
    /// HAProxy than the system's.
    Bench(bench::Options),
    /// Play schedules of the simulation: a million, or as many as one likes.
    ///
    /// Prints how many a second, what happened in them, and the first seed that breaks a promise.
    Sim(simulate::Options),
    /// Plant deliberate bugs in a copy of the core, one at a time, and see that each is noticed.
    ///
    /// Takes about two minutes each.
    Mutants(mutants::Options),
    /// Play drills and run tests on other versions of PostgreSQL and etcd than this machine's, and print a table.
    ///
    /// Installs them below target. Takes about ten minutes each. Any other command runs on a version of your own with
    /// PGVANE_POSTGRES (a directory of programs) or PGVANE_ETCD (a program) in the environment.
    Versions(versions::Options),
    /// Make packages for Debian and RPM distributions, with statically linked programs, in target/dist.
    ///
    /// Installs the tools it needs below target.
    Dist,
    /// Write the reference of settings and their schemas anew, of what the code says.
    Docs,
    /// The server behind the proxies that are measured; started by the bench itself.
    #[command(hide = true, name = bench::stub::SUBCOMMAND)]
    BenchStub { address: SocketAddr, id: u32 },
    /// Ends the processes of a playground whose owner was killed; started by the playground itself.
    #[command(hide = true, name = janitor::SUBCOMMAND)]
    Janitor {
        dir: PathBuf,
        #[arg(long)]
        keep: bool,
    },
}

#[derive(Args)]
struct DemoArgs {
    /// Run this drill without the picture, print its figures and end.
    #[arg(long, value_name = "DRILL")]
    run: Option<Drill>,
    /// How often to run it, on one cluster.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "run")]
    repeat: u32,
    /// Print one JSON object per run on standard output, and nothing else there.
    #[arg(long, requires = "run")]
    json: bool,
    /// The lease time: how long a dead machine may hold the leadership.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=600))]
    ttl: u32,
    /// Have commits wait for standbys.
    #[arg(long, value_name = "MODE", default_value_t = Sync::Off, value_enum)]
    sync: Sync,
    /// Keep data and logs, and say where.
    #[arg(long)]
    keep: bool,
}

/// The synchronous modes.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Sync {
    /// They do not wait.
    Off,
    /// For one, as long as there is one.
    On,
    /// For one, in any case.
    Strict,
    /// For any one of all.
    Quorum,
}

impl Sync {
    /// As `[bootstrap.dcs]` has it.
    fn settings(self) -> String {
        match self {
            Sync::Off => String::new(),
            Sync::On => "synchronous_mode = \"on\"\n".to_owned(),
            Sync::Strict => "synchronous_mode = \"on\"\nsynchronous_mode_strict = true\n".to_owned(),
            Sync::Quorum => "synchronous_mode = \"quorum\"\n".to_owned(),
        }
    }
}

#[derive(Args)]
struct TestArgs {
    /// Only what needs no server: fmt, clippy, docs.
    #[arg(long)]
    lint: bool,
    /// Play the long tests at full length: half an hour more.
    #[arg(long, conflicts_with = "lint")]
    long: bool,
    /// Arguments for `cargo test`, after `--`: a filter, `--nocapture`, ...
    #[arg(last = true)]
    cargo: Vec<String>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Task::Janitor { dir, keep } => janitor::main(&dir, keep).map_err(|e| e.to_string()),
        Task::Test(args) => checks::run(args.lint, args.long, &args.cargo),
        Task::Demo(args) => play(&args),
        Task::Drill(args) => drill::command::main(&args),
        Task::Sim(options) => simulate::run(&options),
        Task::Mutants(options) => mutants::run(&options),
        Task::Versions(options) => versions::run(&options),
        Task::Dist => dist::run(),
        Task::Docs => docs::run(),
        Task::Bench(options) => bench::run(&options),
        Task::BenchStub { address, id } => bench::stub::serve(address, id).map_err(|e| e.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}

fn play(args: &DemoArgs) -> Result<(), String> {
    if args.run.is_some_and(Drill::needs_network) {
        return Err("that needs a network to break: cargo xtask drill --rows --events ...".to_owned());
    }
    let servers = install::servers().map_err(|e| e.to_string())?;
    let programs = programs::build().map_err(|e| e.to_string())?;
    let dcs = args.sync.settings();
    let options = Options { ttl: args.ttl, keep: args.keep, dcs, ..Options::default() };
    let runtime = tokio::runtime::Runtime::new().map_err(|e| format!("no runtime: {e}"))?;
    let done = runtime.block_on(async {
        match args.run {
            Some(drill) => {
                let headless = Headless { drill, repeat: args.repeat, json: args.json };
                demo::run_drill(&headless, &options, &programs, &servers).await
            }
            None => demo::show(&options, &programs, &servers).await,
        }
    });
    runtime.shutdown_background();
    done
}
