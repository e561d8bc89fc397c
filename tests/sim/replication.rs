//! Streaming replication: what a standby receives, writes and confirms, and when that lets a commit return.
//!
//! As PostgreSQL does it: every walsender has read `synchronous_standby_names` at a time of its own, and releases by
//! the names that it knows; a backend waits when it knows of any names, and no longer once there are none.

use std::rc::Rc;

use crate::fact::Fact;
use crate::network::End;
use crate::postgres::{Server, Stream};
use crate::runtime::{MS, Proc, SEC, Sim};
use crate::wal::Wal;
use crate::world::{Mutation, World};

/// How long a standby believes in a connection that brings nothing.
pub(crate) const RECEIVER_TIMEOUT: u64 = 10 * SEC;

/// How long a primary believes in one.
const SENDER_TIMEOUT: u64 = 10 * SEC;

/// Pause between two attempts of a standby to stream. `wal_retrieve_retry_interval` and what else it takes.
const RETRY: u64 = 500 * MS;

/// How often a standby looks whether it still has its upstream.
const HEARTBEAT: u64 = SEC;

/// The longest time until a process has read the configuration again.
const RELOAD: u64 = 100 * MS;

/// `synchronous_standby_names`, read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Names(Rc<Read>);

#[derive(PartialEq, Eq, Debug, Default)]
struct Read {
    /// Whether commits wait at all.
    defined: bool,
    any: bool,
    count: usize,
    /// Those that are nodes, in their order.
    nodes: Vec<usize>,
}

impl Names {
    /// Reads the setting: nothing, one name or a list, `n (list)`, `FIRST n (list)`, `ANY n (list)`.
    pub(crate) fn read(text: &str) -> Names {
        let text = text.trim();
        let (head, list) = match text.split_once('(') {
            Some((head, list)) => (head.trim(), list.trim_end_matches(')')),
            None => ("", text),
        };
        let upper = head.to_ascii_uppercase();
        let count = upper.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(1);
        let names = list.split(',').map(|n| n.trim().trim_matches('"')).filter(|n| !n.is_empty());
        let nodes = names.filter_map(|n| n.strip_prefix("pg")?.parse::<usize>().ok()).map(|n| n - 1);
        Names(Rc::new(Read {
            defined: !text.is_empty(),
            any: upper.starts_with("ANY"),
            count,
            nodes: nodes.collect(),
        }))
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.0.defined
    }

    /// The place of a standby in the list, from 1 as in pg_stat_replication; 0: it is not named.
    pub(crate) fn priority(&self, node: usize) -> i32 {
        let place = self.0.nodes.iter().position(|n| *n == node);
        match place {
            Some(_) if self.0.any => 1,
            Some(place) => i32::try_from(place + 1).expect("small"),
            None => 0,
        }
    }

    /// The named standbys that stream, those that count first. Every walsender says by its own reading whether, and
    /// as what, it counts.
    fn candidates(senders: &[Sender]) -> Vec<&Sender> {
        let own = |s: &Sender| s.names.priority(s.node);
        let mut named: Vec<&Sender> =
            senders.iter().filter(|s| s.streams && s.flushed.is_some() && own(s) > 0).collect();
        named.sort_by_key(|s| own(s));
        named
    }

    /// Up to where enough of the named standbys have it on their disks.
    fn confirmed(&self, senders: &[Sender]) -> Option<u64> {
        let mut flushed: Vec<u64> = Names::candidates(senders).iter().filter_map(|s| s.flushed).collect();
        if self.0.count == 0 || flushed.len() < self.0.count {
            return None;
        }
        if self.0.any {
            flushed.sort_unstable_by(|a, b| b.cmp(a));
            return flushed.get(self.0.count - 1).copied();
        }
        flushed.truncate(self.0.count);
        flushed.into_iter().min()
    }

    /// What pg_stat_replication says of a standby.
    pub(crate) fn state_of(&self, sender: &Sender, senders: &[Sender]) -> &'static str {
        if sender.names.priority(sender.node) == 0 || self.is_empty() {
            return "async";
        }
        if self.0.any {
            return "quorum";
        }
        let place = Names::candidates(senders).iter().position(|s| s.node == sender.node);
        if place.is_some_and(|place| place < self.0.count) { "sync" } else { "potential" }
    }
}

