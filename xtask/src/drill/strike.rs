//! Does what a fault says to a playground in namespaces, and undoes it.

use std::time::Duration;

use futures_util::future;
use hyper::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::json;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::fault::{Aim, Direction, Fault, Kind, Victim};
use super::schedule::Size;
use crate::playground::disk::Disk;
use crate::playground::parts::Role;
use crate::playground::{Playground, PlaygroundError, http};

/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// How long an agent may take to stop: it hands over first, or gives up doing so.
const STOPPED_WITHIN: Duration = Duration::from_mins(1);

/// How long a switchover may take to be answered.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// A slow disk: so long it stands still, and so long it works.
const SLOW_DISK: (Duration, Duration) = (Duration::from_millis(150), Duration::from_millis(40));

/// A fault that was done.
#[derive(Debug)]
pub(super) struct Struck {
    /// What kind.
    pub(super) kind: Kind,
    /// To whom.
    pub(super) part: String,
    /// Whether that one led then: the cluster, or etcd's members.
    pub(super) led: bool,
    /// What was done, for people.
    pub(super) what: String,
    undo: Undo,
}

/// How it is undone.
#[derive(Debug)]
enum Undo {
    /// It passes by itself.
    Nothing,
    StartAgent,
    /// Once it has stopped.
    StartStopped,
    StartProxy,
    StartEtcd,
    PowerOn,
    Continue(Role),
    Plug,
    /// The directions that were cut.
    Mend(Vec<(String, String)>),
    SpeedUp,
    /// Ends the turns of a slow disk, and waits for that.
    Steady(DropGuard, JoinHandle<Result<(), String>>),
    GoOn,
    Free,
    SetClock,
}

fn refused(why: String) -> PlaygroundError {
    PlaygroundError::Refused(why)
}

/// How much of `playground` there is.
pub(super) fn size(playground: &Playground) -> Size {
    Size {
        nodes: playground.nodes.len(),
        etcds: playground.etcd.members().len(),
        proxies: playground.proxies.len(),
    }
}

/// The part that is meant, and whether it leads; `None`: nobody leads, or there is no such part.
async fn victim(playground: &Playground, fault: &Fault) -> Option<(String, bool)> {
    let (names, leader): (Vec<String>, Option<String>) = match fault.kind.aim() {
        Aim::Node | Aim::Primary => {
            let names = playground.nodes.iter().map(|node| node.name.clone()).collect();
            (names, playground.look().await.leader().ok())
        }
        Aim::Clock => {
            let equipped = playground.network.iter().flat_map(|(_, equipment)| equipment.clocks.keys());
            (equipped.cloned().collect(), playground.look().await.leader().ok())
        }
        Aim::Etcd => (playground.etcd.names(), playground.etcd.leader().await),
        Aim::Proxy => (playground.proxies.iter().map(|proxy| proxy.options().name.clone()).collect(), None),
    };
    let part = match fault.victim {
        Victim::Leader => leader.clone()?,
        Victim::Other(place) => {
            let leader = leader.clone()?;
            names.into_iter().filter(|name| *name != leader).nth(place)?
        }
        Victim::Number(place) => names.into_iter().nth(place)?,
    };
    let led = leader.as_deref() == Some(&part);
    Some((part, led))
}

