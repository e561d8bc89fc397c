//! A random drill: incident after incident on a cluster in namespaces, with clients at work, and what a checker finds.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tokio::time::sleep_until;

use super::clients::{Clients, Crowd};
use super::fault::{Fault, Kind};
use super::ledger::Ledger;
use super::schedule::{self, Schedule};
use super::story::{Done, Incident, Led, Report, figures, ms};
use super::strike::{self, Struck};
use super::{create_table, on_primary, survivors};
use crate::install::{self, Servers};
use crate::interrupt::told_to_stop;
use crate::playground::{Options, Playground, PlaygroundError, Prepared, Wanted};
use crate::programs::Programs;

/// How long the cluster may take to be well once all faults are undone (L1).
const WELL_WITHIN: Duration = Duration::from_mins(2);

/// How long a replica may take to have every row in the end.
const ALIKE_WITHIN: Duration = Duration::from_secs(30);

/// How long synchronous mode may take to begin.
const SYNC_WITHIN: Duration = Duration::from_secs(30);

/// Lines of each log shown when the cluster does not recover.
const TAIL: usize = 40;

/// Whether commits wait for replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Sync {
    /// No.
    Off,
    /// For one replica, while there is one.
    On,
    /// For one replica, always.
    Strict,
    /// For any one of several.
    Quorum,
}

impl Sync {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Sync::Off => "off",
            Sync::On => "on",
            Sync::Strict => "strict",
            Sync::Quorum => "quorum",
        }
    }

    /// The keys of the dynamic configuration that ask for it.
    pub fn dcs(self) -> String {
        match self {
            Sync::Off => "",
            Sync::On => "synchronous_mode = true",
            Sync::Strict => "synchronous_mode = true\nsynchronous_mode_strict = true",
            Sync::Quorum => "synchronous_mode = \"quorum\"",
        }
        .to_owned()
    }
}

/// How a drill is played.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Of the schedule.
    pub seed: u64,
    /// No incident begins after that.
    pub duration: Duration,
    /// Nor after so many.
    pub incidents: Option<u64>,
    /// What may happen; empty: all that can be done here.
    pub kinds: Vec<Kind>,
    /// Whether commits wait for replicas.
    pub sync: Sync,
    /// The lease time, in seconds.
    pub ttl: u32,
    /// Whether data and logs stay.
    pub keep: bool,
}

/// What the drill says, with the time since it began.
type Say = dyn Fn(&str) + Send + std::marker::Sync;

/// Plays it, in namespaces that are made for it and removed with it. See [`crate::playground::network::missing`].
pub fn run(
    plan: Plan,
    programs: &Programs,
    servers: &Servers,
    say: Box<Say>,
) -> Result<Report, PlaygroundError> {
    let kinds = if plan.kinds.is_empty() { Kind::ALL } else { &plan.kinds };
    let library = kinds.contains(&Kind::JumpClock).then(install::faketime).transpose();
    let wanted = Wanted {
        disks: kinds.iter().any(|kind| kind.needs_disk()),
        clock: library.map_err(|e| PlaygroundError::Refused(e.to_string()))?,
    };
    let options =
        Options { ttl: plan.ttl, keep: plan.keep, etcds: 3, dcs: plan.sync.dcs(), ..Options::default() };
    let kinds = kinds.to_vec();
    let servers = servers.clone();
    let prepared = Prepared::create(&options, &wanted, programs)?;
    prepared.run(async move |prepared| {
        let mut playground =
            Playground::start_prepared(prepared, &options, &servers, &|line| say(line)).await?;
        let played = play(&mut playground, &plan, &kinds, &*say).await;
        if played.as_ref().map_or(true, |report| !report.violations.is_empty()) {
            say(&playground.log_tails(TAIL));
        }
        played
    })?
}

