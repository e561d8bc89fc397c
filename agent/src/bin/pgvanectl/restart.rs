//! `restart`, `reload`, `rewind` and `reinit`: things an agent does to its own PostgreSQL, asked of one member after another.

use std::time::Duration;

use clap::Args;
use hyper::Method;
use jiff::ZonedDateTime;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::records::{MemberRecord, MemberState};
use pgvane_cluster::units;
use pgvane_cluster::view::ClusterView;
use serde_json::{Map, Value, json};

use crate::following::Following;
use crate::members::{MembersArgs, names};
use crate::prompt::confirm;
use crate::target::Target;
use crate::{Failed, at, call, fail, list, say};

/// How long a restart may take where --timeout says nothing: PostgreSQL may have much to recover.
const RESTART_WITHIN: Duration = Duration::from_mins(10);

/// How long an agent may take to say that it begins.
const BEGIN_WITHIN: Duration = Duration::from_secs(30);

/// What `restart` takes.
#[derive(Args)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    which: MembersArgs,
    /// Only one of them.
    #[arg(long)]
    any: bool,
    /// Only members with a setting that waits for a restart.
    #[arg(long)]
    pending: bool,
    /// Only members whose PostgreSQL is older than this version, such as 15.4.
    #[arg(long, value_name = "VERSION")]
    pg_version: Option<String>,
    /// When: with a zone, in this host's time, or `now`.
    #[arg(long, value_name = "TIME")]
    scheduled: Option<String>,
    /// How long the start of a primary may take before another member leads, such as 30s.
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,
    /// Do not ask.
    #[arg(long)]
    force: bool,
}

pub(crate) async fn restart(target: &Target, args: RestartArgs) -> Result<(), Failed> {
    let scheduled = match &args.scheduled {
        Some(text) => at::parse(text, &ZonedDateTime::now())?,
        None => None,
    };
    let timeout = match &args.timeout {
        Some(text) => match units::parse_duration(text, Duration::from_secs(1)) {
            Some(timeout) => Some(timeout),
            None => return fail(format!("--timeout: {text:?} is not a duration such as 30s or 2min")),
        },
        None => None,
    };
    let view = target.view().await?;
    let mut chosen = args.which.choose(&view)?;
    if args.pending {
        chosen.retain(|name| view.members[name].record.pending_restart == Some(true));
        if chosen.is_empty() {
            return say("No member waits for a restart\n");
        }
    }
    if args.any {
        chosen.truncate(1);
    }
    if !args.force {
        say(&list::pretty(target, &view))?;
        let leads = view.leader.as_ref().is_some_and(|l| chosen.contains(&l.name));
        let outage = if leads { " Writes wait while the leader restarts; its sessions end." } else { "" };
        let when = scheduled.as_deref().unwrap_or("now, one after the other");
        say(&format!("PostgreSQL restarts on {}, {when}.{outage}\n", names(&chosen)))?;
        confirm("Restart?")?;
    }
    let mut body = Map::new();
    if args.pending {
        body.insert("restart_pending".to_owned(), true.into());
    }
    if let Some(version) = &args.pg_version {
        body.insert("postgres_version".to_owned(), version.clone().into());
    }
    if let Some(timeout) = timeout {
        body.insert("timeout".to_owned(), timeout.as_secs().into());
    }
    if let Some(at) = scheduled {
        body.insert("schedule".to_owned(), at.into());
    }
    let limit = RESTART_WITHIN.max(timeout.unwrap_or_default() * 2);
    each(target, &view, &chosen, "restart", (Method::POST, "/restart", &Value::Object(body)), limit).await
}

/// What `reload` takes.
#[derive(Args)]
pub(crate) struct ReloadArgs {
    #[command(flatten)]
    which: MembersArgs,
    /// Do not ask.
    #[arg(long)]
    force: bool,
}

pub(crate) async fn reload(target: &Target, args: ReloadArgs) -> Result<(), Failed> {
    let view = target.view().await?;
    let chosen = args.which.choose(&view)?;
    if !args.force {
        say(&format!(
            "The agents of {} read their settings again and have PostgreSQL read its own; nothing restarts.\n",
            names(&chosen)
        ))?;
        confirm("Reload?")?;
    }
    each(target, &view, &chosen, "reload", (Method::POST, "/reload", &json!({})), BEGIN_WITHIN).await
}

