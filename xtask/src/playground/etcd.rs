//! The store: one etcd.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::PlaygroundError;
use super::home::Home;
use super::http;
use super::ports::Ports;
use super::process::Running;

/// How long etcd may take to answer.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// One etcd that can be killed and started again on its data.
#[derive(Debug)]
pub struct Etcd {
    program: PathBuf,
    data_dir: PathBuf,
    client: SocketAddr,
    peer: SocketAddr,
    process: Option<Running>,
}

impl Etcd {
    /// Starts it on an empty directory and waits until it answers.
    pub(crate) async fn start(
        home: &Home,
        program: &Path,
        ports: &mut Ports,
    ) -> Result<Etcd, PlaygroundError> {
        let mut etcd = Etcd {
            program: program.to_owned(),
            data_dir: home.create_dir("etcd")?,
            client: ports.free()?,
            peer: ports.free()?,
            process: None,
        };
        etcd.restart(home)?;
        etcd.until_ready().await?;
        Ok(etcd)
    }

    /// Starts it on what data there is.
    pub(super) fn restart(&mut self, home: &Home) -> Result<(), PlaygroundError> {
        let (client, peer) = (format!("http://{}", self.client), format!("http://{}", self.peer));
        let args = [
            ("--name", "etcd1".to_owned()),
            ("--data-dir", self.data_dir.display().to_string()),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer.clone()),
            ("--initial-cluster", format!("etcd1={peer}")),
        ];
        let args = args.into_iter().flat_map(|(key, value)| [OsString::from(key), OsString::from(value)]);
        self.process = Some(Running::start(home, "etcd", &self.program, args)?);
        Ok(())
    }

    async fn until_ready(&mut self) -> Result<(), PlaygroundError> {
        let started = Instant::now();
        loop {
            let health = http::get::<Value>(self.client, "/health", Duration::from_secs(1)).await;
            let why = match health {
                Ok(health) if health["health"] == "true" => return Ok(()),
                Ok(health) => format!("etcd says {health}"),
                Err(error) => format!("etcd: {error}"),
            };
            self.check()?;
            if started.elapsed() > READY_WITHIN {
                return Err(PlaygroundError::Late { waited: READY_WITHIN, why });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Where clients connect.
    pub fn client(&self) -> SocketAddr {
        self.client
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

    /// Fails if it ended by itself.
    pub(super) fn check(&mut self) -> Result<(), PlaygroundError> {
        self.process.as_mut().map_or(Ok(()), Running::check)
    }
}
