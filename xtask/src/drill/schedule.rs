//! What happens when, from a seed; pure: the same seed and settings are the same faults for ever, on whoever leads then.

use std::time::Duration;

use super::fault::{Aim, Direction, Fault, Kind, Victim};

/// One stream of numbers: splitmix64.
#[derive(Clone, Debug)]
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).unwrap_or(0)
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let span = u64::try_from(high.saturating_sub(low).as_millis()).unwrap_or(u64::MAX);
        low + Duration::from_millis(self.below(span.saturating_add(1)))
    }
}

/// Faults that belong together: one, or two that overlap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Incident {
    /// The calm before.
    pub calm: Duration,
    /// The faults, the first one first.
    pub faults: Vec<Fault>,
}

/// How much there is to hit.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Nodes.
    pub nodes: usize,
    /// Members of etcd.
    pub etcds: usize,
    /// Proxies.
    pub proxies: usize,
}

/// Incidents without end.
#[derive(Clone, Debug)]
pub struct Schedule {
    rng: Rng,
    kinds: Vec<Kind>,
    /// What is still to come before a kind comes again, so that none is forgotten.
    deck: Vec<Kind>,
    size: Size,
    ttl: Duration,
}

impl Schedule {
    /// Incidents of these kinds.
    pub fn new(seed: u64, kinds: &[Kind], size: Size, ttl: Duration) -> Schedule {
        Schedule { rng: Rng(seed), kinds: kinds.to_vec(), deck: Vec::new(), size, ttl }
    }

    fn draw(&mut self) -> Option<Kind> {
        if self.deck.is_empty() {
            self.deck = self.kinds.clone();
            for last in (1..self.deck.len()).rev() {
                let other = self.rng.index(last + 1);
                self.deck.swap(last, other);
            }
        }
        self.deck.pop()
    }

    fn victim(&mut self, kind: Kind) -> Victim {
        let Size { nodes, etcds, proxies } = self.size;
        match kind.aim() {
            Aim::Primary => Victim::Leader,
            Aim::Node if self.rng.percent(65) => Victim::Leader,
            Aim::Node => Victim::Other(self.rng.index(nodes.saturating_sub(1))),
            Aim::Etcd if self.rng.percent(50) => Victim::Leader,
            Aim::Etcd => Victim::Other(self.rng.index(etcds.saturating_sub(1))),
            Aim::Proxy => Victim::Number(self.rng.index(proxies)),
            Aim::Clock => Victim::Number(0),
        }
    }

    /// How long it lasts: from hardly noticed to longer than a lease.
    fn hold(&mut self, kind: Kind) -> Duration {
        let second = Duration::from_secs(1);
        match kind {
            Kind::Switchover | Kind::KillPostgres => Duration::ZERO,
            Kind::StopAgent | Kind::KillProxy => self.rng.between(second / 4, 5 * second),
            Kind::FullDisk
            | Kind::LoseEtcd
            | Kind::SlowDisk
            | Kind::SlowNode
            | Kind::SlowEtcd
            | Kind::JumpClock => self.rng.between(2 * second, 12 * second),
            Kind::KillAgent
            | Kind::KillBoth
            | Kind::KillNode
            | Kind::UnplugNode
            | Kind::FreezeAgent
            | Kind::FreezePostgres
            | Kind::FreezeGuard
            | Kind::FreezeProxy
            | Kind::FreezeEtcd
            | Kind::KillEtcd
            | Kind::CutNodeEtcd
            | Kind::CutNodes
            | Kind::CutProxyEtcd
            | Kind::CutProxyNode
            | Kind::CutEtcdPeers
            | Kind::StallDisk => {
                if self.rng.percent(25) {
                    self.rng.between(second / 4, self.ttl * 9 / 10)
                } else {
                    self.rng.between(self.ttl, self.ttl + 10 * second)
                }
            }
        }
    }

    fn fault(&mut self, kind: Kind, after: Duration) -> Fault {
        let (victim, hold) = (self.victim(kind), self.hold(kind));
        let direction = [Direction::Out, Direction::In, Direction::Both][self.rng.index(3)];
        let whole = !self.rng.percent(25);
        let size_s = 60 + i64::try_from(self.rng.below(200_000)).unwrap_or(0);
        let jump_s = if self.rng.percent(50) { size_s } else { -size_s };
        Fault { kind, victim, direction, whole, jump_s, after, hold }
    }
}

impl Iterator for Schedule {
    type Item = Incident;

    fn next(&mut self) -> Option<Incident> {
        let second = Duration::from_secs(1);
        let calm = self.rng.between(second, 4 * second);
        let kind = self.draw()?;
        let first = self.fault(kind, Duration::ZERO);
        let mut faults = vec![first];
        // Two at once; or the second when the first has just been undone and nothing has recovered yet.
        if self.rng.percent(30) {
            let after = if self.rng.percent(70) {
                self.rng.between(Duration::ZERO, first.hold.max(second))
            } else {
                first.hold + self.rng.between(Duration::ZERO, second)
            };
            let kind = self.draw()?;
            faults.push(self.fault(kind, after));
        }
        Some(Incident { calm, faults })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const SIZE: Size = Size { nodes: 3, etcds: 3, proxies: 2 };

    fn schedule(seed: u64) -> Schedule {
        Schedule::new(seed, Kind::ALL, SIZE, Duration::from_secs(3))
    }

    #[test]
    fn a_seed_is_one_schedule() {
        let plays = |seed| schedule(seed).take(40).collect::<Vec<_>>();
        assert_eq!(plays(7), plays(7));
        assert_ne!(plays(7), plays(8));
    }

    #[test]
    fn no_kind_is_forgotten_and_some_come_together() {
        let incidents: Vec<_> = schedule(1).take(200).collect();
        let mut counts: HashMap<Kind, u32> = HashMap::new();
        for fault in incidents.iter().flat_map(|incident| &incident.faults) {
            *counts.entry(fault.kind).or_default() += 1;
        }
        let (least, most) = (counts.values().min().copied(), counts.values().max().copied());
        assert_eq!(counts.len(), Kind::ALL.len());
        assert!(most.unwrap_or(0) - least.unwrap_or(0) <= 1, "{counts:?}");
        let pairs = incidents.iter().filter(|incident| incident.faults.len() == 2).count();
        assert!((40..80).contains(&pairs), "{pairs}");
    }

    #[test]
    fn only_what_was_asked_for_happens() {
        let kinds = [Kind::CutNodeEtcd, Kind::FreezeEtcd];
        let faults = Schedule::new(3, &kinds, SIZE, Duration::from_secs(3)).take(50).flat_map(|i| i.faults);
        assert!(faults.into_iter().all(|fault| kinds.contains(&fault.kind)));
        assert_eq!(Schedule::new(3, &[], SIZE, Duration::from_secs(3)).next(), None);
    }
}
