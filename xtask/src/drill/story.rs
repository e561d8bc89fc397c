//! What a drill came to: the story of every incident, and the figures by kind.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

/// A fault that was done.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Done {
    /// What kind.
    pub kind: String,
    /// To whom.
    pub part: String,
    /// Whether that one led then: the cluster, or etcd's members.
    pub led: bool,
    /// What was done.
    pub what: String,
    /// When, in seconds since the drill began.
    pub at_s: f64,
    /// When it was undone.
    pub undone_at_s: f64,
}

impl Done {
    /// Faults of one name are counted together: what hits who leads is another matter than what hits the others.
    fn name(&self) -> String {
        if self.led { format!("{}, leader", self.kind) } else { self.kind.clone() }
    }
}

/// Who accepted writes, from when until when.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Led {
    /// The server.
    pub server: String,
    /// First seen to, in seconds since the drill began.
    pub from_s: f64,
    /// Last seen to.
    pub until_s: f64,
}

/// One incident: a fault, or two at once, and what came of it. Times in milliseconds unless they say seconds.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Incident {
    /// Its number, from 1.
    pub number: u64,
    /// What was done.
    pub faults: Vec<Done>,
    /// What was not, and why.
    pub passed_over: Vec<String>,
    /// Per proxy: the longest time that one of its clients was without an acknowledged write.
    pub outage_ms: BTreeMap<String, f64>,
    /// The longest time without an answered read, of all readers together.
    pub read_outage_ms: f64,
    /// From the end of the last fault until all members, proxies and clients were well.
    pub recovery_ms: f64,
    /// Who accepted writes meanwhile.
    pub led: Vec<Led>,
    /// Statements of writers that failed.
    pub failed_writes: u64,
    /// Connections of writers that failed.
    pub failed_connects: u64,
    /// Statements refused because the server was read-only.
    pub read_only_refusals: u64,
    /// Reads that failed.
    pub failed_reads: u64,
    /// Writes acknowledged since the last check that the primary does not have.
    pub lost_rows: u64,
    /// Whether rows may be lost: without synchronous mode, when a primary ended uncleanly.
    pub may_lose_rows: bool,
}

impl Incident {
    /// The outage of the clients whose proxy was not hit itself.
    fn outage_ms(&self) -> f64 {
        let is_hit = |proxy: &str| self.faults.iter().any(|fault| fault.part == proxy);
        let all = || self.outage_ms.iter();
        let spared = all().filter(|(proxy, _)| !is_hit(proxy)).map(|(_, ms)| *ms).reduce(f64::max);
        spared.or_else(|| all().map(|(_, ms)| *ms).reduce(f64::max)).unwrap_or_default()
    }

    fn hit_outage_ms(&self) -> Option<f64> {
        let hit = self.outage_ms.iter().filter(|(proxy, _)| self.faults.iter().any(|f| f.part == **proxy));
        hit.map(|(_, ms)| *ms).reduce(f64::max)
    }

    /// What happened, for people.
    pub fn tell(&self) -> String {
        let mut text = format!("#{}", self.number);
        for (place, fault) in self.faults.iter().enumerate() {
            let and = if place == 0 { "" } else { "; and" };
            let led = if fault.led { " (leader)" } else { "" };
            let held = fault.undone_at_s - fault.at_s;
            let _ = write!(
                text,
                "{and} {} {}{led} at {:.1} s: {}, for {held:.1} s",
                fault.kind, fault.part, fault.at_s, fault.what
            );
        }
        for why in &self.passed_over {
            let _ = write!(text, "; passed over {why}");
        }
        let outages = self.outage_ms.iter().map(|(proxy, ms)| format!("{} by {proxy}", seconds(*ms)));
        let _ = write!(text, "\n     without writes {}", outages.collect::<Vec<_>>().join(", "));
        let _ = write!(text, "; without reads {}", seconds(self.read_outage_ms));
        let led = self.led.iter().map(|led| format!("{} {:.1}-{:.1} s", led.server, led.from_s, led.until_s));
        let _ = write!(text, "; primary: {}", led.collect::<Vec<_>>().join(", "));
        let _ = write!(text, "; well again after {}", seconds(self.recovery_ms));
        for (count, what) in [
            (self.failed_writes, "failed writes"),
            (self.failed_connects, "failed connects"),
            (self.read_only_refusals, "read-only refusals"),
            (self.failed_reads, "failed reads"),
            (self.lost_rows, "ROWS LOST"),
        ] {
            if count > 0 {
                let _ = write!(text, ", {count} {what}");
            }
        }
        text
    }
}

