//! The store: etcd, of one member or several.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper::Method;
use rustix::process::Signal;
use serde_json::Value;

use super::PlaygroundError;
use super::home::Home;
use super::http;
use super::place::Place;
use super::ports::Ports;
use super::process::Running;

/// How long etcd may take to answer.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long one answer of a member may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What a member is started with.
#[derive(Clone, Debug)]
pub(crate) struct MemberOptions {
    /// Its name; of its directory and log too.
    pub(crate) name: String,
    /// Where clients connect.
    pub(crate) client: SocketAddr,
    /// Where the other members connect.
    pub(crate) peer: SocketAddr,
    /// Where it runs.
    pub(crate) place: Place,
}

/// One member.
#[derive(Debug)]
pub struct Member {
    options: MemberOptions,
    data_dir: PathBuf,
    process: Option<Running>,
}

impl Member {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Running::is_running)
    }

    /// Kills it, as a machine's death would.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::KILL);
            process.ended_within(READY_WITHIN).await;
        }
    }

    /// Sends it a signal, such as the one that freezes it.
    pub fn signal(&mut self, signal: Signal) {
        if let Some(process) = &mut self.process {
            process.signal(signal);
        }
    }

    /// Whether it says that it leads; `None`: it does not say.
    async fn leads(&self) -> Option<bool> {
        let path = "/v3/maintenance/status";
        let asked =
            http::request(Method::POST, self.options.client, path, "{}".to_owned(), ANSWER_WITHIN).await;
        let status: Value = serde_json::from_slice(&asked.ok()?.1).ok()?;
        Some(status["leader"].as_str()? == status["header"]["member_id"].as_str()?)
    }
}

/// An etcd whose members can be killed and started again on their data.
#[derive(Debug)]
pub struct Etcd {
    program: PathBuf,
    members: Vec<Member>,
}

impl Etcd {
    /// Starts one member on loopback, on an empty directory, and waits until it answers.
    pub(crate) async fn start(
        home: &Home,
        program: &Path,
        ports: &mut Ports,
    ) -> Result<Etcd, PlaygroundError> {
        let (client, peer) = (ports.free()?, ports.free()?);
        let member = MemberOptions { name: "etcd".to_owned(), client, peer, place: Place::default() };
        Etcd::start_members(home, program, vec![member]).await
    }

    /// Starts these members on empty directories and waits until all of them answer.
    pub(crate) async fn start_members(
        home: &Home,
        program: &Path,
        members: Vec<MemberOptions>,
    ) -> Result<Etcd, PlaygroundError> {
        let members = members
            .into_iter()
            .map(|options| Ok(Member { data_dir: home.create_dir(&options.name)?, options, process: None }));
        let mut etcd =
            Etcd { program: program.to_owned(), members: members.collect::<Result<_, PlaygroundError>>()? };
        etcd.restart(home)?;
        etcd.until_ready().await?;
        Ok(etcd)
    }

    /// Starts every member that does not run, on what data there is.
    pub(super) fn restart(&mut self, home: &Home) -> Result<(), PlaygroundError> {
        let peers: Vec<_> =
            self.members.iter().map(|m| format!("{}=http://{}", m.options.name, m.options.peer)).collect();
        for member in &mut self.members {
            if member.is_running() {
                continue;
            }
            let MemberOptions { name, client, peer, place } = &member.options;
            let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
            let args = [
                ("--name", name.clone()),
                ("--data-dir", member.data_dir.display().to_string()),
                ("--listen-client-urls", client.clone()),
                ("--advertise-client-urls", client),
                ("--listen-peer-urls", peer.clone()),
                ("--initial-advertise-peer-urls", peer),
                ("--initial-cluster", peers.join(",")),
            ];
            let args = args.into_iter().flat_map(|(key, value)| [OsString::from(key), OsString::from(value)]);
            member.process = Some(Running::start_at(home, place, name, &self.program, args, [])?);
        }
        Ok(())
    }

    async fn until_ready(&mut self) -> Result<(), PlaygroundError> {
        let started = Instant::now();
        let mut ready = 0;
        loop {
            let Some(member) = self.members.get(ready) else { return Ok(()) };
            let health = http::get::<Value>(member.options.client, "/health", ANSWER_WITHIN).await;
            let why = match health {
                Ok(health) if health["health"] == "true" => {
                    ready += 1;
                    continue;
                }
                Ok(health) => format!("{} says {health}", member.options.name),
                Err(error) => format!("{}: {error}", member.options.name),
            };
            self.check()?;
            if started.elapsed() > READY_WITHIN {
                return Err(PlaygroundError::Late { waited: READY_WITHIN, why });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Where clients of the first member connect.
    pub fn client(&self) -> SocketAddr {
        self.members[0].options.client
    }

    /// Where clients connect, of every member.
    pub fn clients(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.options.client).collect()
    }

    /// The members, in the order of their names.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member of that name.
    ///
    /// # Panics
    /// If there is none: names come from the playground itself.
    pub fn member_mut(&mut self, name: &str) -> &mut Member {
        self.members.iter_mut().find(|m| m.options.name == name).expect("a member of this etcd")
    }

    /// The member that leads the others; `None`: nobody says so.
    pub async fn leader(&self) -> Option<String> {
        for member in &self.members {
            if member.leads().await == Some(true) {
                return Some(member.options.name.clone());
            }
        }
        None
    }

    /// Whether all members run.
    pub fn is_running(&mut self) -> bool {
        self.members.iter_mut().all(Member::is_running)
    }

    /// Kills all members, as the death of their machines would.
    pub async fn kill(&mut self) {
        for member in &mut self.members {
            member.kill().await;
        }
    }

    /// Sends all members a signal, such as the one that freezes them.
    pub fn signal(&mut self, signal: Signal) {
        self.members.iter_mut().for_each(|member| member.signal(signal));
    }

    /// Fails if one ended by itself.
    pub(super) fn check(&mut self) -> Result<(), PlaygroundError> {
        self.members.iter_mut().filter_map(|m| m.process.as_mut()).try_for_each(Running::check)
    }
}
