//! The command line, signals and exit codes; everything else is in the library.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser};
use pgvane::config::{self, Config, Source};
use pgvane::control::{Control, Program, Request};
use pgvane::inherit::Inherited;
use pgvane::shutdown::Shutdown;
use pgvane::{takeover, telemetry};
use pgvane_cluster::store::etcd::EtcdStore;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::pki_types::UnixTime;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

/// Wrong settings (`EX_USAGE` of sysexits.h).
const BAD_CONFIG: u8 = 64;

/// The argument by which a process takes over.
const TAKE_OVER: &str = "--take-over";

/// Health-aware TCP proxy for highly available PostgreSQL.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Only check the settings file, say what is wrong with it, and exit: 0 when it is valid, else 64.
    #[arg(long)]
    check: bool,
    /// Take the ports over from the process that listens on [admin] socket, if there is one, and have it drain.
    #[arg(long)]
    take_over: bool,
    /// The settings file (see proxy.toml.example).
    config: PathBuf,
}

fn main() -> ExitCode {
    if let Some(done) = manual::on_request(Arguments::command()) {
        return done;
    }
    let arguments = Arguments::parse();
    let config = match config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(BAD_CONFIG);
        }
    };
    let concerns = pgvane::certificates::concerns(&config, UnixTime::now());
    if arguments.check {
        for concern in concerns {
            complain(&format!("warning: {concern}"));
        }
        complain(&format!("{}: valid", arguments.config.display()));
        return ExitCode::SUCCESS;
    }
    telemetry::start(&config.log);
    concerns.iter().for_each(|concern| warn!("{concern}"));
    // Follows the clusters and accepts; sessions run on threads of their own.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(config, arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain(&message);
            ExitCode::FAILURE
        }
    }
}

/// Says something to whoever started the program, before there is a log or instead of one.
fn complain(message: &str) {
    use std::io::Write;
    // Nobody is left to hear of a standard error that cannot be written to.
    let _ = writeln!(std::io::stderr(), "pgvane: {message}");
}

async fn serve(config: Config, arguments: Arguments) -> Result<(), String> {
    let shutdown = Shutdown::default();
    let file = arguments.config;
    let mut control = Control::new(move || config::load(&file).map_err(|error| error.to_string()));
    control.program = Some(this_program()?);
    watch_signals(shutdown.clone()).map_err(|error| format!("cannot watch signals: {error}"))?;
    ask_on_signals(&control).map_err(|error| format!("cannot watch signals: {error}"))?;
    // First what ends the program with one message, then what only deserves a warning.
    let inherited = inherit(&config, arguments.take_over)?;
    let bound = pgvane::bind(&config, inherited).map_err(|error| error.to_string())?;
    raise_descriptor_limit(&config);
    let stores: BTreeMap<_, _> = config
        .clusters
        .iter()
        .filter_map(|(name, cluster)| match &cluster.source {
            Source::Etcd(etcd) => Some((name.clone(), Arc::new(EtcdStore::new(etcd.options())))),
            Source::PatroniRest(_) | Source::Probe(_) => None,
        })
        .collect();
    // Without systemd there is nobody to notify.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    pgvane::run(config, bound, stores, shutdown, control)
        .await
        .map_err(|error| format!("cannot start: {error}"))
}

/// The first SIGTERM or SIGINT drains, the second ends at once.
fn watch_signals(shutdown: Shutdown) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for stop in [&shutdown.drain, &shutdown.now] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            info!(signal = name, "asked to stop");
            let _ = sd_notify::notify(&[NotifyState::Stopping]);
            stop.cancel();
        }
    });
    Ok(())
}

/// SIGHUP reads the settings file again; SIGUSR2 starts the program's file again.
fn ask_on_signals(control: &Control) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut upgrade = signal(SignalKind::user_defined2())?;
    let ask = control.ask.clone();
    tokio::spawn(async move {
        loop {
            let request = tokio::select! {
                _ = hangup.recv() => Request::Reload(None),
                _ = upgrade.recv() => Request::Upgrade(None),
            };
            if ask.send(request).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// What an upgrade starts: the file we run from, whatever it will contain then, with our arguments.
fn this_program() -> Result<Program, String> {
    let file =
        std::env::current_exe().map_err(|error| format!("cannot find this program's file: {error}"))?;
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if !arguments.iter().any(|argument| argument == TAKE_OVER) {
        arguments.insert(0, TAKE_OVER.into());
    }
    Ok(Program { file, arguments })
}

/// Sockets that are there already: systemd's, or those of the process before.
fn inherit(config: &Config, take_over: bool) -> Result<Inherited, String> {
    if take_over {
        let path = config.admin.socket.as_deref();
        let path = path.ok_or("--take-over needs [admin] socket in the settings")?;
        let taken = takeover::take_over(path);
        let taken = taken.map_err(|error| format!("cannot take over by {}: {error}", path.display()))?;
        if let Some((predecessor, sockets)) = taken {
            return Ok(Inherited::from_predecessor(predecessor, sockets));
        }
        info!(socket = %path.display(), "there is nobody to take over from");
    }
    Inherited::from_systemd().map_err(|error| format!("cannot use the sockets that systemd passes: {error}"))
}

/// Every session needs two descriptors; takes what the hard limit allows and says when that is too little.
fn raise_descriptor_limit(config: &Config) {
    let sessions: usize = config.listeners.iter().map(|l| l.max_sessions).sum();
    let wanted = sessions as u64 * 2 + 256;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    let possible = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(possible), maximum }) {
        warn!(%error, "cannot raise the limit of open files");
    } else if possible < wanted {
        warn!(
            limit = possible,
            wanted, "the limit of open files is too low for max_sessions of all listeners"
        );
    }
}
