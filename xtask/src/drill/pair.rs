//! Drills of a pair of proxies behind a virtual address: what becomes of its clients when the proxy that has the address
//! fails, and whether a write ever reaches a server that does not lead while the two disagree.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rustix::process::Signal;
use serde::Serialize;

use super::clients::{Clients, Crowd};
use super::story::{median, ms};
use super::{create_table, cut_from, survivors, switchover};
use crate::install::Servers;
use crate::playground::proxy::MoreSettings;
use crate::playground::vip::{self, Vip};
use crate::playground::{Options, Playground, PlaygroundError, Prepared, Wanted};
use crate::programs::Programs;

/// Bound on every wait.
const PATIENCE: Duration = Duration::from_mins(1);

/// Time between two looks at who has the address.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// What the proxies are told as packaging/README.md tells a pair, and a grace that a drill can wait for.
const ADMIN: &str = "ready_grace = \"2s\"\n[drain]\nnotice = \"5s\"\ntimeout = \"3s\"\n";

/// What happens to the proxy that has the address, or to its host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PairEvent {
    /// SIGKILL.
    Kill,
    /// SIGSTOP; the cluster's leader changes before it goes on.
    Freeze,
    /// SIGTERM: it drains.
    Drain,
    /// It is cut from etcd, and the leader changes behind its back.
    Disagree,
    /// It is cut from every PostgreSQL node.
    CutFromNodes,
    /// Its host's cable is pulled.
    Unplug,
    /// SIGKILL to its host's Keepalived, which leaves the address where it is.
    LoseKeepalived,
}

/// What one event came to. Times in milliseconds.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Moved {
    /// Which one.
    pub event: PairEvent,
    /// From the event until the other host had the address.
    pub moved_ms: f64,
    /// The longest time that the client of the address was without an acknowledged write.
    pub outage_ms: f64,
}

/// What all events came to.
#[derive(Clone, Debug, Serialize)]
pub struct PairReport {
    /// Each of them.
    pub moves: Vec<Moved>,
    /// Writes acknowledged, through the address and through each proxy.
    pub acknowledged: u64,
    /// Of those, what the last primary does not have.
    pub lost_rows: u64,
    /// Proofs that a server took a write that did not lead.
    pub intrusions: Vec<String>,
    /// How long two servers accepted writes, in milliseconds.
    pub dual_primary_ms: f64,
}

/// How the drill is played.
#[derive(Clone, Debug)]
pub struct PairPlan {
    /// What happens, in this order.
    pub events: Vec<PairEvent>,
    /// How often all of it.
    pub runs: u32,
    /// The lease time, in seconds.
    pub ttl: u32,
    /// Whether data and logs stay.
    pub keep: bool,
}

/// Plays it, in namespaces that are made for it; `keepalived` is the program.
pub fn run(
    plan: PairPlan,
    programs: &Programs,
    servers: &Servers,
    keepalived: &Path,
    say: impl Fn(&str) + Send + Sync + 'static,
) -> Result<PairReport, PlaygroundError> {
    let proxy = MoreSettings { admin: ADMIN.to_owned(), ..MoreSettings::default() };
    let options = Options { nodes: 2, ttl: plan.ttl, keep: plan.keep, proxy, ..Options::default() };
    let (servers, keepalived) = (servers.clone(), keepalived.to_owned());
    let prepared = Prepared::create(&options, &Wanted::default(), programs)?;
    prepared.run(async move |prepared| {
        let mut playground = Playground::start_prepared(prepared, &options, &servers, &say).await?;
        let played = play(&mut playground, &plan, &keepalived, &say).await;
        if played.is_err() {
            say(&playground.log_tails(40));
        }
        played
    })?
}

