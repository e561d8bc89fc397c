//! Asks one member's Patroni, or pgvane agent, by REST (contract section 6).
//!
//! One `GET /primary` tells all but one thing: its status says whether the member holds the leader's lock, its body
//! is that of `/patroni`. Where PostgreSQL listens only `/cluster` says, which costs a read of the store, so it is
//! asked seldom. Everything is HTTP/1.0 in style: a connection per question, ended by the server.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Lsn, NodeName, Timeline};
use pgvane_cluster::records::{MemberRecord, MemberRole, MemberState, host_port};
use serde_json::Value;
use tokio::time::timeout;
use tracing::debug;

use super::census::{Answer, Report};
use super::poll::Ask;
use super::{label, url};
use crate::agents::{Api, Trust, connect};
use crate::topology::Address;

/// The longest answer that is read.
const MAX_BODY: usize = 1 << 20;

/// Time after which the member's address is asked for again: it changes when a node is moved, hardly ever.
const LOOKUP_EVERY: Duration = Duration::from_secs(30);

/// The same after a lookup that failed.
const LOOKUP_AGAIN: Duration = Duration::from_secs(1);

/// A member's REST API.
#[derive(Debug)]
pub struct RestMember {
    api: Api,
    trust: Trust,
    /// Bound on a lookup that delays an answer.
    patience: Duration,
    /// Its name and where its PostgreSQL listens, as `/cluster` last said.
    place: Option<Place>,
    next_lookup: Tick,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Place {
    name: NodeName,
    postgres: Address,
}

impl RestMember {
    /// The member whose REST API is at `api`, and which has `limit` to answer.
    pub fn new(api: Api, trust: Trust, limit: Duration) -> RestMember {
        // The other half is for the answer itself, which is worth having without the address.
        RestMember { api, trust, patience: limit / 2, place: None, next_lookup: Tick::ZERO }
    }

    /// Asks for its name and address; what was known stays true until told otherwise.
    async fn look_up(&mut self, name: Option<&NodeName>) {
        self.next_lookup = Tick::now() + LOOKUP_AGAIN;
        let found = match get(&self.api, &self.trust, "/cluster").await {
            Ok((StatusCode::OK, body)) => json(&body).and_then(|body| place(&body, name, &self.api.address)),
            Ok((status, _)) => Err(format!("GET /cluster answers {}", status.as_u16())),
            Err(why) => Err(why),
        };
        match found {
            Ok(place) => {
                self.place = Some(place);
                self.next_lookup = Tick::now() + LOOKUP_EVERY;
            }
            Err(why) => debug!(api = ?self.api, why, "not told where a member's PostgreSQL listens"),
        }
    }
}

impl Ask for RestMember {
    async fn ask(&mut self) -> Answer {
        let (status, body) = get(&self.api, &self.trust, "/primary").await?;
        let body = json(&body)?;
        let told = name_of(&body);
        // Another member may have come to this address.
        self.place = self.place.take().filter(|place| told.as_ref().is_none_or(|name| *name == place.name));
        if self.place.is_none() && Tick::now() >= self.next_lookup {
            // What is late is looked up afterwards.
            let _ = timeout(self.patience, self.look_up(told.as_ref())).await;
        }
        let name =
            told.or_else(|| Some(self.place.as_ref()?.name.clone())).ok_or("it does not tell its name")?;
        report(name, status == StatusCode::OK, &body, self.place.as_ref().map(|place| &place.postgres))
    }

