//! A network of its own for a cluster: every part in a network namespace with its own address, joined by a bridge in
//! one more namespace. Nothing of it is reachable from outside, so several run side by side with the same addresses.
//!
//! All names begin with the name of the playground's directory: that is how `remove` finds what a killed run left.

pub(crate) mod enter;
pub(crate) mod tools;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use rustix::process::{Pid, geteuid};

use self::tools::{line, run_with};
use super::orphans::all_processes;
use super::place::Place;
use crate::install;

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// The interface of every part.
pub(super) const INTERFACE: &str = "net0";

/// Who watches from the bridge itself: clients, and whoever asks for health.
const OBSERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// All addresses.
pub const SUBNET: &str = "10.77.0.0/24";

/// How packets are dropped: at their receiver, so that the sender learns nothing, as from a broken cable. The first
/// table holds from whom, the second is there while the line loses packets.
const RULES: &str = "table ip drill {
  set cut { type ipv4_addr; }
  chain arriving { type filter hook prerouting priority -300; policy accept; ip saddr @cut drop; }
}
";

const LOSS: &str = "table ip lossy {
  chain arriving { type filter hook prerouting priority -300; policy accept; iifname net0 numgen random mod 100 < 3 drop; }
  chain leaving { type filter hook postrouting priority 300; policy accept; oifname net0 numgen random mod 100 < 3 drop; }
}
";

/// What slows a line down, by what the kernel has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slowness {
    /// `netem`: each packet late by 60 ms or so, some lost.
    Late,
    /// Without it: a thin line with a queue of up to 300 ms, and packets dropped by rule.
    Thin,
}

/// The network of one cluster.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    parts: BTreeMap<String, Ipv4Addr>,
    /// How many faults cut this direction.
    cuts: BTreeMap<(String, String), u32>,
    slowness: Slowness,
}

/// Why there can be no such network here; nothing is said where there can be one.
pub fn missing() -> Option<String> {
    // Tried once, for two at a time would be in each other's way.
    static MISSING: LazyLock<Option<String>> = LazyLock::new(|| try_one().err());
    MISSING.clone()
}

fn try_one() -> Result<(), String> {
    if !geteuid().is_root() {
        return Err("network namespaces need root".to_owned());
    }
    install::namespace_tools().map_err(|error| error.to_string())?;
    let name = format!("pgvane-try-{}", std::process::id());
    let tried = line(&format!("ip netns add {name}")).and_then(|()| {
        line(&format!("nsenter --net={NAMES}/{name} nft list ruleset"))?;
        line(&format!("ip -n {name} link add left type veth peer name right"))?;
        line(&format!("ip -n {name} link add middle type bridge"))
    });
    let _ = line(&format!("ip netns del {name}"));
    tried
}

impl Network {
    /// Makes the namespaces of these parts, with the last octets of their addresses. `prefix` is the name of the
    /// playground's directory.
    pub(crate) fn create(prefix: &str, parts: &[(String, u8)]) -> Result<Network, String> {
        let bridge = format!("{prefix}-net");
        line(&format!("ip netns add {bridge}"))?;
        line(&format!("ip -n {bridge} link set lo up"))?;
        line(&format!("ip -n {bridge} link add br0 type bridge"))?;
        line(&format!("ip -n {bridge} addr add {OBSERVER}/24 dev br0"))?;
        line(&format!("ip -n {bridge} link set br0 up"))?;
        let slowness = slowness(&bridge);
        let mut network =
            Network { prefix: prefix.to_owned(), parts: BTreeMap::new(), cuts: BTreeMap::new(), slowness };
        for (name, octet) in parts {
            let address = Ipv4Addr::new(10, 77, 0, *octet);
            let namespace = network.name(name);
            line(&format!("ip netns add {namespace}"))?;
            line(&format!(
                "ip link add {INTERFACE} netns {namespace} type veth peer name {name} netns {bridge}"
            ))?;
            line(&format!("ip -n {namespace} addr add {address}/24 dev {INTERFACE}"))?;
            line(&format!("ip -n {namespace} link set lo up"))?;
            line(&format!("ip -n {namespace} link set {INTERFACE} up"))?;
            line(&format!("ip -n {bridge} link set {name} master br0 up"))?;
            network.nft(name, RULES)?;
            network.parts.insert(name.clone(), address);
        }
        Ok(network)
    }

    fn name(&self, part: &str) -> String {
        format!("{}-{part}", self.prefix)
    }

    fn file(&self, part: &str) -> PathBuf {
        Path::new(NAMES).join(self.name(part))
    }

    /// The namespace of the bridge, from which everybody can be reached.
    pub(crate) fn observer(&self) -> PathBuf {
        self.file("net")
    }

    /// Where a part's processes run.
    pub(crate) fn place(&self, part: &str) -> Place {
        Place::in_namespace(self.file(part))
    }

