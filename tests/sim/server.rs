//! What a PostgreSQL server does by itself: starts, streams, promotes, stops, ends.

use std::time::Duration;

use crate::fact::Fact;
use crate::postgres::{Data, Server, State, Stop};
use crate::replication::{self, Names, RECEIVER_TIMEOUT};
use crate::runtime::{MS, Proc, Sim};
use crate::wal::COMMIT;
use crate::world::World;

/// Starts a server; `None` when one runs already or there is nothing to run.
pub(crate) fn start(sim: &Sim, n: usize, as_primary: bool, upstream: Option<usize>) -> Option<i32> {
    let proc = sim.new_proc(n);
    let (pid, takes) = {
        let mut w = sim.w();
        if w.nodes[n].suspended > 0 {
            sim.freeze(proc);
        }
        let (low, high) = w.plan.start;
        let mut takes = w.rng.range(low, high);
        let World { nodes, rng, .. } = &mut *w;
        let pg = &mut nodes[n].pg;
        if pg.server.is_some() || pg.data != Data::Present {
            return None;
        }
        pg.standby_signal = !as_primary;
        if !matches!(pg.state, State::ShutDown | State::ShutDownInRecovery) {
            takes += rng.range(0, high);
        }
        pg.pids += 1;
        let pid = pg.pids;
        // A server that was no standby replays all that it has before it lets anybody in.
        let was_standby = matches!(pg.state, State::Recovery | State::ShutDownInRecovery);
        pg.flushed = pg.wal.end;
        pg.in_force.clone_from(&pg.file);
        pg.server = Some(Server {
            pid,
            proc,
            ready: false,
            in_recovery: !as_primary,
            stopping: false,
            writable: false,
            promoting: false,
            frozen: 0,
            upstream,
            stream: None,
            replayed: if was_standby { pg.min_recovery.min(pg.wal.end) } else { pg.wal.end },
            has_streamed: false,
            senders: vec![],
            names: Names::read(&pg.file),
            confirmed: 0,
        });
        if as_primary {
            w.fact(Fact::Promote { node: n, restart: true });
        }
        w.fact(Fact::Started { node: n, as_primary });
        (pid, takes)
    };
    let inner = sim.clone();
    sim.spawn(proc, async move {
        let sim = inner;
        sim.sleep(proc, Duration::from_nanos(takes)).await;
        become_ready(&sim, n, as_primary);
        if !as_primary {
            replay(&sim, n, pid, proc).await;
            replication::receive(&sim, n, pid, proc).await;
        }
    });
    Some(pid)
}

fn become_ready(sim: &Sim, n: usize, as_primary: bool) {
    let mut w = sim.w();
    let pg = &mut w.nodes[n].pg;
    let Some(server) = pg.server.as_mut() else { return };
    server.ready = true;
    server.writable = as_primary && !server.stopping;
    pg.state = if as_primary { State::Production } else { State::Recovery };
    if as_primary {
        let on = server.writable;
        pg.write_checkpoint();
        if on {
            w.accepts_writes(n, true);
        }
    }
    w.nodes[n].pg.changed.raise();
    w.wal_grew.raise();
}

/// A standby lets readers in as soon as its data are consistent. It streams once it has replayed the WAL it has.
async fn replay(sim: &Sim, n: usize, pid: i32, proc: Proc) {
    let takes = {
        let mut w = sim.w();
        let (low, high) = w.plan.replay;
        let all = w.nodes[n].pg.server.as_ref().is_some_and(|s| s.replayed >= w.nodes[n].pg.wal.end);
        if all { 0 } else { w.rng.range(low, high) }
    };
    sim.sleep(proc, Duration::from_nanos(takes)).await;
    let mut w = sim.w();
    let end = w.nodes[n].pg.wal.end;
    if let Some(server) = w.nodes[n].pg.running(pid) {
        server.replayed = end;
    }
}

/// Points a running standby elsewhere.
pub(crate) fn point(w: &mut World, n: usize, upstream: usize) {
    if let Some(server) = w.nodes[n].pg.server.as_mut() {
        server.upstream = Some(upstream);
    }
}

/// `pg_promote`: what follows is up to the server. Whether it was a running standby.
///
/// A server takes the next number it knows no history file of, so a primary that was cut off right after its promotion
/// and its successor can both write timeline 2.
pub(crate) fn promote(sim: &Sim, n: usize) -> bool {
    let (proc, takes) = {
        let mut w = sim.w();
        let (low, high) = w.plan.promote;
        let takes = w.rng.range(low, high);
        let server = w.nodes[n].pg.server.as_mut().filter(|s| s.ready && s.in_recovery && !s.stopping);
        let Some(server) = server else { return false };
        if server.promoting {
            return true;
        }
        server.promoting = true;
        let proc = server.proc;
        w.fact(Fact::Promote { node: n, restart: false });
        (proc, takes)
    };
    let inner = sim.clone();
    sim.spawn(proc, async move {
        inner.sleep(proc, Duration::from_nanos(takes)).await;
        let mut w = inner.w();
        w.branches += 1;
        let branch = w.branches;
        let pg = &mut w.nodes[n].pg;
        let Some(server) = pg.server.as_mut().filter(|s| !s.stopping) else { return };
        (server.in_recovery, server.writable) = (false, true);
        (server.upstream, server.stream) = (None, None);
        let timeline = pg.wal.timeline + 1;
        pg.wal.fork(timeline, branch);
        pg.flushed = pg.wal.end;
        pg.state = State::Production;
        pg.standby_signal = false;
        w.accepts_writes(n, true);
        w.nodes[n].pg.changed.raise();
        w.wal_grew.raise();
    });
    true
}

