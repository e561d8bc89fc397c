//! `pgvanectl`: the operator's hands on a cluster of pgvane agents, Patroni daemons or both.
//!
//! Reads come from the store, changes of leadership go through the agents' REST API, changes of the dynamic
//! configuration are a compare-and-swap in the store. Exit codes: 0 done, 1 failed or declined, 2 wrong usage.

mod add_node;
mod at;
mod backup;
mod call;
mod check;
mod diff;
mod doctor;
mod document;
mod drill;
mod dsn;
mod flush;
mod following;
mod history;
mod import;
mod leader;
mod list;
mod members;
mod output;
mod pause;
mod prompt;
mod proxy;
mod remove;
mod restart;
mod restore;
mod standby;
mod target;
mod terminal;
mod version;
mod wal;
mod watch;

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use pgvane_cluster::store::StoreError;

use self::document::PARAMETERS;
use self::list::Shape;
use self::members::MembersArgs;
use self::output::Format;
use self::target::{Target, TargetArgs};

/// Looks at and changes a PostgreSQL cluster run by pgvane agents or Patroni daemons.
#[derive(Parser)]
#[command(name = "pgvanectl", version, about = ABOUT, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    target: TargetArgs,
}

/// Said here because clap would take the package's description, which is the agent's.
const ABOUT: &str = "Looks at and changes a PostgreSQL cluster run by pgvane agents or Patroni daemons";

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed or declined, 2 wrong usage; check and doctor have their own.";