/// Does it; `Ok(Err)`: it was passed over, and why. `others` are under way.
pub(super) async fn strike(
    playground: &mut Playground,
    fault: &Fault,
    others: &[Struck],
) -> Result<Result<Struck, String>, PlaygroundError> {
    let kind = fault.kind;
    let Some((part, led)) = victim(playground, fault).await else {
        return Ok(Err(format!("{kind}: nobody leads")));
    };
    if let Some(other) = others.iter().find(|other| other.part == part && other.kind.clashes_with(kind)) {
        return Ok(Err(format!("{kind}: {} already does that to {part}", other.kind)));
    }
    let done = |what: &str, undo| Struck { kind, part: part.clone(), led, what: what.to_owned(), undo };
    let signal = |playground: &mut Playground, role, signal| playground.signal_part(&part, role, signal);
    let struck = match kind {
        Kind::Switchover => {
            let what = switchover(playground, &part).await;
            done(&format!("asked to hand over: {what}"), Undo::Nothing)
        }
        Kind::StopAgent => {
            playground.node_mut(&part).signal_agent(Signal::TERM);
            done("agent told to stop", Undo::StartStopped)
        }
        Kind::KillAgent => {
            playground.node_mut(&part).kill_agent(GONE_WITHIN).await;
            done("agent killed", Undo::StartAgent)
        }
        Kind::KillPostgres => {
            playground.node(&part).kill_postmaster();
            done("postmaster killed", Undo::Nothing)
        }
        Kind::KillBoth => {
            playground.node_mut(&part).signal_agent(Signal::KILL);
            playground.node(&part).kill_postmaster();
            playground.node_mut(&part).kill_agent(GONE_WITHIN).await;
            done("agent and postmaster killed", Undo::StartAgent)
        }
        Kind::KillNode => {
            playground.power_off(&part).await?;
            done("power lost", Undo::PowerOn)
        }
        Kind::UnplugNode => {
            playground.network()?.plug(&part, false).map_err(refused)?;
            done("cable pulled", Undo::Plug)
        }
        Kind::FreezeAgent => {
            signal(playground, Role::Agent, Signal::STOP)?;
            done("agent frozen", Undo::Continue(Role::Agent))
        }
        Kind::FreezePostgres => {
            signal(playground, Role::Postgres, Signal::STOP)?;
            done("PostgreSQL frozen", Undo::Continue(Role::Postgres))
        }
        Kind::FreezeGuard => {
            let count = signal(playground, Role::Guard, Signal::STOP)?;
            done(if count == 0 { "no guard to freeze" } else { "guard frozen" }, Undo::Continue(Role::Guard))
        }
        Kind::FreezeProxy | Kind::FreezeEtcd => {
            signal(playground, Role::Any, Signal::STOP)?;
            done("frozen", Undo::Continue(Role::Any))
        }
        Kind::KillProxy => {
            let proxy = playground.proxies.iter_mut().find(|proxy| proxy.options().name == part);
            future::OptionFuture::from(proxy.map(|proxy| proxy.kill(GONE_WITHIN))).await;
            done("killed", Undo::StartProxy)
        }
        Kind::KillEtcd => {
            playground.etcd.member_mut(&part).kill().await;
            done("killed", Undo::StartEtcd)
        }
        Kind::LoseEtcd => {
            lose_etcd(playground, &part).await;
            done("all other members killed", Undo::StartEtcd)
        }
        Kind::CutNodeEtcd | Kind::CutNodes | Kind::CutProxyEtcd | Kind::CutProxyNode | Kind::CutEtcdPeers => {
            let (far, others) = far_end(playground, fault, &part).await;
            if others.is_empty() {
                return Ok(Err(format!("{kind}: nobody leads")));
            }
            let cuts = cut(playground, fault.direction, &part, &others)?;
            done(&format!("{} {far} is lost", which(fault.direction)), Undo::Mend(cuts))
        }
        Kind::SlowNode | Kind::SlowEtcd => {
            playground.network()?.slow(&part).map_err(refused)?;
            done("slow line", Undo::SpeedUp)
        }
        Kind::SlowDisk => done("slow disk", in_turns(playground.disk(&part)?)),
        Kind::StallDisk => {
            blocking(playground.disk(&part)?, Disk::stall).await?;
            done("disk does not answer", Undo::GoOn)
        }
        Kind::FullDisk => {
            blocking(playground.disk(&part)?, Disk::fill).await?;
            done("disk full", Undo::Free)
        }
        Kind::JumpClock => {
            set_clock(playground, &part, fault.jump_s)?;
            done(&format!("time of day {:+} s", fault.jump_s), Undo::SetClock)
        }
    };
    Ok(Ok(struck))
}

/// Undoes it.
pub(super) async fn heal(playground: &mut Playground, struck: Struck) -> Result<(), PlaygroundError> {
    let part = struck.part;
    match struck.undo {
        Undo::Nothing => {}
        Undo::StartAgent => {
            if !playground.node_mut(&part).agent_runs() {
                playground.restart_agent(&part)?;
            }
        }
        Undo::StartStopped => {
            let node = playground.node_mut(&part);
            // As a service manager does when it loses its patience.
            if !node.agent_ended_within(STOPPED_WITHIN).await {
                node.kill_agent(GONE_WITHIN).await;
            }
            playground.restart_agent(&part)?;
        }
        Undo::StartProxy => {
            let place = playground.proxies.iter().position(|proxy| proxy.options().name == part);
            if let Some(place) = place {
                playground.restart_proxy(place)?;
            }
        }
        Undo::StartEtcd => playground.restart_etcd()?,
        Undo::PowerOn => {
            playground.network()?.plug(&part, true).map_err(refused)?;
            playground.restart_agent(&part)?;
        }
        Undo::Continue(role) => drop(playground.signal_part(&part, role, Signal::CONT)?),
        Undo::Plug => playground.network()?.plug(&part, true).map_err(refused)?,
        Undo::Mend(cuts) => {
            for (from, to) in cuts {
                playground.network()?.mend(&from, &to).map_err(refused)?;
            }
        }
        Undo::SpeedUp => playground.network()?.speed_up(&part).map_err(refused)?,
        Undo::Steady(end, turns) => {
            drop(end);
            turns.await.map_err(|e| refused(e.to_string()))?.map_err(refused)?;
        }
        Undo::GoOn => blocking(playground.disk(&part)?, Disk::go_on).await?,
        Undo::Free => blocking(playground.disk(&part)?, Disk::free).await?,
        Undo::SetClock => set_clock(playground, &part, 0)?,
    }
    Ok(())
}