/// Tells the server `pid` to stop.
pub(crate) fn signal(sim: &Sim, n: usize, pid: i32, how: Stop) {
    let (proc, closes, takes) = {
        let mut w = sim.w();
        let (low, high) = w.plan.stop;
        let World { nodes, rng, .. } = &mut *w;
        let Some(server) = nodes[n].pg.server.as_mut().filter(|s| s.pid == pid) else { return };
        let takes = match how {
            Stop::Kill => 0,
            Stop::Immediate if rng.chance(800) => rng.range(1, 20) * MS,
            Stop::Immediate => rng.range(20, 250) * MS,
            Stop::Fast => rng.range(low, high),
        };
        if how == Stop::Fast && std::mem::replace(&mut server.stopping, true) {
            return;
        }
        server.stopping = true;
        // Backends end soon after the signal, but not with it; a stubborn one lives as long as the server.
        let closes = if rng.chance(50) { takes } else { rng.range(1, 15) * MS };
        (server.proc, closes.min(takes), takes)
    };
    if how == Stop::Kill {
        gone(sim, n, pid);
        return;
    }
    let inner = sim.clone();
    sim.spawn(proc, async move {
        let sim = inner;
        sim.sleep(proc, Duration::from_nanos(closes)).await;
        close(&mut sim.w(), n);
        sim.sleep(proc, Duration::from_nanos(takes - closes)).await;
        if how == Stop::Fast {
            shut_down(&sim, n, proc).await;
        }
        gone(&sim, n, pid);
    });
}

fn close(w: &mut World, n: usize) {
    let Some(server) = w.nodes[n].pg.server.as_mut() else { return };
    if std::mem::replace(&mut server.writable, false) {
        w.accepts_writes(n, false);
        w.nodes[n].pg.acknowledged.raise();
    }
}

/// The end of a clean stop: a checkpoint, and all WAL to every standby that still listens.
async fn shut_down(sim: &Sim, n: usize, proc: Proc) {
    {
        let mut w = sim.w();
        let pg = &mut w.nodes[n].pg;
        let Some(server) = pg.server.as_ref() else { return };
        let (primary, ready) = (!server.in_recovery, server.ready);
        if !primary || !ready {
            // A server that was still starting writes nothing.
            if ready {
                pg.state = State::ShutDownInRecovery;
                pg.min_recovery = pg.wal.end;
            }
            return;
        }
    }
    close(&mut sim.w(), n);
    sim.w().nodes[n].pg.write_checkpoint();
    let mut waited = 0;
    loop {
        let waiting = {
            let mut w = sim.w();
            let mut waiting = false;
            for standby in (0..w.nodes.len()).filter(|s| *s != n) {
                let server = w.nodes[standby].pg.server.as_ref();
                let from_us = server.and_then(|s| s.stream).is_some_and(|s| s.from == n);
                let frozen = server.is_some_and(|s| sim.is_frozen(s.proc));
                if !from_us {
                    continue;
                }
                let (there, source) = (&w.nodes[standby].pg.wal, &w.nodes[n].pg.wal);
                if w.net.replicates(standby, n) && !frozen && source.can_feed(there) {
                    replication::take(&mut w, standby, n);
                    let pg = &mut w.nodes[standby].pg;
                    pg.flushed = pg.wal.end;
                    pg.server.iter_mut().for_each(|s| s.replayed = pg.wal.end);
                } else {
                    waiting = true;
                }
            }
            waiting
        };
        if !waiting || waited > RECEIVER_TIMEOUT {
            break;
        }
        waited += 50 * MS;
        sim.sleep(proc, Duration::from_millis(50)).await;
    }
    sim.w().nodes[n].pg.state = State::ShutDown;
}

/// The server is gone, with all its processes.
pub(crate) fn gone(sim: &Sim, n: usize, pid: i32) {
    let proc = {
        let mut w = sim.w();
        if w.nodes[n].pg.pid() != Some(pid) {
            return;
        }
        close(&mut w, n);
        let World { nodes, rng, .. } = &mut *w;
        let pg = &mut nodes[n].pg;
        let server = pg.server.take().expect("its pid was just seen");
        if pg.state == State::Recovery {
            // pg_control lags behind the WAL of a standby that was not shut down.
            pg.min_recovery = (pg.wal.end - COMMIT * rng.range(0, 3)).max(pg.checkpoint);
        }
        pg.changed.raise();
        w.fact(Fact::Gone { node: n });
        server.proc
    };
    sim.kill(proc);
}
