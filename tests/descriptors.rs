//! What the proxy does when the system has no more descriptors for it: it waits, without a busy loop, and goes on.

mod process_support;

use std::fs;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use process_support::{Proxy, SOON, page};
use xtask::playground::ports::Ports;

/// Open files the proxy may have.
const LIMIT: usize = 96;

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < SOON, "waited {SOON:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn at_the_limit_of_descriptors_it_waits_and_then_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("proxy.toml");
    let mut ports = Ports::new();
    let (port, admin) = (ports.free().expect("a port"), ports.free().expect("a port"));
    // Nobody serves, so that everybody who comes is held.
    let settings = format!(
        "[process]\nworkers = 1\n[admin]\nlisten = [\"{admin}\"]\n\
         [cluster.main.etcd]\nendpoints = [\"http://127.0.0.1:1\"]\n\
         [[listener]]\nrole = \"primary\"\nlisten = [\"{port}\"]\nstartup_timeout = \"60s\"\n"
    );
    fs::write(&file, settings).expect("writes");
    let script = format!("ulimit -n {LIMIT}; exec \"$0\" \"$1\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_pgvane")]).arg(&file);
    let mut proxy = Proxy(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts"));
    until("it answers", || page(admin, "/livez").is_some());

    // All of them connect: those that are not accepted wait in the kernel's queue.
    let clients: Vec<_> = (0..2 * LIMIT)
        .map(|_| TcpStream::connect_timeout(&port, SOON).expect("the kernel takes it"))
        .collect();
    until("its descriptors are used up", || proxy.descriptors() >= LIMIT - 1);
    let (before, watched) = (proxy.used(), Duration::from_secs(1));
    std::thread::sleep(watched);
    let used = proxy.used().saturating_sub(before);
    assert!(used < watched / 4, "it used {used:?} of {watched:?}: a busy loop");
    assert!(proxy.0.try_wait().expect("it can be asked").is_none(), "it ended");

    drop(clients);
    until("it answers again", || page(admin, "/livez").is_some());
    let errors = || {
        let text = page(admin, "/metrics")?;
        let line =
            text.lines().find_map(|l| l.strip_prefix("pgvane_accept_errors_total{listener=\"primary\"} "))?;
        line.parse::<u64>().ok()
    };
    until("what failed is counted", || errors().is_some_and(|count| count > 0));
    until("who left is gone", || {
        page(admin, "/metrics").is_some_and(|text| text.contains("pgvane_sessions{listener=\"primary\"} 0"))
    });
    // And it serves: whoever comes is held, and counted.
    let _client = TcpStream::connect_timeout(&port, SOON).expect("the kernel takes it");
    until("a new client is accepted", || {
        page(admin, "/metrics").is_some_and(|text| text.contains("pgvane_sessions{listener=\"primary\"} 1"))
    });
}
