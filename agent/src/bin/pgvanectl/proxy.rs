//! `proxy`: looks at and changes the pgvane on this host, over its admin socket.

use std::fmt::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http_body_util::{BodyExt, Empty};
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::output::{self, Format};
use crate::{Failed, fail, say};

/// Which proxy, and what to do with it.
#[derive(Args)]
pub(crate) struct ProxyArgs {
    /// The proxy's `[admin] socket`.
    #[arg(long, global = true, env = "PGVANECTL_SOCKET", default_value = "/run/pgvane/admin.sock")]
    socket: PathBuf,
    #[command(subcommand)]
    command: ProxyCommand,
}

#[derive(Subcommand)]
enum ProxyCommand {
    /// Show clusters, servers and listeners as this proxy sees them.
    Status {
        /// How to show it.
        #[arg(short, long, value_enum, default_value = "pretty")]
        format: Format,
    },
    /// Show its client connections.
    Sessions {
        /// Only those on this server.
        #[arg(long)]
        target: Option<String>,
        /// How to show it.
        #[arg(short, long, value_enum, default_value = "pretty")]
        format: Format,
    },
    /// Give a server no new sessions; those it has go on.
    Drain(Which),
    /// Give a server no new sessions, and cut those it has.
    Disable(Which),
    /// Undo drain and disable.
    Enable(Which),
    /// End one session; its client is told (57P01).
    Kill {
        /// Its number in `sessions` and in the log.
        session: u64,
    },
    /// Read the settings again, as SIGHUP does; says why when they are refused.
    Reload,
    /// Start the program's file again and hand the ports over to it; this process then drains.
    Upgrade,
}

#[derive(Args)]
struct Which {
    /// The member's name.
    target: String,
    /// Its cluster in the proxy's settings; may be left out when there is only one.
    #[arg(long)]
    cluster: Option<String>,
}

/// Does it and says how it went.
pub(crate) async fn run(args: ProxyArgs) -> Result<(), Failed> {
    let proxy = Proxy { socket: args.socket };
    match args.command {
        ProxyCommand::Status { format } => {
            let status = proxy.document("/topology").await?;
            say(&output::document(&status, format, show_status))
        }
        ProxyCommand::Sessions { target, format } => {
            let mut sessions = proxy.document("/sessions").await?;
            if let (Some(target), Some(all)) = (&target, sessions.as_array_mut()) {
                all.retain(|session| session["target"] == target.as_str());
            }
            say(&output::document(&sessions, format, show_sessions))
        }
        ProxyCommand::Drain(which) => proxy.admit(which, "drain").await,
        ProxyCommand::Disable(which) => proxy.admit(which, "disable").await,
        ProxyCommand::Enable(which) => proxy.admit(which, "enable").await,
        ProxyCommand::Kill { session } => proxy.change(&format!("/sessions/{session}/kill")).await,
        ProxyCommand::Reload => proxy.change("/reload").await,
        ProxyCommand::Upgrade => proxy.change("/upgrade").await,
    }
}

/// A proxy that answers on a Unix socket.
struct Proxy {
    socket: PathBuf,
}

impl Proxy {
    async fn document(&self, path: &str) -> Result<Value, Failed> {
        let text = self.ask(Method::GET, path).await?;
        serde_json::from_str(&text).map_err(|e| Failed(format!("the proxy's answer cannot be read: {e}")))
    }

    async fn admit(&self, which: Which, what: &str) -> Result<(), Failed> {
        let cluster = match which.cluster {
            Some(cluster) => cluster,
            None => only_cluster(&self.document("/topology").await?)?,
        };
        let target = &which.target;
        if [&cluster, target].iter().any(|name| name.contains(['/', '?', '#', '%', ' '])) {
            return fail(format!("{target:?} in {cluster:?} cannot be the name of a member"));
        }
        self.change(&format!("/clusters/{cluster}/targets/{target}/{what}")).await
    }

    async fn change(&self, path: &str) -> Result<(), Failed> {
        say(&self.ask(Method::POST, path).await?)
    }

    /// The body of the answer; anything but 200 is a failure.
    async fn ask(&self, method: Method, path: &str) -> Result<String, Failed> {
        let socket = self.socket.display();
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| {
            Failed(format!("{socket}: {e}; is pgvane running, and is this its [admin] socket?"))
        })?;
        let broken = |e: hyper::Error| Failed(format!("{socket}: {e}"));
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(broken)?;
        let connection = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header(HOST, "pgvane");
        let request = request.body(Empty::<Bytes>::new()).map_err(|e| Failed(format!("{path}: {e}")))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
        connection.abort();
        let text = String::from_utf8_lossy(&body).into_owned();
        if status == StatusCode::OK { Ok(text) } else { fail(text.trim_end()) }
    }
}

fn only_cluster(status: &Value) -> Result<String, Failed> {
    let names: Vec<_> = array(status, "clusters").filter_map(|c| c["name"].as_str()).collect();
    match names[..] {
        [only] => Ok(only.to_owned()),
        _ => fail(format!("this proxy has several clusters ({}); --cluster says which", names.join(", "))),
    }
}

fn array<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

