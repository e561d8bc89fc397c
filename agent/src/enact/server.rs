//! Effects on PostgreSQL. Each tells what it changed the moment it changed, and ends with the data directory
//! looked at again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, Lsn, Timeline};
use pgvane_cluster::keyspace::Key;
use pgvane_cluster::records::MemberState;
use pgvane_cluster::reigns::{Descent, Reign};
use pgvane_cluster::settings::{ClusterSettings, StandbyCluster};
use pgvane_cluster::store::Store;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::asking::until_another_leads;
use super::{Context, Order, before_stop, promotion, rejoin, store};
use crate::config::{BootstrapMethod, HostPort, ReplicaMethod};
use crate::decide::Outcome;
use crate::decide::action::{Request, StopMode};
use crate::decide::bootstrap::Progress;
use crate::decide::vacancy;
use crate::decide::world::{Control, DataDir, Slot, Upstream};
use crate::event::{Event, ServerEvent};
use crate::history;
use crate::postgres::control::{self, Shutdown, Stopped};
use crate::postgres::controldata::ControlData;
use crate::postgres::probe::Probe;
use crate::postgres::process::Postmaster;
use crate::postgres::rewind;
use crate::postgres::settings::{self, Following};
use crate::postgres::{
    Instance, PostgresError, bootstrap as first, clone as copy, data_dir, descent, process,
};

/// Bound on a promotion: past it the effect fails and the next decision looks again.
const PROMOTE_LIMIT: Duration = Duration::from_mins(1);

/// How long the first history of a restored cluster may take to be written.
const HISTORY_LIMIT: Duration = Duration::from_secs(2);

/// How long the announcement of a stop may take to reach the store.
const ANNOUNCE_LIMIT: Duration = Duration::from_millis(500);

/// Time between the announcement and the stop: the proxies begin to hold, connections under way complete.
const ANNOUNCE_LEAD: Duration = Duration::from_millis(10);

/// Looks at the data directory.
pub async fn look(instance: &Instance) -> DataDir {
    let dir = &instance.data_dir;
    if data_dir::is_marked(instance) {
        return DataDir::Spoiled;
    }
    match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return DataDir::Absent,
        Err(e) => return DataDir::Unreadable(format!("{}: {e}", dir.display())),
        Ok(mut entries) => {
            if entries.next().is_none() {
                return DataDir::Absent;
            }
        }
    }
    if !dir.join("PG_VERSION").exists() {
        let why = format!("{} is not empty and holds no PostgreSQL data", dir.display());
        return DataDir::Unreadable(why);
    }
    match ControlData::read(instance).await {
        Ok(control) => present(instance, &control),
        Err(error) => DataDir::Unreadable(error.to_string()),
    }
}

fn present(instance: &Instance, control: &ControlData) -> DataDir {
    DataDir::Present(Control {
        system_identifier: control.system_identifier.clone(),
        clean: control.is_clean(),
        standby: instance.data_dir.join("standby.signal").exists(),
        timeline: control.timeline,
        checkpoint: control.checkpoint,
    })
}

pub(super) async fn bootstrap<S: Store>(ctx: &Context<S>, order: &Order) -> Vec<Outcome> {
    let custom = matches!(ctx.instance.bootstrap_method, BootstrapMethod::Custom { .. });
    info!(custom, "creating a new cluster");
    let mut settings = order.settings.clone();
    // The cluster's configuration does not exist yet: it is the one this node would begin with.
    if order.view.as_ref().is_none_or(|v| v.config.is_none()) {
        (settings, _) = ClusterSettings::from_json(&ctx.first_config);
    }
    let tell = |stage| {
        let progress = match stage {
            first::Stage::Initdb => Progress::Initdb,
            first::Stage::Command => Progress::Command,
            first::Stage::Recovery => Progress::Recovery,
        };
        ctx.report(Event::Meanwhile(Outcome::Bootstrapping(progress)));
    };
    let made = match &settings.standby_cluster {
        Some(remote) => copy_remote(ctx, &settings, remote).await,
        None => first::create(&ctx.instance, &settings.postgresql, &tell).await.map(|identifier| {
            info!(identifier, "the new cluster is ready to start");
        }),
    };
    if made.is_ok() {
        let mut outcomes = ended(ctx, "bootstrap", made).await;
        outcomes.push(Outcome::Bootstrapped);
        return outcomes;
    }
    let given_up = store::give_up_initialize(ctx).await;
    let mut outcomes = ended(ctx, "bootstrap", made).await;
    let failed = Progress::Failed { custom, at: Tick::now() };
    outcomes.push(Outcome::Bootstrapping(failed));
    outcomes.extend(given_up.map(Outcome::LostInitialize));
    outcomes
}

