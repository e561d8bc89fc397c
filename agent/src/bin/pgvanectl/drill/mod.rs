//! `drill`: how each fault is rehearsed on this very cluster, what is to be expected, and what it really cost. Nothing is
//! broken from here: only a switchover is carried out, and only with the operator's yes.

mod facts;
mod guides;
mod watch;

use std::time::Duration;

use clap::{Args, ValueEnum};

use self::facts::Facts;
use crate::leader::{self, SwitchoverArgs};
use crate::target::Target;
use crate::{Failed, fail, say};

/// What `drill` takes.
#[derive(Args)]
pub(crate) struct DrillArgs {
    /// Which; a list of them unless given.
    #[arg(value_enum)]
    drill: Option<Drill>,
    /// Follow the cluster meanwhile, and say how long it was without a leader that serves.
    #[arg(long, requires = "drill")]
    watch: bool,
    /// How long to follow it at most, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "300", requires = "watch")]
    limit: u64,
    /// Carry it out: the switchover alone, after a question.
    #[arg(long, requires = "drill")]
    perform: bool,
    /// Do not ask.
    #[arg(long, requires = "perform")]
    force: bool,
}

/// The drills, by what fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Drill {
    /// Nothing: leadership is handed over as planned.
    Switchover,
    /// The primary's agent is told to stop.
    StopAgent,
    /// The primary's postmaster dies.
    KillPostgres,
    /// The primary's agent and PostgreSQL die.
    KillNode,
    /// The primary's agent hangs.
    FreezeAgent,
    /// The primary is cut off from etcd.
    CutOff,
    /// A former primary comes back with a history of its own.
    Rejoin,
    /// A member of etcd is lost.
    EtcdMember,
    /// A proxy is lost, and the virtual address moves.
    Proxy,
}

pub(crate) async fn run(target: &Target, args: &DrillArgs) -> Result<(), Failed> {
    let Some(drill) = args.drill else { return say(&list()) };
    if args.perform && drill != Drill::Switchover {
        let name = name_of(drill);
        return fail(format!("{name} is for you to carry out: `pgvanectl drill {name}` says how"));
    }
    let facts = Facts::of(&target.view().await?, &target.scope, &target.options.endpoints);
    say(&guides::guide(drill, &facts).text())?;
    let limit = Duration::from_secs(args.limit);
    let perform = async {
        if args.perform {
            return leader::switchover(target, SwitchoverArgs::to_anybody(args.force)).await;
        }
        Ok(())
    };
    if !args.watch {
        return perform.await;
    }
    let (performed, watched) = tokio::join!(perform, watch::run(target, limit));
    performed.and(watched)
}

fn name_of(drill: Drill) -> String {
    drill.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn list() -> String {
    let line = |drill: &Drill| {
        let value = drill.to_possible_value()?;
        let help = value.get_help().map(ToString::to_string).unwrap_or_default();
        Some(format!("{:<14} {help}\n", value.get_name()))
    };
    let lines: String = Drill::value_variants().iter().filter_map(line).collect();
    format!(
        "{lines}`pgvanectl drill NAME` says how, for this cluster; with --watch it measures what it costs.\n"
    )
}
