//! Sockets that systemd has bound: they are used where the settings ask for them.

mod process_support;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use process_support::{Proxy, SOON, page};
use rustix::io::{FdFlags, fcntl_setfd};
use xtask::playground::ports::Ports;

fn topology(admin: SocketAddr) -> Option<serde_json::Value> {
    serde_json::from_str(&page(admin, "/topology")?).ok()
}

#[test]
fn a_port_that_systemd_listens_on_is_served() {
    // What systemd would do: the sockets are the descriptors from 3 on.
    let passed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let unwanted = TcpListener::bind("127.0.0.1:0").expect("a port");
    for socket in [&passed, &unwanted] {
        fcntl_setfd(socket, FdFlags::empty()).expect("to be inherited");
    }
    let (port, stray) = (passed.local_addr().expect("bound"), unwanted.local_addr().expect("bound"));
    let admin = Ports::new().free().expect("a port");
    // It comes before the proxy does, and waits.
    let early = TcpStream::connect_timeout(&port, SOON).expect("systemd listens");

    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("proxy.toml");
    let settings = format!(
        "[admin]\nlisten = [\"{admin}\"]\n[cluster.main.etcd]\nendpoints = [\"http://127.0.0.1:1\"]\n\
         [[listener]]\nrole = \"primary\"\nlisten = [\"{port}\"]\nstartup_timeout = \"60s\"\n"
    );
    fs::write(&file, settings).expect("writes");
    let (one, two) = (passed.as_raw_fd(), unwanted.as_raw_fd());
    // By way of high numbers, as 3 and 4 may be these descriptors themselves.
    let script = format!(
        "exec 103<&{one} 104<&{two}; exec 3<&103 4<&104 103<&- 104<&-; \
         export LISTEN_FDS=2 LISTEN_PID=$$; exec \"$0\" \"$1\""
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_pgvane")]).arg(&file);
    let log = fs::File::create(dir.path().join("log")).expect("a file");
    let errors = log.try_clone().expect("a file");
    let _proxy = Proxy(command.stdout(Stdio::from(log)).stderr(Stdio::from(errors)).spawn().expect("starts"));
    drop((passed, unwanted));

    let started = Instant::now();
    let log = || fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    // Had it bound the port itself, the early client would have been nobody's.
    while topology(admin).is_none_or(|topology| topology["listeners"][0]["sessions"] != 1) {
        assert!(started.elapsed() < SOON, "the early client is not served\n{}", log());
        std::thread::sleep(Duration::from_millis(10));
    }
    let _late = TcpStream::connect_timeout(&port, SOON).expect("still listening");
    assert!(TcpStream::connect_timeout(&stray, SOON).is_err(), "what nobody asks for is closed");
    assert!(log().contains(&format!("address={stray}")), "and told\n{}", log());
    drop(early);
}