async fn play(
    playground: &mut Playground,
    plan: &Plan,
    kinds: &[Kind],
    say: &Say,
) -> Result<Report, PlaygroundError> {
    if plan.sync != Sync::Off {
        until_synchronous(playground).await?;
    }
    create_table(playground).await?;
    let crowd =
        Crowd { proxies: playground.proxies.len(), writers: 2, write_every: Duration::from_millis(20) };
    let clients = Clients::start_crowd(playground, crowd)?;
    let begun = Instant::now();
    let mut drill =
        Course { plan, clients, begun, checked: begun, incidents: Vec::new(), broken: Vec::new() };
    drill.until_served(playground, begun).await?;
    let size = strike::size(playground);
    let mut schedule = Schedule::new(plan.seed, kinds, size, Duration::from_secs(plan.ttl.into()));
    let stop = told_to_stop();
    tokio::pin!(stop);
    let is_due = |drill: &Course| {
        let count = drill.incidents.len() as u64;
        begun.elapsed() < plan.duration && plan.incidents.is_none_or(|limit| count < limit)
    };
    while drill.broken.is_empty() && is_due(&drill) {
        let Some(incident) = schedule.next() else { break };
        tokio::select! {
            done = drill.incident(playground, &incident, say) => done?,
            () = &mut stop => {
                say("told to stop: healing everything");
                break;
            }
        }
    }
    let lasted = begun.elapsed();
    playground.revive()?;
    if let Err(error) = playground.until_healthy(WELL_WITHIN).await {
        drill.broken.push(format!("the cluster did not recover in the end: {error}"));
    }
    Ok(drill.conclude(playground, lasted).await)
}

/// Waits until the primary waits for replicas.
pub(super) async fn until_synchronous(playground: &Playground) -> Result<(), PlaygroundError> {
    let started = Instant::now();
    while started.elapsed() < SYNC_WITHIN {
        let names = on_primary(playground, async |client| {
            let row = client.query_one("SHOW synchronous_standby_names", &[]).await;
            row.map(|row| row.get::<_, String>(0)).map_err(|e| PlaygroundError::Sql("cannot ask", e))
        });
        if !names.await?.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let why = "synchronous mode is on, and synchronous_standby_names stays empty";
    Err(PlaygroundError::Refused(why.to_owned()))
}

/// A drill under way.
struct Course<'a> {
    plan: &'a Plan,
    clients: Clients,
    begun: Instant,
    /// Until when acknowledged writes were looked for.
    checked: Instant,
    incidents: Vec<Incident>,
    /// Promises that were broken.
    broken: Vec<String>,
}

/// Something to do at a time of an incident.
enum Step {
    Strike(Fault),
    Heal(usize),
}