/// The figures of all incidents with the same faults.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Figures {
    /// Which faults.
    pub faults: String,
    /// How many incidents.
    pub incidents: u64,
    /// The median outage of clients whose proxy was not hit itself.
    pub outage_median_ms: f64,
    /// The longest.
    pub outage_max_ms: f64,
    /// The longest of clients whose proxy was hit.
    pub hit_outage_max_ms: Option<f64>,
    /// The longest time without reads.
    pub read_outage_max_ms: f64,
    /// The median time until all was well again after the end of the fault.
    pub recovery_median_ms: f64,
    /// Statements of writers that failed.
    pub failed_writes: u64,
    /// Connections of writers that failed.
    pub failed_connects: u64,
    /// Reads that failed.
    pub failed_reads: u64,
    /// Rows lost.
    pub lost_rows: u64,
}

/// Everything.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// The seed of the schedule.
    pub seed: u64,
    /// The cluster's lease time.
    pub ttl_s: u32,
    /// `off`, `on`, `strict` or `quorum`.
    pub sync: String,
    /// How long faults were done.
    pub lasted_s: f64,
    /// How faults were made on this machine.
    pub means: Vec<String>,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Writes that failed although they may have been done.
    pub unknown: u64,
    /// Statements that were never answered.
    pub hung: u64,
    /// Reads answered.
    pub reads: u64,
    /// Acknowledged writes that the last primary does not have.
    pub lost_rows: u64,
    /// Of those, how many may be lost.
    pub lost_rows_allowed: u64,
    /// How long two servers accepted writes at the same time.
    pub dual_primary_ms: f64,
    /// Proofs of a second primary that need not last.
    pub intrusions: Vec<String>,
    /// What broke a promise; empty: nothing did.
    pub violations: Vec<String>,
    /// What was said when something failed, and how often.
    pub errors: BTreeMap<String, u64>,
    /// By faults.
    pub figures: Vec<Figures>,
    /// One by one.
    pub incidents: Vec<Incident>,
}

/// The figures by faults, those of one fault first.
pub fn figures(incidents: &[Incident]) -> Vec<Figures> {
    let mut groups: BTreeMap<(usize, String), Vec<&Incident>> = BTreeMap::new();
    for incident in incidents.iter().filter(|incident| !incident.faults.is_empty()) {
        let mut names: Vec<_> = incident.faults.iter().map(Done::name).collect();
        names.sort();
        // Pairs are too many to be told apart.
        let name = if names.len() == 1 { names.join("") } else { "two at once".to_owned() };
        groups.entry((names.len(), name)).or_default().push(incident);
    }
    let figures = groups.into_iter().map(|((_, faults), incidents)| {
        let sum = |figure: fn(&Incident) -> u64| incidents.iter().map(|i| figure(i)).sum();
        let mut outages: Vec<_> = incidents.iter().map(|i| i.outage_ms()).collect();
        let mut recoveries: Vec<_> = incidents.iter().map(|i| i.recovery_ms).collect();
        Figures {
            faults,
            incidents: incidents.len() as u64,
            outage_median_ms: median(&mut outages),
            outage_max_ms: outages.iter().copied().fold(0.0, f64::max),
            hit_outage_max_ms: incidents.iter().filter_map(|i| i.hit_outage_ms()).reduce(f64::max),
            read_outage_max_ms: incidents.iter().map(|i| i.read_outage_ms).fold(0.0, f64::max),
            recovery_median_ms: median(&mut recoveries),
            failed_writes: sum(|i| i.failed_writes),
            failed_connects: sum(|i| i.failed_connects),
            failed_reads: sum(|i| i.failed_reads),
            lost_rows: sum(|i| i.lost_rows),
        }
    });
    figures.collect()
}

/// The middle one, or the mean of the two in the middle; sorts.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    let at = |place: usize| values.get(place).copied().unwrap_or_default();
    tenths(f64::midpoint(at(low), at(high)))
}

