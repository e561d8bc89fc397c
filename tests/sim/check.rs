//! The invariants, judged from outside: from what is told in the event log, never by a look into a node.

use std::collections::BTreeMap;

use pgvane_agent::decide::Reason;

use crate::fact::{Fact, Shown};
use crate::ledger::Ledger;
use crate::network::{MAX_NODES, MAX_PROXIES};
use crate::plan::Class;
use crate::postgres::host;
use crate::runtime::{MS, SEC};
use crate::wal::Wal;

/// Sessions of an ended reign are cut within this time after the proxy learned of it.
const CUT_WITHIN: u64 = 10 * MS;

/// A machine that wakes after its deadline may run a few instructions before its guard has acted. What is
/// acknowledged meanwhile is judged without mercy.
const WAKES_WITHIN: u64 = 60 * MS;

/// A broken promise.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) at: u64,
    pub(crate) invariant: &'static str,
    pub(crate) what: String,
}

#[derive(Clone, Copy, Default)]
struct Node {
    writable: bool,
    suspended: bool,
    woke_at: Option<u64>,
    /// Until when each other node has promised to stand aside for this one.
    promised: [u64; MAX_NODES],
    consent_until: u64,
    /// Who had to promise: who is not in the failsafe list may not lead.
    listed: [bool; MAX_NODES],
    /// Took WAL of another history, from whom.
    mixed: Option<usize>,
}

#[derive(Clone, Default)]
struct Proxy {
    frozen: bool,
    shown: Option<Shown>,
    newest_reign: i64,
    sessions: BTreeMap<u64, i64>,
    /// Sessions that have to go, and by when.
    to_cut: BTreeMap<u64, u64>,
}

/// Sees every fact and judges it at once.
pub(crate) struct Checker {
    class: Class,
    nodes: [Node; MAX_NODES],
    key: Option<(usize, i64)>,
    proxies: Vec<Proxy>,
    /// Who last began to accept writes, and the WAL it had then.
    last_writer: Option<(usize, Wal)>,
    stale_commits: Vec<(u64, u64)>,
    /// All that clients were told.
    told: Ledger,
    /// What they were told while the store named standbys that may lead next.
    promised: Ledger,
    /// Whom an operator has ever asked for whatever it lacks (contract 3.6).
    insisted_on: [bool; MAX_NODES],
    pub(crate) violation: Option<Violation>,
}

impl Checker {
    pub(crate) fn new(class: Class) -> Checker {
        Checker {
            class,
            nodes: [Node::default(); MAX_NODES],
            key: None,
            proxies: vec![Proxy::default(); MAX_PROXIES],
            last_writer: None,
            stale_commits: vec![],
            told: Ledger::default(),
            promised: Ledger::default(),
            insisted_on: [false; MAX_NODES],
            violation: None,
        }
    }

    fn broken(&mut self, at: u64, invariant: &'static str, what: String) {
        self.violation.get_or_insert(Violation { at, invariant, what });
    }

    /// Whether `n` may accept writes at `now`: the store's own truth, or the word of the others.
    fn is_covered(&self, n: usize, now: u64) -> bool {
        let node = &self.nodes[n];
        let promised = (0..MAX_NODES).filter(|m| *m != n && node.listed[*m]).all(|m| node.promised[m] > now);
        self.key.is_some_and(|(holder, _)| holder == n) || (node.consent_until > now && promised)
    }

    /// Whether `n` accepts writes at `now`.
    fn accepts(&self, n: usize, now: u64) -> bool {
        let node = &self.nodes[n];
        let waking = node.woke_at.is_some_and(|at| now < at + WAKES_WITHIN);
        node.writable && !node.suspended && !waking
    }

    /// What must hold at every instant.
    fn at_every_instant(&mut self, now: u64) {
        let writers = (0..MAX_NODES).filter(|n| self.accepts(*n, now));
        if writers.clone().nth(1).is_some() {
            let names: Vec<String> = writers.clone().map(host).collect();
            self.broken(now, "S1", format!("{} accept writes at once", names.join(" and ")));
        }
        for n in 0..MAX_NODES {
            if !self.accepts(n, now) {
                continue;
            }
            // Pause takes the guard's deadline away; whoever pauses keeps the order himself.
            if self.class != Class::Paused && !self.is_covered(n, now) {
                self.broken(
                    now,
                    "S1",
                    format!("{} accepts writes and nothing gives it the right to", host(n)),
                );
            }
        }
        for p in 0..MAX_PROXIES {
            let late = self.proxies[p].to_cut.iter().find(|(_, by)| **by < now).map(|(id, _)| *id);
            if let Some(id) = late.filter(|_| !self.proxies[p].frozen) {
                self.broken(now, "S6", format!("proxy{p} kept session {id} of a reign that it saw end"));
            }
        }
    }