impl Course<'_> {
    fn seconds(&self, at: Instant) -> f64 {
        ms(at.saturating_duration_since(self.begun)) / 1000.0
    }

    /// Plays one incident, waits until the cluster is well again, and checks what is left.
    async fn incident(
        &mut self,
        playground: &mut Playground,
        incident: &schedule::Incident,
        say: &Say,
    ) -> Result<(), PlaygroundError> {
        tokio::time::sleep(incident.calm).await;
        let started = Instant::now();
        let before = self.clients.look(Counts::of);
        let (faults, passed_over) = self.strike_all(playground, incident, started).await?;
        let healed = Instant::now();
        // Members that live apart from their processes are none of this list's business: it heals what it did.
        let recovered = playground.until_healthy(WELL_WITHIN).await;
        let served = self.until_served(playground, healed).await;
        let recovery = healed.elapsed();
        if let Err(error) = recovered.and(served) {
            self.broken.push(format!("not well after incident {}: {error}", self.incidents.len() + 1));
        }
        let since = self.checked;
        self.checked = Instant::now();
        let lost_rows = self.lost(playground, since).await;
        let lost_rows = lost_rows.unwrap_or_else(|error| {
            self.broken.push(format!("the rows cannot be counted: {error}"));
            0
        });
        let counts = self.clients.look(Counts::of);
        let mut outage_ms: BTreeMap<String, f64> = BTreeMap::new();
        for (client, proxy) in self.clients.proxies().iter().enumerate() {
            let gap = ms(self.clients.look(|ledger| ledger.longest_gap(client, started)));
            let name = playground.proxies[*proxy].options().name.clone();
            let longest = outage_ms.entry(name).or_default();
            *longest = longest.max(gap);
        }
        let done: Vec<_> = faults.iter().map(|(done, _)| done.clone()).collect();
        let played = Incident {
            number: self.incidents.len() as u64 + 1,
            faults: done,
            passed_over,
            outage_ms,
            read_outage_ms: ms(self.clients.look(|ledger| ledger.longest_read_gap(started))),
            recovery_ms: ms(recovery),
            led: self.clients.look(|ledger| self.led(ledger, started)),
            failed_writes: counts.failed_writes - before.failed_writes,
            failed_connects: counts.failed_connects - before.failed_connects,
            read_only_refusals: counts.read_only_refusals - before.read_only_refusals,
            failed_reads: counts.failed_reads - before.failed_reads,
            lost_rows,
            may_lose_rows: self.plan.sync == Sync::Off && may_lose_rows(&faults),
        };
        say(&played.tell());
        if lost_rows > 0 && !played.may_lose_rows {
            self.broken.push(format!("incident {} lost {lost_rows} acknowledged rows", played.number));
        }
        let intrusions = self.clients.look(|ledger| ledger.intrusions(Some(since)));
        self.broken.extend(intrusions.iter().take(5).map(|what| format!("two primaries: {what}")));
        let overlap = ms(self.clients.look(Ledger::dual_primary));
        if overlap > 0.0 {
            self.broken.push(format!("two primaries for {overlap} ms by incident {}", played.number));
        }
        self.incidents.push(played);
        Ok(())
    }

    /// Does and undoes the faults of an incident, each at its time.
    async fn strike_all(
        &self,
        playground: &mut Playground,
        incident: &schedule::Incident,
        started: Instant,
    ) -> Result<(Vec<(Done, Kind)>, Vec<String>), PlaygroundError> {
        let mut steps: Vec<_> = incident
            .faults
            .iter()
            .enumerate()
            .flat_map(|(number, fault)| {
                [(fault.after, Step::Strike(*fault)), (fault.after + fault.hold, Step::Heal(number))]
            })
            .collect();
        steps.sort_by_key(|(after, _)| *after);
        let (mut struck, mut numbers, mut done, mut passed_over) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut strikes = 0;
        for (after, step) in steps {
            sleep_until((started + after).into()).await;
            match step {
                Step::Strike(fault) => {
                    let number = strikes;
                    strikes += 1;
                    let at_s = self.seconds(Instant::now());
                    match strike::strike(playground, &fault, &struck).await? {
                        Ok(one) => {
                            done.push((described(&one, at_s), one.kind));
                            numbers.push((number, done.len() - 1));
                            struck.push(one);
                        }
                        Err(why) => passed_over.push(why),
                    }
                }
                Step::Heal(number) => {
                    let Some(place) = numbers.iter().position(|(n, _)| *n == number) else { continue };
                    let (_, of) = numbers.remove(place);
                    strike::heal(playground, struck.remove(place)).await?;
                    done[of].0.undone_at_s = self.seconds(Instant::now());
                }
            }
        }
        Ok((done, passed_over))
    }

    /// Waits until every writer has had a write acknowledged that it began after `since`.
    async fn until_served(&self, playground: &Playground, since: Instant) -> Result<(), PlaygroundError> {
        let started = Instant::now();
        let count = self.clients.proxies().len();
        while !self.clients.look(|ledger| ledger.all_served(count, since)) {
            if started.elapsed() > WELL_WITHIN {
                let why =
                    playground.look().await.health().err().unwrap_or_else(|| "all looks well".to_owned());
                let why = format!("a client gets no write done; the cluster: {why}");
                return Err(PlaygroundError::Late { waited: WELL_WITHIN, why });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Writes acknowledged after `since` that the primary does not have.
    async fn lost(&self, playground: &Playground, since: Instant) -> Result<u64, PlaygroundError> {
        // Taken first: what is acknowledged while the rows are read is looked for the next time.
        let ledger = self.clients.look(|ledger| ledger.part(since, self.checked));
        let Some(lowest) = ledger.iter().min() else { return Ok(0) };
        let there = survivors(playground, *lowest).await?;
        Ok(ledger.iter().filter(|id| !there.contains(id)).count() as u64)
    }

    fn led(&self, ledger: &Ledger, since: Instant) -> Vec<Led> {
        let reigns = ledger.reigns.since(since).map(|reign| Led {
            server: ledger.name(reign.server).to_owned(),
            from_s: self.seconds(reign.first.from),
            until_s: self.seconds(reign.last.to),
        });
        reigns.collect()
    }

    /// Ends the clients and looks at what is left.
    async fn conclude(mut self, playground: &mut Playground, lasted: Duration) -> Report {
        let ledger = self.clients.stop().await;
        // A cluster that does not recover is a result too, and its story is wanted most.
        let lost_rows = match survivors(playground, 0).await {
            Ok(there) => ledger.lost(&there),
            Err(error) => {
                self.broken.push(format!("the rows cannot be counted in the end: {error}"));
                0
            }
        };
        let lost_rows_allowed = self.incidents.iter().filter(|i| i.may_lose_rows).map(|i| i.lost_rows).sum();
        if lost_rows > lost_rows_allowed {
            self.broken.push(format!("{lost_rows} acknowledged rows are lost, {lost_rows_allowed} may be"));
        }
        if let Err(why) = alike(playground).await {
            self.broken.push(why);
        }
        let mut means = Vec::new();
        if let Some((network, equipment)) = &playground.network {
            means.push(format!("slow network: {}", network.slowness()));
            means.push(
                "partitions: nft drops at the receiver; unplugged: the bridge's end of the cable down"
                    .to_owned(),
            );
            if !equipment.disks.is_empty() {
                let disk = "disks: ext4 in a file; stalled by fsfreeze, slow by short turns of it, full by fallocate";
                means.push(disk.to_owned());
            }
            for node in equipment.clocks.keys() {
                means.push(format!("clock of {node}: libfaketime, the time of day alone"));
            }
        }
        Report {
            seed: self.plan.seed,
            ttl_s: self.plan.ttl,
            sync: self.plan.sync.name().to_owned(),
            lasted_s: ms(lasted) / 1000.0,
            means,
            acknowledged: ledger.acknowledged(),
            unknown: ledger.unknown,
            hung: ledger.hung,
            reads: ledger.reads(),
            lost_rows,
            lost_rows_allowed,
            dual_primary_ms: ms(ledger.dual_primary()),
            intrusions: ledger.intrusions(None),
            violations: self.broken,
            errors: ledger.errors.clone(),
            figures: figures(&self.incidents),
            incidents: self.incidents,
        }
    }
}

fn described(struck: &Struck, at_s: f64) -> Done {
    Done {
        kind: struck.kind.to_string(),
        part: struck.part.clone(),
        led: struck.led,
        what: struck.what.clone(),
        at_s,
        undone_at_s: at_s,
    }
}

/// Whether a primary may have ended uncleanly: it was hit so, or something divided the cluster beside another fault.
fn may_lose_rows(faults: &[(Done, Kind)]) -> bool {
    let hit = faults.iter().any(|(done, kind)| done.led && kind.may_lose_rows());
    let divided = faults.len() > 1 && faults.iter().all(|(_, kind)| kind.divides() || kind.may_lose_rows());
    hit || divided
}

/// Waits until all nodes have the same rows. The primary may get some more even now: statements that were under way when
/// the clients ended.
async fn alike(playground: &Playground) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let why = match all_rows(playground).await {
            Ok(rows) => match rows.iter().find(|(_, theirs)| *theirs != rows[0].1) {
                None => return Ok(()),
                Some((name, theirs)) => {
                    let (first, ours) = &rows[0];
                    let (lacks, more) = (ours.difference(theirs).count(), theirs.difference(ours).count());
                    format!("{name} lacks {lacks} rows that {first} has, and has {more} that it lacks")
                }
            },
            Err(error) => error.to_string(),
        };
        if started.elapsed() > ALIKE_WITHIN {
            return Err(format!("the nodes do not become alike: {why}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn all_rows(playground: &Playground) -> Result<Vec<(&str, HashSet<i64>)>, PlaygroundError> {
    let mut all = Vec::new();
    for node in &playground.nodes {
        all.push((node.name.as_str(), super::rows_of(node, 0).await?));
    }
    Ok(all)
}

/// What is counted over the whole drill.
struct Counts {
    failed_writes: u64,
    failed_connects: u64,
    read_only_refusals: u64,
    failed_reads: u64,
}

impl Counts {
    fn of(ledger: &Ledger) -> Counts {
        Counts {
            failed_writes: ledger.client_errors,
            failed_connects: ledger.failed_connects,
            read_only_refusals: ledger.read_only_refusals,
            failed_reads: ledger.read_errors,
        }
    }
}
