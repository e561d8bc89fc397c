//! The way back to the leader: stop, compare histories, rewind or clone where they parted, start as its standby.

use pgvane_cluster::reigns::{Descent, Lineage, Reigns};
use pgvane_cluster::settings::StandbyCluster;
use pgvane_cluster::store::Store;
use tracing::{info, warn};

use super::asking::{another_leads, within_reign};
use super::server::{
    address, clone_from, configure, ended, find, outcome, point, start_following, stop_and_report,
};
use super::{Context, Order};
use crate::config::HostPort;
use crate::decide::Outcome;
use crate::decide::reign::{self, Word};
use crate::decide::standby_leader::REMOTE;
use crate::decide::world::{Slot, Upstream};
use crate::event::Event;
use crate::postgres::control::Shutdown;
use crate::postgres::controldata::ControlData;
use crate::postgres::lineage::{self, Content, Course, Ours};
use crate::postgres::probe::Probe;
use crate::postgres::rewind::{self, LeaderHistory, Rewound, Source};
use crate::postgres::wal::{self, Place};
use crate::postgres::{Instance, PostgresError, archive, descent, recovery, settings};
use crate::telemetry::patroni::patroni_info;

/// The whole way.
pub(super) async fn rejoin<S: Store>(ctx: &Context<S>, order: &Order, leader: &Upstream) -> Vec<Outcome> {
    let done = try_rejoin(ctx, order, leader).await;
    let told = Outcome::Rejoined(match &done {
        Ok(way) => Ok(way.tell(leader)),
        Err(error) => Err(error.to_string()),
    });
    let outcomes = ended(ctx, "rejoin", done.map(drop)).await;
    std::iter::once(told).chain(outcomes).collect()
}

/// What the way back took.
enum Way {
    /// The histories were one.
    Same,
    /// pg_rewind.
    Rewound,
    /// A copy, for this reason.
    Copied(String),
}

impl Way {
    fn tell(&self, leader: &Upstream) -> String {
        let leader = &leader.name;
        match self {
            Way::Same => format!("its history is {leader}'s; it follows {leader}"),
            Way::Rewound => format!("rewound; it follows {leader}"),
            Way::Copied(why) => format!("copied anew, for {why}; it follows {leader}"),
        }
    }
}

async fn try_rejoin<S: Store>(
    ctx: &Context<S>,
    order: &Order,
    leader: &Upstream,
) -> Result<Way, PostgresError> {
    let from = resolved(ctx, order, leader).await;
    let source = address(&from);
    let theirs = history(ctx, order, &source).await?;
    if let Some(postmaster) = find(&ctx.instance.data_dir)? {
        stop_and_report(ctx, &postmaster, Shutdown::Fast, ctx.instance.pg_ctl_timeout).await?;
    }
    let ours = look(ctx, ControlData::read(&ctx.instance).await?);
    let list = leaders_list(order);
    let content = if ours.needs_a_look(list, &theirs) {
        let compared = async { Ok(compare_wal(ctx, &source, ours.place(), Some(&theirs)).await) };
        within_reign(ctx, order, compared).await?
    } else {
        Content::Unknown
    };
    let way = match lineage::judge(&ours, &theirs, list, content) {
        Course::Follow => {
            if let Some(list) = list {
                remove_foreign(ctx, &ours, list)?;
            }
            Way::Same
        }
        Course::Rewind => {
            info!(leader = %leader.name, "our history is not part of the leader's");
            if theirs.checkpointed < theirs.timeline {
                within_reign(ctx, order, rewind::checkpoint_leader(&ctx.instance, &source)).await?;
            }
            let mut control = ours.control;
            archive::push_ready(&ctx.instance, &order.settings.postgresql).await;
            if may_rewind(ctx, order) && recovery::is_due(&ctx.instance, &control) {
                match recovery::run(&ctx.instance, &order.settings.postgresql).await {
                    Ok(()) => control = ControlData::read(&ctx.instance).await?,
                    // pg_rewind says whether it can do without.
                    Err(error) => warn!(%error, "single-user recovery failed"),
                }
            }
            if may_rewind(ctx, order) && settings::restores(&ctx.instance, &order.settings.postgresql) {
                // pg_rewind asks the server's configuration for the command, which only a standby's has.
                descent::settle(&ctx.instance, &control)?;
                configure(ctx, order, Some(leader))?;
            }
            reunite(ctx, order, &from, &control, &source).await?
        }
        Course::Clone(why) => {
            let allowed = may_clone_on_divergence(ctx, order);
            replace(ctx, order, &from, &why, allowed).await?
        }
    };
    start_following(ctx, order, Some(leader)).await?;
    Ok(way)
}

