//! The store: etcd, of one member or several; open to everybody, or guarded as in production.

pub mod access;
mod guard;
mod packaged;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper::Method;
use rustix::process::Signal;
use serde_json::Value;

use self::access::EtcdAccess;
use self::guard::Guard;
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
    /// Where its health and metrics are told, without TLS.
    pub(crate) observe: SocketAddr,
    /// Where it runs.
    pub(crate) place: Place,
}

/// One member.
#[derive(Debug)]
pub struct Member {
    options: MemberOptions,
    data_dir: PathBuf,
    process: Option<Running>,
    /// Whether it came to members that were there already.
    joins: bool,
}

impl Member {
    fn prepare(home: &Home, options: MemberOptions, joins: bool) -> Result<Member, PlaygroundError> {
        let data_dir = home.create_dir(&options.name)?;
        home.create_dir(&format!("{}.tls", options.name))?;
        Ok(Member { options, data_dir, process: None, joins })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Running::is_running)
    }

    /// Where its health and metrics are told.
    pub fn observe(&self) -> SocketAddr {
        self.options.observe
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
        let asked =
            http::request(Method::GET, self.options.observe, "/metrics", String::new(), ANSWER_WITHIN).await;
        let metrics = asked.ok()?.1;
        let metrics = String::from_utf8_lossy(&metrics);
        metrics.lines().find_map(|line| line.strip_prefix("etcd_server_is_leader ")).map(|value| value == "1")
    }

    /// What it is started with where etcd is open.
    fn open_args(&self, cluster: String) -> Vec<OsString> {
        let MemberOptions { name, client, peer, observe, .. } = &self.options;
        let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
        let args = [
            ("--name", name.clone()),
            ("--data-dir", self.data_dir.display().to_string()),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer),
            ("--listen-metrics-urls", format!("http://{observe}")),
            ("--initial-cluster", cluster),
        ];
        args.into_iter().flat_map(|(key, value)| [OsString::from(key), OsString::from(value)]).collect()
    }

    /// What its settings file says where etcd is guarded.
    fn guarded_settings(&self, cluster: String, more: &[(String, String)]) -> String {
        let MemberOptions { name, client, peer, observe, .. } = &self.options;
        let (client, peer) = (format!("https://{client}"), format!("https://{peer}"));
        let state = if self.joins { "existing" } else { "new" };
        let changed = [
            ("name", name.clone()),
            ("data-dir", self.data_dir.display().to_string()),
            ("listen-client-urls", client.clone()),
            ("advertise-client-urls", client),
            ("listen-peer-urls", peer.clone()),
            ("initial-advertise-peer-urls", peer),
            ("listen-metrics-urls", format!("http://{observe}")),
            ("initial-cluster", cluster),
            ("initial-cluster-state", state.to_owned()),
        ];
        packaged::settings(&changed, more, &self.tls_dir().display().to_string())
    }

    fn tls_dir(&self) -> PathBuf {
        self.data_dir.with_extension("tls")
    }
}

/// An etcd whose members can be killed and started again on their data.
#[derive(Debug)]
pub struct Etcd {
    program: PathBuf,
    members: Vec<Member>,
    /// Certificates and passwords; `None`: open to everybody.
    guard: Option<Guard>,
    /// More keys of the settings, where it is guarded.
    more: Vec<(String, String)>,
}

/// How etcd is set up beyond its addresses.
#[derive(Clone, Debug, Default)]
pub struct EtcdOptions {
    /// TLS, users and roles, and the settings of packaging/etcd; open and plain unless told.
    pub guarded: bool,
    /// Keys of its settings file that differ from the shipped ones; of a guarded one only.
    pub more: Vec<(String, String)>,
}

impl Etcd {
    /// Starts one member on loopback, on an empty directory, and waits until it answers.
    pub(crate) async fn start(
        home: &Home,
        program: &Path,
        ports: &mut Ports,
    ) -> Result<Etcd, PlaygroundError> {
        let member = loopback("etcd".to_owned(), ports)?;
        Etcd::start_members(home, program, vec![member], &EtcdOptions::default()).await
    }

    /// Starts these members on empty directories and waits until all of them answer.
    pub(crate) async fn start_members(
        home: &Home,
        program: &Path,
        members: Vec<MemberOptions>,
        options: &EtcdOptions,
    ) -> Result<Etcd, PlaygroundError> {
        let members = members.into_iter().map(|options| Member::prepare(home, options, false));
        let members = members.collect::<Result<_, PlaygroundError>>()?;
        let guard = options.guarded.then(|| Guard::prepare(home)).transpose()?;
        let mut etcd = Etcd { program: program.to_owned(), members, guard, more: options.more.clone() };
        etcd.sign_members(home)?;
        etcd.restart(home)?;
        etcd.until_ready().await?;
        if let Some(guard) = &etcd.guard {
            guard.switch_on(&etcd.clients()).await?;
        }
        Ok(etcd)
    }

