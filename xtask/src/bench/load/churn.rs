//! Sessions that end as soon as they are open.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use super::super::encryption::Encryption;
use super::super::figures::{CONNECTIONS, MACHINE_PER_CONNECTION, PROXY_PER_CONNECTION, Sample, float};
use super::super::meter::Meter;
use super::super::wire;
use super::{Phase, blocking, window};

const MICROS: f64 = 1e6;

pub(in super::super) async fn run(
    address: SocketAddr,
    meter: Meter,
    clients: u32,
    encryption: Option<Encryption>,
    length: Duration,
) -> Result<Sample, String> {
    let client = move |phase: &Phase| -> io::Result<u64> {
        let mut sessions = 0;
        while !phase.is_over() {
            match &encryption {
                None => wire::open(address, "idle")?.stream.write_all(&wire::TERMINATE)?,
                Some(encryption) => {
                    let mut stream = wire::open_encrypted(address, "idle", encryption)?;
                    stream.write_all(&wire::TERMINATE)?;
                    stream.conn.send_close_notify();
                    stream.flush()?;
                }
            }
            sessions += u64::from(phase.counts());
        }
        Ok(sessions)
    };
    let clients: Vec<_> = (0..clients).map(|_| client.clone()).collect();
    let measured = blocking(move || window(meter, length, clients)).await?;
    let sessions = float(measured.results.iter().sum::<u64>());
    if sessions <= 0.0 {
        return Err("no session was opened".to_owned());
    }
    let mut sample = vec![(CONNECTIONS, sessions / measured.seconds)];
    sample.extend(measured.spent.proxy.map(|cpu| (PROXY_PER_CONNECTION, cpu * MICROS / sessions)));
    sample.push((MACHINE_PER_CONNECTION, measured.spent.machine * MICROS / sessions));
    Ok(sample)
}
