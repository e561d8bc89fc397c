//! Prometheus, told of a cluster by the file that is shipped for it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{Gid, Uid, chown};
use serde_json::Value;
use tokio::process::{Child, Command};
use xtask::playground::account::Account;
use xtask::playground::ports::Ports;
use xtask::playground::{Playground, http};

use super::files::text;

/// A server; it ends with this, or with the playground in whose directory it works.
pub(crate) struct Prometheus {
    address: SocketAddr,
    _process: Child,
}

impl Prometheus {
    /// Starts `program` with our jobs and alerts.
    pub(crate) fn start(playground: &Playground, program: &Path) -> Prometheus {
        let dir = playground.dir().join("prometheus");
        fs::create_dir(&dir).expect("a directory");
        let rules = playground.write("alerts.yml", &text("packaging/prometheus/alerts.yml")).expect("writes");
        let config = playground.write("prometheus.yml", &config(playground, &rules)).expect("writes");
        let address = Ports::new().free().expect("a port");
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.display()));
        command.arg(format!("--web.listen-address={address}"));
        let log = fs::File::create(playground.dir().join("logs/prometheus.log")).expect("a log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        if let Some(account) = Account::for_servers() {
            chown(&dir, Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)))
                .expect("given away");
            command.uid(account.uid).gid(account.gid);
        }
        let process = command.env_clear().current_dir(&dir).kill_on_drop(true).spawn().expect("starts");
        Prometheus { address, _process: process }
    }

    /// What its API says; the error is its own, or that it does not answer.
    async fn ask(&self, path: &str) -> Result<Value, String> {
        let answer: Value =
            http::get(self.address, path, Duration::from_secs(10)).await.map_err(|e| e.to_string())?;
        if answer["status"] == "success" { Ok(answer["data"].clone()) } else { Err(answer.to_string()) }
    }

    /// The series that an expression has now.
    pub(crate) async fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let data = self.ask(&format!("/api/v1/query?query={encoded}")).await?;
        data["result"].as_array().cloned().ok_or_else(|| format!("no series: {data}"))
    }

    /// All rules, with what became of them; none while it does not answer.
    pub(crate) async fn rules(&self) -> Vec<Value> {
        let data = self.ask("/api/v1/rules").await.unwrap_or_default();
        let groups = data["groups"].as_array().into_iter().flatten();
        groups.flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect()
    }

    /// The names of the alerts that fire.
    pub(crate) async fn firing(&self) -> Vec<String> {
        let rules = self.rules().await;
        let firing = rules.iter().filter(|rule| rule["state"] == "firing");
        firing.filter_map(|rule| rule["name"].as_str().map(str::to_owned)).collect()
    }
}

/// The shipped jobs with the addresses of this cluster, asked more often.
fn config(playground: &Playground, rules: &Path) -> String {
    let mut proxies = playground.proxies.iter().map(|proxy| proxy.options().admin);
    let mut agents = playground.nodes.iter().map(xtask::playground::node::Node::rest);
    let mut etcds = playground.etcd.members().iter().map(xtask::playground::etcd::Member::observe);
    // Nobody listens there: the exporter of PostgreSQL is somebody else's.
    let mut exporters = Ports::new().free().into_iter();
    let mut jobs = String::new();
    for line in text("packaging/prometheus/scrape.yml").lines() {
        let address = line.trim_start().strip_prefix("- 10.0.0.").and_then(|rest| rest.split_once(':'));
        let line = match address.map(|(_, port)| port) {
            None => Some(line.to_owned()),
            Some("8009") => proxies.next().map(|address| format!("          - {address}")),
            Some("8008") => agents.next().map(|address| format!("          - {address}")),
            Some("2381") => etcds.next().map(|address| format!("          - {address}")),
            Some("9187") => exporters.next().map(|address| format!("          - {address}")),
            Some(port) => panic!("the playground has nothing for port {port}"),
        };
        jobs.extend(line.map(|line| line + "\n"));
    }
    assert!(proxies.next().is_none() && agents.next().is_none(), "not all of the cluster is asked");
    let jobs = jobs.replace("scrape_interval: 5s", "scrape_interval: 1s");
    format!("global:\n  evaluation_interval: 1s\nrule_files:\n  - {}\n{jobs}", rules.display())
}
