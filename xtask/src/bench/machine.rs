//! What was measured on, and which versions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::rivals::{Rivals, version};
use super::stage::Stage;
use crate::install::Servers;

/// Facts without which figures say nothing.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    processor: String,
    cores: usize,
    memory_gib: u64,
    kernel: String,
    /// Load of others when the bench began.
    load_before: String,
    versions: BTreeMap<&'static str, String>,
}

impl Machine {
    pub(super) fn look(servers: &Servers, rivals: &Rivals, proxy: &Path) -> Machine {
        let mut versions = BTreeMap::from([
            ("pgvane", version(proxy, "--version")),
            ("postgres", version(&servers.postgres.join("postgres"), "--version")),
            ("etcd", version(&servers.etcd, "--version")),
        ]);
        let nginx = rivals.nginx.as_ref().map(|nginx| &nginx.program);
        for (name, program, flag) in [
            ("haproxy", rivals.haproxy.as_ref(), "-v"),
            ("nginx", nginx, "-v"),
            ("pgbouncer", rivals.pgbouncer.as_ref(), "--version"),
        ] {
            versions.extend(program.map(|program| (name, version(program, flag))));
        }
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let kilobytes = field(&read("/proc/meminfo"), "MemTotal").and_then(|text| {
            let number = text.split_whitespace().next()?;
            number.parse::<u64>().ok()
        });
        Machine {
            processor: field(&read("/proc/cpuinfo"), "model name")
                .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_gib: kilobytes.unwrap_or(0) >> 20,
            kernel: read("/proc/sys/kernel/osrelease"),
            load_before: read("/proc/loadavg"),
            versions,
        }
    }

    pub(super) fn lines(&self, stage: &Stage) -> Vec<String> {
        let mut lines = vec![
            format!(
                "{}, {} cores, {} GiB, Linux {}",
                self.processor, self.cores, self.memory_gib, self.kernel
            ),
            format!("load before: {}", self.load_before),
            format!("sessions that each proxy is told to take: {}", stage.sessions),
        ];
        lines.extend(self.versions.iter().map(|(name, version)| format!("{name}: {version}")));
        lines
    }
}

/// The value of the first line `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(key, value)| (key.trim(), value.trim()))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned())
}