/// Makes the first data of a standby cluster: a copy of what it follows, by its own methods where it names some.
async fn copy_remote<S: Store>(
    ctx: &Context<S>,
    settings: &ClusterSettings,
    remote: &StandbyCluster,
) -> Result<(), PostgresError> {
    let mut instance = ctx.instance.clone();
    if let Some(names) = &remote.create_replica_methods {
        let all = std::mem::take(&mut instance.replica_methods);
        let known = |name: &String| {
            let basebackup = || (name == "basebackup").then(ReplicaMethod::basebackup);
            all.iter().find(|method| method.name == *name).cloned().or_else(basebackup)
        };
        instance.replica_methods = names.iter().filter_map(known).collect();
    }
    let source = rejoin::remote_server(&instance, remote).await;
    info!(source = ?source.as_ref().map(ToString::to_string), "copying the cluster that this one follows");
    copy::create(&instance, source.as_ref()).await?;
    let following = Following { remote: Some(remote.clone()), ..Following::default() };
    settings::write(&ctx.instance, &settings.postgresql, Some(&following))?;
    data_dir::unmark(&ctx.instance)
}

/// Makes the data directory from another member, or without one.
pub(super) async fn clone<S: Store>(
    ctx: &Context<S>,
    order: &Order,
    from: Option<&Upstream>,
) -> Vec<Outcome> {
    let done = clone_from(ctx, order, from).await;
    let cloned = done.is_ok().then_some(Outcome::Cloned);
    let outcomes = ended(ctx, "clone", done).await;
    cloned.into_iter().chain(outcomes).collect()
}

pub(super) async fn clone_from<S: Store>(
    ctx: &Context<S>,
    order: &Order,
    from: Option<&Upstream>,
) -> Result<(), PostgresError> {
    let source = from.map_or("nobody", |from| from.name.as_str());
    info!(source, "cloning the data directory");
    let address = from.map(address);
    let copy = copy::create(&ctx.instance, address.as_ref());
    let copied = until_another_leads(ctx, order, from, copy).await;
    if matches!(copied, Err(PostgresError::ReignOver)) {
        copy::give_up(&ctx.instance);
    }
    copied?;
    settings::write(&ctx.instance, &order.settings.postgresql, Some(&following(ctx, order, from)))?;
    // A standby's from here on: nothing can take it for the primary it was copied from.
    data_dir::unmark(&ctx.instance)?;
    let control = ControlData::read(&ctx.instance).await?;
    ctx.report(Event::Descent(descent::load(&ctx.instance, &control)));
    info!(source, "cloned the data directory");
    Ok(())
}

pub(super) async fn start_primary<S: Store>(ctx: &Context<S>, order: &Order) -> Vec<Outcome> {
    if let Err(outcomes) = promotion::arm_watchdog(ctx, order).await {
        return outcomes;
    }
    let done = async {
        super::sync::before_start(ctx, order)?;
        settings::write(&ctx.instance, &order.settings.postgresql, None)?;
        start(ctx, order, true).await
    };
    let done = done.await;
    let did_not_start = matches!(done, Err(PostgresError::DidNotStart(_)));
    if done.is_ok() {
        first_history(ctx, order).await;
    }
    let mut outcomes = ended(ctx, "start as primary", done).await;
    outcomes.extend(did_not_start.then_some(Outcome::StartFailed));
    outcomes
}

/// A cluster that was restored from a backup has a history before it has a promotion.
async fn first_history<S: Store>(ctx: &Context<S>, order: &Order) {
    let Some(view) = order.view.as_ref().filter(|view| view.history.is_none()) else { return };
    let restored = ControlData::read(&ctx.instance).await.is_ok_and(|control| control.timeline > Timeline(1));
    let Some(key) = view.leader.as_ref().filter(|_| restored) else { return };
    match timeout(HISTORY_LIMIT, write_history(ctx, order, key.epoch, None)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(error, "the cluster's history was not written"),
        Err(_) => warn!(limit = ?HISTORY_LIMIT, "the cluster's history was not written in time"),
    }
}

pub(super) async fn start_standby<S: Store>(
    ctx: &Context<S>,
    order: &Order,
    upstream: Option<&Upstream>,
) -> Vec<Outcome> {
    let done = start_following(ctx, order, upstream).await;
    ended(ctx, "start as standby", done).await
}

