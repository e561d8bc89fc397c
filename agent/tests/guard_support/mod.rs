//! A PostgreSQL, an etcd and an agent process for the guard's tests. Everything ends with its owner.

#![allow(unreachable_pub, reason = "a module of test binaries, not of a library")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pgvane_agent::guard::client::{Arming, GuardClient, GuardOptions, StoreAccess};
use pgvane_agent::guard::default_socket;
use pgvane_agent::postgres::process::{kill_everything, processes_of};
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, LeaseId};
use pgvane_cluster::store::etcd::{EtcdOptions, EtcdStore};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// A handle on a process.
pub fn pidfd(pid: Pid) -> OwnedFd {
    pidfd_open(pid, PidfdFlags::empty()).expect("the process lives")
}

/// When the process ended, or `None` if it outlived `wait`.
pub fn gone_within(fd: &OwnedFd, wait: Duration) -> Option<Tick> {
    let by = Tick::now() + wait;
    loop {
        let left = Timespec::try_from(Tick::now().until(by)).expect("a short time");
        match poll(&mut [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)], Some(&left)) {
            Ok(0) => return None,
            Ok(_) => return Some(Tick::now()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("poll: {e}"),
        }
    }
}

/// What an agent process is told to do.
#[derive(Clone, Serialize, Deserialize)]
pub struct Plan {
    pub data_dir: PathBuf,
    pub postmaster: i32,
    pub lease: i64,
    pub ttl: Duration,
    pub deadline_nanos: u64,
    pub budget: Duration,
    pub etcd: Option<String>,
}

impl Plan {
    pub fn deadline(&self) -> Tick {
        Tick::from_nanos(self.deadline_nanos)
    }
}

pub fn options(data_dir: &Path) -> GuardOptions {
    GuardOptions {
        program: PathBuf::from(env!("CARGO_BIN_EXE_pgvane-agent")),
        socket: default_socket(data_dir),
        data_dir: data_dir.to_owned(),
        log: Some(data_dir.with_file_name("guard.log")),
        patroni_lines: false,
        answer_within: Duration::from_secs(5),
    }
}

pub fn arming(plan: &Plan) -> Arming {
    Arming {
        epoch: Epoch(1),
        lease: LeaseId(plan.lease),
        ttl: plan.ttl,
        deadline: plan.deadline(),
        budget: plan.budget,
        postmaster: Pid::from_raw(plan.postmaster),
        store: StoreAccess { endpoints: plan.etcd.clone().into_iter().collect(), ..StoreAccess::default() },
        parting: None,
    }
}

/// The body of an agent process: arms the guard, says so, and waits to be killed.
pub fn play_agent() {
    let Ok(plan) = std::env::var("PGVANE_TEST_PLAN") else { panic!("run by the other tests only") };
    let plan: Plan = serde_json::from_str(&plan).expect("a plan");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let found = GuardClient::start(&options(&plan.data_dir)).await.expect("starts a guard");
        found.client.arm(arming(&plan)).await.expect("arms");
        println!("armed {}", found.report.pid);
        std::future::pending::<()>().await;
    });
}

/// An agent in a process of its own, with its guard armed.
pub struct Agent {
    child: Child,
    pub guard: Pid,
}