    /// Starts every member that does not run, on what data there is.
    pub(super) fn restart(&mut self, home: &Home) -> Result<(), PlaygroundError> {
        let scheme = if self.guard.is_some() { "https" } else { "http" };
        let peer = |member: &Member| format!("{}={scheme}://{}", member.options.name, member.options.peer);
        let cluster = self.members.iter().map(peer).collect::<Vec<_>>().join(",");
        for member in &mut self.members {
            if member.is_running() {
                continue;
            }
            let args = if self.guard.is_some() {
                let file = member.data_dir.with_extension("yml");
                home.write(&file, &member.guarded_settings(cluster.clone(), &self.more))?;
                vec!["--config-file".into(), file.into_os_string()]
            } else {
                member.open_args(cluster.clone())
            };
            let MemberOptions { name, place, .. } = &member.options;
            member.process = Some(Running::start_at(home, place, name, &self.program, args, [])?);
        }
        Ok(())
    }

    fn sign_members(&self, home: &Home) -> Result<(), PlaygroundError> {
        let Some(guard) = &self.guard else { return Ok(()) };
        self.members.iter().try_for_each(|m| guard.sign_member(home, &m.tls_dir(), m.options.client))
    }

    /// Writes new certificates for all members and clients over the old ones; who signs stays the same.
    pub(super) fn renew_certificates(&self, home: &Home) -> Result<(), PlaygroundError> {
        self.sign_members(home)?;
        self.guard()?.renew_clients(home)
    }

    fn guard(&self) -> Result<&Guard, PlaygroundError> {
        self.guard
            .as_ref()
            .ok_or_else(|| PlaygroundError::Refused("this etcd is open to everybody".to_owned()))
    }

    /// How `name` (agent, proxy, reader, operator) comes in; with its password, or by its certificate alone. The same for
    /// all where etcd is open.
    pub fn access(&self, name: &str, by_password: bool) -> EtcdAccess {
        let endpoints = self.clients();
        match &self.guard {
            Some(guard) => guard.access(endpoints, name, by_password),
            None => EtcdAccess { endpoints, ..EtcdAccess::default() },
        }
    }

    /// What etcd's own tool says to its operator, who may do everything, at all members that run.
    pub async fn ctl(&mut self, args: &[&str]) -> Result<String, PlaygroundError> {
        self.ctl_as("root", args).await
    }

    /// The same as a user of the cluster, by its whole name.
    pub async fn ctl_as(&mut self, user: &str, args: &[&str]) -> Result<String, PlaygroundError> {
        let running = self.members.iter_mut().filter_map(|m| m.is_running().then_some(m.options.client));
        let running: Vec<_> = running.collect();
        self.guard()?.ctl(&running, user, args).await
    }

    /// The same at one member alone.
    pub async fn ctl_at(&self, member: &str, args: &[&str]) -> Result<String, PlaygroundError> {
        let found = self.members.iter().find(|m| m.options.name == member).map(|m| m.options.client);
        self.guard()?.ctl(found.as_slice(), "root", args).await
    }

    /// Makes the roles and users of another cluster.
    pub async fn authorise(&self, scope: &str) -> Result<(), PlaygroundError> {
        self.guard()?.auth(&self.clients(), &[scope]).await
    }

    /// Removes a member for good, and starts another one, on an address of its own and without data, in its place.
    pub(super) async fn replace(
        &mut self,
        home: &Home,
        ports: &mut Ports,
        name: &str,
    ) -> Result<String, PlaygroundError> {
        let place = self.members.iter().position(|member| member.options.name == name);
        let place = place.ok_or_else(|| PlaygroundError::Refused(format!("etcd has no member {name}")))?;
        self.members[place].kill().await;
        self.members.remove(place);
        let listed = self.ctl(&["member", "list"]).await?;
        let of_member = |line: &str| line.split(", ").nth(2) == Some(name);
        let id = listed.lines().find(|line| of_member(line)).and_then(|line| line.split(',').next());
        let id = id.ok_or_else(|| PlaygroundError::Refused(format!("{name} is not in\n{listed}")))?;
        self.ctl(&["member", "remove", id]).await?;
        let new = format!("{name}-new");
        let member = Member::prepare(home, loopback(new.clone(), ports)?, true)?;
        let peer = format!("--peer-urls=https://{}", member.options.peer);
        let started = Instant::now();
        // It wants the others to have been connected for a while.
        while let Err(error) = self.ctl(&["member", "add", &new, &peer]).await {
            let may_pass = error.to_string().contains("unhealthy cluster");
            if !may_pass || started.elapsed() > READY_WITHIN {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.guard()?.sign_member(home, &member.tls_dir(), member.options.client)?;
        self.members.push(member);
        self.restart(home)?;
        self.until_ready().await?;
        Ok(new)
    }

    async fn until_ready(&mut self) -> Result<(), PlaygroundError> {
        let started = Instant::now();
        let mut ready = 0;
        loop {
            let Some(member) = self.members.get(ready) else { return Ok(()) };
            let health = http::get::<Value>(member.options.observe, "/health", ANSWER_WITHIN).await;
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

    /// The members' names.
    pub fn names(&self) -> Vec<String> {
        self.members.iter().map(|member| member.name().to_owned()).collect()
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

/// A member on ports of this machine.
pub(super) fn loopback(name: String, ports: &mut Ports) -> Result<MemberOptions, PlaygroundError> {
    let (client, peer, observe) = (ports.free()?, ports.free()?, ports.free()?);
    Ok(MemberOptions { name, client, peer, observe, place: Place::default() })
}