    /// A part's address.
    ///
    /// # Panics
    /// If there is no such part: names come from the playground itself.
    pub fn address(&self, part: &str) -> Ipv4Addr {
        self.parts[part]
    }

    /// How lines are slowed down here, for people.
    pub fn slowness(&self) -> &'static str {
        match self.slowness {
            Slowness::Late => "tc netem: 60 ms late give or take 30 ms, 3 % lost",
            Slowness::Thin => "no netem in this kernel; tc tbf: 1 Mbit/s with 300 ms of queue, nft: 3 % lost",
        }
    }

    /// Puts the cable of `part` in, or pulls it.
    pub fn plug(&self, part: &str, plugged: bool) -> Result<(), String> {
        let state = if plugged { "up" } else { "down" };
        line(&format!("ip -n {} link set {part} {state}", self.name("net")))
    }

    /// From now on nothing from `from` arrives at `to`; the other direction is another matter.
    pub fn cut(&mut self, from: &str, to: &str) -> Result<(), String> {
        let count = self.cuts.entry((from.to_owned(), to.to_owned())).or_default();
        *count += 1;
        if *count > 1 {
            return Ok(());
        }
        self.nft(to, &format!("add element ip drill cut {{ {} }}\n", self.address(from)))
    }

    /// Takes one [`Network::cut`] back.
    pub fn mend(&mut self, from: &str, to: &str) -> Result<(), String> {
        let pair = (from.to_owned(), to.to_owned());
        match self.cuts.get_mut(&pair) {
            None => return Ok(()),
            Some(count) if *count > 1 => {
                *count -= 1;
                return Ok(());
            }
            Some(_) => self.cuts.remove(&pair),
        };
        self.nft(to, &format!("delete element ip drill cut {{ {} }}\n", self.address(from)))
    }

    /// Makes the line of `part` slow and lossy in both directions.
    pub fn slow(&self, part: &str) -> Result<(), String> {
        let how = match self.slowness {
            Slowness::Late => "netem delay 60ms 30ms loss 3%",
            Slowness::Thin => "tbf rate 1mbit burst 8kb latency 300ms",
        };
        line(&format!("tc -n {} qdisc replace dev {INTERFACE} root {how}", self.name(part)))?;
        line(&format!("tc -n {} qdisc replace dev {part} root {how}", self.name("net")))?;
        match self.slowness {
            Slowness::Late => Ok(()),
            Slowness::Thin => self.nft(part, LOSS),
        }
    }

    /// Makes the line of `part` good again.
    pub fn speed_up(&self, part: &str) -> Result<(), String> {
        line(&format!("tc -n {} qdisc del dev {INTERFACE} root", self.name(part)))?;
        line(&format!("tc -n {} qdisc del dev {part} root", self.name("net")))?;
        match self.slowness {
            Slowness::Late => Ok(()),
            Slowness::Thin => self.nft(part, "delete table ip lossy\n"),
        }
    }

    /// Mends every cut and plugs in every cable.
    pub fn heal(&mut self) -> Result<(), String> {
        self.cuts.clear();
        for part in self.parts.keys() {
            self.plug(part, true)?;
            self.nft(part, "flush set ip drill cut\n")?;
        }
        Ok(())
    }

    /// The processes of a part, in no order.
    pub fn processes(&self, part: &str) -> Vec<Pid> {
        let Ok(namespace) = fs::metadata(self.file(part)) else { return Vec::new() };
        let is_there = |pid: &Pid| {
            let link = fs::metadata(format!("/proc/{}/ns/net", pid.as_raw_nonzero()));
            link.is_ok_and(|link| (link.dev(), link.ino()) == (namespace.dev(), namespace.ino()))
        };
        let all = all_processes().into_iter().filter(|(_, stat)| !stat.is_zombie());
        all.map(|(pid, _)| pid).filter(is_there).collect()
    }

    fn nft(&self, part: &str, rules: &str) -> Result<(), String> {
        let net = format!("--net={}", self.file(part).display());
        run_with("nsenter", [net.as_str(), "nft", "-f", "-"], rules)
    }
}

fn slowness(namespace: &str) -> Slowness {
    let tried = line(&format!("tc -n {namespace} qdisc add dev br0 root netem delay 1ms"));
    let _ = line(&format!("tc -n {namespace} qdisc del dev br0 root"));
    if tried.is_ok() { Slowness::Late } else { Slowness::Thin }
}

/// Removes the namespaces whose names begin like that, with all that is in them. Their processes must have ended.
pub(super) fn remove(prefix: &str) {
    let entries = fs::read_dir(NAMES).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    for name in names.filter(|name| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-'))) {
        if let Err(why) = line(&format!("ip netns del {name}")) {
            eprintln!("{why}");
        }
    }
}
