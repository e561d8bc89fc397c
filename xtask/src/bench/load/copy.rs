//! COPY of the real server, one stream. The server's own work is most of it.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::super::figures::{MACHINE_PER_GB, PROXY_PER_GB, Sample, THROUGHPUT, float};
use super::super::meter::Meter;
use super::super::stage::Stage;
use super::bulk::Direction;

/// A hundred megabytes a second and less is what a busy machine does; this is far from it.
const LIMIT: Duration = Duration::from_mins(3);

const GIGABYTE: f64 = 1e9;

/// Copies the whole table, once for every two seconds that a measurement is to last.
pub(in super::super) async fn run(
    stage: &mut Stage,
    address: SocketAddr,
    meter: Meter,
    direction: Direction,
    length: Duration,
) -> Result<Sample, String> {
    let rows = stage.rows.display().to_string();
    let bytes = fs::metadata(&stage.rows).map_err(|e| format!("{rows}: {e}"))?.len();
    let times = length.as_secs().div_ceil(2).max(1);
    let once = match direction {
        Direction::Out => vec!["COPY pgbench_accounts TO STDOUT".to_owned()],
        Direction::In => vec!["TRUNCATE copied".to_owned(), format!("\\copy copied FROM '{rows}'")],
    };
    let commands: Vec<_> = (0..times).flat_map(|_| once.iter().map(String::as_str)).collect();
    let (before, started) = (meter.read(), Instant::now());
    stage.psql(address, LIMIT, &commands).await?;
    let (seconds, spent) = (started.elapsed().as_secs_f64(), meter.read().since(&before));
    let gigabytes = float(bytes * times) / GIGABYTE;
    let mut sample = vec![(THROUGHPUT, gigabytes / seconds)];
    sample.extend(spent.proxy.map(|cpu| (PROXY_PER_GB, cpu / gigabytes)));
    sample.push((MACHINE_PER_GB, spent.machine / gigabytes));
    Ok(sample)
}
