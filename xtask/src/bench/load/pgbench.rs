//! pgbench's read-only transactions on the real server.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::super::figures::{
    CONNECTIONS, MACHINE_PER_CONNECTION, MACHINE_PER_TRANSACTION, MEAN, P99_MS, PROXY_PER_CONNECTION,
    PROXY_PER_TRANSACTION, Sample, TRANSACTIONS, quantile,
};
use super::super::meter::Meter;
use super::super::stage::Stage;

/// Share of the transactions whose latency is written down.
const SAMPLED: &str = "0.2";

/// Time for the clients to connect and to end, beyond what they were told to run.
const MARGIN: Duration = Duration::from_secs(20);

const MICROS: f64 = 1e6;

/// How pgbench is to talk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct Talk {
    pub(in super::super) mode: &'static str,
    pub(in super::super) clients: u32,
    /// Whether each transaction gets a connection of its own.
    pub(in super::super) reconnect: bool,
    pub(in super::super) encrypted: bool,
}

pub(in super::super) async fn run(
    stage: &mut Stage,
    address: SocketAddr,
    meter: Meter,
    talk: Talk,
    length: Duration,
) -> Result<Sample, String> {
    let dir = stage.directory("latency")?;
    let prefix = format!("--log-prefix={}/log", dir.display());
    let sampled = format!("--sampling-rate={SAMPLED}");
    let (clients, seconds) = (talk.clients.to_string(), length.as_secs().to_string());
    let mut args = vec!["-n", "-S", "-M", talk.mode, "-c", &clients, "-j", "2", "-T", &seconds];
    if talk.reconnect {
        args.push("-C");
    } else {
        args.extend(["-l", &prefix, &sampled]);
    }
    let before = meter.read();
    let said = stage.pgbench(address, talk.encrypted, length + MARGIN, &args).await;
    let spent = meter.read().since(&before);
    let micros = latencies(&dir);
    // Nobody needs it any more; what stays goes with the whole directory.
    let _ = fs::remove_dir_all(&dir);
    let said = Said::parse(&said?)?;
    let proxy = spent.proxy.map(|cpu| cpu * MICROS / said.transactions);
    let machine = spent.machine * MICROS / said.transactions;
    if talk.reconnect {
        let mut sample = vec![(CONNECTIONS, said.per_second)];
        sample.extend(proxy.map(|cpu| (PROXY_PER_CONNECTION, cpu)));
        sample.push((MACHINE_PER_CONNECTION, machine));
        return Ok(sample);
    }
    let p99 = quantile(&micros, 0.99) / 1e3;
    let mut sample = vec![(TRANSACTIONS, said.per_second), (MEAN, said.mean_ms), (P99_MS, p99)];
    sample.extend(proxy.map(|cpu| (PROXY_PER_TRANSACTION, cpu)));
    sample.push((MACHINE_PER_TRANSACTION, machine));
    Ok(sample)
}

/// What pgbench prints at its end.
#[derive(PartialEq, Debug)]
struct Said {
    transactions: f64,
    mean_ms: f64,
    per_second: f64,
}

impl Said {
    fn parse(text: &str) -> Result<Said, String> {
        let find = |label: &str| {
            let rest = text.lines().find_map(|line| line.strip_prefix(label));
            let number = rest.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
            number
                .filter(|number| *number > 0.0)
                .ok_or_else(|| format!("pgbench does not say `{label}`:\n{text}"))
        };
        Ok(Said {
            transactions: find("number of transactions actually processed: ")?,
            mean_ms: find("latency average = ")?,
            per_second: find("tps = ")?,
        })
    }
}

/// The latencies in pgbench's logs, in microseconds, sorted.
fn latencies(dir: &Path) -> Vec<u32> {
    let logs = fs::read_dir(dir).into_iter().flatten().flatten();
    let texts = logs.filter_map(|log| fs::read_to_string(log.path()).ok());
    let mut micros: Vec<u32> =
        texts.flat_map(|text| text.lines().filter_map(latency).collect::<Vec<_>>()).collect();
    micros.sort_unstable();
    micros
}

/// The third field: client, transaction, latency, ...
fn latency(line: &str) -> Option<u32> {
    line.split(' ').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pgbench_says_is_understood() {
        let text = "pgbench (15.14)\nnumber of transactions actually processed: 42\n\
                    latency average = 0.125 ms\ninitial connection time = 3.1 ms\n\
                    tps = 8000.5 (without initial connection time)\n";
        let expected = Said { transactions: 42.0, mean_ms: 0.125, per_second: 8000.5 };
        assert_eq!(Said::parse(text), Ok(expected));
        assert!(Said::parse("number of transactions actually processed: 0\n").is_err());
    }

    #[test]
    fn latencies_are_the_third_field_of_all_logs() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("log.1"), "0 1 900 0 1700000000 1\n1 1 100 0 1700000000 2\n")
            .expect("writes");
        fs::write(dir.path().join("log.1.1"), "2 1 500 0 1700000000 1\nbroken\n").expect("writes");
        assert_eq!(latencies(dir.path()), [100, 500, 900]);
    }
}
