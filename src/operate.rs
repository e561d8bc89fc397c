//! What a running proxy does when it is asked: change its settings, start its next version, hand over to it.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::Arc;

use rustls::pki_types::UnixTime;
use sd_notify::NotifyState;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::certificates;
use crate::config::Config;
use crate::control::{Answer, Control, Request, tell};
use crate::doors::{self, Doors};
use crate::endpoint::{Endpoint, Socket};
use crate::metrics::Metrics;
use crate::takeover::{HandOver, Offer, SetAside, Successor, hand_over};
use crate::telemetry;
use crate::topology::{Admission, TopologyRx};

/// A proxy that runs, as its operator changes it.
pub(crate) struct Operated {
    pub(crate) config: Config,
    pub(crate) doors: Doors,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clusters: BTreeMap<String, TopologyRx>,
    /// Where the admin side listens, once more.
    pub(crate) admin: Vec<(Endpoint, Socket)>,
    pub(crate) control: Control,
    handing: JoinSet<io::Result<Successor>>,
    upgrade: Option<Upgrade>,
}

/// A next version that was started and does not serve yet.
struct Upgrade {
    child: Child,
    answer: Option<Answer>,
}

impl Operated {
    pub(crate) fn new(
        config: Config,
        doors: Doors,
        metrics: Arc<Metrics>,
        clusters: BTreeMap<String, TopologyRx>,
        admin: Vec<(Endpoint, Socket)>,
        control: Control,
    ) -> Operated {
        let (handing, upgrade) = (JoinSet::new(), None);
        Operated { config, doors, metrics, clusters, admin, control, handing, upgrade }
    }

    /// Does what it is asked until somebody else serves in its place.
    pub(crate) async fn until_relieved(&mut self) -> Successor {
        loop {
            tokio::select! {
                Some(request) = self.control.asked.recv() => match request {
                    Request::Reload(answer) => tell(answer, self.reload()),
                    Request::Upgrade(answer) => self.start_next(answer),
                    Request::HandOver(stream) => self.hand_over(stream),
                },
                Some(handed) = self.handing.join_next() => match handed {
                    Ok(Ok(successor)) => return self.relieved_by(successor),
                    Ok(Err(error)) => warn!(%error, "not handed over; nothing was changed"),
                    Err(error) => warn!(%error, "not handed over; nothing was changed"),
                },
                status = ended(&mut self.upgrade) => self.not_upgraded(&status),
            }
        }
    }

    fn reload(&mut self) -> Result<String, String> {
        let outcome = (self.control.settings)().and_then(|new| self.change(new));
        self.metrics.reloaded(outcome.is_ok());
        match &outcome {
            Ok(()) => info!("settings reloaded"),
            Err(why) => error!(%why, "settings not reloaded; nothing was changed"),
        }
        outcome.map(|()| "settings reloaded".to_owned())
    }

    /// Changes to `new`, or says why nothing was changed.
    fn change(&mut self, new: Config) -> Result<(), String> {
        let fixed = doors::needs_restart(&self.config, &new);
        if !fixed.is_empty() {
            return Err(format!("{} can only be changed by a restart", fixed.join(", ")));
        }
        self.doors.change(&new).map_err(|error| error.to_string())?;
        telemetry::set_level(&new.log.level);
        certificates::concerns(&new, UnixTime::now()).iter().for_each(|concern| warn!("{concern}"));
        self.config = new;
        Ok(())
    }

    fn start_next(&mut self, answer: Option<Answer>) {
        match self.next_version() {
            Ok(child) => {
                info!(pid = child.id(), "the next version is started");
                self.upgrade = Some(Upgrade { child, answer });
            }
            Err(why) => {
                error!(why, "not upgraded; nothing was changed");
                tell(answer, Err(why));
            }
        }
    }

    fn next_version(&self) -> Result<Child, String> {
        if self.upgrade.is_some() {
            return Err("the next version is being started already".to_owned());
        }
        if self.config.admin.socket.is_none() {
            return Err("the next version takes over by [admin] socket, which is not set".to_owned());
        }
        let program = self.control.program.as_ref().ok_or("there is no program to start")?;
        let mut command = Command::new(&program.file);
        command.args(&program.arguments).stdin(Stdio::null());
        command.spawn().map_err(|error| format!("{}: {error}", program.file.display()))
    }

    fn not_upgraded(&mut self, status: &str) {
        let why = format!("the next version ended before it served ({status}); its log says why");
        error!(why, "not upgraded; nothing was changed");
        let answer = self.upgrade.take().and_then(|upgrade| upgrade.answer);
        tell(answer, Err(why));
    }

    fn hand_over(&mut self, stream: UnixStream) {
        let sockets = self.doors.sockets().and_then(|mut sockets| {
            for (endpoint, socket) in &self.admin {
                sockets.push((endpoint.clone(), socket.try_clone()?));
            }
            Ok(sockets)
        });
        match sockets {
            Ok(sockets) => {
                let this = HandOver { offer: Offer::new(self.set_aside()), sockets };
                self.handing.spawn_blocking(move || hand_over(stream, this));
            }
            Err(error) => warn!(%error, "not handed over; nothing was changed"),
        }
    }

    fn set_aside(&self) -> Vec<SetAside> {
        let of = |(cluster, topology): (&String, &TopologyRx)| {
            let picture = topology.current();
            let nodes = picture.nodes.iter().map(|(name, node)| (name, node.admission()));
            let aside = nodes.filter(|(_, admission)| *admission != Admission::Enabled);
            let aside = aside.map(|(name, admission)| SetAside {
                cluster: cluster.clone(),
                target: name.to_string(),
                admission,
            });
            aside.collect::<Vec<_>>()
        };
        self.clusters.iter().flat_map(of).collect()
    }

    fn relieved_by(&mut self, successor: Successor) -> Successor {
        let pid = successor.pid;
        info!(pid, "handed over");
        // Without systemd there is nobody to notify.
        if let Ok(pid) = u32::try_from(pid) {
            let _ = sd_notify::notify(&[NotifyState::MainPid(pid)]);
        }
        if let Some(Upgrade { mut child, answer }) = self.upgrade.take() {
            tell(answer, Ok(format!("handed over to process {pid}; this one drains")));
            // It is not ours any more, but while we drain it is our child that has to be waited for.
            tokio::spawn(async move { child.wait().await });
        }
        successor
    }
}

/// Waits for a next version that ends instead of serving.
async fn ended(upgrade: &mut Option<Upgrade>) -> String {
    match upgrade {
        Some(upgrade) => match upgrade.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        },
        None => std::future::pending().await,
    }
}