async fn play(
    playground: &mut Playground,
    plan: &PairPlan,
    keepalived: &Path,
    say: &(impl Fn(&str) + Sync),
) -> Result<PairReport, PlaygroundError> {
    create_table(playground).await?;
    let vip = Vip::start(playground, keepalived)?;
    let crowd = Crowd { proxies: 2, ..Crowd::default() };
    let mut pair = Pair { vip, clients: Clients::start_crowd(playground, crowd)?, client: 0 };
    pair.settled(playground).await?;
    pair.client = pair.clients.also_write((vip::ADDRESS, 5432).into(), crowd.write_every);
    let mut moves = Vec::new();
    for event in (0..plan.runs).flat_map(|_| &plan.events) {
        let one = pair.event(playground, *event, say).await?;
        say(&format!("{event:?}: the address moved after {} ms, outage {} ms", one.moved_ms, one.outage_ms));
        moves.push(one);
    }
    let ledger = pair.clients.stop().await;
    for (error, count) in &ledger.errors {
        say(&format!("{count}x {error}"));
    }
    Ok(PairReport {
        moves,
        acknowledged: ledger.acknowledged(),
        lost_rows: ledger.lost(&survivors(playground, 0).await?),
        intrusions: ledger.intrusions(None),
        dual_primary_ms: ms(ledger.dual_primary()),
    })
}

struct Pair {
    vip: Vip,
    clients: Clients,
    /// The number of the client that writes through the address.
    client: usize,
}

impl Pair {
    /// Waits until one host has the address and both Keepaliveds find their proxies ready; answers the holder.
    async fn settled(&self, playground: &mut Playground) -> Result<String, PlaygroundError> {
        playground.until_healthy(PATIENCE).await?;
        self.until("the pair settles", || {
            let holders = self.vip.holders()?;
            let names = playground.proxies.iter().take(2).map(|proxy| &proxy.options().name);
            let all_well = names.into_iter().all(|name| is_well(&vip::log(playground, name)));
            Ok(match &holders[..] {
                [holder] if all_well => Some(holder.clone()),
                _ => None,
            })
        })
        .await
    }