/// A walsender.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    pub(crate) node: usize,
    /// The standby's postmaster.
    pid: i32,
    /// What the standby has confirmed.
    pub(crate) flushed: Option<u64>,
    /// Whether it has caught up with where this server was when it connected.
    pub(crate) streams: bool,
    catches_up_at: u64,
    /// What this process knows of `synchronous_standby_names`.
    pub(crate) names: Names,
    last: u64,
}

/// Has the server read its configuration again: the postmaster first, then each of its processes at a time of its
/// own, from the file as it is by then.
pub(crate) fn reload(sim: &Sim, n: usize, pid: i32) {
    let Some(proc) = sim.w().nodes[n].pg.running(pid).map(|server| server.proc) else { return };
    let inner = sim.clone();
    sim.spawn(proc, async move {
        takes(&inner, proc).await;
        let who = {
            let mut w = inner.w();
            let pg = &mut w.nodes[n].pg;
            let file = pg.file.clone();
            let Some(server) = pg.running(pid) else { return };
            let who: Vec<usize> = server.senders.iter().map(|s| s.node).collect();
            pg.in_force = file;
            pg.acknowledged.raise();
            who
        };
        for who in who.into_iter().map(Some).chain([None]) {
            let again = inner.clone();
            inner.spawn(proc, async move {
                takes(&again, proc).await;
                read(&mut again.w(), n, pid, who);
            });
        }
    });
}

async fn takes(sim: &Sim, proc: Proc) {
    let takes = sim.w().rng.range(0, RELOAD);
    sim.sleep(proc, std::time::Duration::from_nanos(takes)).await;
}

/// A walsender reads the configuration, or the checkpointer does for those that wait.
fn read(w: &mut World, n: usize, pid: i32, who: Option<usize>) {
    let pg = &mut w.nodes[n].pg;
    let names = Names::read(&pg.file);
    let Some(server) = pg.running(pid) else { return };
    match who {
        Some(node) => {
            let sender = server.senders.iter_mut().find(|s| s.node == node);
            sender.into_iter().for_each(|s| s.names = names.clone());
            release(server, node);
        }
        None => server.names = names,
    }
    pg.acknowledged.raise();
}

/// What the walsender of `node` does when it knows more than before.
fn release(server: &mut Server, node: usize) {
    let Some(sender) = server.senders.iter().find(|s| s.node == node) else { return };
    if sender.names.priority(node) == 0 {
        return;
    }
    if let Some(upto) = sender.names.confirmed(&server.senders) {
        server.confirmed = server.confirmed.max(upto);
    }
}

/// How a commit came to return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Returned {
    /// Nobody was named.
    Alone,
    /// The named standbys have it.
    Confirmed,
    /// It does not: its backend ended first.
    Never,
}

/// Waits until the commit at `end` on the server `pid` may return.
pub(crate) async fn wait_for_standbys(sim: &Sim, n: usize, pid: i32, end: u64) -> Returned {
    let judge = || {
        let w = sim.w();
        let Some(server) = w.nodes[n].pg.server.as_ref().filter(|s| s.pid == pid && s.writable) else {
            return Some(Returned::Never);
        };
        if server.names.is_empty() || w.mutation == Some(Mutation::CommitsDoNotWait) {
            return Some(Returned::Alone);
        }
        (server.confirmed >= end).then_some(Returned::Confirmed)
    };
    if let Some(returned) = judge() {
        return returned;
    }
    let signal = sim.w().nodes[n].pg.acknowledged.clone();
    let mut returned = Returned::Never;
    sim.until(&signal, || match judge() {
        Some(how) => {
            returned = how;
            true
        }
        None => false,
    })
    .await;
    returned
}

/// The receiver of a standby: connects, takes what the upstream has, notices when it has gone.
pub(crate) async fn receive(sim: &Sim, n: usize, pid: i32, proc: Proc) {
    let grew = sim.w().wal_grew.clone();
    loop {
        let streams = {
            let mut w = sim.w();
            let now = w.now;
            match w.nodes[n].pg.running(pid) {
                Some(server) if server.in_recovery && !server.promoting => {}
                _ => return,
            }
            connect(sim, &mut w, n, now)
        };
        let Some(stream) = streams else {
            sim.sleep(proc, std::time::Duration::from_nanos(RETRY)).await;
            continue;
        };
        take_and_confirm(sim, n, pid, proc, stream).await;
        let more = sim.until(&grew, || {
            let w = sim.w();
            !w.nodes[stream.from].pg.wal.is(&w.nodes[n].pg.wal)
        });
        let came = sim.timeout(proc, std::time::Duration::from_nanos(HEARTBEAT), more).await;
        if came.is_some() {
            let longest = sim.w().net.weather.replication;
            let way = sim.w().rng.range(longest / 20, longest);
            sim.sleep(proc, std::time::Duration::from_nanos(way)).await;
        }
    }
}

