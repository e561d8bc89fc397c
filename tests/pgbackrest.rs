//! pgBackRest in place of our own backups: it archives, makes a replica, and begins a new cluster at a moment.

mod cluster_support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, SystemTime};

use tokio::process::Command;
use tokio::time::timeout;
use xtask::install;
use xtask::playground::Playground;
use xtask::playground::node::MoreOfNode;

use self::cluster_support::desk::{Desk, as_servers};
use self::cluster_support::{SOON, ask, cluster_with, healthy, until};

struct Bench {
    desk: Desk,
    program: PathBuf,
}

impl Bench {
    fn new() -> Bench {
        let desk = Desk::new();
        for dir in ["repository", "lock", "spool"] {
            desk.dir(dir);
        }
        Bench { desk, program: install::pgbackrest().expect("pgBackRest") }
    }

    /// A call of it for this node, up to the command.
    fn call(&self, node: &str) -> String {
        let file = self.desk.path(&format!("{node}.conf"));
        format!("{} --config={} --stanza=main", self.program.display(), file.display())
    }

    /// Its settings; `database` says where a node's PostgreSQL is.
    fn configure(&self, node: &str, database: &str) {
        let [repository, lock, spool] =
            ["repository", "lock", "spool"].map(|dir| self.desk.path(dir).display().to_string());
        let text = format!(
            "[global]\nrepo1-path={repository}\nlock-path={lock}\nspool-path={spool}\nlog-level-file=off\n\
             log-level-console=warn\nstart-fast=y\ncompress-level=1\n\n[main]\n{database}\n"
        );
        self.desk.file(&format!("{node}.conf"), &text);
    }

    /// A node that archives with it, and takes its data from it where it can.
    fn node(&self, name: &str) -> MoreOfNode {
        let call = self.call(name);
        MoreOfNode {
            parameters: format!("archive_mode = \"on\"\narchive_command = \"{call} archive-push %p\"\n"),
            tables: format!(
                "[[postgresql.replica_methods]]\nname = \"pgbackrest\"\ncommand = \"{call} --delta restore\"\n\
                 keep_data = true\nno_params = true\n\n[[postgresql.replica_methods]]\nname = \"basebackup\"\n\n\
                 [postgresql.recovery_conf]\nrestore_command = \"{call} archive-get %f %p\"\n"
            ),
            ..MoreOfNode::default()
        }
    }

    /// A cluster that begins with what it restores, up to `target`.
    async fn restored(&self, target: &str) -> Playground {
        self.configure("new", "");
        // On a real node the data directory stands in pgBackRest's own settings.
        let script = format!(
            "#!/bin/sh\nfor a; do case $a in --datadir=*) data=${{a#--datadir=}};; esac; done\n\
             exec {} --pg1-path=\"$data\" --type=time '--target={target}' --target-action=promote restore\n",
            self.call("new")
        );
        let file = self.desk.path("restore.sh");
        fs::write(&file, script).expect("writes");
        fs::set_permissions(&file, Permissions::from_mode(0o755)).expect("opens it");
        let tables = format!(
            "[bootstrap.method]\nname = \"pgbackrest\"\ncommand = \"{}\"\nkeep_existing_recovery_conf = true\n",
            file.display()
        );
        cluster_with(1, vec![MoreOfNode { tables, ..MoreOfNode::default() }]).await
    }
}

async fn done(mut command: Command) -> Output {
    let output = timeout(SOON, command.output()).await.expect("ends").expect("starts");
    assert!(output.status.success(), "{:?}: {output:?}", command.as_std());
    output
}

async fn execute(playground: &Playground, sql: &str) {
    let (client, connection) =
        playground.node("pg1").superuser().connect(tokio_postgres::NoTls).await.expect("the server");
    let driver = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    driver.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_makes_replicas_and_clusters_as_they_were_at_a_moment() {
    let bench = Bench::new();
    // There is no backup yet, so the replica is a copy.
    let mut playground = cluster_with(2, ["pg1", "pg2"].map(|name| bench.node(name)).to_vec()).await;
    for name in ["pg1", "pg2"] {
        let node = playground.node(name);
        let (data, port) = (node.dir().join("data"), node.postgres().port());
        bench.configure(name, &format!("pg1-path={}\npg1-port={port}\npg1-user=postgres", data.display()));
    }
    execute(&playground, "CREATE TABLE marks (word text); INSERT INTO marks VALUES ('backed up')").await;
    for verb in ["stanza-create", "backup"] {
        let mut command = as_servers(&bench.program);
        command
            .arg(format!("--config={}", bench.desk.path("pg1.conf").display()))
            .args(["--stanza=main", verb]);
        // The playground's servers have no Unix socket.
        command.env("PGHOST", "127.0.0.1").env("PGPASSWORD", playground.node("pg1").passwords()[0]);
        done(command).await;
    }
    // It counts in whole seconds, and takes a backup that had ended in an earlier one.
    let ended = SystemTime::now();
    until(&playground, "the next second", async || {
        ended.elapsed().is_ok_and(|time| time > Duration::from_secs(1))
    })
    .await;
    execute(&playground, "INSERT INTO marks VALUES ('before')").await;
    let moment = ask(&playground, "pg1", "SELECT clock_timestamp()::text").await.remove(0);
    execute(&playground, "INSERT INTO marks VALUES ('after')").await;

    // A replica is made of the backup now, and streams on from there.
    let mut reinit = as_servers(&playground.dir().join("bin/pgvanectl"));
    reinit.arg("-c").arg(playground.node("pg1").config()).args(["reinit", "pg2", "--force", "--wait"]);
    done(reinit).await;
    until(&playground, "the method was used", async || {
        let log = playground.log("pg2");
        log.lines().any(|line| line.contains("the replica's data are there") && line.contains("pgbackrest"))
    })
    .await;
    healthy(&mut playground).await;
    let words = "SELECT word FROM marks";
    until(&playground, "pg2 has all", async || {
        ask(&playground, "pg2", words).await == ["backed up", "before", "after"]
    })
    .await;

    let last = ask(&playground, "pg1", "SELECT pg_walfile_name(pg_switch_wal())").await.remove(0);
    until(&playground, "the last WAL is archived", async || {
        let archived = "SELECT last_archived_wal FROM pg_stat_archiver";
        ask(&playground, "pg1", archived).await.first().is_some_and(|name| *name >= last)
    })
    .await;
    let restored = bench.restored(&moment).await;
    assert_eq!(ask(&restored, "pg1", words).await, ["backed up", "before"]);
    let timeline = "SELECT timeline_id::text FROM pg_control_checkpoint()";
    assert_eq!(ask(&restored, "pg1", timeline).await, ["2"]);
}