    async fn until<T>(
        &self,
        what: &str,
        look: impl Fn() -> Result<Option<T>, PlaygroundError>,
    ) -> Result<T, PlaygroundError> {
        let started = Instant::now();
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if started.elapsed() > PATIENCE {
                let why = format!("until {what}; the address is at {:?}", self.vip.holders()?);
                return Err(PlaygroundError::Late { waited: PATIENCE, why });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Plays one event to its end, when all is well again and the address is where it moved to.
    async fn event(
        &mut self,
        playground: &mut Playground,
        event: PairEvent,
        say: &(impl Fn(&str) + Sync),
    ) -> Result<Moved, PlaygroundError> {
        let holder = self.settled(playground).await?;
        self.served_since(Instant::now()).await?;
        say(&format!("{event:?} of {holder}"));
        let struck = Instant::now();
        self.strike(playground, event, &holder).await?;
        let other = self
            .until("the other host has the address", || {
                let others = self.vip.holders()?.into_iter().filter(|name| *name != holder);
                Ok(others.into_iter().next())
            })
            .await?;
        let moved = struck.elapsed();
        self.served_since(Instant::now()).await?;
        let outage = self.clients.look(|ledger| ledger.longest_gap(self.client, struck));
        if event == PairEvent::Freeze {
            change_leader(playground).await?;
            self.served_since(Instant::now()).await?;
        }
        self.heal(playground, event, &holder).await?;
        let healed = self.settled(playground).await?;
        if healed != other {
            let why = format!("the address went back to {healed} when it was well again");
            return Err(PlaygroundError::Refused(why));
        }
        Ok(Moved { event, moved_ms: ms(moved), outage_ms: ms(outage) })
    }

    /// Waits until the client of the address has had a write acknowledged that it began after `since`.
    async fn served_since(&self, since: Instant) -> Result<(), PlaygroundError> {
        let is_served = || self.clients.look(|ledger| ledger.is_served(self.client, since));
        self.until("the client of the address is served", || Ok(is_served().then_some(()))).await
    }

    async fn strike(
        &mut self,
        playground: &mut Playground,
        event: PairEvent,
        holder: &str,
    ) -> Result<(), PlaygroundError> {
        let place = place(playground, holder);
        match event {
            PairEvent::Kill => drop(playground.proxies[place].kill(GONE_WITHIN).await),
            PairEvent::Freeze => playground.proxies[place].signal(Signal::STOP),
            PairEvent::Drain => playground.proxies[place].signal(Signal::TERM),
            PairEvent::Disagree => {
                let etcds = playground.etcd.names();
                cut_from(playground, holder, &etcds)?;
                change_leader(playground).await?;
            }
            PairEvent::CutFromNodes => {
                let nodes: Vec<_> = playground.nodes.iter().map(|node| node.name.clone()).collect();
                cut_from(playground, holder, &nodes)?;
            }
            PairEvent::Unplug => {
                playground.network()?.plug(holder, false).map_err(PlaygroundError::Refused)?;
            }
            PairEvent::LoseKeepalived => self.vip.kill(holder, GONE_WITHIN).await,
        }
        Ok(())
    }

    async fn heal(
        &mut self,
        playground: &mut Playground,
        event: PairEvent,
        holder: &str,
    ) -> Result<(), PlaygroundError> {
        let place = place(playground, holder);
        match event {
            PairEvent::Kill => playground.restart_proxy(place)?,
            PairEvent::Freeze => playground.proxies[place].signal(Signal::CONT),
            PairEvent::Drain => {
                playground.proxies[place].ended_within(PATIENCE).await;
                playground.restart_proxy(place)?;
            }
            PairEvent::Disagree | PairEvent::CutFromNodes | PairEvent::Unplug => {
                playground.network()?.heal().map_err(PlaygroundError::Refused)?;
            }
            PairEvent::LoseKeepalived => self.vip.restart(playground)?,
        }
        Ok(())
    }
}

/// Whether the Keepalived with this log finds its proxy alive and ready.
fn is_well(log: &str) -> bool {
    let run = log.rsplit("Starting Keepalived").next().unwrap_or_default();
    ["pgvane_lives", "pgvane_ready"].iter().all(|script| {
        let name = format!("VRRP_Script({script}) ");
        run.rsplit(name.as_str()).next().is_some_and(|last| last.starts_with("succeeded"))
    })
}

fn place(playground: &Playground, name: &str) -> usize {
    playground.proxies.iter().position(|proxy| proxy.options().name == name).unwrap_or_default()
}

/// Has another node lead.
async fn change_leader(playground: &Playground) -> Result<(), PlaygroundError> {
    let leader = playground.look().await.leader().map_err(PlaygroundError::Refused)?;
    switchover(playground.node(&leader).rest(), &leader).await
}

impl PairReport {
    /// For people: every event's times and their median, and what was checked.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<16} {:>4} {:>10} {:>10} {:>23}\n",
            "event", "runs", "moved", "outage", "least to most"
        );
        for event in PairEvent::value_variants() {
            let of_event: Vec<_> = self.moves.iter().filter(|moved| moved.event == *event).collect();
            let mut moved: Vec<_> = of_event.iter().map(|moved| moved.moved_ms).collect();
            let mut outages: Vec<_> = of_event.iter().map(|moved| moved.outage_ms).collect();
            let (at, outage) = (median(&mut moved), median(&mut outages));
            let [Some(least), Some(most)] = [outages.first(), outages.last()] else { continue };
            let name = event.to_possible_value();
            let name = name.as_ref().map_or("", |name| name.get_name());
            let spread = format!("{least:.0} to {most:.0} ms");
            text.push_str(&format!(
                "{name:<16} {:>4} {at:>7.0} ms {outage:>7.0} ms {spread:>23}\n",
                outages.len()
            ));
        }
        text.push_str(&format!(
            "{} writes, {} lost, {} at a wrong primary, two primaries for {} ms\n",
            self.acknowledged,
            self.lost_rows,
            self.intrusions.len(),
            self.dual_primary_ms
        ));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepalived_is_believed_what_it_said_last() {
        let start = "Starting Keepalived v2.2.7\n";
        let lives = "(x) VRRP_Script(pgvane_lives) succeeded\n";
        let ready = "VRRP_Script(pgvane_ready) succeeded\n";
        assert!(is_well(&format!("{start}{lives}{ready}")));
        assert!(!is_well(&format!("{start}{lives}")));
        let failed = "VRRP_Script(pgvane_ready) failed (exited with status 1)\n";
        assert!(!is_well(&format!("{start}{lives}{ready}{failed}")));
        assert!(!is_well(&format!("{start}{lives}{ready}{start}")), "of the run before");
    }
}