/// One look at the upstream; the stream, if there is one.
fn connect(sim: &Sim, w: &mut World, n: usize, now: u64) -> Option<Stream> {
    let server = w.nodes[n].pg.server.as_ref()?;
    let (wanted, before) = (server.upstream, server.stream);
    let feed = |w: &World, up: usize| {
        let reached = w.net.replicates(n, up) && w.nodes[up].suspended == 0 && w.nodes[up].powered;
        let server = w.nodes[up].pg.server.as_ref().filter(|s| s.ready && !sim.is_frozen(s.proc));
        (reached, server.map(|s| s.pid))
    };
    let next = match (wanted, before) {
        (None, _) => None,
        // The receiver is started again when its target changes.
        (Some(up), Some(stream)) if up != stream.from => None,
        (Some(up), Some(stream)) => match feed(w, up) {
            // A walsender that gave its standby up is gone when that one is heard of again.
            (true, Some(pid)) if pid == stream.pid && is_listed(w, n, up) => {
                Some(Stream { last: now, ..stream })
            }
            (true, _) => None,
            (false, _) => (now < stream.last + RECEIVER_TIMEOUT).then_some(stream),
        },
        (Some(up), None) => match feed(w, up) {
            (true, Some(pid)) => Some(Stream { from: up, pid, last: now }),
            _ => None,
        },
    };
    // An upstream that went another way feeds nobody who did not; a stream ends with that, too.
    let next = next.filter(|s| s.last != now || w.nodes[s.from].pg.wal.can_feed(&w.nodes[n].pg.wal));
    if let Some(stream) = next.filter(|_| before.is_none()) {
        enlist(w, n, stream.from);
    }
    let server = w.nodes[n].pg.server.as_mut()?;
    server.stream = next;
    server.has_streamed |= next.is_some();
    next
}

/// Whether the upstream has a walsender for this standby.
fn is_listed(w: &World, n: usize, up: usize) -> bool {
    let pid = w.nodes[n].pg.pid();
    let server = w.nodes[up].pg.server.as_ref();
    server.is_some_and(|server| server.senders.iter().any(|s| s.node == n && Some(s.pid) == pid))
}

/// The upstream has a walsender for this standby from now on.
fn enlist(w: &mut World, n: usize, up: usize) {
    let Some(pid) = w.nodes[n].pg.pid() else { return };
    let now = w.now;
    let pg = &mut w.nodes[up].pg;
    let (names, catches_up_at) = (Names::read(&pg.in_force), pg.wal.end);
    let Some(server) = pg.server.as_mut() else { return };
    server.senders.retain(|s| s.node != n);
    server.senders.push(Sender {
        node: n,
        pid,
        flushed: None,
        streams: false,
        catches_up_at,
        names,
        last: now,
    });
    server.senders.sort_by_key(|s| s.node);
}

/// Takes all that the upstream has: writes it, flushes it, confirms it.
async fn take_and_confirm(sim: &Sim, n: usize, pid: i32, proc: Proc, stream: Stream) {
    let took = {
        let mut w = sim.w();
        if stream.last != w.now {
            return;
        }
        take(&mut w, n, stream.from)
    };
    if took {
        let takes = {
            let mut w = sim.w();
            let (low, high) = w.plan.flush;
            w.rng.range(low, high)
        };
        sim.sleep(proc, std::time::Duration::from_nanos(takes)).await;
    }
    let (flushed, way) = {
        let mut w = sim.w();
        let pg = &mut w.nodes[n].pg;
        let end = pg.wal.end;
        let Some(server) = pg.running(pid) else { return };
        server.replayed = end;
        pg.flushed = end;
        if !w.plan.may_sync {
            return;
        }
        let World { net, rng, .. } = &mut *w;
        (end, net.hop(rng, End::Node(n), End::Node(stream.from)))
    };
    if let Some(way) = way {
        sim.after(way, move |sim| confirmed(sim, n, pid, stream, flushed));
    }
}

