//! What goes wrong before there is a cluster: each mistake ends with one message that names it, and with nothing
//! touched.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use xtask::playground::ports::Ports;

/// Nothing listens there: port 1 is nobody's, and needs root.
const NO_ETCD: &str = "http://127.0.0.1:1";

/// A user that is not root, for the agent refuses to be; any number will do.
const NOBODY: u32 = 65534;

/// A directory with settings, for one of the two servers.
struct Bench {
    dir: TempDir,
    program: PathBuf,
}

impl Bench {
    fn proxy() -> Bench {
        Bench::with(Path::new(env!("CARGO_BIN_EXE_pgvane")))
    }

    fn agent() -> Bench {
        let bench = Bench::with(&xtask::programs::built().expect("built").agent);
        // bin_dir must hold a `postgres`; none of these tests gets as far as to run it.
        fs::write(bench.dir.path().join("postgres"), "").expect("writes");
        bench
    }

    fn with(program: &Path) -> Bench {
        let dir = tempfile::tempdir().expect("a directory");
        // A program in somebody's home could not be run by the user below.
        let copy = dir.path().join(program.file_name().expect("a program"));
        fs::hard_link(program, &copy).or_else(|_| fs::copy(program, &copy).map(drop)).expect("copies");
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("opens the directory");
        Bench { dir, program: copy }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the settings, and makes everything belong to the user the program runs as.
    fn command(&self, settings: &str, arguments: &[&str]) -> Command {
        let file = self.path("settings.toml");
        fs::write(&file, settings).expect("writes");
        fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("closes the file");
        let mut command = Command::new(&self.program);
        command.args(arguments).arg(&file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if rustix::process::geteuid().is_root() {
            for path in [self.dir.path(), &file] {
                std::os::unix::fs::chown(path, Some(NOBODY), None).expect("hands it over");
            }
            command.uid(NOBODY);
        }
        command
    }

    /// Exit code and everything that was said, with the directory's name taken out.
    fn run(&self, settings: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.command(settings, arguments).output().expect("runs");
        let said = [output.stdout, output.stderr].concat();
        let here = format!("{}/", self.dir.path().display());
        (output.status.code(), String::from_utf8_lossy(&said).replace(&here, ""))
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).expect("lists");
        let name = |e: std::io::Result<fs::DirEntry>| e.expect("an entry").file_name().into_string();
        let mut names: Vec<String> = entries.map(|e| name(e).expect("a name")).collect();
        names.sort();
        names
    }
}

fn proxy_settings(more: &str) -> String {
    format!("{more}\n[cluster.main.etcd]\nendpoints = [\"{NO_ETCD}\"]\n")
}

/// Settings of an agent whose REST API listens on `api`.
fn agent_settings(api: SocketAddr) -> String {
    format!(
        "name = \"pg1\"\nscope = \"demo\"\n\
         [etcd]\nendpoints = [\"{NO_ETCD}\"]\n\
         [restapi]\nlisten = \"{api}\"\n\
         [postgresql]\ndata_dir = \"data\"\nbin_dir = \".\"\nlisten = \"127.0.0.1:1\"\n\
         superuser.password = \"s\"\nreplication.password = \"r\"\n"
    )
}

fn free() -> SocketAddr {
    Ports::new().free().expect("a free port")
}

/// One line that says it all, apart from the text a caret points into.
fn assert_one_message(said: &str) {
    let heads = said.lines().filter(|l| !l.trim_start().starts_with(['|', '=', '^']) && !l.contains(" | "));
    assert_eq!(heads.filter(|l| !l.starts_with("help: ")).count(), 1, "{said}");
}

#[test]
fn the_proxy_points_at_the_mistake() {
    let bench = Bench::proxy();
    for (settings, message) in [
        (
            "[drain]\ntimout = \"3s\"",
            "settings.toml:2:1: unknown key `timout` in [drain]\n  |\n2 | timout = \"3s\"\n  | ^^^^^^\n  \
             = help: did you mean `timeout`? allowed: notice, timeout, handed_over\n",
        ),
        (
            "[tcp]\nkeepalive_count = \"x\"",
            "settings.toml:2:19: `keepalive_count` in [tcp] cannot be string \"x\"\n  |\n\
             2 | keepalive_count = \"x\"\n  |                   ^^^\n",
        ),
        (
            "[drain]\ntimeout = \"soon\"",
            "settings.toml:2:11: `timeout` in [drain] cannot be string \"soon\"\n  |\n\
             2 | timeout = \"soon\"\n  |           ^^^^^^\n  = help: allowed: a duration such as \"250ms\"",
        ),
        ("[drain", "settings.toml:1:7: this is not TOML: unclosed table, expected `]`"),
    ] {
        let (code, said) = bench.run(&proxy_settings(settings), &["--check"]);
        assert_eq!(code, Some(64), "{said}");
        assert!(said.starts_with(&format!("pgvane: {message}")), "{said}");
        assert_one_message(&said);
        assert_eq!(bench.run(&proxy_settings(settings), &[]), (code, said), "a start says the same");
    }
    assert_eq!(bench.run(&proxy_settings(""), &["--check"]).0, Some(0));
    assert_eq!(bench.files(), ["pgvane", "settings.toml"]);
}

#[test]
fn the_agent_points_at_the_mistake() {
    let bench = Bench::agent();
    let good = agent_settings(free());
    for (right, wrong, message) in [
        (
            "data_dir",
            "data_dri",
            "settings.toml:8:1: unknown key `data_dri` in [postgresql]\n  |\n8 | data_dri = \"data\"\n  | ^^^^^^^^\n  \
             = help: did you mean `data_dir`?",
        ),
        ("\"pg1\"", "5", "settings.toml:1:8: `name` cannot be integer 5\n  |\n1 | name = 5\n  |        ^\n"),
        (
            "bin_dir = \".\"",
            "bin_dir = \"/nowhere\"",
            "settings.toml:9:11: postgresql.bin_dir: there is no postgres in /nowhere\n  |\n\
             9 | bin_dir = \"/nowhere\"\n  |           ^^^^^^^^^^\n",
        ),
        (
            "[postgresql]",
            "[timing]\nstop_budget = \"1 fortnight\"\n[postgresql]",
            "settings.toml:8:15: `stop_budget` in [timing] cannot be string \"1 fortnight\"\n",
        ),
        ("name = \"pg1\"\n", "", "settings.toml: the key `name` is missing at the top level"),
    ] {
        let settings = good.replacen(right, wrong, 1);
        let (code, said) = bench.run(&settings, &["--check"]);
        assert_eq!(code, Some(64), "{said}");
        assert!(said.starts_with(message), "{said}");
        assert_one_message(&said);
        assert_eq!(bench.run(&settings, &[]), (code, said), "a start says the same");
    }
    assert_eq!(bench.run(&good, &["--check"]), (Some(0), "settings.toml: ok\n".to_owned()));
    assert_eq!(bench.files(), ["pgvane-agent", "postgres", "settings.toml"]);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound");
    let bench = Bench::proxy();
    let listener =
        format!("[admin]\nlisten = []\n[[listener]]\nrole = \"primary\"\nlisten = [\"{address}\"]\n");
    let admin = format!(
        "[admin]\nlisten = [\"{address}\"]\n[[listener]]\nrole = \"primary\"\nlisten = [\"127.0.0.1:0\"]\n"
    );
    for (settings, whose) in [(listener, "listener primary"), (admin, "admin")] {
        let (code, said) = bench.run(&proxy_settings(&settings), &[]);
        assert_eq!(code, Some(1), "{said}");
        assert_eq!(
            said,
            format!("pgvane: cannot listen on {address} ({whose}): Address already in use (os error 98)\n")
        );
    }
    let bench = Bench::agent();
    let (code, said) = bench.run(&agent_settings(address), &[]);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(
        said,
        format!("pgvane-agent: restapi.listen {address}: Address already in use (os error 98)\n")
    );
    assert_eq!(bench.files(), ["pgvane-agent", "postgres", "settings.toml"], "no guard was left behind");
}

#[test]
fn a_data_directory_that_postgresql_would_refuse_is_refused_first() {
    let bench = Bench::agent();
    let data = bench.path("data");
    let refused = |why: &str| {
        let (code, said) = bench.run(&agent_settings(free()), &[]);
        assert_eq!((code, said.as_str()), (Some(78), format!("pgvane-agent: {why}\n").as_str()));
        assert!(!bench.path("data.guard.sock.lock").exists(), "{why}: something was started");
    };
    fs::write(&data, "").expect("writes");
    refused("postgresql.data_dir data is not a directory");
    fs::remove_file(&data).expect("removes");

    fs::create_dir(&data).expect("creates");
    fs::write(data.join("PG_VERSION"), "15\n").expect("writes");
    let us = rustix::process::geteuid();
    if us.is_root() {
        refused(
            "postgresql.data_dir data belongs to user 0, and this is user 65534; PostgreSQL wants its own",
        );
        std::os::unix::fs::chown(&data, Some(NOBODY), None).expect("hands it over");
    }
    fs::set_permissions(&data, PermissionsExt::from_mode(0o777)).expect("opens it");
    refused("postgresql.data_dir data has mode 0777; PostgreSQL wants 0700 or 0750");
    assert_eq!(fs::read_dir(&data).expect("lists").count(), 1, "nothing was touched");

    let (code, said) = bench.run(&agent_settings(free()).replace("data\"", "/proc/none/data\""), &[]);
    assert_eq!(code, Some(78), "{said}");
    let why = "/proc/none: No such file or directory (os error 2); this user must be able to make it \
               (postgresql.data_dir)";
    assert_eq!(said, format!("pgvane-agent: {why}\n"));
}

/// A program that is ended with the test, by its own pid.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// The status of `GET path`, once somebody listens.
fn status(address: SocketAddr, path: &str) -> u16 {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpStream::connect(address) {
            Ok(mut stream) => {
                let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).expect("asks");
                let mut answer = String::new();
                stream.read_to_string(&mut answer).expect("an answer");
                return answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
            }
            Err(error) => assert!(Instant::now() < until, "nobody listens on {address}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn without_etcd_both_go_on_trying_and_say_that_they_are_not_ready() {
    let admin = free();
    let bench = Bench::proxy();
    let settings = proxy_settings(&format!(
        "[admin]\nlisten = [\"{admin}\"]\n[[listener]]\nrole = \"primary\"\nlisten = [\"127.0.0.1:0\"]"
    ));
    let mut proxy = Running(bench.command(&settings, &[]).stderr(Stdio::null()).spawn().expect("starts"));
    let api = free();
    let node = Bench::agent();
    let mut agent =
        Running(node.command(&agent_settings(api), &[]).stderr(Stdio::null()).spawn().expect("starts"));
    for (address, path, expected) in
        [(admin, "/livez", 200), (admin, "/readyz", 503), (api, "/liveness", 200), (api, "/readiness", 503)]
    {
        assert_eq!(status(address, path), expected, "{path}");
    }
    std::thread::sleep(Duration::from_secs(1));
    for running in [&mut proxy, &mut agent] {
        assert!(running.0.try_wait().expect("looks").is_none(), "it gave up");
    }
    assert!(!node.path("data").exists(), "no cluster was begun without etcd");
}
