//! What surrounds a cluster's life: a bootstrap from a backup, replicas by methods, callbacks, checks before
//! promotions, the watchdog, and how members come back. One cluster, on real servers.

#[path = "cluster_support/mod.rs"]
mod cluster_support;

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use cluster_support::{SOON, healthy, switchover, until};
use hyper::Method;
use rustix::fs::{CWD, FileType, Gid, Mode, Uid, chown, mknodat};
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};
use xtask::checks::LONG;
use xtask::install::{self, Servers};
use xtask::playground::account::Account;
use xtask::playground::certificates::Authority;
use xtask::playground::node::{MoreOfNode, Node};
use xtask::playground::{Options, Playground, http};
use xtask::programs;

/// A directory that the servers' user may use, with scripts that note what they are run with.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Desk {
        let dir = tempfile::Builder::new().prefix("pgvane-desk-").tempdir_in("/tmp").expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("opens it");
        Desk(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A script; `DESK` in it stands for this directory.
    fn script(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        let text = format!("#!/bin/sh\n{}", text.replace("DESK", &self.0.path().display().to_string()));
        fs::write(&path, text).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("opens it");
        path.display().to_string()
    }

    /// A file that only the servers' user may read.
    fn private(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("closes it");
        if let Some(account) = Account::for_servers() {
            let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
            chown(&path, Some(uid), Some(gid)).expect("gives it away");
        }
        path
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// A named pipe that stands for a watchdog, and all that it was told.
struct Dog {
    told: Arc<Mutex<String>>,
    device: PathBuf,
}

impl Dog {
    fn new(desk: &Desk, name: &str) -> Dog {
        let device = desk.path(name);
        mknodat(CWD, &device, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        fs::set_permissions(&device, fs::Permissions::from_mode(0o666)).expect("opens it");
        assert!(fs::metadata(&device).expect("looks").file_type().is_fifo());
        let told = Arc::new(Mutex::new(String::new()));
        let (heard, pipe) = (Arc::clone(&told), device.clone());
        std::thread::spawn(move || {
            // For reading and writing, so that it never ends.
            let mut pipe = fs::File::options().read(true).write(true).open(pipe).expect("opens");
            let mut bytes = [0; 256];
            while let Ok(count @ 1..) = pipe.read(&mut bytes) {
                heard.lock().expect("not poisoned").push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Dog { told, device }
    }

    fn told(&self) -> String {
        self.told.lock().expect("not poisoned").clone()
    }

    fn settings(&self) -> String {
        let device = self.device.display();
        format!(
            "[watchdog]\nmode = \"required\"\ndevice = \"{device}\"\nsafety_margin = \"5s\"\ndriver = \"testing\"\n"
        )
    }
}

async fn connect(node: &Node) -> Client {
    let (client, connection) = node.superuser().connect(NoTls).await.expect("connects");
    tokio::spawn(connection);
    client
}

async fn notes(node: &Node) -> Vec<String> {
    let rows = connect(node).await.query("SELECT what FROM notes ORDER BY what", &[]).await.expect("a table");
    rows.iter().map(|row| row.get(0)).collect()
}

/// A program run as the servers' user.
fn as_server(program: PathBuf, args: &[&str], env: (&str, &str)) {
    let mut command = Command::new(program);
    command.args(args).env(env.0, env.1).current_dir("/");
    if let Some(account) = Account::for_servers() {
        command.uid(account.uid).gid(account.gid);
    }
    let output = command.output().expect("runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Leaves in `DESK/backup` a copy of a server, in `DESK/archive` its WAL: with one note from before the copy, one
/// from after it, and one from after the restore point `good`.
async fn back_up(desk: &Desk, servers: &Servers) {
    let source = cluster_support::cluster(1, 20, vec![]).await;
    let node = source.node("pg1");
    let sql = connect(node).await;
    sql.batch_execute(
        "DROP OWNED BY demo; DROP ROLE demo; CREATE TABLE notes (what text); INSERT INTO notes VALUES ('1')",
    )
    .await
    .expect("a table");
    let backup = desk.path("backup").display().to_string();
    let (host, port) = (node.postgres().ip().to_string(), node.postgres().port().to_string());
    let args = [
        "-D",
        &backup,
        "-h",
        &host,
        "-p",
        &port,
        "-U",
        "postgres",
        "-X",
        "none",
        "-c",
        "fast",
        "--no-manifest",
    ];
    let password = node.superuser().get_password().map(|p| String::from_utf8_lossy(p).into_owned());
    let env = ("PGPASSWORD", password.expect("has one"));
    let program = servers.postgres.join("pg_basebackup");
    tokio::task::block_in_place(|| as_server(program, &args, (env.0, &env.1)));
    sql.batch_execute("INSERT INTO notes VALUES ('2')").await.expect("inserts");
    sql.execute("SELECT pg_create_restore_point('good')", &[]).await.expect("a restore point");
    sql.batch_execute("INSERT INTO notes VALUES ('a slip')").await.expect("inserts");
    sql.execute("SELECT pg_switch_wal()", &[]).await.expect("switches");
    fs::create_dir(desk.path("archive")).expect("creates");
    for entry in fs::read_dir(node.dir().join("data/pg_wal")).expect("reads").flatten() {
        if entry.file_type().expect("a type").is_file() {
            let copy = desk.path("archive").join(entry.file_name());
            fs::copy(entry.path(), &copy).expect("copies");
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).expect("opens it");
        }
    }
}

/// What each node is told, and its watchdog.
fn settings(desk: &Desk, servers: &Servers) -> (Vec<MoreOfNode>, Vec<Dog>) {
    let ca = Authority::new("pgvane life cycle");
    let signed = ca.sign("127.0.0.1");
    fs::write(desk.path("ca.pem"), ca.certificate()).expect("writes");
    fs::set_permissions(desk.path("ca.pem"), fs::Permissions::from_mode(0o644)).expect("opens it");
    let (cert, key) =
        (desk.private("server.pem", &signed.certificate), desk.private("server.key", &signed.key));
    let tls = format!("sslmode = \"verify-full\", sslrootcert = \"{}\"", desk.path("ca.pem").display());

    let datadir =
        r#"for a in "$@"; do case $a in --datadir=*) d=${a#*=};; --connstring=*) c=${a#*=};; esac; done"#;
    let restore = desk.script(
        "restore.sh",
        &format!(
            "echo \"restore $*\" >>DESK/events\n{datadir}\ncp -a DESK/backup \"$d\" && chmod 700 \"$d\""
        ),
    );
    let bin = servers.postgres.display();
    let born = "CREATE TABLE born AS SELECT current_setting('synchronous_commit') AS commit";
    let post = desk.script(
        "post.sh",
        &format!("echo \"post $#\" >>DESK/events\n{bin}/psql -qX -v ON_ERROR_STOP=1 -d \"$1\" -c \"{born}\""),
    );
    let fails = desk.script(
        "fails.sh",
        &format!(
            "echo fails >>DESK/events\n{datadir}\nmkdir -p \"$d\" && echo 15 >\"$d/PG_VERSION\"; exit 1"
        ),
    );
    let clones = desk.script(
        "clones.sh",
        &format!("echo \"clones $1 $2 $5\" >>DESK/events\n{datadir}\n{bin}/pg_basebackup -w -X stream -c fast -D \"$d\" -d \"$c\""),
    );
    let notify = desk.script("notify.sh", "echo \"$2 $3 $4\" >>DESK/$1.log");
    let check = desk.script("check.sh", "echo \"pre_promote\" >>DESK/$1.log\ntest ! -e DESK/forbid-$1");

    let mut more = Vec::new();
    let mut dogs = Vec::new();
    for name in ["pg1", "pg2"] {
        let dog = Dog::new(desk, &format!("{name}.dog"));
        let all = ["on_start", "on_stop", "on_restart", "on_reload", "on_role_change"];
        let callbacks: String = all.map(|word| format!("{word} = \"{notify} {name}\"\n")).concat();
        let archive = desk.path("archive").display().to_string();
        more.push(MoreOfNode {
            etcd: String::new(),
            postgresql: format!(
                "rewind = {{ username = \"rewinder\", password = \"it's\", {tls} }}\n\
                 pre_promote = \"{check} {name}\"\nbefore_stop = \"{notify} {name} before_stop\"\n\
                 proxy_address = \"127.0.0.1:6432\"\n"
            ),
            replication: format!(", {tls}"),
            // Whoever comes without TLS is turned away.
            pg_hba: ["all rewinder", "replication all"].map(|who| format!("hostnossl {who} all reject")).to_vec(),
            parameters: format!(
                "ssl = true\nssl_cert_file = \"{}\"\nssl_key_file = \"{}\"\n",
                cert.display(),
                key.display()
            ),
            bootstrap: format!("post_bootstrap = \"{post}\"\n"),
            tables: format!(
                "[postgresql.callbacks]\n{callbacks}\n\
                 [[postgresql.replica_methods]]\nname = \"fails\"\ncommand = \"{fails}\"\n\
                 [[postgresql.replica_methods]]\nname = \"clones\"\ncommand = \"{clones}\"\n\
                 parameters = {{ speed = 9 }}\n\
                 [bootstrap.method]\nname = \"restore\"\ncommand = \"{restore}\"\n\
                 recovery_conf = {{ restore_command = \"cp {archive}/%f %p\", recovery_target_name = \"good\", \
                 recovery_target_action = \"promote\" }}\n\
                 parameters = {{ from = \"backup\" }}\n{}",
                dog.settings()
            ),
        });
        dogs.push(dog);
    }
    (more, dogs)
}

/// Waits until the callbacks and checks of a node are these, in this order.
async fn until_told(playground: &Playground, desk: &Desk, name: &str, expected: &[&str]) {
    let file = format!("{name}.log");
    let started = std::time::Instant::now();
    while desk.lines(&file) != expected {
        assert!(
            started.elapsed() < SOON,
            "{name} was told {:#?}, not {expected:#?}\n{}",
            desk.lines(&file),
            playground.log_tails(60)
        );
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

async fn get(playground: &Playground, name: &str, path: &str) -> Value {
    http::get(playground.node(name).rest(), path, SOON).await.unwrap_or_default()
}

async fn post(playground: &Playground, method: Method, name: &str, path: &str, body: Value) -> u16 {
    let agent = playground.node(name).rest();
    http::request(method, agent, path, body.to_string(), SOON).await.map_or(0, |(status, _)| status.as_u16())
}

/// Removes a data directory below a running server, which writes to it all the while.
fn remove_data(dir: &Path) {
    while dir.exists() {
        let _ = fs::remove_dir_all(dir);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_cluster_lives_with_its_scripts_and_its_watchdogs() {
    let servers = install::servers().expect("PostgreSQL and etcd");
    let programs = programs::built().expect("the programs are built");
    let desk = Desk::new();
    back_up(&desk, &servers).await;
    let (more, dogs) = settings(&desk, &servers);
    let options = Options { nodes: 2, proxies: 0, ttl: 20, more, ..Options::default() };
    let say = |line: &str| eprintln!("  {line}");
    let started = Playground::start(&options, &programs, &servers, &say).await;
    let mut playground = started.unwrap_or_else(|e| panic!("{e}\n{:#?}", desk.lines("events")));

    // Bootstrapped from the backup up to the restore point, then made ours: the superuser that asks here has the
    // password of the settings.
    assert_eq!(notes(playground.node("pg1")).await, ["1", "2"]);
    let events = desk.lines("events");
    let pg1_data = playground.node("pg1").dir().join("data");
    let restored = format!("restore --scope=demo --datadir={} --from=backup", pg1_data.display());
    let expected = [restored.as_str(), "post 1", "fails", "clones --scope=demo --role=replica --speed=9"];
    assert_eq!(events, expected, "the methods, in their order");
    let born = connect(playground.node("pg2")).await.query_one("SELECT commit FROM born", &[]).await;
    assert_eq!(born.expect("post_bootstrap made it").get::<_, String>(0), "local");
    let history = get(&playground, "pg1", "/history").await;
    assert_eq!((history[0][0].as_i64(), history[0][4].as_str()), (Some(1), Some("pg1")), "{history}");
    for name in ["pg1", "pg2"] {
        let data = playground.node(name).dir().join("data");
        assert!(data.join("postgresql.base.conf.backup").exists(), "{name} keeps copies of its files");
        assert!(!data.join("recovery.signal").exists());
    }
    let receiver = connect(playground.node("pg1")).await;
    let sql = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)";
    assert_eq!(receiver.query_one(sql, &[]).await.expect("a row").get::<_, Option<bool>>(0), Some(true));

    // Callbacks: none of the bootstrap; a reload, a restart.
    let patch = json!({"postgresql": {"parameters": {"work_mem": "5MB"}}});
    assert_eq!(post(&playground, Method::PATCH, "pg1", "/config", patch).await, 200);
    let mut pg1 = vec!["on_start primary demo", "on_reload primary demo"];
    let mut pg2 = vec!["on_start replica demo", "on_reload replica demo"];
    until_told(&playground, &desk, "pg1", &pg1).await;
    until_told(&playground, &desk, "pg2", &pg2).await;
    assert_eq!(post(&playground, Method::POST, "pg2", "/restart", json!({})).await, 200);
    pg2.extend(["before_stop  ", "on_restart replica demo"]);
    until_told(&playground, &desk, "pg2", &pg2).await;
    healthy(&mut playground).await;

    // A switchover, with the watchdog handed on as well.
    let told = dogs[0].told();
    assert!(told.starts_with("Ctimeout=15\n1") && told[13..].chars().all(|c| c == '1'), "{told:?}");
    assert_eq!(dogs[1].told(), "", "a standby needs none");
    switchover(&playground, "pg1").await;
    healthy(&mut playground).await;
    pg1.extend(["before_stop  ", "on_stop primary demo", "on_role_change replica demo"]);
    pg2.extend(["pre_promote", "on_role_change primary demo"]);
    until_told(&playground, &desk, "pg1", &pg1).await;
    until_told(&playground, &desk, "pg2", &pg2).await;
    assert!(dogs[0].told().ends_with("1V"), "disarmed once nothing can write: {:?}", dogs[0].told());
    assert!(dogs[1].told().starts_with("Ctimeout=15\n1"), "{:?}", dogs[1].told());

    // How a refused promotion is told of depends on who is faster; and it takes minutes.
    if std::env::var_os(LONG).is_none() {
        return;
    }

    // A check that forbids the promotion: the key goes back, and the former leader leads on.
    fs::write(desk.path("forbid-pg1"), "").expect("writes");
    let before = dogs[0].told().len();
    post(&playground, Method::POST, "pg2", "/switchover", json!({"leader": "pg2", "candidate": "pg1"})).await;
    until(&playground, "pre_promote on pg1", async || {
        desk.lines("pg1.log").contains(&"pre_promote".to_owned())
    })
    .await;
    healthy(&mut playground).await;
    assert_eq!(playground.look().await.leader(), Ok("pg2".to_owned()));
    pg1.push("pre_promote");
    assert_eq!(desk.lines("pg1.log")[..pg1.len()], pg1, "what came before it follows again");
    pg2.extend(["before_stop  ", "on_stop primary demo", "on_role_change replica demo"]);
    pg2.extend(["pre_promote", "on_role_change primary demo"]);
    until_told(&playground, &desk, "pg2", &pg2).await;
    let told = dogs[0].told();
    assert!(told[before..].starts_with("Ctimeout=15\n1") && told.ends_with('V'), "{:?}", &told[before..]);
    fs::remove_file(desk.path("forbid-pg1")).expect("removes");
    connect(playground.node("pg2"))
        .await
        .batch_execute("INSERT INTO notes VALUES ('3')")
        .await
        .expect("inserts");

    // The leader's data vanish below it: another leads at once, and it is made anew by the methods.
    healthy(&mut playground).await;
    let clones = desk.lines("events").len();
    remove_data(&playground.node("pg2").dir().join("data"));
    until(&playground, "pg1 leads", async || playground.look().await.leader() == Ok("pg1".to_owned())).await;
    healthy(&mut playground).await;
    assert_eq!(desk.lines("events")[clones..], expected[2..], "made anew");
    assert_eq!(notes(playground.node("pg2")).await, ["1", "2", "3"]);

    // A primary that is killed with its agent: recovered in single-user mode, rewound, and back as a replica.
    connect(playground.node("pg1"))
        .await
        .batch_execute("INSERT INTO notes VALUES ('4')")
        .await
        .expect("inserts");
    healthy(&mut playground).await;
    let node = playground.node_mut("pg1");
    node.kill_agent(SOON).await;
    node.kill_postmaster().expect("it runs");
    until(&playground, "pg2 leads", async || playground.look().await.leader() == Ok("pg2".to_owned())).await;
    assert!(!dogs[0].told().ends_with('V'), "an agent that is killed leaves the watchdog armed");
    playground.restart_agent("pg1").expect("starts");
    healthy(&mut playground).await;
    let log = playground.log("pg1");
    for line in ["recovering the server in single-user mode", "rewound to the leader's history"] {
        assert!(log.contains(line), "{line:?} is not in\n{}", playground.log_tails(80));
    }
    for name in ["pg1", "pg2"] {
        assert_eq!(notes(playground.node(name)).await, ["1", "2", "3", "4"], "on {name}");
    }
}
