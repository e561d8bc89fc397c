//! Puts the agent together: what is found is adopted, what is missing is started, then the loop turns.

use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::follow::{FollowOptions, Observation, follow};
use pgvane_cluster::ids::LeaseId;
use pgvane_cluster::reigns::Descent;
use pgvane_cluster::settings::ClusterSettings;
use pgvane_cluster::store::etcd::EtcdStore;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tracing::{info, warn};

use crate::api::{self, Api, ApiSnapshot, LocalPostgres, Operations};
use crate::config::{Config, LogFormat};
use crate::decide::world::{DataDir, LocalRole, OwnLease, Process};
use crate::enact::callbacks::Runner;
use crate::enact::{Context, postmaster, server as effects};
use crate::guard::client::{Doing, GuardClient, GuardOptions, Report};
use crate::keepalive::{self, LeaseNews, Pulse};
use crate::known_config::KnownConfig;
use crate::namesake::Namesake;
use crate::parts::Parts;
use crate::postgres::controldata::ControlData;
use crate::postgres::process::{self, Postmaster};
use crate::postgres::{Instance, descent};
use crate::reconcile::{Ended, Reconciler, Sinks, Sources, Start, Wish};
use crate::reload::Reloader;
use crate::server::ServerState;
use crate::timing::Timing;
use crate::watchdog::Watchdog;
use crate::{discover, preflight, prober, vouch};

/// How long the store may take to say whose the primary is that was found running.
const FIRST_WORD_WITHIN: Duration = Duration::from_secs(3);

/// How long an answer of the guard may take.
const GUARD_ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// How long the agent's end waits for a callback; one that takes longer goes on alone.
const CALLBACKS_END_WITHIN: Duration = Duration::from_secs(1);

/// How long what outlived its postmaster gets to vanish.
const SWEEP_LIMIT: Duration = Duration::from_secs(5);

/// Why an agent ended that was not told to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Stuck {
    /// It could not work now; another start may.
    #[error("{0}")]
    Failed(String),
    /// Only an operator can resolve this, and nothing was touched: another start would say the same.
    #[error("{0}")]
    NeedsOperator(String),
}

impl From<String> for Stuck {
    fn from(why: String) -> Stuck {
        Stuck::Failed(why)
    }
}

