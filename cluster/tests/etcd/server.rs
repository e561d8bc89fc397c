//! Real etcd processes for the tests: started on free ports, killed when dropped.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const START_LIMIT: Duration = Duration::from_secs(30);

/// One etcd member, whose data outlives its process.
pub(crate) struct Etcd {
    dir: Arc<TempDir>,
    name: String,
    scheme: &'static str,
    pub(crate) port: u16,
    args: Vec<String>,
    child: Option<Child>,
    log: Arc<Mutex<String>>,
}

/// Certificates made for one test.
pub(crate) struct Certificates {
    dir: TempDir,
}

impl Etcd {
    /// A single member without TLS, ready.
    pub(crate) fn start() -> Etcd {
        let mut etcd = Etcd::prepared("http", &[]);
        etcd.run();
        etcd.wait_ready();
        etcd
    }

    /// A single member that speaks TLS and wants client certificates.
    pub(crate) fn start_tls(certificates: &Certificates) -> Etcd {
        let path = |name: &str| certificates.path(name).display().to_string();
        let args = [
            format!("--cert-file={}", path("server.crt")),
            format!("--key-file={}", path("server.key")),
            format!("--trusted-ca-file={}", path("ca.crt")),
            "--client-cert-auth".to_owned(),
        ];
        let mut etcd = Etcd::prepared("https", &args);
        etcd.run();
        etcd.wait_ready();
        etcd
    }

    /// A cluster of three members, ready.
    pub(crate) fn start_three() -> [Etcd; 3] {
        let mut members = ["a", "b", "c"].map(|name| Etcd::member(name, "http", &[]));
        let peers: Vec<_> =
            members.iter().map(|(etcd, peer)| format!("{}={}", etcd.name, peer_url(*peer))).collect();
        for (etcd, _) in &mut members {
            etcd.args.push(format!("--initial-cluster={}", peers.join(",")));
            etcd.run();
        }
        members.map(|(mut etcd, _)| {
            etcd.wait_ready();
            etcd
        })
    }

    fn prepared(scheme: &'static str, extra: &[String]) -> Etcd {
        let (mut etcd, peer) = Etcd::member("single", scheme, extra);
        etcd.args.push(format!("--initial-cluster=single={}", peer_url(peer)));
        etcd
    }

    fn member(name: &str, scheme: &'static str, extra: &[String]) -> (Etcd, u16) {
        let dir = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        let [port, peer] = free_ports();
        let url = format!("{scheme}://127.0.0.1:{port}");
        let mut args = vec![
            format!("--name={name}"),
            format!("--data-dir={}", dir.path().join("data").display()),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
            format!("--listen-peer-urls={}", peer_url(peer)),
            format!("--initial-advertise-peer-urls={}", peer_url(peer)),
            "--logger=zap".to_owned(),
            "--log-outputs=stderr".to_owned(),
        ];
        args.extend_from_slice(extra);
        let etcd = Etcd { dir, name: name.to_owned(), scheme, port, args, child: None, log: Arc::default() };
        (etcd, peer)
    }

    /// Starts the process on the data there is.
    pub(crate) fn run(&mut self) {
        // Another one than this machine's is named by `cargo xtask versions`.
        let child = Command::new(std::env::var_os("PGVANE_ETCD").unwrap_or_else(|| "etcd".into()))
            .args(&self.args)
            .current_dir(self.dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let child = child.unwrap_or_else(|e| {
            panic!("these tests need an etcd in PATH (apt install etcd-server): {e}");
        });
        self.child = Some(child);
    }

    /// Waits until the process says that it serves clients, which it does once it has a leader.
    pub(crate) fn wait_ready(&mut self) {
        let ready = self.read_log();
        let log = || self.log.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert!(ready.recv_timeout(START_LIMIT).is_ok(), "etcd did not get ready:\n{}", log());
    }

    fn read_log(&mut self) -> Receiver<()> {
        let (tell, ready) = channel();
        let stderr = self.child.as_mut().and_then(|c| c.stderr.take()).expect("it runs and is not read yet");
        let log = Arc::clone(&self.log);
        // Goes on reading to the end, so that etcd never waits for a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if line.contains("serving client traffic") {
                    let _ = tell.send(());
                }
                let _ = writeln!(log.lock().unwrap_or_else(PoisonError::into_inner), "{line}");
            }
        });
        ready
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            kill_process(Pid::from_child(child), signal).expect("our child can be signalled");
        }
    }

    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills the process; the data stays.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Calls etcd's JSON gateway, for what only operators do.
    pub(crate) fn post(&self, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("etcd listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("the request is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{path} {body}: {answer}");
        answer
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Certificates {
    /// A CA, and certificates of a server on loopback and of a client, by the openssl program.
    pub(crate) fn new() -> Certificates {
        let certificates = Certificates { dir: tempfile::tempdir().expect("a temporary directory") };
        let ca = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.crt";
        certificates.openssl(ca);
        for (name, usage) in [("server", "serverAuth,clientAuth"), ("client", "clientAuth")] {
            let extensions = format!("subjectAltName=IP:127.0.0.1\nextendedKeyUsage={usage}\n");
            std::fs::write(certificates.path("ext"), extensions).expect("writes");
            certificates.openssl(&format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
            ));
            certificates.openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out {name}.crt"
            ));
        }
        certificates
    }

    fn openssl(&self, args: &str) {
        let output = Command::new("openssl").args(args.split(' ')).current_dir(self.dir.path()).output();
        let output = output.expect("these tests need openssl in PATH");
        assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        Path::new(self.dir.path()).join(name)
    }
}

fn peer_url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// Ports that were free a moment ago.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let sockets =
        [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port"));
    sockets.map(|s| s.local_addr().expect("it is bound").port())
}