/// A cell: text as it is, nothing for null.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn seconds(ms: &Value) -> String {
    ms.as_u64().map_or_else(String::new, |ms| format!("{}.{} s", ms / 1000, ms % 1000 / 100))
}

fn show_status(status: &Value) -> String {
    let mut text =
        format!("pgvane {} (pid {}), {}", cell(&status["version"]), status["pid"], cell(&status["phase"]));
    match status["not_ready"].as_str() {
        None => text.push_str(", ready\n"),
        Some(why) => {
            let _ = writeln!(text, ", not ready: {why}");
        }
    }
    for cluster in array(status, "clusters") {
        text.push_str(&show_cluster(cluster));
    }
    let mut table = output::table(["Listener", "Cluster", "Role", "Sessions", "Held", "Listens at"], false);
    for listener in array(status, "listeners") {
        let at = array(listener, "listen").map(cell).collect::<Vec<_>>().join(" ");
        let mut row: Vec<_> =
            ["name", "cluster", "role", "sessions", "held"].iter().map(|key| cell(&listener[key])).collect();
        row.push(at);
        table.add_row(row);
    }
    let _ = writeln!(text, "{table}");
    text
}

fn show_cluster(cluster: &Value) -> String {
    let mut text = format!("\nCluster {}: ", cell(&cluster["name"]));
    match (cluster["primary"]["name"].as_str(), cluster["no_primary"].as_str()) {
        (Some(primary), _) => {
            let _ = write!(
                text,
                "{primary} is the primary (epoch {}, {})",
                cluster["epoch"],
                cell(&cluster["standing"])
            );
        }
        (None, why) => {
            let for_how_long = seconds(&cluster["no_primary_for_ms"]);
            let _ = write!(text, "no primary for {for_how_long}: {}", why.unwrap_or_default());
        }
    }
    if let Some(ms) = cluster["last_outage_ms"].as_u64() {
        let _ = write!(text, ", last change of primary took {ms} ms");
    }
    text.push('\n');
    if let Some(why) = cluster["store_error"].as_str() {
        let _ = writeln!(
            text,
            "the store has not answered for {}: {why}",
            seconds(&cluster["store_down_for_ms"])
        );
    }
    let mut table =
        output::table(["Member", "Host", "Role", "State", "Lag", "Sessions", "Admission", "Reads"], false);
    for member in array(cluster, "members") {
        let host = match (member["host"].as_str(), member["port"].as_u64()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            _ => String::new(),
        };
        let reads = match member["no_reads"].as_str() {
            None => "takes reads".to_owned(),
            Some(why) => why.to_owned(),
        };
        table.add_row([
            cell(&member["name"]),
            host,
            cell(&member["role"]),
            cell(&member["state"]),
            cell(&member["lag_bytes"]),
            cell(&member["sessions"]),
            cell(&member["admission"]),
            reads,
        ]);
    }
    let _ = writeln!(text, "{table}");
    text
}

fn show_sessions(sessions: &Value) -> String {
    let mut table = output::table(["Session", "Client", "Listener", "Target", "State", "Age"], false);
    for session in sessions.as_array().into_iter().flatten() {
        table.add_row([
            cell(&session["session"]),
            cell(&session["client"]),
            cell(&session["listener"]),
            cell(&session["target"]),
            cell(&session["state"]),
            seconds(&session["age_ms"]),
        ]);
    }
    format!("{table}\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_status_reads_as_sentences() {
        let status = json!({
            "version": "0.1.0", "pid": 7, "phase": "serving", "not_ready": null,
            "clusters": [{
                "name": "main", "primary": {"name": "pg1"}, "no_primary": null, "epoch": 42,
                "standing": "proven", "last_outage_ms": 130, "store_error": null,
                "members": [
                    {"name": "pg1", "host": "10.0.0.1", "port": 5432, "role": "primary", "state": "running",
                     "sessions": 3, "admission": "enabled", "no_reads": "role primary"},
                    {"name": "pg2", "host": "10.0.0.2", "port": 5432, "role": "replica", "state": "running",
                     "lag_bytes": 0, "sessions": 1, "admission": "draining", "no_reads": null},
                ],
            }],
            "listeners": [{"name": "primary", "cluster": "main", "role": "primary", "sessions": 3, "held": 0,
                           "listen": ["0.0.0.0:5432"]}],
        });
        let text = show_status(&status);
        assert!(text.starts_with("pgvane 0.1.0 (pid 7), serving, ready\n"), "{text}");
        let line = "Cluster main: pg1 is the primary (epoch 42, proven), last change of primary took 130 ms";
        assert!(text.lines().any(|l| l == line), "{text}");
        assert!(text.lines().any(|l| l.contains("pg2") && l.contains("draining")), "{text}");
        assert_eq!(only_cluster(&status).expect("one"), "main");
    }

    #[test]
    fn a_missing_primary_is_told_with_the_reason() {
        let cluster = json!({"name": "main", "primary": null, "no_primary": "nobody holds the leader key",
                             "no_primary_for_ms": 1520, "store_error": "refused", "store_down_for_ms": 900});
        let text = show_cluster(&cluster);
        assert!(text.contains("no primary for 1.5 s: nobody holds the leader key"), "{text}");
        assert!(text.contains("has not answered for 0.9 s: refused"), "{text}");
    }
}