/// Runs an agent until it ends.
pub async fn run(config: Config, reloader: Reloader) -> Result<(), Stuck> {
    preflight::check(&config).map_err(Stuck::NeedsOperator)?;
    let Parts { instance, rest, caller, identity } = Parts::of(&config).map_err(Stuck::NeedsOperator)?;
    let listener = bind(&config).await?;
    let wishes = signals()?;
    let known_config = Arc::new(KnownConfig::load(&instance.data_dir));
    let document = known_config.document();
    let (settings, _) = ClusterSettings::from_json(document.as_ref().unwrap_or(&config.bootstrap.dcs));
    let first_timing = Timing::derive(settings.ttl, &config.timing).map_err(|e| e.to_string())?;

    let vouch_file = vouch::path(&instance.data_dir);
    let promise = vouch::load(&vouch_file, Tick::now()).map_err(|e| {
        format!("{} cannot be read ({e}); it may hold a promise not to race: remove it only once the cluster has a leader", vouch_file.display())
    })?;
    let guard_options = guard_options(&config)?;
    let guard = GuardClient::start(&guard_options).await.map_err(|e| e.to_string())?;
    let lease = adopted_lease(&guard.report, &first_timing);

    let etcd = discover::whole(&config.etcd).await;
    let (access_in, store_access) = watch::channel(etcd.access());
    let store = Arc::new(EtcdStore::new(etcd.options()));
    let (follower, following) = follow(Arc::clone(&store), config.keyspace(), follow_options(&first_timing));
    let (events_in, events) = mpsc::unbounded_channel();
    let (published, _) = watch::channel(None);
    let (right, _) = watch::channel(None);
    let ctx = Arc::new(Context {
        me: config.name.clone(),
        space: config.keyspace(),
        store: Arc::clone(&store),
        instance: instance.clone(),
        first_config: config.bootstrap.dcs.clone(),
        known_config,
        observation: follower.observation(),
        events: events_in.clone(),
        caller: Arc::clone(&caller),
        store_access,
        published,
        right,
        callbacks: Arc::new(Runner::new(config.postgresql.callbacks.clone(), config.scope.clone())),
        watchdog: Arc::new(Watchdog::new(config.watchdog.clone())),
    });

    let server = found_server(&ctx).await?;
    let descent = found_descent(&ctx.instance, &server).await?;
    let (timing, timing_seen) = watch::channel(first_timing);
    let (probe, wanted) = watch::channel(server.process != Process::Absent);
    let hurry = Arc::new(Notify::new());
    let pulse = Arc::new(Pulse::default());
    pulse.beat(Tick::now());
    let (lease_in, lease_news) = mpsc::unbounded_channel::<LeaseNews>();
    let (commands_in, commands) = mpsc::channel(64);
    let first = first_snapshot(&config, follower.observation().borrow().clone(), first_timing.ttl);
    let (api_in, api_seen) = watch::channel(Arc::new(first));

    // Each of these lives as long as the process.
    tokio::spawn(following);
    tokio::spawn(discover::follow(Arc::clone(&store), config.etcd.clone(), access_in));
    tokio::spawn(keepalive::keep(Arc::clone(&store), timing_seen, Arc::clone(&pulse), lease, lease_in));
    let (instance_in, instances) = watch::channel(Arc::new(instance));
    tokio::spawn(prober::ask_for_ever(instances, wanted, Arc::clone(&hurry), events_in));
    let (rest_in, rest) = watch::channel(rest);
    let api = Api {
        store: Arc::clone(&store),
        space: config.keyspace(),
        snapshots: api_seen,
        commands: commands_in,
        settings: rest,
        caller: Arc::clone(&caller),
        timing: config.timing,
    };
    tokio::spawn(api::serve(listener, api, std::future::pending()));

    let sources =
        Sources { observation: follower.observation(), lease: lease_news, events, commands, wishes };
    let sinks = Sinks { timing, api: api_in, pulse, probe, hurry, instance: instance_in, rest: rest_in };
    let start = Start {
        lease,
        vouch: promise,
        descent,
        server,
        guard,
        guard_options,
        settings,
        first_timing,
        vouch_file,
        namesake: Namesake::new(config.name.clone(), config.api_url(), caller),
        reloader: Arc::new(reloader),
        config: Arc::new(config),
    };
    let c = &start.config;
    info!(name = %c.name, scope = c.scope, api = %c.restapi.listen, "the agent runs");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    first_word(&start, follower.observation()).await;
    let (ended, ctx) = Reconciler::new(ctx, identity, sources, sinks, start).run().await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    ctx.callbacks.finish(CALLBACKS_END_WITHIN).await;
    ctx.watchdog.finish().await;
    match ended {
        Ended::Stopped | Ended::Detached => {
            info!(?ended, "the agent ends");
            Ok(())
        }
        Ended::Halted(why) => Err(Stuck::NeedsOperator(why)),
        Ended::Failed(why) => Err(Stuck::Failed(why)),
    }
}

fn follow_options(timing: &Timing) -> FollowOptions {
    FollowOptions {
        reread_every: timing.renew_interval.min(Duration::from_secs(2)),
        retry_first: Duration::from_millis(100),
        retry_max: Duration::from_secs(1),
        ask_leader_lease: false,
    }
}

/// A running primary that no guard bounds is another agent's, handed to us in pause. Whether it may go on only the
/// store can tell, so its first word is waited for; without it, what was last known has to do.
async fn first_word(start: &Start, mut observation: watch::Receiver<Observation>) {
    if !start.server.may_write() || start.guard.report.doing == Doing::Armed {
        return;
    }
    let heard = observation.wait_for(|observation| observation.view.is_some());
    if tokio::time::timeout(FIRST_WORD_WITHIN, heard).await.is_err() {
        warn!("the store does not answer; going by the configuration as it was last read");
    }
}

/// How the guard is started and reached.
fn guard_options(config: &Config) -> Result<GuardOptions, String> {
    Ok(GuardOptions {
        program: std::env::current_exe().map_err(|e| format!("this program's path: {e}"))?,
        socket: config.guard.socket.clone(),
        data_dir: config.postgresql.data_dir.clone(),
        log: config.guard.log.clone(),
        patroni_lines: config.log.format == LogFormat::Patroni,
        answer_within: GUARD_ANSWERS_WITHIN,
    })
}