    /// Takes a fact in.
    pub(crate) fn see(&mut self, now: u64, fact: &Fact) {
        match fact {
            Fact::Key { leader, .. } => self.key = *leader,
            Fact::Promote { node, .. } => {
                if !self.is_covered(*node, now) {
                    let what = format!("{} becomes primary without its own key", host(*node));
                    self.broken(now, "S3", what);
                }
            }
            Fact::Writable { node, on, wal } => {
                self.nodes[*node].writable = *on;
                if *on {
                    self.holds_all(now, *node, wal);
                    self.last_writer = Some((*node, wal.clone()));
                    self.is_whole(now, *node);
                }
            }
            Fact::Synchronous { on: false } => self.promised.clear(),
            Fact::InsistedOn { node } => self.insisted_on[*node] = true,
            Fact::Suspended { node, on } => {
                self.nodes[*node].suspended = *on;
                if !on {
                    self.nodes[*node].woke_at = Some(now);
                }
            }
            Fact::Vouched { node, leader, until } => self.nodes[*leader].promised[*node] = *until,
            Fact::Consented { node, until, listed, .. } => {
                self.nodes[*node].consent_until = *until;
                self.nodes[*node].listed = *listed;
            }
            Fact::ForeignWal { node, from } => {
                // Its server does that by itself while its agent sees nothing; what counts is what becomes of it.
                self.nodes[*node].mixed = self.nodes[*node].mixed.or(Some(*from));
            }
            Fact::Cloned { node } => self.nodes[*node].mixed = None,
            Fact::Decided { node, action: "stop", reason } if self.class == Class::Planned => {
                if *reason != Reason::Shutdown {
                    self.broken(now, "L2", format!("nothing is wrong and {} stops: {reason}", host(*node)));
                }
            }
            Fact::Committed { node, branch, end } => {
                if self.last_writer.as_ref().is_none_or(|(writer, _)| writer != node) {
                    self.stale_commits.push((*branch, *end));
                }
            }
            Fact::Acknowledged { node, branch, end, promised, .. } => {
                self.acknowledged(now, *node, (*branch, *end), *promised);
            }
            _ => self.see_proxy(now, fact),
        }
        self.at_every_instant(now);
    }

    /// A client was told that its commit is there.
    fn acknowledged(&mut self, now: u64, node: usize, (branch, end): (u64, u64), promised: bool) {
        if self.stale_commits.contains(&(branch, end)) {
            let what = format!("{} confirmed a commit after another had become primary", host(node));
            self.broken(now, "S1", what);
        }
        self.told.add(branch, end);
        if promised {
            self.promised.add(branch, end);
        }
        // Another may have become primary since it was made.
        let another = self.last_writer.clone().filter(|(writer, _)| *writer != node);
        if let Some((writer, wal)) = another {
            self.holds_all(now, writer, &wal);
        }
    }

    /// S2: whoever accepts writes has what clients were told.
    fn holds_all(&mut self, now: u64, node: usize, wal: &Wal) {
        let planned = self.class == Class::Planned;
        if let Some((branch, end)) = self.told.missing(wal).filter(|_| planned) {
            let what = format!("{} lacks commit {branch}/{end} though nothing ever failed", host(node));
            self.broken(now, "S2", what);
        }
        let Some((branch, end)) = self.promised.missing(wal) else { return };
        if self.insisted_on[node] {
            self.promised.clear();
            return;
        }
        let what =
            format!("{} lacks commit {branch}/{end}, which was acknowledged in synchronous mode", host(node));
        self.broken(now, "S2", what);
    }

    fn see_proxy(&mut self, now: u64, fact: &Fact) {
        match fact {
            Fact::ProxyFrozen { proxy, on } => {
                let proxy = &mut self.proxies[*proxy];
                proxy.frozen = *on;
                proxy.to_cut.values_mut().for_each(|by| *by = now + CUT_WITHIN);
            }
            Fact::ProxySees { proxy, shown } => {
                let p = &mut self.proxies[*proxy];
                let current = shown.leader.map(|(_, epoch)| epoch);
                for (id, epoch) in &p.sessions {
                    if current != Some(*epoch) {
                        p.to_cut.entry(*id).or_insert(now + CUT_WITHIN);
                    }
                }
                p.shown = Some(shown.clone());
            }
            Fact::ProxyReign { proxy, epoch } => {
                if *epoch < self.proxies[*proxy].newest_reign {
                    self.broken(now, "S4", format!("proxy{proxy} went back to epoch {epoch}"));
                }
                self.proxies[*proxy].newest_reign = *epoch;
            }
            Fact::SessionOpens { proxy, node, epoch } => {
                let shown = self.proxies[*proxy].shown.as_ref();
                let right = shown.is_some_and(|s| s.serves && s.leader == Some((*node, *epoch)));
                if !right {
                    let what = format!("proxy{proxy} opens a session to {}, epoch {epoch}", host(*node));
                    self.broken(now, "S5", format!("{what}, and sees {shown:?}"));
                }
            }
            Fact::SessionOpened { proxy, id, epoch, .. } => {
                let p = &mut self.proxies[*proxy];
                p.sessions.insert(*id, *epoch);
                if p.shown.as_ref().and_then(|s| s.leader).map(|(_, e)| e) != Some(*epoch) {
                    p.to_cut.insert(*id, now + CUT_WITHIN);
                }
            }
            Fact::SessionClosed { proxy, id } => {
                let p = &mut self.proxies[*proxy];
                p.sessions.remove(id);
                p.to_cut.remove(id);
            }
            _ => {}
        }
    }

    /// Whether the data of `n` are of one history.
    fn is_whole(&mut self, now: u64, n: usize) {
        if let Some(from) = self.nodes[n].mixed {
            let what = format!("{} streamed from {}, whose history is another", host(n), host(from));
            self.broken(now, "D1", what);
        }
    }

    /// The end of a run: nobody's data mix two histories, and what clients were told is in the WAL of the last primary.
    pub(crate) fn finish(&mut self, now: u64, node: usize, primary: &Wal) {
        (0..MAX_NODES).for_each(|n| self.is_whole(now, n));
        self.holds_all(now, node, primary);
    }

    /// Work without end or use.
    pub(crate) fn spins(&mut self, now: u64, what: &str) {
        self.broken(now, "L3", what.to_owned());
    }

    /// The run did not become healthy in time.
    pub(crate) fn not_healthy(&mut self, now: u64, healed_at: u64, why: &str) {
        let waited = (now - healed_at) / SEC;
        self.broken(now, "L1", format!("{waited} s after everything was healed: {why}"));
    }
}
