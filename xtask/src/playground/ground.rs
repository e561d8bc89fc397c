//! What a playground stands on: ports of loopback, or a network of namespaces.

use std::collections::BTreeMap;
use std::fs::{Permissions, set_permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::account::Account;
use super::clock::Clock;
use super::disk::Disk;
use super::etcd::{self, MemberOptions};
use super::home::Home;
use super::network::{self, Network, enter};
use super::place::Place;
use super::ports::Ports;
use super::{Options, PlaygroundError};
use crate::programs::Programs;

/// Where a node's servers listen, and where they run.
pub(super) struct NodeGround {
    pub(super) rest: SocketAddr,
    pub(super) postgres: SocketAddr,
    pub(super) place: Place,
    /// Its directory, where it is there already.
    pub(super) dir: Option<PathBuf>,
}

/// Where a proxy's listeners are, and where it runs.
pub(super) struct ProxyGround {
    pub(super) primary: SocketAddr,
    pub(super) replica: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) place: Place,
}

/// What a playground stands on.
pub(super) enum Ground {
    Loopback(Ports),
    Network(Network, Equipment),
}

/// What the parts of a network have of their own beside addresses.
#[derive(Debug, Default)]
pub struct Equipment {
    /// Disks, by node.
    pub disks: BTreeMap<String, Disk>,
    /// Clocks, by node.
    pub clocks: BTreeMap<String, Clock>,
}

/// What to equip a network with.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// A disk of its own for every node.
    pub disks: bool,
    /// A clock of its own for the last node, by this library.
    pub clock: Option<PathBuf>,
}

impl Ground {
    pub(super) fn etcd(&mut self, members: usize) -> Result<Vec<MemberOptions>, PlaygroundError> {
        let member = |number: usize| {
            Ok(match self {
                Ground::Loopback(ports) => {
                    let name = if members == 1 { "etcd".to_owned() } else { format!("etcd{number}") };
                    etcd::loopback(name, ports)?
                }
                Ground::Network(network, _) => {
                    let name = format!("etcd{number}");
                    let (address, place) = (network.address(&name), network.place(&name));
                    MemberOptions {
                        name,
                        client: (address, 2379).into(),
                        peer: (address, 2380).into(),
                        observe: (address, 2381).into(),
                        place,
                    }
                }
            })
        };
        (1..=members).map(member).collect()
    }

    pub(super) fn node(&mut self, name: &str, home: &Home) -> Result<NodeGround, PlaygroundError> {
        match self {
            Ground::Loopback(ports) => Ok(NodeGround {
                rest: ports.free()?,
                postgres: ports.free()?,
                place: Place::default(),
                dir: None,
            }),
            Ground::Network(network, equipment) => {
                let (address, mut place) = (network.address(name), network.place(name));
                if let Some(clock) = equipment.clocks.get(name) {
                    place = place.with_environment(clock.environment());
                }
                let dir = equipment.disks.contains_key(name).then(|| home.dir().join(name));
                Ok(NodeGround { rest: (address, 8008).into(), postgres: (address, 5432).into(), place, dir })
            }
        }
    }

    pub(super) fn proxy(&mut self, number: usize) -> Result<ProxyGround, PlaygroundError> {
        match self {
            Ground::Loopback(ports) => {
                let wanted = if number == 1 { [5432, 5433] } else { [0, 0] };
                Ok(ProxyGround {
                    primary: ports.prefer(wanted[0])?,
                    replica: ports.prefer(wanted[1])?,
                    admin: ports.free()?,
                    place: Place::default(),
                })
            }
            Ground::Network(network, _) => {
                let name = format!("proxy{number}");
                let at = |port: u16| SocketAddr::from((network.address(&name), port));
                Ok(ProxyGround {
                    primary: at(5432),
                    replica: at(5433),
                    admin: at(8009),
                    place: network.place(&name),
                })
            }
        }
    }

    /// Where clients and nodes come from, as pg_hba.conf has it.
    pub(super) fn clients(&self) -> String {
        match self {
            Ground::Loopback(_) => format!("{}/32", Ipv4Addr::LOCALHOST),
            Ground::Network(..) => network::SUBNET.to_owned(),
        }
    }
}

/// A directory and a network for a playground in namespaces; dropping it removes both.
#[derive(Debug)]
pub struct Prepared {
    pub(super) home: Home,
    pub(super) network: Network,
    pub(super) equipment: Equipment,
}

impl Prepared {
    /// Makes them; see [`network::missing`] for whether that can be.
    pub fn create(
        options: &Options,
        wanted: &Wanted,
        programs: &Programs,
    ) -> Result<Prepared, PlaygroundError> {
        let copies = [&programs.agent, &programs.proxy, &programs.ctl].map(PathBuf::as_path);
        let home = Home::create(Account::for_servers(), &programs.xtask, &copies, options.keep)?;
        let nodes: Vec<_> = (1..=options.nodes).map(|n| format!("pg{n}")).collect();
        let mut parts = numbered("pg", options.nodes, 10);
        parts.extend(numbered("etcd", options.etcds, 20));
        parts.extend(numbered("proxy", options.proxies, 30));
        let prefix = home.dir().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let network = Network::create(&prefix, &parts).map_err(PlaygroundError::Refused)?;
        let mut equipment = Equipment::default();
        if wanted.disks {
            for name in &nodes {
                equipment.disks.insert(name.clone(), disk(&home, name)?);
            }
        }
        if let (Some(library), Some(name)) = (&wanted.clock, nodes.last()) {
            let clock = Clock::create(library, home.dir().join(format!("{name}.clock")));
            equipment.clocks.insert(name.clone(), clock.map_err(PlaygroundError::io("no clock"))?);
        }
        Ok(Prepared { home, network, equipment })
    }

    /// Runs `work` where everybody can be reached: on a runtime whose threads are in the namespace of the bridge.
    pub fn run<T: Send + 'static>(
        self,
        work: impl AsyncFnOnce(Prepared) -> T + Send + 'static,
    ) -> Result<T, PlaygroundError> {
        let observer = self.network.observer();
        let thread = enter::inside(&observer, move || {
            let runtime = tokio::runtime::Runtime::new()?;
            let done = runtime.block_on(work(self));
            runtime.shutdown_background();
            Ok(done)
        });
        let failed = PlaygroundError::io(format!("cannot work in {}", observer.display()));
        let done = thread.map(std::thread::JoinHandle::join);
        match done {
            Ok(Ok(done)) => done.flatten().map_err(failed),
            // What went wrong there goes wrong here.
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => Err(failed(error)),
        }
    }
}

fn numbered(stem: &str, count: usize, base: u8) -> Vec<(String, u8)> {
    (1..=count).zip(base + 1..).map(|(n, octet)| (format!("{stem}{n}"), octet)).collect()
}

fn disk(home: &Home, name: &str) -> Result<Disk, PlaygroundError> {
    let dir = home.create_dir(name)?;
    let image: &Path = &home.dir().join(format!("{name}.img"));
    let disk = Disk::create(image, &dir).map_err(PlaygroundError::Refused)?;
    set_permissions(&dir, Permissions::from_mode(0o700))
        .map_err(PlaygroundError::io(dir.display().to_string()))?;
    home.own(&dir)?;
    Ok(disk)
}
