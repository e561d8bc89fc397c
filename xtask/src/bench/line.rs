//! One peer between clients and one server, for the time of one measurement.

use std::net::SocketAddr;

use super::encryption::{Certificate, Encryption};
use super::keys;
use super::meter::Meter;
use super::options::Peer;
use super::settings::{self, Checked, Site};
use super::stage::{Held, Stage};
use super::wire;

/// Where clients connect, and what stands there.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) address: SocketAddr,
    held: Option<Held>,
}

impl Line {
    /// Starts `peer` in front of `server` and waits until sessions open through it.
    pub(super) async fn start(
        stage: &mut Stage,
        peer: Peer,
        server: SocketAddr,
        tls: Option<&(Certificate, Encryption)>,
    ) -> Result<Line, String> {
        if peer == Peer::Direct {
            return Ok(Line { address: server, held: None });
        }
        let listen = stage.port()?;
        let admin = stage.port()?;
        let dir = stage.dir().to_owned();
        let (cores, sessions) = (stage.cores, stage.sessions);
        let site =
            Site { listen, server, cores, sessions, dir: &dir, tls: tls.map(|(certificate, _)| certificate) };
        let text = match peer {
            Peer::Direct | Peer::Haproxy => settings::haproxy(&site, false),
            Peer::HaproxySplice => settings::haproxy(&site, true),
            Peer::Nginx => {
                let module = stage.rivals.nginx.as_ref().and_then(|nginx| nginx.module.as_deref());
                settings::nginx(&site, module)
            }
            Peer::Pgbouncer => settings::pgbouncer(&site),
            Peer::Pgvane | Peer::PgvaneBase => {
                keys::lead(stage.etcd, &[server], 0).await?;
                settings::pgvane(&site, stage.etcd, admin)
            }
        };
        Line::with_settings(stage, peer, listen, &text, tls.map(|(_, encryption)| encryption)).await
    }

    /// HAProxy in front of two servers, which it asks who is the primary.
    pub(super) async fn checked(stage: &mut Stage, servers: &[Checked; 2]) -> Result<Line, String> {
        let listen = stage.port()?;
        let dir = stage.dir().to_owned();
        let server = servers[0].server;
        let (cores, sessions) = (stage.cores, stage.sessions);
        let site = Site { listen, server, cores, sessions, dir: &dir, tls: None };
        let text = settings::haproxy_with_checks(&site, servers);
        Line::with_settings(stage, Peer::Haproxy, listen, &text, None).await
    }

    async fn with_settings(
        stage: &mut Stage,
        peer: Peer,
        address: SocketAddr,
        text: &str,
        encryption: Option<&Encryption>,
    ) -> Result<Line, String> {
        let file = stage.write(peer.name(), text)?;
        let missing = || format!("{} is not installed", peer.name());
        let rivals = &stage.rivals;
        let (program, args) = match peer {
            Peer::Direct | Peer::Pgvane => (stage.proxy(), vec![file.as_str()]),
            Peer::Haproxy | Peer::HaproxySplice => {
                let program = rivals.haproxy.as_ref().ok_or_else(missing)?;
                (stage.copy_of(program), vec!["-db", "-f", &file])
            }
            Peer::PgvaneBase => {
                let program = rivals.base.as_ref().ok_or_else(missing)?;
                (stage.copy_of(program), vec![file.as_str()])
            }
            Peer::Nginx => {
                let nginx = rivals.nginx.as_ref().ok_or_else(missing)?;
                (stage.copy_of(&nginx.program), vec!["-e", "stderr", "-c", &file])
            }
            Peer::Pgbouncer => {
                let program = rivals.pgbouncer.as_ref().ok_or_else(missing)?;
                (stage.copy_of(program), vec!["-q", &file])
            }
        };
        let mut held = stage.start(peer.name(), &program, &args)?;
        match encryption.cloned() {
            // Its clients ask first, so it does not understand ours.
            Some(_) if peer == Peer::Pgbouncer => {
                let attempt = move || std::net::TcpStream::connect(address).map(drop);
                stage.until(Some(&mut held), address, attempt).await?;
            }
            Some(encryption) => {
                let attempt = move || wire::open_encrypted(address, "postgres", &encryption).map(drop);
                stage.until(Some(&mut held), address, attempt).await?;
            }
            None => stage.until_ready(address, Some(&mut held)).await?,
        }
        Ok(Line { address, held: Some(held) })
    }

    pub(super) fn meter(&self) -> Meter {
        Meter::new(self.held.as_ref().map(Held::group))
    }

    pub(super) async fn stop(self) {
        if let Some(held) = self.held {
            held.stop().await;
        }
    }
}
