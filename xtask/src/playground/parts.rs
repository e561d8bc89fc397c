//! The parts of a playground in namespaces: which processes each has, and its power.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::disk::Disk;
use super::network::Network;
use super::{Playground, PlaygroundError};

/// How long killed processes may take to be gone; a stalled disk keeps them.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// Which processes of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A node's agent.
    Agent,
    /// A node's guard.
    Guard,
    /// A node's PostgreSQL: postmaster and all it started.
    Postgres,
    /// All of them.
    Any,
}

impl Role {
    fn is_of(self, pid: Pid) -> bool {
        let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let program = || {
            let path = fs::read_link(proc.join("exe")).unwrap_or_default();
            path.file_name().unwrap_or_default().to_string_lossy().trim_end_matches(" (deleted)").to_owned()
        };
        let is_guard = || {
            let line = fs::read(proc.join("cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1) == Some(b"guard")
        };
        match self {
            Role::Any => true,
            Role::Postgres => program() == "postgres",
            Role::Agent => program() == "pgvane-agent" && !is_guard(),
            Role::Guard => program() == "pgvane-agent" && is_guard(),
        }
    }
}

impl Playground {
    /// The network of a playground in namespaces.
    pub fn network(&mut self) -> Result<&mut Network, PlaygroundError> {
        match &mut self.network {
            Some((network, _)) => Ok(network),
            None => Err(PlaygroundError::Refused("on loopback there is no network to break".to_owned())),
        }
    }

    /// The disk of a node that has its own.
    pub fn disk(&self, node: &str) -> Result<Disk, PlaygroundError> {
        let disk = self.network.as_ref().and_then(|(_, equipment)| equipment.disks.get(node));
        disk.cloned().ok_or_else(|| PlaygroundError::Refused(format!("{node} has no disk of its own")))
    }

    /// Sends a signal to the processes of `part` that have this role; answers how many there were.
    pub fn signal_part(&mut self, part: &str, role: Role, signal: Signal) -> Result<usize, PlaygroundError> {
        let mut count = 0;
        for pid in self.network()?.processes(part) {
            // The handle first: what is read afterwards is true of the process it names.
            let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            if role.is_of(pid) && pidfd_send_signal(&handle, signal).is_ok() {
                count += 1;
            }
        }
        Ok(count)
    }

    /// Ends a part as a loss of power would: nothing leaves its namespace any more, and then nothing runs in it.
    pub async fn power_off(&mut self, part: &str) -> Result<(), PlaygroundError> {
        self.network()?.plug(part, false).map_err(PlaygroundError::Refused)?;
        let started = Instant::now();
        while self.signal_part(part, Role::Any, Signal::KILL)? > 0 {
            if started.elapsed() > GONE_WITHIN {
                let why = format!("processes of {part} do not end");
                return Err(PlaygroundError::Late { waited: GONE_WITHIN, why });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if let Some(node) = self.nodes.iter_mut().find(|node| node.name == part) {
            node.kill_agent(GONE_WITHIN).await;
        }
        Ok(())
    }

    /// Undoes every fault of the network, the disks and the clocks, and continues what is frozen.
    pub(super) fn mend(&mut self) -> Result<(), PlaygroundError> {
        let Some((network, equipment)) = &mut self.network else { return Ok(()) };
        network.heal().map_err(PlaygroundError::Refused)?;
        equipment.disks.values().for_each(Disk::heal);
        for clock in equipment.clocks.values() {
            clock.set(0).map_err(PlaygroundError::io("cannot set a clock"))?;
        }
        let etcds = self.etcd.names().into_iter();
        let proxies = self.proxies.iter().map(|proxy| proxy.options().name.clone());
        let nodes = self.nodes.iter().map(|node| node.name.clone());
        for part in etcds.chain(proxies).chain(nodes).collect::<Vec<_>>() {
            self.signal_part(&part, Role::Any, Signal::CONT)?;
        }
        Ok(())
    }
}