async fn bind(config: &Config) -> Result<TcpListener, String> {
    TcpListener::bind(config.restapi.listen)
        .await
        .map_err(|e| format!("restapi.listen {}: {e}", config.restapi.listen))
}

/// SIGTERM and SIGINT stop; SIGHUP has the settings read again; SIGUSR1 leaves everything to the next agent.
fn signals() -> Result<mpsc::Receiver<Wish>, String> {
    let (send, wishes) = mpsc::channel(8);
    for (kind, wish) in [
        (SignalKind::terminate(), Wish::Stop),
        (SignalKind::interrupt(), Wish::Stop),
        (SignalKind::hangup(), Wish::Reload),
        (SignalKind::user_defined1(), Wish::Detach),
    ] {
        let mut stream = signal(kind).map_err(|e| format!("signals: {e}"))?;
        let send = send.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if send.send(wish).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(wishes)
}

/// The lease of a predecessor whose guard still holds its deadline: the deadline tells when it was renewed.
fn adopted_lease(report: &Report, timing: &Timing) -> OwnLease {
    match (report.doing, report.lease, report.deadline) {
        (Doing::Armed, Some(lease), Some(deadline)) => {
            // The guard's deadline lies before the end of the lease; counting the whole ttl back from it puts
            // the renewal earlier than it was, which is the safe side.
            let sent_at = Tick::from_nanos(deadline) - timing.ttl;
            info!(lease, "adopting the lease of an earlier agent");
            OwnLease::Held { id: LeaseId(lease), sent_at, ttl: timing.ttl }
        }
        _ => OwnLease::None,
    }
}

/// A server that runs already is adopted, never restarted.
async fn found_server(ctx: &Arc<Context<EtcdStore>>) -> Result<ServerState, String> {
    let data = effects::look(&ctx.instance).await;
    if let DataDir::Unreadable(why) = &data {
        return Err(why.clone());
    }
    let found = Postmaster::find(&ctx.instance.data_dir).map_err(|e| format!("postmaster.pid: {e}"))?;
    let Some(postmaster) = found else {
        // Backends may outlive a killed postmaster for a moment, and still confirm commits.
        process::sweep(ctx.instance.data_dir.clone(), SWEEP_LIMIT).await.map_err(|e| e.to_string())?;
        return Ok(ServerState::absent(data));
    };
    warn!(pid = postmaster.pid(), "PostgreSQL runs already; adopting it");
    postmaster::watch(ctx, &postmaster);
    // A server that has its signal file is in recovery: it removes the file before it accepts writes.
    let standby = matches!(&data, DataDir::Present(control) if control.standby);
    Ok(ServerState {
        process: Process::Starting { since: Tick::now() },
        pid: Some(postmaster.pid()),
        role: if standby { LocalRole::Standby } else { LocalRole::Unknown },
        ..ServerState::absent(data)
    })
}

/// What is known of the timelines of the data that were found.
async fn found_descent(instance: &Instance, server: &ServerState) -> Result<Descent, String> {
    if !matches!(server.data, DataDir::Present(_)) {
        return Ok(Descent::default());
    }
    let control = ControlData::read(instance).await.map_err(|e| e.to_string())?;
    Ok(descent::load(instance, &control))
}

fn first_snapshot(config: &Config, observation: Observation, ttl: Duration) -> ApiSnapshot {
    ApiSnapshot {
        name: config.name.clone(),
        scope: config.scope.clone(),
        tags: config.tags.clone(),
        observation,
        leader_until: None,
        renewed_at: None,
        local: LocalPostgres {
            state: pgvane_cluster::records::MemberState::Stopped,
            role: pgvane_cluster::records::MemberRole::Uninitialized,
            answer: None,
            system_identifier: None,
            asked_at: None,
        },
        failsafe_active: false,
        pending_restart: None,
        operations: Operations::default(),
        watchdog_failed: false,
        turned_at: Tick::now(),
        ttl,
        dcs_last_seen: 0,
        turns: 0,
        decisions: std::collections::BTreeMap::new(),
    }
}