pub(super) async fn start_following<S: Store>(
    ctx: &Context<S>,
    order: &Order,
    upstream: Option<&Upstream>,
) -> Result<(), PostgresError> {
    let control = ControlData::read(&ctx.instance).await?;
    let before = descent::settle(&ctx.instance, &control)?;
    if upstream.is_some() {
        let (timeline, _) = rewind::reached(&control);
        note_reign(ctx, order, &before, timeline)?;
    }
    configure(ctx, order, upstream)?;
    start(ctx, order, false).await
}

/// Writes the configuration of a standby.
pub(super) fn configure<S: Store>(
    ctx: &Context<S>,
    order: &Order,
    upstream: Option<&Upstream>,
) -> Result<bool, PostgresError> {
    settings::write(&ctx.instance, &order.settings.postgresql, Some(&following(ctx, order, upstream)))
}

/// Notes, before WAL can come from there, in which reign a standby on `timeline` is pointed at somebody.
fn note_reign<S: Store>(
    ctx: &Context<S>,
    order: &Order,
    before: &Descent,
    timeline: Timeline,
) -> Result<(), PostgresError> {
    if let Some(key) = order.view.as_ref().and_then(|v| v.leader.as_ref()) {
        ctx.report(Event::Descent(descent::follow(&ctx.instance, before, timeline, key.epoch)?));
    }
    Ok(())
}

/// Starts the server as its configuration says and waits until it accepts connections.
async fn start<S: Store>(ctx: &Context<S>, order: &Order, as_primary: bool) -> Result<(), PostgresError> {
    let floors = if as_primary { vec![] } else { ControlData::read(&ctx.instance).await?.floors };
    let until = order.right_until.filter(|_| as_primary);
    let arguments = settings::arguments(&ctx.instance, &order.settings.postgresql, &floors);
    let postmaster = control::start(&ctx.instance, &arguments, until).await?;
    let watched = postmaster
        .try_clone()
        .map_err(|error| PostgresError::Io { what: "the new postmaster".to_owned(), error })?;
    ctx.report(Event::Server(ServerEvent::Spawned { postmaster: watched, as_primary }));
    control::wait_ready(&ctx.instance, &postmaster).await?;
    ctx.report(Event::Server(ServerEvent::Ready));
    ask(ctx).await;
    Ok(())
}

/// Asks the server now, so that the next decision knows.
async fn ask<S: Store>(ctx: &Context<S>) {
    let answer = Probe::default().ask(&ctx.instance).await;
    ctx.report(Event::Probed(Box::new(answer)));
}

/// Points a running standby elsewhere.
pub(super) async fn point<S: Store>(
    ctx: &Context<S>,
    order: &Order,
    upstream: &Upstream,
) -> Result<(), PostgresError> {
    let timeline = order.record.timeline.unwrap_or_default();
    note_reign(ctx, order, &descent::of_standby(&ctx.instance), timeline)?;
    let following = following(ctx, order, Some(upstream));
    settings::write(&ctx.instance, &order.settings.postgresql, Some(&following))?;
    if let Some(postmaster) = find(&ctx.instance.data_dir)? {
        control::reload(&postmaster)?;
        ctx.callbacks.reloaded(order.record.role.clone());
        // The postmaster hands the new setting to its processes in its own time.
        sleep(Duration::from_millis(100)).await;
        ask(ctx).await;
    }
    info!(upstream = %upstream.name, "following");
    Ok(())
}

pub(super) async fn promote<S: Store>(ctx: Arc<Context<S>>, order: &Order, epoch: Epoch) -> Vec<Outcome> {
    let until = match promotion::prepare(&ctx, order, epoch).await {
        Ok(until) => until,
        Err(outcomes) => return outcomes,
    };
    if !order.unproven.is_empty() {
        let slots = order.unproven.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        warn!(
            slots,
            "logical replication slots may be unsafe to use after this promotion: what they need may be gone"
        );
    }
    ctx.report(Event::Server(ServerEvent::Promoting));
    let reign = Reign { epoch, leader: ctx.me.clone() };
    // Before it happens: nobody else's timeline of that number can be taken for ours, whatever becomes of this agent.
    if let Err(error) = descent::promise(&ctx.instance, reign, order.record.timeline.unwrap_or_default()) {
        return outcome("promotion", Err(error));
    }
    let mut done = control::promote(&ctx.instance, PROMOTE_LIMIT, until).await;
    if let Ok(probe) = &mut done {
        let promoted = Tick::now();
        info!(%epoch, "promoted");
        let answer = probe.ask(&ctx.instance).await;
        if let Ok(view) = &answer {
            ctx.report(Event::Descent(descent::promised(&ctx.instance, view.timeline)));
        }
        ctx.report(Event::Probed(Box::new(answer)));
        let (order, after) = (order.clone(), Arc::clone(&ctx));
        // Not part of the outage: the history, so that a stale node knows; a checkpoint, so that others can
        // rewind against us.
        tokio::spawn(async move { after_promotion(&after, &order, epoch, promoted).await });
    }
    outcome("promotion", done.map(drop))
}