    async fn afterwards(&mut self) {
        if Tick::now() >= self.next_lookup {
            let name = self.place.as_ref().map(|place| place.name.clone());
            self.look_up(name.as_ref()).await;
        }
    }
}

fn json(body: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(body).map_err(|error| format!("its answer is not JSON: {error}"))
}

fn name_of(body: &Value) -> Option<NodeName> {
    body["patroni"]["name"].as_str().filter(|name| NodeName::is_valid(name)).map(NodeName::from)
}

/// The body of GET `/primary` in terms of a member record.
fn report(name: NodeName, leads: bool, body: &Value, postgres: Option<&Address>) -> Answer {
    let text = |field: &str| body[field].as_str().map(str::to_owned);
    let state = text("state").ok_or("it does not tell its state")?;
    let role = text("role").ok_or("it does not tell its role")?;
    let wal = if body["xlog"].is_object() { &body["xlog"] } else { &body["wal"] };
    let lsn = |field: &str| wal[field].as_u64().map(Lsn);
    let timeline = body["timeline"].as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
    let tags = serde_json::from_value(body["tags"].clone()).unwrap_or_default();
    let (received, replayed) = (lsn("received_location"), lsn("replayed_location"));
    let record = MemberRecord {
        conn_url: postgres.map(url),
        tags,
        xlog_location: lsn("location").or(received.max(replayed)),
        receive_lsn: received,
        replay_lsn: replayed,
        replication_state: text("replication_state"),
        timeline: timeline.map(Timeline),
        ..MemberRecord::new(MemberState::from(state), MemberRole::from(role))
    };
    let is_sync = body["sync_standby"] == true || body["quorum_standby"] == true;
    Ok(Report { name, record, leads, is_sync, identity: text("database_system_identifier") })
}

/// The member in the body of GET `/cluster`: the one of that name, or the one whose API was asked.
fn place(cluster: &Value, name: Option<&NodeName>, api: &Address) -> Result<Place, String> {
    let is_it = |member: &&Value| match name {
        Some(name) => member["name"] == name.as_str(),
        None => member["api_url"].as_str().and_then(|url| host_port(url, 80)).as_ref() == Some(api),
    };
    let member = cluster["members"].as_array().into_iter().flatten().find(is_it);
    let member = member.ok_or("/cluster does not list it")?;
    let name = member["name"].as_str().filter(|name| NodeName::is_valid(name));
    let host = member["host"].as_str().filter(|host| !host.is_empty());
    let port = member["port"].as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    match (name, host, port) {
        (Some(name), Some(host), Some(port)) => {
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            Ok(Place { name: name.into(), postgres: (host, port) })
        }
        _ => Err("/cluster does not tell its host and port".to_owned()),
    }
}

/// Status and body of one request. Everything ends with the future.
async fn get(api: &Api, trust: &Trust, path: &str) -> Result<(StatusCode, Bytes), String> {
    let stream = connect(api, trust).await.map_err(|error| error.to_string())?;
    let failed = |error: hyper::Error| format!("GET {path}: {error}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let request = Request::get(path)
        .header(HOST, label(&api.address).as_str())
        .header(USER_AGENT, "pgvane")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(failed)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|error| format!("GET {path}: {error}"))?.to_bytes();
        Ok((status, body))
    };
    let driven = async {
        // How it ends is told by the exchange.
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        biased;
        answer = exchange => answer,
        never = driven => never,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn api() -> Address {
        ("10.0.0.1".to_owned(), 8008)
    }

    /// What Patroni 4.1 answers to GET /primary on a replica, shortened.
    #[test]
    fn a_replica_of_patroni_is_read_whole() {
        let body = json!({
            "state": "running", "role": "replica", "server_version": 160_004, "timeline": 3,
            "xlog": {"received_location": 700, "replayed_location": 650, "replayed_timestamp": null, "paused": false},
            "replication_state": "streaming", "sync_standby": true, "tags": {"noloadbalance": true},
            "dcs_last_seen": 1_700_000_000, "database_system_identifier": "7300000000000000000",
            "patroni": {"version": "4.1.4", "scope": "demo", "name": "pg2"},
        });
        assert_eq!(name_of(&body), Some("pg2".into()));
        let place = ("fd00::2".to_owned(), 5433);
        let told = report("pg2".into(), false, &body, Some(&place)).expect("reads");
        assert!(!told.leads && told.is_sync && told.record.tags.no_load_balance());
        assert_eq!(told.identity.as_deref(), Some("7300000000000000000"));
        let record = told.record;
        assert_eq!((&record.role, &record.state), (&MemberRole::Replica, &MemberState::Running));
        assert_eq!((record.timeline, record.replay_lsn), (Some(Timeline(3)), Some(Lsn(650))));
        assert_eq!(record.xlog_location, Some(Lsn(700)));
        assert_eq!(record.replication_state.as_deref(), Some("streaming"));
        assert_eq!(record.postgres_address(), Some(place));
    }

    #[test]
    fn a_primary_of_an_old_patroni_and_a_member_that_is_down_are_read_too() {
        let old = json!({"state": "running", "role": "master", "timeline": 2, "xlog": {"location": 9}});
        let told = report("pg1".into(), true, &old, None).expect("reads");
        assert!(told.leads && told.record.is_serving_primary());
        assert_eq!((told.record.xlog_location, told.record.postgres_address()), (Some(Lsn(9)), None));
        let down = json!({"state": "stopped", "role": "replica"});
        let told = report("pg1".into(), false, &down, None).expect("reads");
        assert_eq!((told.record.state, told.record.timeline), (MemberState::Stopped, None));
    }

    #[test]
    fn an_answer_without_state_or_role_is_none() {
        for body in [json!({"role": "primary"}), json!({"state": "running"}), json!([]), json!(null)] {
            assert!(report("pg1".into(), true, &body, None).is_err(), "{body}");
        }
    }

    #[test]
    fn addresses_are_found_by_name_or_by_the_address_of_the_api() {
        let cluster = json!({"scope": "demo", "members": [
            {"name": "pg1", "api_url": "http://10.0.0.1:8008/patroni", "host": "10.0.0.1", "port": 5432},
            {"name": "pg2", "api_url": "http://10.0.0.2:8008/patroni", "host": "10.0.0.2"},
        ]});
        let expected = Place { name: "pg1".into(), postgres: ("10.0.0.1".to_owned(), 5432) };
        assert_eq!(place(&cluster, Some(&"pg1".into()), &("x".to_owned(), 1)), Ok(expected.clone()));
        assert_eq!(place(&cluster, None, &api()), Ok(expected));
        for name in ["pg2", "pg3"] {
            assert!(place(&cluster, Some(&name.into()), &api()).is_err(), "{name}");
        }
        assert!(place(&json!({}), None, &api()).is_err());
    }
}
