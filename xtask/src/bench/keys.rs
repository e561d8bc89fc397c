//! Patroni's keys, written through etcd's JSON gateway: they point pgvane at any server.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::Method;
use serde_json::{Value, json};

use crate::playground::http;

/// The cluster's name in the store and in the proxy's settings.
pub(super) const SCOPE: &str = "bench";

const PATIENCE: Duration = Duration::from_secs(5);

/// Makes `servers[leader]` the primary and the others replicas, in one transaction. They are called `pg1`, `pg2`.
pub(super) async fn lead(etcd: SocketAddr, servers: &[SocketAddr], leader: usize) -> Result<(), String> {
    let (status, body) =
        http::request(Method::POST, etcd, "/v3/kv/txn", transaction(servers, leader), PATIENCE)
            .await
            .map_err(|e| format!("etcd: {e}"))?;
    if status.is_success() {
        return Ok(());
    }
    Err(format!("etcd says {status}: {}", String::from_utf8_lossy(&body)))
}

/// The transaction's document, made before the clock starts.
fn transaction(servers: &[SocketAddr], leader: usize) -> String {
    let config = json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10});
    let mut puts = vec![put("config", &config.to_string())];
    for (index, server) in servers.iter().enumerate() {
        let role = if index == leader { "primary" } else { "replica" };
        let record = json!({
            "conn_url": format!("postgres://{server}/postgres"),
            "state": "running",
            "role": role,
            "version": "4.1.4",
            "timeline": 1,
        });
        puts.push(put(&format!("members/{}", name(index)), &record.to_string()));
    }
    puts.push(put("leader", &name(leader)));
    json!({ "success": puts }).to_string()
}

fn name(index: usize) -> String {
    format!("pg{}", index + 1)
}

fn put(key: &str, value: &str) -> Value {
    let key = format!("/service/{SCOPE}/{key}");
    json!({"requestPut": {"key": BASE64.encode(key), "value": BASE64.encode(value)}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_is_written_with_all_members_at_once() {
        let server = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let text = transaction(&[server(1), server(2)], 1);
        let value: Value = serde_json::from_str(&text).expect("JSON");
        let puts = value["success"].as_array().expect("a list");
        assert_eq!(puts.len(), 4);
        assert_eq!(puts[3]["requestPut"]["value"], "cGcy");
    }
}