async fn after_promotion<S: Store>(ctx: &Context<S>, order: &Order, epoch: Epoch, promoted: Tick) {
    match Probe::default().ask(&ctx.instance).await {
        Ok(view) => match descent::keep(&ctx.instance, view.timeline) {
            Ok(descent) => ctx.report(Event::Descent(descent)),
            Err(error) => warn!(%error, "who began the new timeline was not kept"),
        },
        Err(error) => warn!(%error, "the new timeline is not known"),
    }
    if let Err(error) = write_history(ctx, order, epoch, Some(promoted)).await {
        warn!(error, "the cluster's history was not written");
    }
    // Gone with the configuration files of a standby at the next start; removed now so that nobody wonders.
    if let Err(error) = settings::write(&ctx.instance, &order.settings.postgresql, None) {
        warn!(%error, "the configuration of the new primary was not written");
    }
    if let Err(error) = control::checkpoint(&ctx.instance).await {
        warn!(%error, "no checkpoint after the promotion");
    }
    ask(ctx).await;
}

/// Writes `history`, and after a promotion what else is known of the change.
async fn write_history<S: Store>(
    ctx: &Context<S>,
    order: &Order,
    epoch: Epoch,
    promoted: Option<Tick>,
) -> Result<(), String> {
    let view = Probe::default().ask(&ctx.instance).await.map_err(|e| e.to_string())?;
    let file = ctx.instance.data_dir.join(format!("pg_wal/{:08X}.history", view.timeline.0));
    let text = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    let before = order.view.as_deref();
    let stored = before.and_then(|v| v.history.as_ref());
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00");
    let keep = order.settings.max_timelines_history;
    let record = history::merge(history::parse_file(&text), stored, &now.to_string(), &ctx.me, keep);
    let mut pairs = vec![(Key::History, record.to_json())];
    if let (Some(promoted), Some(newest)) = (promoted, record.0.last()) {
        let farewell = before.and_then(|v| v.farewell.as_ref());
        let change = vacancy::change(order.vacancy.as_ref(), farewell, promoted, newest);
        info!(
            from = change.from.as_ref().map(tracing::field::display),
            cause = change.cause.as_ref().map(tracing::field::display),
            outage = ?change.outage(),
            "the leader changed"
        );
        let known = before.and_then(|v| v.changes.clone()).unwrap_or_default();
        pairs.push((Key::Changes, known.with(change, &record).to_json()));
    }
    store::write_all_as_leader(ctx, epoch, pairs).await.map_err(|e| e.to_string())
}

pub(super) async fn checkpoint<S: Store>(ctx: &Context<S>, request: Request) -> Vec<Outcome> {
    match control::checkpoint(&ctx.instance).await {
        Ok(()) => vec![Outcome::Checkpointed(request), Outcome::Done(Slot::Postgres)],
        Err(error) => outcome("checkpoint", Err(error)),
    }
}

/// How long the clean stop of a primary may take. Where a standby confirms every commit, one that drags on may be
/// made harder sooner.
fn stop_limit<S: Store>(ctx: &Context<S>, order: &Order) -> Duration {
    let settings = &order.settings;
    let is_bounded = settings.synchronous_mode.is_on() && !settings.primary_stop_timeout.is_zero();
    if is_bounded { settings.primary_stop_timeout } else { ctx.instance.pg_ctl_timeout }
}

/// Stops for a hand-over.
pub(super) async fn stop_to_hand_over<S: Store>(
    ctx: &Context<S>,
    order: &Order,
    request: Request,
) -> Vec<Outcome> {
    match stop_announced(ctx, &MemberState::Stopping, stop_limit(ctx, order)).await {
        Ok(shutdown_lsn) => {
            info!(?shutdown_lsn, "stopped to hand over");
            vec![Outcome::StoppedToHandOver { request, shutdown_lsn }, Outcome::Done(Slot::Postgres)]
        }
        Err(error) => outcome("stop", Err(error)),
    }
}

