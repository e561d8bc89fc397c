//! What a stretch of time cost: CPU of a peer and of the whole machine, and memory.

use std::fs;
use std::time::Duration;

use rustix::process::Pid;

use crate::playground::orphans::all_processes;

/// One tick of /proc/stat, on every architecture that PostgreSQL runs on.
const TICK: Duration = Duration::from_millis(10);

/// Kernel pages in /proc/net/sockstat.
const PAGE: u64 = 4096;

/// Reads counters of one peer: all processes of its process group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meter {
    group: Option<Pid>,
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    proxy: Option<Duration>,
    machine: Duration,
}

/// CPU spent between two moments, in seconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Spent {
    /// By the peer; `None` where there is none.
    pub(super) proxy: Option<f64>,
    /// By everything on this machine.
    pub(super) machine: f64,
}

impl Meter {
    /// `None`: nothing stands between clients and server.
    pub(super) fn new(group: Option<Pid>) -> Meter {
        Meter { group }
    }

    pub(super) fn read(self) -> Reading {
        Reading { proxy: self.group.map(|_| self.processes().map(cpu_time).sum()), machine: machine_time() }
    }

    /// Memory of the peer in bytes, shared pages counted by their share.
    pub(super) fn memory(self) -> u64 {
        self.processes().map(proportional_memory).sum()
    }

    fn processes(self) -> impl Iterator<Item = i32> {
        members(self.group)
    }
}

/// The live processes of a group.
pub(super) fn members(group: Option<Pid>) -> impl Iterator<Item = i32> {
    let wanted = group.map(|group| group.as_raw_nonzero().get());
    let all = wanted.map(|_| all_processes()).unwrap_or_default().into_iter();
    all.filter(move |(_, stat)| Some(stat.group) == wanted && !stat.is_zombie())
        .map(|(pid, _)| pid.as_raw_nonzero().get())
}

impl Reading {
    pub(super) fn since(&self, earlier: &Reading) -> Spent {
        let proxy = self.proxy.zip(earlier.proxy);
        Spent {
            proxy: proxy.map(|(now, then)| now.saturating_sub(then).as_secs_f64()),
            machine: self.machine.saturating_sub(earlier.machine).as_secs_f64(),
        }
    }
}

/// CPU time of all threads, to the nanosecond: `stat` of the process counts whole ticks only.
fn cpu_time(pid: i32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanos = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

fn machine_time() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    TICK * u32::try_from(busy_ticks(&stat)).unwrap_or(u32::MAX)
}

/// user, nice, system, irq and softirq of the first line; guests are part of user already.
fn busy_ticks(stat: &str) -> u64 {
    let ticks: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .map_while(|n| n.parse().ok())
        .collect();
    [0, 1, 2, 5, 6].iter().filter_map(|i| ticks.get(*i)).sum()
}

fn proportional_memory(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// Bytes that the kernel holds for TCP, of all programs of this machine.
pub(super) fn tcp_memory() -> u64 {
    tcp_pages(&fs::read_to_string("/proc/net/sockstat").unwrap_or_default()) * PAGE
}

fn tcp_pages(sockstat: &str) -> u64 {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP: ")).unwrap_or_default();
    let mut words = line.split_whitespace().skip_while(|word| *word != "mem").skip(1);
    words.next().and_then(|pages| pages.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_idle_or_stolen_is_not_busy() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 1000 8 16 1000 1000 0\ncpu0 1 1 1"), 31);
        assert_eq!(busy_ticks(""), 0);
    }

    #[test]
    fn kernel_memory_is_the_field_called_mem() {
        assert_eq!(
            tcp_pages("sockets: used 97\nTCP: inuse 51 orphan 1 tw 6 alloc 51 mem 49\nUDP: mem 0"),
            49
        );
    }

    #[test]
    fn our_own_group_has_members_and_uses_memory() {
        let meter = Meter::new(Some(rustix::process::getpgrp()));
        assert!(meter.memory() > 0);
        let before = meter.read();
        assert!(before.proxy.is_some_and(|cpu| cpu > Duration::ZERO));
        assert!(Meter::new(None).read().since(&before).proxy.is_none());
    }
}