#[derive(Subcommand)]
enum Command {
    /// Show the members.
    List(ListArgs),
    /// Show the members below those they replicate from.
    Topology(ListArgs),
    /// Say in one line whether the cluster is well, for a monitoring system.
    ///
    /// Exit codes: 0 well, 1 warning, 2 critical, 3 not known, such as when the store does not answer.
    Check(check::CheckArgs),
    /// Look at this node before it is trusted: clock, limits, permissions, certificates, etcd's speed, PostgreSQL, the other
    /// members.
    ///
    /// The other members are reached for from here, and their agents are asked to reach back. Certificates are those in
    /// agent.toml, and those that etcd, the members' REST APIs and their PostgreSQL show. Changes nothing. Exit codes: 0 all is well, 1 warnings, 2 something that breaks a failover.
    Doctor(doctor::DoctorArgs),
    /// Show what happens, one line per change; on a terminal with the members above.
    Watch,
    /// Show the changes of leader so far.
    History {
        /// How to show them.
        #[arg(short, long, value_enum, default_value = "pretty")]
        format: Format,
    },
    /// Hand leadership over without losing a commit.
    Switchover(leader::SwitchoverArgs),
    /// Make a member leader although it may lack commits.
    Failover {
        /// Who shall lead.
        #[arg(long)]
        candidate: String,
        /// Do not ask.
        #[arg(long)]
        force: bool,
    },
    /// Restart PostgreSQL.
    Restart(restart::RestartArgs),
    /// Have agents and PostgreSQL read their settings again.
    Reload(restart::ReloadArgs),
    /// Have members follow the leader now: rewound, or copied anew, where their history parted from its.
    Rewind(restart::RewindArgs),
    /// Remove a replica's data and copy it again.
    Reinit(restart::ReinitArgs),
    /// Turn maintenance mode on: nothing is started, stopped, promoted or demoted by itself.
    Pause {
        /// Return only when every member has seen it.
        #[arg(long)]
        wait: bool,
    },
    /// Turn maintenance mode off.
    Resume {
        /// Return only when every member has seen it.
        #[arg(long)]
        wait: bool,
    },
    /// Drop what is scheduled.
    #[command(subcommand)]
    Flush(flush::FlushCommand),
    /// Show the dynamic configuration, as indented JSON.
    ShowConfig,
    /// Change the dynamic configuration: in $EDITOR (as JSON), by `--set` and `--pg`, or from a file.
    EditConfig {
        /// Dots in the key lead into objects; an empty value or `null` removes. May be repeated.
        #[arg(short, long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// A PostgreSQL parameter: short for `--set postgresql.parameters.NAME=VALUE`. May be repeated.
        #[arg(short, long = "pg", value_name = "NAME=VALUE")]
        pg: Vec<String>,
        /// Merge this JSON file; `-` reads standard input (needs --force).
        #[arg(long, value_name = "FILE")]
        apply: Option<PathBuf>,
        /// Do not ask.
        #[arg(long)]
        force: bool,
    },
    /// Show where a member's PostgreSQL is, as a connection string.
    Dsn(dsn::MemberArgs),
    /// Ask a member's PostgreSQL.
    Query(dsn::QueryArgs),
    /// Show the versions of this program, of agents and of PostgreSQL.
    Version {
        #[command(flatten)]
        which: MembersArgs,
        /// How to show them.
        #[arg(short, long, value_enum, default_value = "pretty")]
        format: Format,
    },
    /// Have the cluster follow another one, as a standby cluster.
    DemoteCluster(standby::DemoteArgs),
    /// Have a standby cluster accept writes.
    PromoteCluster {
        /// Do not ask.
        #[arg(long)]
        force: bool,
    },
    /// Forget a cluster: its keys are deleted, its servers are left alone.
    Remove,
    /// Make agent.toml of a patroni.yml, and proxy.toml of a haproxy.cfg; says what became of each setting.
    Import(import::ImportArgs),
    /// Make the settings of one more node from this node's, and say what else it needs.
    AddNode(add_node::AddNodeArgs),
    /// Rehearse a fault: say how for this cluster and what to expect, and measure what it cost.
    ///
    /// Breaks nothing itself; --perform carries out a switchover, after a question.
    Drill(drill::DrillArgs),
    /// Make a backup: copy a member, verify the copy, remove what is too old.
    ///
    /// A backup has its name in DIR only once it is complete, verified and on the disk. Exit codes, for cron: 0 done, 1
    /// failed, 2 wrong usage; DIR/backups.log has a line for each run.
    Backup(backup::BackupArgs),
    /// Show the backups in a directory.
    Backups(backup::BackupsArgs),
    /// Make a data directory of a backup; can be the command of an agent's bootstrap.method.
    Restore(restore::RestoreArgs),
    /// Archive a WAL file: `archive_command = 'pgvanectl archive-wal %p DIR'`.
    ///
    /// Succeeds when the file is on the disk of DIR, or was there with the same content; never replaces another.
    ArchiveWal(wal::ArchiveArgs),
    /// Fetch a WAL file from an archive: `restore_command = 'pgvanectl restore-wal DIR %f %p'`.
    ///
    /// Exit codes: 0 fetched, 1 there is none, 200 the archive cannot be read: a recovery stops there instead of taking
    /// it for the end of the WAL. A standby, which can stream, gets 1 then.
    RestoreWal(wal::FetchArgs),
    /// Look at and change the pgvane on this host: status, sessions, drain, disable, enable, kill, reload, upgrade.
    Proxy(proxy::ProxyArgs),
}

/// What `list` and `topology` take.
#[derive(clap::Args)]
struct ListArgs {
    /// How to show them.
    #[arg(short, long, value_enum, default_value = "pretty")]
    format: Format,
    /// Show all columns, also those that say nothing.
    #[arg(short, long)]
    extended: bool,
    /// Go on showing: once per change in the store.
    #[arg(short, long)]
    watch: bool,
}

/// Why a command came to nothing; the text is for the operator.
#[derive(Debug)]
struct Failed(String);

impl From<StoreError> for Failed {
    fn from(e: StoreError) -> Failed {
        Failed(e.to_string())
    }
}

impl From<std::io::Error> for Failed {
    fn from(e: std::io::Error) -> Failed {
        Failed(e.to_string())
    }
}