impl Agent {
    pub fn start(plan: &Plan) -> Agent {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "role_agent", "--nocapture"])
            .env("PGVANE_TEST_PLAN", serde_json::to_string(plan).expect("serializes"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts an agent");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        // libtest may print its own words on the same line.
        let armed = stdout.lines().map_while(Result::ok).find_map(|line| {
            let (_, pid) = line.split_once("armed ")?;
            Pid::from_raw(pid.trim().parse().ok()?)
        });
        Agent { child, guard: armed.expect("the agent should arm its guard") }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// SIGKILL, and reaped, so that nothing of it is left.
    pub fn kill(mut self) {
        self.child.kill().expect("kills the agent");
        self.child.wait().expect("reaps the agent");
    }

    /// Ends agent and guard of a test that is over.
    pub fn end_guard(self) {
        let guard = self.guard;
        self.kill();
        let _ = kill_process(guard, Signal::KILL);
    }
}

/// A PostgreSQL of this test's own, reachable through a socket in its directory.
pub struct Postgres {
    dir: TempDir,
    pub data_dir: PathBuf,
}

fn bin(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let newest =
        versions.flatten().map(|v| v.path().join("bin")).filter(|b| b.join("postgres").exists()).max();
    newest.expect("PostgreSQL is installed").join(name)
}

/// PostgreSQL refuses to run as root: then it runs as the user its package made.
fn as_postgres(command: &mut Command) -> &mut Command {
    match unprivileged() {
        Some((uid, gid)) => command.uid(uid).gid(gid),
        None => command,
    }
}

fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("a password file");
    let line = passwd.lines().find(|l| l.starts_with("postgres:")).expect("a user named postgres");
    let mut ids = line.split(':').skip(2).map(|id| id.parse().expect("a number"));
    Some((ids.next().expect("uid"), ids.next().expect("gid")))
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Postgres {
    pub fn start() -> Postgres {
        let dir = TempDir::new().expect("a directory");
        if let Some((uid, gid)) = unprivileged() {
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).expect("chown");
        }
        let path = dir.path().canonicalize().expect("a directory");
        let postgres = Postgres { dir, data_dir: path.join("data") };
        run(as_postgres(&mut Command::new(bin("initdb")))
            .args(["--no-sync", "--auth=trust", "--username=postgres", "-D"])
            .arg(&postgres.data_dir));
        let options = format!("-k {} -c listen_addresses= -c fsync=off", path.display());
        run(as_postgres(&mut Command::new(bin("pg_ctl")))
            .args(["start", "--wait", "--silent", "-o", &options, "-l"])
            .arg(path.join("postgres.log"))
            .arg("-D")
            .arg(&postgres.data_dir));
        postgres
    }

    pub fn postmaster(&self) -> Pid {
        let text = fs::read_to_string(self.data_dir.join("postmaster.pid")).expect("a running server");
        let pid = text.lines().next().and_then(|l| l.parse().ok());
        pid.and_then(Pid::from_raw).expect("a process id")
    }

    pub fn postmaster_fd(&self) -> OwnedFd {
        pidfd(self.postmaster())
    }

    pub fn process_fds(&self) -> Vec<OwnedFd> {
        processes_of(&self.data_dir).expect("reads /proc").into_iter().map(pidfd).collect()
    }

    /// A backend that computes for ever, proven to run.
    pub fn busy_backend(&self) -> OwnedFd {
        let endless = "DO $$ BEGIN RAISE NOTICE 'backend %', pg_backend_pid(); LOOP END LOOP; END $$";
        let mut psql = Command::new(bin("psql"));
        psql.args(["-X", "-U", "postgres", "-h"]).arg(self.dir.path()).args(["-c", endless, "postgres"]);
        let mut child = psql.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("runs psql");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let backend = stderr.lines().map_while(Result::ok).find_map(|line| {
            let (_, pid) = line.split_once("backend ")?;
            Pid::from_raw(pid.trim().parse().ok()?)
        });
        // It ends with the backend; nobody needs its words.
        std::thread::spawn(move || child.wait());
        pidfd(backend.expect("the backend should tell its process"))
    }

    /// Starts the server again without waiting for it; the handle is its postmaster's.
    pub fn spawn_again(&self) -> OwnedFd {
        let mut command = Command::new(bin("postgres"));
        command
            .arg("-D")
            .arg(&self.data_dir)
            .arg("-k")
            .arg(self.dir.path())
            .args(["-c", "listen_addresses="]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = as_postgres(&mut command).spawn().expect("starts a server");
        let fd = pidfd(Pid::from_child(&child));
        std::thread::spawn(move || child.wait());
        fd
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Err(left) = kill_everything(&self.data_dir, Tick::now() + Duration::from_secs(5)) {
            eprintln!("left behind: {left}");
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("guard.log")).unwrap_or_default();
            eprintln!("guard log:\n{log}");
        }
    }
}

/// A port that nobody listens on, and below those that outgoing connections take meanwhile.
fn free_port() -> u16 {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    loop {
        let tried = TRIED.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + u16::try_from(std::process::id().wrapping_add(tried) % 5000).expect("it fits");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// An etcd of this test's own.
pub struct Etcd {
    child: Child,
    _dir: TempDir,
    pub url: String,
}

impl Etcd {
    pub fn start() -> Etcd {
        let dir = TempDir::new().expect("a directory");
        let [url, peer] = [(); 2].map(|()| format!("http://127.0.0.1:{}", free_port()));
        let mut child = Command::new("etcd")
            .args(["--name=t", "--logger=zap", "--log-outputs=stderr"])
            .arg(format!("--data-dir={}", dir.path().join("etcd").display()))
            .arg(format!("--listen-client-urls={url}"))
            .arg(format!("--advertise-client-urls={url}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=t={peer}"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts etcd");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let mut seen = Vec::new();
        let ready = lines.by_ref().any(|line| {
            let ready = line.contains("serving client traffic");
            seen.push(line);
            ready
        });
        assert!(ready, "etcd did not start:\n{}", seen.join("\n"));
        std::thread::spawn(move || lines.for_each(drop));
        Etcd { child, _dir: dir, url }
    }

    pub fn store(&self) -> EtcdStore {
        EtcdStore::new(EtcdOptions::new(vec![self.url.clone()]))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