/// Asks for another leader; what came of it.
async fn switchover(playground: &Playground, leader: &str) -> String {
    let agent = playground.node(leader).rest();
    let body = json!({ "leader": leader }).to_string();
    match http::request(Method::POST, agent, "/switchover", body, ANSWERED_WITHIN).await {
        Ok((StatusCode::OK, _)) => "done".to_owned(),
        Ok((status, body)) => format!("{status}, {}", String::from_utf8_lossy(&body)),
        Err(error) => error.to_string(),
    }
}

/// Kills all members but this one.
async fn lose_etcd(playground: &mut Playground, but: &str) {
    for other in playground.etcd.names().into_iter().filter(|name| name != but) {
        playground.etcd.member_mut(&other).kill().await;
    }
}

fn which(direction: Direction) -> &'static str {
    match direction {
        Direction::Out => "what it sends to",
        Direction::In => "what it should get from",
        Direction::Both => "all between it and",
    }
}

/// Whom the victim of a cut is cut from: what they are called together, and their names.
async fn far_end(playground: &Playground, fault: &Fault, part: &str) -> (String, Vec<String>) {
    let nodes = playground.nodes.iter().map(|node| node.name.clone());
    let etcds = playground.etcd.names();
    match fault.kind {
        Kind::CutNodes => ("all other nodes".to_owned(), nodes.filter(|name| name != part).collect()),
        Kind::CutEtcdPeers => {
            ("all other members".to_owned(), etcds.into_iter().filter(|name| name != part).collect())
        }
        Kind::CutProxyNode => {
            let leader: Vec<_> = playground.look().await.leader().into_iter().collect();
            (leader.join(""), leader)
        }
        _ if fault.whole => ("etcd".to_owned(), etcds),
        _ => {
            let one: Vec<_> = etcds.into_iter().take(1).collect();
            (one.join(""), one)
        }
    }
}

fn cut(
    playground: &mut Playground,
    direction: Direction,
    part: &str,
    others: &[String],
) -> Result<Vec<(String, String)>, PlaygroundError> {
    let out = others.iter().map(|other| (part.to_owned(), other.clone()));
    let back = others.iter().map(|other| (other.clone(), part.to_owned()));
    let cuts: Vec<_> = match direction {
        Direction::Out => out.collect(),
        Direction::In => back.collect(),
        Direction::Both => out.chain(back).collect(),
    };
    for (from, to) in &cuts {
        playground.network()?.cut(from, to).map_err(refused)?;
    }
    Ok(cuts)
}

fn set_clock(playground: &Playground, part: &str, fast_s: i64) -> Result<(), PlaygroundError> {
    let clock = playground.network.as_ref().and_then(|(_, equipment)| equipment.clocks.get(part));
    let clock = clock.ok_or_else(|| refused(format!("{part} has no clock of its own")))?;
    clock.set(fast_s).map_err(PlaygroundError::io("cannot set a clock"))
}

/// Freezing a file system waits for all that is being written.
async fn blocking(
    disk: Disk,
    work: impl FnOnce(&Disk) -> Result<(), String> + Send + 'static,
) -> Result<(), PlaygroundError> {
    spawn_blocking(move || work(&disk)).await.map_err(|e| refused(e.to_string()))?.map_err(refused)
}

fn in_turns(disk: Disk) -> Undo {
    let end = CancellationToken::new();
    let turns = tokio::spawn(slow_disk(disk, end.clone()));
    Undo::Steady(end.drop_guard(), turns)
}

/// Stalls a disk in turns, until told to end.
async fn slow_disk(disk: Disk, end: CancellationToken) -> Result<(), String> {
    while !end.is_cancelled() {
        let turn = disk.clone();
        let stalled = spawn_blocking(move || {
            turn.stall()?;
            std::thread::sleep(SLOW_DISK.0);
            turn.go_on()
        });
        stalled.await.map_err(|e| e.to_string())??;
        tokio::time::sleep(SLOW_DISK.1).await;
    }
    Ok(())
}