/// Stops for a restart.
pub(super) async fn stop_to_restart<S: Store>(ctx: &Context<S>, order: &Order, id: u64) -> Vec<Outcome> {
    match stop_announced(ctx, &MemberState::Restarting, stop_limit(ctx, order)).await {
        Ok(shutdown_lsn) => {
            info!(?shutdown_lsn, "stopped to restart");
            vec![Outcome::StoppedToRestart { id, shutdown_lsn }, Outcome::Done(Slot::Postgres)]
        }
        Err(error) => {
            let failed = outcome("stop", Err(error));
            [Outcome::NotRestarted(id)].into_iter().chain(failed).collect()
        }
    }
}

/// A clean stop that everybody is told of first, so that proxies hold new connections before the server would
/// refuse them. Answers where the WAL ended.
async fn stop_announced<S: Store>(
    ctx: &Context<S>,
    state: &MemberState,
    limit: Duration,
) -> Result<Option<Lsn>, PostgresError> {
    let mut published = ctx.published.subscribe();
    let announced = published.wait_for(|r| r.as_ref().is_some_and(|r| r.state == *state));
    if timeout(ANNOUNCE_LIMIT, announced).await.is_ok() {
        sleep(ANNOUNCE_LEAD).await;
    }
    match find(&ctx.instance.data_dir)? {
        Some(postmaster) => {
            let stopped = stop_and_report(ctx, &postmaster, Shutdown::Fast, limit).await?;
            Ok(stopped.shutdown_lsn())
        }
        None => Ok(None),
    }
}

pub(super) async fn stop<S: Store>(ctx: &Context<S>, order: &Order, how: StopMode) -> Vec<Outcome> {
    let (how, limit) = match how {
        StopMode::Fast => (Shutdown::Fast, order.timing.stop_budget.max(Duration::from_millis(200))),
        StopMode::Immediate => (Shutdown::Immediate, Duration::from_millis(200)),
    };
    let done = async {
        match find(&ctx.instance.data_dir)? {
            Some(postmaster) => stop_and_report(ctx, &postmaster, how, limit).await.map(drop),
            // Its data directory may be gone, and with it what tells of it.
            None => process::sweep(ctx.instance.data_dir.clone(), limit)
                .await
                .map_err(|e| PostgresError::Other(e.to_string())),
        }
    };
    let done = done.await;
    ended(ctx, "stop", done).await
}

pub(super) async fn stop_and_report<S: Store>(
    ctx: &Context<S>,
    postmaster: &Postmaster,
    how: Shutdown,
    limit: Duration,
) -> Result<Stopped, PostgresError> {
    if how == Shutdown::Fast {
        before_stop::run(ctx).await;
    }
    ctx.report(Event::Server(ServerEvent::Stopping));
    let stopped = control::stop(&ctx.instance, postmaster, how, limit).await?;
    ctx.report(Event::Data(present(&ctx.instance, &stopped.control)));
    ctx.report(Event::Server(ServerEvent::Gone { pid: postmaster.pid() }));
    Ok(stopped)
}

pub(super) fn find(data_dir: &Path) -> Result<Option<Postmaster>, PostgresError> {
    Postmaster::find(data_dir)
        .map_err(|error| PostgresError::Io { what: format!("{}", data_dir.display()), error })
}

pub(super) fn address(upstream: &Upstream) -> HostPort {
    HostPort { host: upstream.host.clone(), port: upstream.port }
}

fn following<S: Store>(ctx: &Context<S>, order: &Order, upstream: Option<&Upstream>) -> Following {
    let view = order.view.as_deref();
    super::upstream::following(view, &order.settings, &ctx.me, &order.record.tags, upstream.map(address))
}

/// The end of an effect that may have changed the data directory.
pub(super) async fn ended<S: Store>(
    ctx: &Context<S>,
    what: &str,
    done: Result<(), PostgresError>,
) -> Vec<Outcome> {
    ctx.report(Event::Data(look(&ctx.instance).await));
    outcome(what, done)
}

pub(super) fn outcome(what: &str, done: Result<(), PostgresError>) -> Vec<Outcome> {
    match done {
        Ok(()) => vec![Outcome::Done(Slot::Postgres)],
        // Nothing to be tried again: what is due now follows at once.
        Err(PostgresError::ReignOver) => {
            info!(what, "given up: the leader changed meanwhile");
            vec![Outcome::Done(Slot::Postgres)]
        }
        Err(error) => {
            error!(what, %error, "an effect on PostgreSQL failed");
            vec![Outcome::Failed(Slot::Postgres)]
        }
    }
}