/// Whom the leader of a standby cluster gets its data from: of several servers the one that is a primary.
async fn resolved<S: Store>(ctx: &Context<S>, order: &Order, from: &Upstream) -> Upstream {
    let Some(remote) = order.settings.standby_cluster.as_ref().filter(|_| from.name.as_str() == REMOTE)
    else {
        return from.clone();
    };
    match remote_server(&ctx.instance, remote).await {
        Some(HostPort { host, port }) => Upstream { name: from.name.clone(), host, port },
        None => from.clone(),
    }
}

/// The server that a standby cluster's section means: of several the first that is a primary.
pub(super) async fn remote_server(instance: &Instance, remote: &StandbyCluster) -> Option<HostPort> {
    settings::remote_address(remote)?;
    let servers = settings::remote_servers(remote);
    for server in servers.iter().filter(|_| servers.len() > 1) {
        if rewind::leader_history(instance, server, Source::Primary).await.is_ok() {
            return Some(server.clone());
        }
    }
    servers.into_iter().next()
}

/// The history of the server to follow.
async fn history<S: Store>(
    ctx: &Context<S>,
    order: &Order,
    source: &HostPort,
) -> Result<LeaderHistory, PostgresError> {
    within_reign(ctx, order, rewind::leader_history(&ctx.instance, source, kind(order))).await
}

fn kind(order: &Order) -> Source {
    if order.settings.standby_cluster.is_some() { Source::Any } else { Source::Primary }
}

/// What is known of our stopped server.
fn look<S: Store>(ctx: &Context<S>, control: ControlData) -> Ours {
    let pg_wal = ctx.instance.data_dir.join("pg_wal");
    let (timeline, _) = rewind::reached(&control);
    Ours {
        // PostgreSQL takes it away at the first start.
        is_copy: ctx.instance.data_dir.join("backup_label").exists(),
        checkpoint_end: wal::end_of_record(&pg_wal, control.timeline, control.checkpoint),
        ended: lineage::ended_before(&ctx.instance.data_dir, timeline),
        descent: descent::load(&ctx.instance, &control),
        control,
    }
}

/// The list that the leader of the view published.
fn leaders_list(order: &Order) -> Option<&Reigns> {
    let view = order.view.as_deref()?;
    match reign::word(&order.settings, view, view.leader.as_ref()?) {
        Word::Told(list) => Some(list),
        Word::Expected | Word::None => None,
    }
}

async fn compare_wal<S: Store>(
    ctx: &Context<S>,
    source: &HostPort,
    place: Place,
    history: Option<&LeaderHistory>,
) -> Content {
    match rewind::connect(&ctx.instance, source).await {
        Ok(client) => wal::compare(&ctx.instance.data_dir.join("pg_wal"), &client, place, history).await,
        Err(error) => {
            warn!(%error, server = %source, "the WAL of the two servers cannot be compared");
            Content::Unknown
        }
    }
}

/// WAL that was received from somebody who began a timeline that is now another's.
fn remove_foreign<S: Store>(ctx: &Context<S>, ours: &Ours, list: &Reigns) -> Result<(), PostgresError> {
    let dir = ctx.instance.data_dir.join("pg_wal");
    let io = |error| PostgresError::Io { what: dir.display().to_string(), error };
    let entries = std::fs::read_dir(&dir).map_err(io)?;
    let names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    for name in lineage::foreign_files(&names, ours, list) {
        warn!(file = name, "removing WAL of a timeline that is not the leader's");
        std::fs::remove_file(dir.join(name)).map_err(io)?;
    }
    Ok(())
}