/// Asks one after the other; the first failure does not keep the others from being asked.
async fn each(
    target: &Target,
    view: &ClusterView,
    chosen: &[NodeName],
    what: &str,
    (method, path, body): (Method, &str, &Value),
    limit: Duration,
) -> Result<(), Failed> {
    let mut failed = Vec::new();
    for name in chosen {
        let began = Tick::now();
        let answer = call::ask(target, view, name, (method.clone(), path, Some(body)), limit).await;
        match answer.and_then(|answer| call::text_of(&answer)) {
            Ok(text) => {
                let took = Tick::now().since(began).as_secs_f64();
                say(&format!("{name}: {text} ({took:.2} s)\n"))?;
            }
            Err(Failed(why)) => {
                eprintln!("{name}: {why}");
                failed.push(name);
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { fail(format!("{what} failed on {}", names(failed))) }
}

/// What `rewind` takes.
#[derive(Args)]
pub(crate) struct RewindArgs {
    /// Names of members; the leader cannot be one of them.
    #[arg(value_name = "MEMBER", required = true)]
    members: Vec<String>,
    /// Do not ask.
    #[arg(long)]
    force: bool,
}

/// How long a rewind, or a copy in its place, may take.
const REWIND_WITHIN: Duration = Duration::from_hours(24);

pub(crate) async fn rewind(target: &Target, args: RewindArgs) -> Result<(), Failed> {
    let view = target.view().await?;
    let chosen = MembersArgs { members: args.members, role: None }.choose(&view)?;
    let Some(leader) = view.leader.as_ref().map(|l| &l.name) else {
        return fail("nobody leads; there is nobody to rewind to");
    };
    for name in &chosen {
        if name == leader {
            return fail(format!("{name} leads; there is nobody to rewind it to"));
        }
        if !view.members[name].record.is_native() {
            return fail(format!(
                "{name} runs Patroni, which rewinds by itself and cannot be asked to; see reinit"
            ));
        }
    }
    if !args.force {
        say(&list::pretty(target, &view))?;
        say(&format!(
            "{} are to follow {leader}. Who streams from it is left alone; else PostgreSQL stops, and where its \
             history parted from that of {leader}, what only it has is LOST: it is rewound, or copied anew where \
             the settings allow that. Agents do this by themselves; this does not wait for their next attempt and \
             tells what came of it.\n",
            names(&chosen)
        ))?;
        confirm("Rewind?")?;
    }
    each(target, &view, &chosen, "rewind", (Method::POST, "/rewind", &json!({})), REWIND_WITHIN).await
}

/// What `reinit` takes.
#[derive(Args)]
pub(crate) struct ReinitArgs {
    /// Names of members; the leader cannot be one of them.
    #[arg(value_name = "MEMBER", required = true)]
    members: Vec<String>,
    /// Copy from the leader, with pg_basebackup.
    #[arg(long)]
    from_leader: bool,
    /// Return only when they run again.
    #[arg(long)]
    wait: bool,
    /// Do not ask; also end what the agent is doing now.
    #[arg(long)]
    force: bool,
}

pub(crate) async fn reinit(target: &Target, args: ReinitArgs) -> Result<(), Failed> {
    let view = target.view().await?;
    let which = MembersArgs { members: args.members, role: None };
    let chosen = which.choose(&view)?;
    let leader = view.leader.as_ref().map(|l| &l.name);
    if let Some(name) = chosen.iter().find(|name| Some(*name) == leader) {
        return fail(format!("{name} leads; only replicas can be made anew"));
    }
    if !args.force {
        say(&list::pretty(target, &view))?;
        let from = if args.from_leader { "the leader" } else { "another member" };
        say(&format!(
            "On {} PostgreSQL stops, its data directory is REMOVED and copied from {from} again.\n",
            names(&chosen)
        ))?;
        confirm("Reinitialize?")?;
    }
    let body = |force: bool| json!({"force": force, "from_leader": args.from_leader});
    for name in &chosen {
        let ask = async |force: bool| {
            let body = body(force);
            let asked = (Method::POST, "/reinitialize", Some(&body));
            call::ask(target, &view, name, asked, BEGIN_WITHIN).await
        };
        let mut answer = ask(args.force).await?;
        // Contract section 6.1: what another action under way ends with.
        if !answer.status.is_success() && answer.text().ends_with("already in progress") {
            say(&format!("{name}: {}\n", answer.text()))?;
            confirm("End it and reinitialize?")?;
            answer = ask(true).await?;
        }
        say(&format!("{name}: {}\n", call::text_of(&answer)?))?;
    }
    if args.wait { wait_until_running(target, &chosen).await } else { Ok(()) }
}

/// Waits until the members were copied and run; shows each change.
async fn wait_until_running(target: &Target, chosen: &[NodeName]) -> Result<(), Failed> {
    let began = Tick::now();
    let mut following = Following::begin(target);
    for name in chosen {
        let mut last: Option<String> = None;
        // The copy was asked for, so a member that still runs has not begun.
        let mut began_copying = false;
        let mut look = |record: &MemberRecord| {
            let state = record.replication_state.as_deref().unwrap_or(record.state.as_str()).to_owned();
            if last.as_ref() != Some(&state) {
                eprintln!("{:>7.2} s  {name}: {state}", Tick::now().since(began).as_secs_f64());
                last = Some(state);
            }
            began_copying |= record.state != MemberState::Running;
            (began_copying && record.state == MemberState::Running).then_some(())
        };
        let done = |view: &ClusterView| look(&view.members.get(name)?.record);
        if following.until(Duration::from_hours(24), done).await?.is_none() {
            return fail(format!("{name} does not run yet"));
        }
        say(&format!("{name}: reinitialized ({:.1} s)\n", Tick::now().since(began).as_secs_f64()))?;
    }
    Ok(())
}
