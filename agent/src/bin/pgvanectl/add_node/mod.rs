//! `add-node`: this node's settings become those of one more node; says what else that one needs, and waits until it is a
//! member that streams.

mod advice;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use pgvane_agent::config::{self, Config, Environment, HostPort, Origin, SettingsError, translate};
use pgvane_agent::new_node::{Made, NewNode, OldNode, make};
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::settings_file;
use pgvane_cluster::view::ClusterView;

use crate::following::Following;
use crate::import::write;
use crate::target::Target;
use crate::{Failed, fail, say};

/// What `add-node` takes.
#[derive(Args)]
pub(crate) struct AddNodeArgs {
    /// The new node's name.
    name: String,
    /// Its host name or address, where clients and the other members reach it; :PORT where PostgreSQL's differs from this
    /// node's.
    address: String,
    /// The port of its REST API, where that differs from this node's.
    #[arg(long, value_name = "PORT")]
    rest_port: Option<u16>,
    /// The file to write. [default: NAME.agent.toml here]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file.
    #[arg(long)]
    force: bool,
    /// Then wait until it is a member and streams, at most so many seconds; exit code 1 if it does not.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "600")]
    wait: Option<u64>,
}

pub(crate) async fn run(target: &Target, file: &Path, args: &AddNodeArgs) -> Result<(), Failed> {
    let (text, config) = settings(file)?;
    let view = target.view().await?;
    let new = new_node(args, &config)?;
    if let Some(why) = taken(&view, &new) {
        return fail(why);
    }
    let old = OldNode {
        name: config.name.to_string(),
        postgres: config.postgresql.connect_address.clone(),
        rest: config.restapi.connect_address.clone(),
    };
    let made = make(&text, &old, &new).map_err(Failed)?;
    checked(&made, file, &new)?;
    let output = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}.agent.toml", new.name)));
    if !args.force && output.symlink_metadata().is_ok() {
        return fail(format!("{} is there already; --force replaces it", output.display()));
    }
    write(&output, &made.toml, args.force).map_err(|e| Failed(format!("{}: {e}", output.display())))?;
    say(&advice::text(&view, &config, &new, &made, &output))?;
    match args.wait {
        Some(seconds) => wait(target, &new.name, Duration::from_secs(seconds)).await,
        None => Ok(()),
    }
}

/// This node's settings as an agent.toml, whatever they are written in.
fn settings(file: &Path) -> Result<(String, Config), Failed> {
    let wrong = |e: SettingsError| Failed(e.to_string());
    match Origin::of(Some(file)) {
        Origin::Toml(path) => {
            let config = config::load(&path).map_err(wrong)?.config;
            Ok((settings_file::read(&path).map_err(wrong)?, config))
        }
        Origin::Yaml(_) | Origin::Environment => {
            let text = settings_file::read(file).map_err(wrong)?;
            let absolute = std::path::absolute(file)?;
            let base = absolute.parent().unwrap_or(Path::new("/"));
            let shown = file.display().to_string();
            let made = translate(&text, &shown, base, &Environment::of_process()).map_err(wrong)?;
            Ok((made.toml, made.config))
        }
    }
}

fn new_node(args: &AddNodeArgs, config: &Config) -> Result<NewNode, Failed> {
    let of_this = config.postgresql.connect_address.port;
    let rest = args.rest_port.unwrap_or(config.restapi.connect_address.port);
    let (host, postgres) = match args.address.rsplit_once(':') {
        // More than one colon without brackets is an IPv6 address.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, port),
            Err(_) => return fail(format!("{:?} is no HOST or HOST:PORT", args.address)),
        },
        _ => (args.address.as_str(), of_this),
    };
    let host = host.trim_matches(['[', ']']).to_owned();
    if host.is_empty() || host == "*" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_unspecified()) {
        return fail(format!("{:?} is no address that others can reach", args.address));
    }
    if args.name.is_empty() || args.name.contains('/') {
        return fail(format!("{:?} is no name for a member", args.name));
    }
    Ok(NewNode { name: args.name.clone(), host, postgres, rest })
}

/// Why this node cannot be had beside the members that there are.
fn taken(view: &ClusterView, new: &NewNode) -> Option<String> {
    if view.members.contains_key(&NodeName::from(new.name.as_str())) {
        return Some(format!("{} is a member already", new.name));
    }
    let (postgres, rest) = ((new.host.clone(), new.postgres), (new.host.clone(), new.rest));
    view.members.iter().find_map(|(name, member)| {
        let record = &member.record;
        if record.postgres_address().as_ref() == Some(&postgres) {
            return Some(format!("{name} is at {}:{} already", postgres.0, postgres.1));
        }
        let same = record.api_address().as_ref() == Some(&rest);
        same.then(|| format!("the REST API of {name} is at {}:{} already", rest.0, rest.1))
    })
}

/// What was made must be what was meant, to the eyes of an agent.
fn checked(made: &Made, file: &Path, new: &NewNode) -> Result<(), Failed> {
    let absolute = std::path::absolute(file)?;
    let base = absolute.parent().unwrap_or(Path::new("/"));
    let config = config::parse(&made.toml, "the new settings", base).map_err(|e| Failed(e.to_string()))?;
    let address = |port| HostPort { host: new.host.clone(), port };
    let is_meant = config.name.as_str() == new.name
        && config.postgresql.connect_address == address(new.postgres)
        && config.restapi.connect_address == address(new.rest)
        && config.postgresql.port == new.postgres;
    if is_meant {
        return Ok(());
    }
    fail(format!(
        "{}: its addresses could not be replaced; write the new node's settings by hand",
        file.display()
    ))
}

/// Waits until the member streams on the leader's timeline.
async fn wait(target: &Target, name: &str, limit: Duration) -> Result<(), Failed> {
    let (began, name) = (Tick::now(), NodeName::from(name));
    say(&format!("Waiting for {name}, at most {} s\n", limit.as_secs()))?;
    let mut last = String::new();
    let mut following = Following::begin(target);
    let streams = following.until(limit, |view| {
        let record = &view.members.get(&name)?.record;
        let state = record.replication_state.as_deref().unwrap_or(record.state.as_str()).to_owned();
        if last != state {
            let seconds = Tick::now().since(began).as_secs_f64();
            eprintln!("{seconds:>7.2} s  {name}: {state}");
            last.clone_from(&state);
        }
        let leader = view.leader_member().map(|member| member.record.timeline);
        (state == "streaming" && leader == Some(record.timeline)).then_some(())
    });
    match streams.await? {
        Some(()) => {
            let seconds = Tick::now().since(began).as_secs_f64();
            say(&format!("{name} is a member and streams ({seconds:.1} s)\n"))
        }
        None if last.is_empty() => fail(format!(
            "{name} is no member after {} s: does its agent run, and reach etcd?",
            limit.as_secs()
        )),
        None => {
            fail(format!("{name} does not stream after {} s: {last}; see its agent's log", limit.as_secs()))
        }
    }
}

/// Whether the file can be read at all, before anybody is asked.
pub(crate) fn readable(file: &Path) -> Result<(), Failed> {
    fs::File::open(file)
        .map(drop)
        .map_err(|e| Failed(format!("{}: {e}; name this node's settings with -c", file.display())))
}
