//! A virtual address for the first two proxies of a network: Keepalived beside each, run from the files that we ship.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::home::Home;
use super::network::tools::read;
use super::place::Place;
use super::process::Running;
use super::{Playground, PlaygroundError};
use crate::programs;

/// The address that the pair shares.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

/// Shows Keepalived the directory as /etc/keepalived, and becomes it. Directory, program.
const START: &str = "mount --bind \"$1\" /etc/keepalived && exec \"$2\" --dont-fork --log-console --log-detail \
                     -p \"$1/pid\" -r \"$1/vrrp.pid\" -c \"$1/checkers.pid\"";

/// The Keepalived of one proxy's host.
#[derive(Debug)]
struct Keeper {
    proxy: String,
    place: Place,
    dir: PathBuf,
    process: Running,
}

/// The address and who looks after it.
#[derive(Debug)]
pub struct Vip {
    keepalived: PathBuf,
    keepers: Vec<Keeper>,
}

impl Vip {
    /// Starts Keepalived beside the first two proxies of `playground`, which must be one in namespaces.
    pub fn start(playground: &Playground, keepalived: &Path) -> Result<Vip, PlaygroundError> {
        let hosts: Vec<_> = playground.proxies.iter().take(2).map(super::proxy::Proxy::options).collect();
        let [one, two] = hosts[..] else {
            return Err(PlaygroundError::Refused("a pair needs two proxies".to_owned()));
        };
        let mut vip = Vip { keepalived: keepalived.to_owned(), keepers: Vec::new() };
        for (here, there) in [(one, two), (two, one)] {
            let home = &playground.home;
            let dir = files(home, &here.name, [here.primary.ip(), there.primary.ip()])?;
            let place = here.place.clone().kept_by_root();
            let process = run(home, &place, &here.name, &dir, keepalived)?;
            vip.keepers.push(Keeper { proxy: here.name.clone(), place, dir, process });
        }
        Ok(vip)
    }

    /// The proxies on whose hosts the address is.
    pub fn holders(&self) -> Result<Vec<String>, PlaygroundError> {
        let mut holders = Vec::new();
        for keeper in &self.keepers {
            let namespace = keeper.place.namespace().and_then(Path::file_name).unwrap_or_default();
            let shown = read(&format!("ip -n {} -o addr show to {ADDRESS}", namespace.to_string_lossy()));
            if !shown.map_err(PlaygroundError::Refused)?.is_empty() {
                holders.push(keeper.proxy.clone());
            }
        }
        Ok(holders)
    }

    /// Kills the Keepalived of this proxy's host, all of its processes.
    pub async fn kill(&mut self, proxy: &str, limit: Duration) {
        for keeper in self.keepers.iter_mut().filter(|keeper| keeper.proxy == proxy) {
            keeper.process.signal_group(Signal::KILL);
            keeper.process.ended_within(limit).await;
        }
    }

    /// Starts every Keepalived that does not run.
    pub fn restart(&mut self, playground: &Playground) -> Result<(), PlaygroundError> {
        for keeper in self.keepers.iter_mut().filter_map(|k| (!k.process.is_running()).then_some(k)) {
            let Keeper { proxy, place, dir, .. } = &*keeper;
            keeper.process = run(&playground.home, place, proxy, dir, &self.keepalived)?;
        }
        Ok(())
    }
}

fn log_name(proxy: &str) -> String {
    format!("keepalived-{proxy}")
}

/// What the Keepalived of a proxy's host has said so far.
pub fn log(playground: &Playground, proxy: &str) -> String {
    playground.log(&log_name(proxy))
}

fn run(
    home: &Home,
    place: &Place,
    proxy: &str,
    dir: &Path,
    keepalived: &Path,
) -> Result<Running, PlaygroundError> {
    let words = ["--mount", "--propagation", "private", "sh", "-c", START, "sh"];
    let args = words.map(OsString::from).into_iter().chain([dir.into(), keepalived.into()]);
    Running::start_at(home, place, &log_name(proxy), Path::new("unshare"), args, [])
}

/// The shipped files with this host's address and the other's in place of the example's; answers their directory.
fn files(home: &Home, proxy: &str, addresses: [std::net::IpAddr; 2]) -> Result<PathBuf, PlaygroundError> {
    let dir = home.dir().join(log_name(proxy));
    let io = |error| PlaygroundError::Io(dir.display().to_string(), error);
    let shipped = programs::root().join("packaging/keepalived");
    let mut settings = fs::read_to_string(shipped.join("keepalived.conf")).map_err(io)?;
    let [here, there] = addresses;
    for (example, ours) in [
        ("interface eth0", format!("interface {}", super::network::INTERFACE)),
        ("unicast_src_ip 10.0.0.11 ", format!("unicast_src_ip {here} ")),
        ("        10.0.0.12 ", format!("        {there} ")),
        ("10.0.0.10/24", format!("{ADDRESS}/24")),
    ] {
        if settings.matches(example).count() != 1 {
            return Err(PlaygroundError::Refused(format!("keepalived.conf does not say {example:?} once")));
        }
        settings = settings.replace(example, &ours);
    }
    // Root's, as Keepalived demands of scripts and of the way to them.
    fs::create_dir(&dir).map_err(io)?;
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).map_err(io)?;
    fs::write(dir.join("keepalived.conf"), settings).map_err(io)?;
    let script = dir.join("check-pgvane.sh");
    fs::copy(shipped.join("check-pgvane.sh"), &script).map_err(io)?;
    fs::set_permissions(&script, Permissions::from_mode(0o755)).map_err(io)?;
    Ok(dir)
}
