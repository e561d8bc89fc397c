//! What an operator can change: one session, one target, the proxy as a whole.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use pgvane_cluster::ids::NodeName;
use tokio::sync::oneshot;
use tracing::info;

use super::Admin;
use crate::close::CloseReason;
use crate::control::{Answer, Request};
use crate::topology::Admission;
use crate::topology::timeline::What;

/// A sentence for the operator, and whether it is good news.
type Reply = (StatusCode, String);

fn done(text: impl Into<String>) -> Reply {
    (StatusCode::OK, text.into() + "\n")
}

/// `POST /sessions/{number}/kill`: ends one session; its client is told (57P01).
pub(super) async fn kill(State(admin): State<Arc<Admin>>, Path(number): Path<u64>) -> Reply {
    if admin.roster.end(number, CloseReason::Killed) {
        info!(session = number, "killed by an operator");
        done(format!("session {number} is ended"))
    } else {
        (StatusCode::NOT_FOUND, format!("there is no session {number}\n"))
    }
}

/// `POST /clusters/{cluster}/targets/{target}/{drain|disable|enable}`.
pub(super) async fn admit(
    State(admin): State<Arc<Admin>>,
    Path((cluster, target, what)): Path<(String, String, String)>,
) -> Reply {
    let admission = match what.as_str() {
        "drain" => Admission::Draining,
        "disable" => Admission::Disabled,
        "enable" => Admission::Enabled,
        _ => {
            let text = format!("{what:?} cannot be done to a target; allowed: drain, disable, enable\n");
            return (StatusCode::NOT_FOUND, text);
        }
    };
    let known = admin.clusters.keys().cloned().collect::<Vec<_>>().join(", ");
    let Some(topology) = admin.clusters.get(&cluster) else {
        return (StatusCode::NOT_FOUND, format!("there is no cluster {cluster:?}; there are: {known}\n"));
    };
    let picture = topology.current();
    let Some(node) = picture.nodes.get(&NodeName::from(target.as_str())) else {
        let known = picture.nodes.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let text = format!("cluster {cluster} has no member {target:?}; it has: {known}\n");
        return (StatusCode::NOT_FOUND, text);
    };
    node.admit(admission);
    admin.timeline.note(&cluster, What::SetByOperator { target: target.clone(), admission });
    topology.reconsider();
    let cut = match admission {
        Admission::Disabled => admin.roster.end_on(node, CloseReason::TargetDisabled),
        Admission::Draining | Admission::Enabled => 0,
    };
    info!(cluster, target, admission = admission.label(), cut, "set by an operator");
    let sessions = match admission {
        Admission::Disabled => format!("; sessions cut: {cut}"),
        Admission::Draining => format!("; sessions that go on: {}", node.sessions()),
        Admission::Enabled => String::new(),
    };
    done(format!("{target} is {}{sessions}", admission.label()))
}

/// `POST /reload`: reads the settings again, as SIGHUP does.
pub(super) async fn reload(State(admin): State<Arc<Admin>>) -> Reply {
    ask(&admin, |answer| Request::Reload(Some(answer))).await
}

/// `POST /upgrade`: starts the program's file again, as SIGUSR2 does; it takes over, or nothing changes.
pub(super) async fn upgrade(State(admin): State<Arc<Admin>>) -> Reply {
    ask(&admin, |answer| Request::Upgrade(Some(answer))).await
}

async fn ask(admin: &Admin, request: impl FnOnce(Answer) -> Request) -> Reply {
    let (answer, heard) = oneshot::channel();
    let sent = admin.control.send(request(answer)).await;
    match (sent, heard.await) {
        (Ok(()), Ok(Ok(text))) => done(text),
        (Ok(()), Ok(Err(why))) => (StatusCode::CONFLICT, why + "\n"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the proxy is stopping\n".to_owned()),
    }
}