async fn reunite<S: Store>(
    ctx: &Context<S>,
    order: &Order,
    leader: &Upstream,
    ours: &ControlData,
    source: &HostPort,
) -> Result<Way, PostgresError> {
    if may_rewind(ctx, order) {
        patroni_info!("running pg_rewind from {}", leader.name);
    }
    let (why, allowed) = match rewind::run(
        &ctx.instance,
        ours,
        source,
        (may_rewind(ctx, order), settings::restores(&ctx.instance, &order.settings.postgresql)),
        another_leads(ctx, order, Some(leader)),
    )
    .await
    {
        Rewound::Done => {
            info!(leader = %leader.name, "rewound to the leader's history");
            let known = leaders_list(order).cloned().unwrap_or_default();
            let descent = Descent { known, ..Descent::default() };
            descent::save(&ctx.instance, &descent)?;
            ctx.report(Event::Descent(descent));
            return Ok(Way::Rewound);
        }
        Rewound::Impossible(why) => (why, may_clone_on_divergence(ctx, order)),
        Rewound::Untouched(error) if history(ctx, order, source).await.is_err() => {
            // The next leader is asked, or this one once it answers again.
            return Err(error);
        }
        Rewound::Untouched(error) | Rewound::Failed(error) => {
            let of_cluster = order.settings.postgresql.remove_data_directory_on_rewind_failure;
            let local = ctx.instance.on_divergence.clone_on_rewind_failure;
            (error.to_string(), local.unwrap_or(of_cluster))
        }
    };
    replace(ctx, order, leader, &format!("it cannot be rewound: {why}"), allowed).await
}

/// What this node's own settings say comes before the cluster's.
fn may_rewind<S: Store>(ctx: &Context<S>, order: &Order) -> bool {
    ctx.instance.on_divergence.use_pg_rewind.unwrap_or(order.settings.postgresql.use_pg_rewind)
}

fn may_clone_on_divergence<S: Store>(ctx: &Context<S>, order: &Order) -> bool {
    let of_cluster = order.settings.postgresql.remove_data_directory_on_diverged_timelines;
    ctx.instance.on_divergence.clone_on_divergence.unwrap_or(of_cluster)
}

/// Clones again where the settings allow that the data directory is thrown away.
async fn replace<S: Store>(
    ctx: &Context<S>,
    order: &Order,
    leader: &Upstream,
    why: &str,
    allowed: bool,
) -> Result<Way, PostgresError> {
    if !allowed {
        return Err(PostgresError::Other(format!(
            "this member's data parted from the leader's and will not be started: {why}; set \
             remove_data_directory_on_diverged_timelines or remove_data_directory_on_rewind_failure, or \
             reinitialize the member"
        )));
    }
    warn!(why, "this member's data parted from the leader's; cloning again");
    clone_from(ctx, order, Some(leader)).await?;
    Ok(Way::Copied(why.to_owned()))
}

/// Points a running standby elsewhere, unless a look at the WAL shows that it is on another history.
pub(super) async fn follow<S: Store>(ctx: &Context<S>, order: &Order, upstream: &Upstream) -> Vec<Outcome> {
    if let Some(epoch) = order.view.as_ref().and_then(|v| v.leader.as_ref()).map(|key| key.epoch) {
        match within_reign(ctx, order, async { Ok(parted(ctx, order, upstream).await) }).await {
            Ok(false) => {}
            Ok(true) => {
                warn!(upstream = %upstream.name, "our WAL is not that of the server to follow");
                return vec![Outcome::Done(Slot::Postgres), Outcome::Parted(epoch)];
            }
            Err(error) => return outcome("follow", Err(error)),
        }
    }
    outcome("follow", point(ctx, order, upstream).await)
}

/// Whether our running standby is on another history than `upstream`, which no list excluded when this was decided.
async fn parted<S: Store>(ctx: &Context<S>, order: &Order, upstream: &Upstream) -> bool {
    let Some(view) = order.view.as_deref().filter(|_| order.settings.standby_cluster.is_none()) else {
        return false;
    };
    let Some(key) = &view.leader else { return false };
    let Ok(sql) = Probe::default().ask(&ctx.instance).await else { return false };
    let known = descent::of_standby(&ctx.instance);
    match reign::lineage(&known, sql.timeline, reign::word(&order.settings, view, key)) {
        Lineage::Same => return false,
        Lineage::Parted(_) => return true,
        Lineage::Unknown if reign::is_same_by_record(view, &known, sql.timeline, &upstream.name) => {
            return false;
        }
        Lineage::Unknown => {}
    }
    let Some(at) = sql.replayed else { return false };
    let source = address(upstream);
    // A leader that is not promoted yet has no history of its own to tell.
    let history = rewind::leader_history(&ctx.instance, &source, Source::Primary).await.ok();
    let place = Place { timeline: sql.timeline, at };
    compare_wal(ctx, &source, place, history.as_ref()).await == Content::Differs
}
