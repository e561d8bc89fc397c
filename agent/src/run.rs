//! Puts the agent together: what is found is adopted, what is missing is started, then the loop turns.

use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::follow::{FollowOptions, Observation, follow};
use pgvane_cluster::ids::LeaseId;
use pgvane_cluster::settings::ClusterSettings;
use pgvane_cluster::store::etcd::EtcdStore;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tracing::{info, warn};

use crate::api::{self, Api, ApiSnapshot, LocalPostgres, Operations};
use crate::config::{Config, Ctl, VerifyClient};
use crate::decide::announce::Identity;
use crate::decide::world::{DataDir, LocalRole, OwnLease, Process};
use crate::enact::{Context, server as effects};
use crate::guard::client::{Doing, GuardClient, GuardOptions, Report};
use crate::keepalive::{self, LeaseNews, Pulse};
use crate::known_config::KnownConfig;
use crate::namesake::Namesake;
use crate::peers::Caller;
use crate::postgres::Instance;
use crate::postgres::process::Postmaster;
use crate::reconcile::{Ended, Reconciler, Sinks, Sources, Start, Wish, watch_server};
use crate::server::ServerState;
use crate::timing::Timing;
use crate::{preflight, prober, vouch};

/// How long the store may take to say whose the primary is that was found running.
const FIRST_WORD_WITHIN: Duration = Duration::from_secs(3);

