//! One direction as fast as it goes, on a few streams.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use super::super::encryption::Encryption;
use super::super::figures::{MACHINE_PER_GB, PROXY_PER_GB, Sample, THROUGHPUT, float};
use super::super::meter::Meter;
use super::super::stub::CHUNK;
use super::super::wire;
use super::{Phase, blocking, window};

const GIGABYTE: f64 = 1e9;

/// Which way the bytes go, seen from the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Direction {
    Out,
    In,
}

impl Direction {
    fn database(self) -> &'static str {
        match self {
            Direction::Out => "out",
            Direction::In => "in",
        }
    }
}

trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

pub(in super::super) async fn run(
    address: SocketAddr,
    meter: Meter,
    direction: Direction,
    streams: u32,
    encryption: Option<Encryption>,
    length: Duration,
) -> Result<Sample, String> {
    let measured = blocking(move || {
        let clients = (0..streams).map(|_| {
            let mut stream: Box<dyn Stream> = match &encryption {
                None => Box::new(wire::open(address, direction.database())?.stream),
                Some(encryption) => {
                    Box::new(wire::open_encrypted(address, direction.database(), encryption)?)
                }
            };
            Ok(move |phase: &Phase| {
                let mut chunk = vec![0; CHUNK];
                let mut bytes = 0;
                while !phase.is_over() {
                    let moved = match direction {
                        Direction::Out => stream.read(&mut chunk)?,
                        Direction::In => stream.write(&chunk)?,
                    };
                    if moved == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    bytes += if phase.counts() { moved as u64 } else { 0 };
                }
                Ok(bytes)
            })
        });
        window(meter, length, clients.collect::<io::Result<Vec<_>>>()?)
    })
    .await?;
    let gigabytes = float(measured.results.iter().sum::<u64>()) / GIGABYTE;
    if gigabytes <= 0.0 {
        return Err("no byte came through".to_owned());
    }
    let mut sample = vec![(THROUGHPUT, gigabytes / measured.seconds)];
    sample.extend(measured.spent.proxy.map(|cpu| (PROXY_PER_GB, cpu / gigabytes)));
    sample.push((MACHINE_PER_GB, measured.spent.machine / gigabytes));
    Ok(sample)
}