/// Milliseconds with one decimal.
pub fn ms(duration: Duration) -> f64 {
    tenths(duration.as_secs_f64() * 1000.0)
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn seconds(ms: f64) -> String {
    format!("{:.2} s", ms / 1000.0)
}

impl Report {
    /// The table and what it comes to, for people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<26} {:>5} {:>9} {:>9} {:>10} {:>10} {:>9} {:>7} {:>8} {:>7} {:>6}\n",
            "fault",
            "times",
            "outage",
            "max",
            "max at hit",
            "reads max",
            "recovery",
            "failed",
            "connects",
            "reads",
            "lost"
        );
        for f in &self.figures {
            let hit = f.hit_outage_max_ms.map_or_else(|| "-".to_owned(), seconds);
            let _ = writeln!(
                text,
                "{:<26} {:>5} {:>9} {:>9} {:>10} {:>10} {:>9} {:>7} {:>8} {:>7} {:>6}",
                f.faults,
                f.incidents,
                seconds(f.outage_median_ms),
                seconds(f.outage_max_ms),
                hit,
                seconds(f.read_outage_max_ms),
                seconds(f.recovery_median_ms),
                f.failed_writes,
                f.failed_connects,
                f.failed_reads,
                f.lost_rows
            );
        }
        let _ = writeln!(
            text,
            "\nseed {}, ttl {} s, synchronous mode {}: {} incidents in {:.0} s",
            self.seed,
            self.ttl_s,
            self.sync,
            self.incidents.len(),
            self.lasted_s
        );
        let _ = writeln!(
            text,
            "{} writes acknowledged, {} of unknown outcome ({} never answered), {} reads",
            self.acknowledged, self.unknown, self.hung, self.reads
        );
        let _ = writeln!(
            text,
            "acknowledged rows lost: {} ({} where a primary ended uncleanly without synchronous mode)",
            self.lost_rows, self.lost_rows_allowed
        );
        let _ = writeln!(
            text,
            "two primaries: {} ms, {} single proofs",
            self.dual_primary_ms,
            self.intrusions.len()
        );
        match &self.violations[..] {
            [] => text.push_str("no promise was broken\n"),
            broken => broken.iter().for_each(|why| text.push_str(&format!("BROKEN: {why}\n"))),
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incident(kinds: &[(&str, bool, &str)], outages: &[(&str, f64)]) -> Incident {
        let done = |(kind, led, part): &(&str, bool, &str)| Done {
            kind: (*kind).to_owned(),
            part: (*part).to_owned(),
            led: *led,
            what: "done".to_owned(),
            at_s: 1.0,
            undone_at_s: 3.5,
        };
        Incident {
            number: 4,
            faults: kinds.iter().map(done).collect(),
            passed_over: vec![],
            outage_ms: outages.iter().map(|(proxy, ms)| ((*proxy).to_owned(), *ms)).collect(),
            read_outage_ms: 40.0,
            recovery_ms: 1500.0,
            led: vec![Led { server: "pg1".to_owned(), from_s: 0.0, until_s: 9.0 }],
            failed_writes: 2,
            failed_connects: 0,
            read_only_refusals: 0,
            failed_reads: 0,
            lost_rows: 3,
            may_lose_rows: true,
        }
    }

    #[test]
    fn figures_are_of_one_kind_and_spare_clients_of_a_proxy_that_was_hit() {
        let incidents = [
            incident(&[("kill-node", true, "pg1")], &[("proxy1", 3000.0), ("proxy2", 3100.0)]),
            incident(&[("kill-node", true, "pg2")], &[("proxy1", 3300.0), ("proxy2", 3200.0)]),
            incident(&[("kill-node", false, "pg2")], &[("proxy1", 5.0), ("proxy2", 6.0)]),
            incident(&[("freeze-proxy", false, "proxy1")], &[("proxy1", 8000.0), ("proxy2", 9.0)]),
            incident(&[("a", false, "pg1"), ("b", true, "pg1")], &[("proxy1", 1.0)]),
        ];
        let figures = figures(&incidents);
        let names: Vec<_> = figures.iter().map(|f| (f.faults.as_str(), f.incidents)).collect();
        let expected = [("freeze-proxy", 1), ("kill-node", 1), ("kill-node, leader", 2), ("two at once", 1)];
        assert_eq!(names, expected);
        assert_eq!((figures[0].outage_max_ms, figures[0].hit_outage_max_ms), (9.0, Some(8000.0)));
        assert_eq!((figures[2].outage_median_ms, figures[2].outage_max_ms), (3200.0, 3300.0));
        assert_eq!((figures[2].failed_writes, figures[2].lost_rows), (4, 6));
    }

    #[test]
    fn a_story_says_who_what_and_when() {
        let told = incident(&[("kill-node", true, "pg1")], &[("proxy1", 3000.0)]).tell();
        assert_eq!(
            told,
            "#4 kill-node pg1 (leader) at 1.0 s: done, for 2.5 s\n     without writes 3.00 s by proxy1; without \
             reads 0.04 s; primary: pg1 0.0-9.0 s; well again after 1.50 s, 2 failed writes, 3 ROWS LOST"
        );
    }
}
