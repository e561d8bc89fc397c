//! The log's reader goes away, as the other end of a pipe does. The proxy serves on, and ends when it is told to.

mod process_support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use process_support::{Proxy, SOON, page};
use rustix::process::{Pid, Signal, kill_process};
use xtask::playground::ports::Ports;

#[test]
fn a_log_that_nobody_reads_any_more_stops_nothing() {
    let mut ports = Ports::new();
    let (port, admin) = (ports.free().expect("a port"), ports.free().expect("a port"));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("proxy.toml");
    let settings = format!(
        "[admin]\nlisten = [\"{admin}\"]\n[drain]\nnotice = \"0s\"\n[cluster.main.etcd]\n\
         endpoints = [\"http://127.0.0.1:1\"]\n[[listener]]\nrole = \"primary\"\nlisten = [\"{port}\"]\n"
    );
    fs::write(&file, settings).expect("writes");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgvane"));
    command.arg(&file).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut proxy = Proxy(command.spawn().expect("starts"));
    let mut log = BufReader::new(proxy.0.stderr.take().expect("piped")).lines();
    let runs = |line: std::io::Result<String>| line.expect("UTF-8").contains("pgvane runs");
    assert!(log.any(runs), "it never ran");
    drop(log);

    // Lines come whenever etcd does not answer, and with the signal.
    let began = Instant::now();
    while page(admin, "/livez").is_none() {
        assert!(began.elapsed() < SOON, "it does not answer");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = Pid::from_child(&proxy.0);
    kill_process(pid, Signal::TERM).expect("lives");
    let began = Instant::now();
    let status = loop {
        if let Some(status) = proxy.0.try_wait().expect("can be waited for") {
            break status;
        }
        assert!(began.elapsed() < SOON, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success(), "{status}");
}