/// Prints to standard output. `println!` would panic where the reader has gone, as in `pgvanectl list | head -1`.
fn say(text: &str) -> Result<(), Failed> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Who has read enough need not be told.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => fail(""),
        written => written.map_err(|e| Failed(format!("standard output: {e}"))),
    }
}

fn fail<T>(text: impl Into<String>) -> Result<T, Failed> {
    Err(Failed(text.into()))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    if let Some(done) = manual::on_request(Cli::command()) {
        return done;
    }
    let cli = Cli::parse();
    match Box::pin(run(cli)).await {
        Ok(code) => code,
        Err(Failed(why)) => {
            if !why.is_empty() {
                eprintln!("Error: {why}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode, Failed> {
    // Only where a cluster is needed.
    let config = cli.target.config.clone();
    let target = || Target::find(cli.target);
    match cli.command {
        // Its exit codes are those of monitoring systems.
        Command::Check(args) => return Ok(check::run(target(), args).await),
        Command::Doctor(args) => {
            return Box::pin(doctor::run(&doctor::settings_file(config.as_ref()), &args)).await;
        }
        Command::Proxy(args) => proxy::run(args).await,
        Command::Import(args) => import::run(&args),
        Command::AddNode(args) => {
            let file = doctor::settings_file(config.as_ref());
            add_node::readable(&file)?;
            Box::pin(add_node::run(&target()?, &file, &args)).await
        }
        Command::Drill(args) => Box::pin(drill::run(&target()?, &args)).await,
        Command::Backup(args) => Box::pin(backup::run(&target()?, &args)).await,
        Command::Backups(args) => backup::list(&args).await,
        Command::Restore(args) => restore::run(args).await,
        Command::ArchiveWal(args) => return wal::archive(&args),
        Command::RestoreWal(args) => return Ok(wal::fetch(&args)),
        Command::List(args) => members(&target()?, &args, false).await,
        Command::Topology(args) => members(&target()?, &args, true).await,
        Command::Watch => watch::run(&target()?, Format::Pretty, Shape::default(), false).await,
        Command::History { format } => history::show(&target()?, format).await,
        Command::Switchover(args) => leader::switchover(&target()?, args).await,
        Command::Failover { candidate, force } => leader::failover(&target()?, &candidate, force).await,
        Command::Restart(args) => restart::restart(&target()?, args).await,
        Command::Reload(args) => restart::reload(&target()?, args).await,
        Command::Rewind(args) => restart::rewind(&target()?, args).await,
        Command::Reinit(args) => restart::reinit(&target()?, args).await,
        Command::Pause { wait } => pause::set(&target()?, true, wait).await,
        Command::Resume { wait } => pause::set(&target()?, false, wait).await,
        Command::Flush(command) => flush::run(&target()?, command).await,
        Command::Dsn(which) => dsn::dsn(&target()?, which).await,
        Command::Query(args) => dsn::query(&target()?, args).await,
        Command::Version { which, format } => version::show(&target()?, &which, format).await,
        Command::DemoteCluster(args) => standby::demote(&target()?, args).await,
        Command::PromoteCluster { force } => standby::promote(&target()?, force).await,
        Command::Remove => remove::remove(&target()?).await,
        Command::ShowConfig => document::show(&target()?).await,
        Command::EditConfig { set, pg, apply, force } => {
            let pg = pg.iter().map(|pair| format!("{PARAMETERS}{pair}"));
            let pairs: Vec<String> = set.into_iter().chain(pg).collect();
            document::edit(&target()?, &pairs, apply.as_deref(), force).await
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

async fn members(target: &Target, args: &ListArgs, tree: bool) -> Result<(), Failed> {
    let shape = Shape { extended: args.extended, tree };
    if args.watch {
        watch::run(target, args.format, shape, true).await
    } else {
        list::once(target, args.format, shape).await
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_names_this_program() {
        let mut cli = Cli::command();
        cli.clone().debug_assert();
        assert!(cli.render_version().starts_with("pgvanectl "));
        assert!(cli.render_help().to_string().starts_with(ABOUT));
    }
}
