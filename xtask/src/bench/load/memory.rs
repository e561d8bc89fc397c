//! What sessions that do nothing cost in memory.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use super::super::figures::{Figure, KERNEL_FEW, KERNEL_MANY, PSS_FEW, PSS_MANY, Sample, float};
use super::super::meter::{Meter, tcp_memory};
use super::super::wire;
use super::blocking;

/// Sessions open at each reading.
const FEW: usize = 1000;
pub(in super::super) const MANY: usize = 5000;

/// Sessions opened and closed before the first reading, so that what is made once is not counted.
const FIRST: usize = 8;

/// Time for the peer to be done with what sessions opened last.
const SETTLE: Duration = Duration::from_millis(500);

/// `has_proxy`: whether there is a peer whose memory can be read.
pub(in super::super) async fn run(
    address: SocketAddr,
    meter: Meter,
    has_proxy: bool,
) -> Result<Sample, String> {
    blocking(move || {
        drop(open(address, FIRST)?);
        let start = look(meter);
        let mut sessions = open(address, FEW)?;
        let few = look(meter);
        sessions.extend(open(address, MANY - FEW)?);
        let many = look(meter);
        let mut sample = Vec::new();
        if has_proxy {
            sample.push(each(PSS_FEW, start.0, few.0, FEW));
            sample.push(each(PSS_MANY, start.0, many.0, MANY));
        }
        sample.push(each(KERNEL_FEW, start.1, few.1, FEW));
        sample.push(each(KERNEL_MANY, start.1, many.1, MANY));
        Ok(sample)
    })
    .await
}

/// Opens sessions that will do nothing.
pub(in super::super) fn open(address: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    (0..count).map(|_| Ok(wire::open(address, "idle")?.stream)).collect()
}

fn look(meter: Meter) -> (u64, u64) {
    thread::sleep(SETTLE);
    (meter.memory(), tcp_memory())
}

fn each(figure: Figure, before: u64, after: u64, sessions: usize) -> (Figure, f64) {
    (figure, (float(after) - float(before)) / float(sessions as u64))
}