/// How long an answer of the guard may take.
const GUARD_ANSWERS_WITHIN: Duration = Duration::from_secs(1);

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
pub async fn run(config: Config) -> Result<(), Stuck> {
    preflight::check(&config).map_err(Stuck::NeedsOperator)?;
    let rest = api::Settings::new(&config.restapi).map_err(Stuck::NeedsOperator)?;
    let caller = caller(&config);
    let listener = bind(&config).await?;
    let wishes = signals()?;
    let instance = instance(&config);
    let known_config = Arc::new(KnownConfig::load(&instance.data_dir));
    let document = known_config.document();
    let (settings, _) = ClusterSettings::from_json(document.as_ref().unwrap_or(&config.bootstrap.dcs));
    let first_timing = Timing::derive(settings.ttl, &config.timing).map_err(|e| e.to_string())?;

    let vouch_file = vouch::path(&instance.data_dir);
    let promise = vouch::load(&vouch_file, Tick::now()).map_err(|e| {
        format!("{} cannot be read ({e}); it may hold a promise not to race: remove it only once the cluster has a leader", vouch_file.display())
    })?;
    let guard_options = GuardOptions {
        program: std::env::current_exe().map_err(|e| format!("this program's path: {e}"))?,
        socket: config.guard.socket.clone(),
        data_dir: instance.data_dir.clone(),
        log: config.guard.log.clone(),
        answer_within: GUARD_ANSWERS_WITHIN,
    };
    let guard = GuardClient::start(&guard_options).await.map_err(|e| e.to_string())?;
    let lease = adopted_lease(&guard.report, &first_timing);

    let store = Arc::new(EtcdStore::new(config.etcd.options()));
    let (follower, following) = follow(Arc::clone(&store), config.keyspace(), follow_options(&first_timing));
    let (events_in, events) = mpsc::unbounded_channel();
    let (published, _) = watch::channel(None);
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
        store_access: config.etcd.access(),
        published,
    });

    let server = found_server(&ctx).await?;
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
    tokio::spawn(keepalive::keep(Arc::clone(&store), timing_seen, Arc::clone(&pulse), lease, lease_in));
    tokio::spawn(prober::ask_for_ever(instance.clone(), wanted, Arc::clone(&hurry), events_in));
    // Kept for as long as the agent runs: what is sent here replaces the settings of the API.
    let (_rest_in, rest) = watch::channel(Arc::new(rest));
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

    let identity = Identity {
        conn_url: config.conn_url(),
        api_url: config.api_url(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let sources =
        Sources { observation: follower.observation(), lease: lease_news, events, commands, wishes };
    let sinks = Sinks { timing, api: api_in, pulse, probe, hurry };
    let start = Start {
        lease,
        vouch: promise,
        server,
        guard,
        guard_options,
        settings,
        tags: config.tags.clone(),
        timing: config.timing,
        first_timing,
        vouch_file,
        namesake: Namesake::new(config.name.clone(), config.api_url(), caller),
    };
    info!(name = %config.name, scope = config.scope, api = %config.restapi.listen, "the agent runs");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    if start.server.may_write() && start.guard.report.doing != Doing::Armed {
        first_word(follower.observation()).await;
    }
    let ended = Reconciler::new(ctx, identity, sources, sinks, start).run().await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    if let Ended::Halted(why) = ended {
        return Err(Stuck::NeedsOperator(why));
    }
    info!(?ended, "the agent ends");
    Ok(())
}

fn follow_options(timing: &Timing) -> FollowOptions {
    FollowOptions {
        reread_every: timing.renew_interval.min(Duration::from_secs(2)),
        retry_first: Duration::from_millis(100),
        retry_max: Duration::from_secs(1),
        ask_leader_lease: false,
    }
}

/// How other members are asked: as operators' tools are told to, with what our own API expects where they are told
/// nothing.
fn caller(config: &Config) -> Arc<Caller> {
    let own_ca = || config.restapi.tls.as_ref().and_then(|tls| tls.cafile.clone());
    let ctl = Ctl { cafile: config.ctl.cafile.clone().or_else(own_ca), ..config.ctl.clone() };
    let caller = Caller::new(&ctl);
    if let Some(tls) = &config.restapi.tls {
        if let Some(why) = caller.lacks_tls() {
            warn!(why, "members that speak https as this one does cannot be asked");
        }
        if tls.verify_client == VerifyClient::Required && ctl.client_cert.is_none() {
            warn!("members that want a certificate as this one does cannot be asked: ctl has none");
        }
    }
    Arc::new(caller)
}

/// A running primary that no guard bounds is another agent's, handed to us in pause. Whether it may go on only the
/// store can tell, so its first word is waited for; without it, what was last known has to do.
async fn first_word(mut observation: watch::Receiver<Observation>) {
    let heard = observation.wait_for(|observation| observation.view.is_some());
    if tokio::time::timeout(FIRST_WORD_WITHIN, heard).await.is_err() {
        warn!("the store does not answer; going by the configuration as it was last read");
    }
}

async fn bind(config: &Config) -> Result<TcpListener, String> {
    TcpListener::bind(config.restapi.listen)
        .await
        .map_err(|e| format!("restapi.listen {}: {e}", config.restapi.listen))
}

/// SIGTERM and SIGINT stop; SIGUSR1 leaves everything to the next agent.
fn signals() -> Result<mpsc::Receiver<Wish>, String> {
    let (send, wishes) = mpsc::channel(8);
    for (kind, wish) in [
        (SignalKind::terminate(), Wish::Stop),
        (SignalKind::interrupt(), Wish::Stop),
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

fn instance(config: &Config) -> Instance {
    let p = &config.postgresql;
    Instance {
        member: config.name.clone(),
        scope: config.scope.clone(),
        data_dir: p.data_dir.clone(),
        bin_dir: p.bin_dir.clone(),
        listen_addresses: p.listen_addresses.clone(),
        port: p.port,
        connect_address: p.connect_address.clone(),
        database: p.database.clone(),
        superuser: p.superuser.clone(),
        replication: p.replication.clone(),
        rewind: p.rewind.clone(),
        pgpass: p.pgpass.clone(),
        socket_dir: p.socket_dir.clone(),
        parameters: p.parameters.clone(),
        pg_hba: p.pg_hba.clone(),
        vetted: crate::postgres::vetted::Vetted::default(),
        initdb: config.bootstrap.initdb.clone(),
        users: config.bootstrap.users.clone(),
        post_bootstrap: config.bootstrap.post_bootstrap.clone(),
    }
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
    let Some(postmaster) = found else { return Ok(ServerState::absent(data)) };
    warn!(pid = postmaster.pid(), "PostgreSQL runs already; adopting it");
    watch_server(ctx, &postmaster);
    // A server that has its signal file is in recovery: it removes the file before it accepts writes.
    let standby = matches!(&data, DataDir::Present(control) if control.standby);
    Ok(ServerState {
        process: Process::Starting { since: Tick::now() },
        pid: Some(postmaster.pid()),
        role: if standby { LocalRole::Standby } else { LocalRole::Unknown },
        ..ServerState::absent(data)
    })
}

fn first_snapshot(config: &Config, observation: Observation, ttl: Duration) -> ApiSnapshot {
    ApiSnapshot {
        name: config.name.clone(),
        scope: config.scope.clone(),
        tags: config.tags.clone(),
        observation,
        leader_until: None,
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
        turned_at: Tick::now(),
        ttl,
        dcs_last_seen: 0,
        turns: 0,
        decisions: std::collections::BTreeMap::new(),
    }
}