/// The standby's word arrives at its upstream.
fn confirmed(sim: &Sim, n: usize, pid: i32, stream: Stream, flushed: u64) {
    let proc = {
        let w = sim.w();
        let server = w.nodes[stream.from].pg.server.as_ref().filter(|s| s.pid == stream.pid);
        server.map(|s| s.proc)
    };
    let Some(proc) = proc else { return };
    let inner = sim.clone();
    // As a task of the walsender: a stopped one takes it in when it goes on.
    sim.spawn(proc, async move {
        let mut w = inner.w();
        let now = w.now;
        let pg = &mut w.nodes[stream.from].pg;
        let Some(server) = pg.running(stream.pid) else { return };
        let Some(sender) = server.senders.iter_mut().find(|s| s.node == n && s.pid == pid) else { return };
        sender.last = now;
        sender.flushed = sender.flushed.max(Some(flushed));
        sender.streams |= flushed >= sender.catches_up_at;
        release(server, n);
        w.nodes[stream.from].pg.acknowledged.raise();
    });
}

/// A standby writes all that its upstream has; whether that was anything.
pub(crate) fn take(w: &mut World, n: usize, up: usize) -> bool {
    let source: Wal = w.nodes[up].pg.wal.clone();
    let own = &w.nodes[n].pg.wal;
    if own.is(&source) {
        return false;
    }
    if !source.holds(own.branch, own.end) {
        w.fact(Fact::ForeignWal { node: n, from: up });
    }
    w.nodes[n].pg.wal = source;
    true
}

/// Walsenders whose standby is known to be gone, or was silent for too long, end.
pub(crate) fn prune(w: &mut World, n: usize) {
    let Some(pid) = w.nodes[n].pg.pid() else { return };
    let now = w.now;
    let stays = |w: &World, s: &Sender| {
        let standby = &w.nodes[s.node];
        let streams = standby.pg.server.as_ref().is_some_and(|server| {
            server.pid == s.pid && server.stream.is_some_and(|st| st.from == n && st.pid == pid)
        });
        let told = w.net.replicates(s.node, n) && standby.powered && standby.suspended == 0;
        (streams || !told) && now < s.last + SENDER_TIMEOUT
    };
    let gone: Vec<usize> = {
        let Some(server) = w.nodes[n].pg.server.as_ref() else { return };
        server.senders.iter().filter(|s| !stays(w, s)).map(|s| s.node).collect()
    };
    if let Some(server) = w.nodes[n].pg.server.as_mut().filter(|_| !gone.is_empty()) {
        server.senders.retain(|s| !gone.contains(&s.node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(node: usize, flushed: u64, names: &str) -> Sender {
        let names = Names::read(names);
        Sender { node, pid: 1, flushed: Some(flushed), streams: true, catches_up_at: 0, names, last: 0 }
    }

    #[test]
    fn names_are_read_as_postgresql_reads_them() {
        let confirmed = |text: &str| {
            let senders = [sender(1, 10, text), sender(2, 30, text), sender(3, 20, text)];
            Names::read(text).confirmed(&senders)
        };
        assert!(Names::read(" ").is_empty());
        assert_eq!(confirmed("pg2"), Some(10));
        assert_eq!(confirmed("pg3, pg2"), Some(30), "the first of the list that streams");
        assert_eq!(confirmed("2 (pg3,pg4,pg2)"), Some(20));
        assert_eq!(confirmed("FIRST 1 (pg9,pg4)"), Some(20));
        assert_eq!(confirmed("ANY 2 (pg2,pg3,\"pg4\")"), Some(20));
        assert_eq!(confirmed("ANY 1 (pg2,pg3)"), Some(30));
        assert_eq!(confirmed("2 (pg2)"), None, "too few");
        let placeholder = Names::read("__patroni_strict_sync_replica_placeholder__");
        assert!(!placeholder.is_empty());
        assert_eq!(confirmed("__patroni_strict_sync_replica_placeholder__"), None);
        let old = [sender(1, 10, ""), sender(2, 30, "pg3")];
        assert_eq!(
            Names::read("ANY 1 (pg2,pg3)").confirmed(&old),
            Some(30),
            "who has not read it does not count"
        );
        assert_eq!(Names::read("2 (pg2,pg3)").confirmed(&old), None);
    }

    #[test]
    fn standbys_are_shown_as_what_they_count_for() {
        let shown = |text: &str| {
            let senders = [sender(1, 10, text), sender(2, 30, text), sender(3, 20, text)];
            senders.each_ref().map(|s| Names::read(text).state_of(s, &senders))
        };
        assert_eq!(shown("1 (pg3,pg2)"), ["potential", "sync", "async"]);
        assert_eq!(shown("ANY 1 (pg3,pg2)"), ["quorum", "quorum", "async"]);
    }
}
