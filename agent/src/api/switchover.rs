//! POST `/switchover` and `/failover`: check the wish, write it, wait until somebody else serves (contract 6.4).
//!
//! The texts are those that patronictl shows its user.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use jiff::Timestamp;
use pgvane_cluster::ids::{NodeName, Revision};
use pgvane_cluster::keyspace::{Key, Keyspace};
use pgvane_cluster::records::FailoverRecord;
use pgvane_cluster::settings::SynchronousMode;
use pgvane_cluster::store::{Compare, Store, Txn, Write};
use pgvane_cluster::view::ClusterView;
use serde_json::Value;
use tokio::sync::watch;

use super::answer::Refused;
use super::document::read;
use super::schedule;
use super::snapshot::ApiSnapshot;
use crate::peers::{Caller, PeerAnswer};

/// How long candidates have to say that they could take over.
const ASK_WITHIN: Duration = Duration::from_secs(1);

/// What is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wish {
    pub(super) kind: Kind,
    pub(super) leader: Option<NodeName>,
    pub(super) candidate: Option<NodeName>,
    /// In the form of the store; now where absent.
    pub(super) scheduled_at: Option<String>,
}

/// What a wish is carried out with.
pub(super) struct Tools<'a, S> {
    pub(super) store: &'a S,
    pub(super) space: &'a Keyspace,
    pub(super) caller: &'a Caller,
    pub(super) now: Timestamp,
}

/// With regard to data (switchover) or without (failover).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Switchover,
    Failover,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Switchover => "switchover",
            Kind::Failover => "failover",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Kind::Switchover => "Switchover",
            Kind::Failover => "Failover",
        }
    }

    /// "switched over", "failed over".
    fn done(self) -> &'static str {
        match self {
            Kind::Switchover => "switched",
            Kind::Failover => "failed",
        }
    }
}

/// Reads a request body and checks what can be checked without the cluster's members.
pub(super) fn parse(
    mut kind: Kind,
    body: &Value,
    view: &ClusterView,
    now: Timestamp,
) -> Result<Wish, Refused> {
    let name =
        |field: &str| body.get(field).and_then(Value::as_str).filter(|s| !s.is_empty()).map(NodeName::from);
    let (leader, candidate) = (name("leader"), name("candidate").or_else(|| name("member")));
    let paused = view.settings().pause;
    let bad = |text: &str| Err(Refused::new(StatusCode::BAD_REQUEST, text));
    if kind == Kind::Failover && candidate.is_none() {
        return bad("Failover could be performed only to a specific candidate");
    }
    if kind == Kind::Switchover && leader.is_none() {
        return bad("Switchover could be performed only from a specific leader");
    }
    let scheduled_at = body.get("scheduled_at").filter(|v| !v.is_null() && *v != "");
    if scheduled_at.is_some() {
        match kind {
            Kind::Failover => return bad("Failover can't be scheduled"),
            Kind::Switchover if paused => return bad("Can't schedule switchover in the paused state"),
            Kind::Switchover => {}
        }
    }
    let scheduled_at = scheduled_at.map(|at| schedule::parse(at, kind.word(), now)).transpose()?;
    if paused && candidate.is_none() {
        return bad("Switchover is possible only to a specific candidate in a paused state");
    }
    if leader.is_some() {
        kind = Kind::Switchover;
    }
    if leader == candidate {
        return bad("Switchover target and source are the same");
    }
    Ok(Wish { kind, leader, candidate, scheduled_at })
}

/// The members that may be asked to take over, by what the store says.
pub(super) fn candidates(wish: &Wish, view: &ClusterView) -> Result<Vec<(NodeName, String)>, Refused> {
    let impossible = |text: String| Err(Refused::new(StatusCode::PRECONDITION_FAILED, text));
    let leader = view.leader.as_ref().map(|l| &l.name);
    if wish.leader.is_some() && wish.leader.as_ref() != leader {
        return impossible("leader name does not match".to_owned());
    }
    let by_name = view.settings().synchronous_mode == SynchronousMode::On;
    let in_sync = |name: &NodeName| view.sync.as_ref().is_some_and(|sync| sync.value.has_standby(name));
    let chosen: Vec<_> = match &wish.candidate {
        Some(name) => {
            if wish.kind == Kind::Switchover && by_name && !in_sync(name) {
                return impossible("candidate name does not match with sync_standby".to_owned());
            }
            view.members.iter().filter(|(n, _)| *n == name).collect()
        }
        None => view.members.iter().filter(|(n, _)| Some(*n) != leader && (!by_name || in_sync(n))).collect(),
    };
    let asked: Vec<_> =
        chosen.into_iter().filter_map(|(n, m)| Some((n.clone(), m.record.api_url.clone()?))).collect();
    if !asked.is_empty() {
        return Ok(asked);
    }
    impossible(match (&wish.candidate, by_name) {
        (Some(_), _) => "candidate does not exists".to_owned(),
        (None, true) => format!("{} is not possible: can not find sync_standby", wish.kind.word()),
        (None, false) => {
            format!("{} is not possible: cluster does not have members except leader", wish.kind.word())
        }
    })
}

/// Carries out a wish and waits for its end; a scheduled one only has to be written. `Ok` and `Err` both hold the
/// text for the operator.
pub(super) async fn perform<S: Store>(
    tools: Tools<'_, S>,
    snapshots: watch::Receiver<Arc<ApiSnapshot>>,
    kind: Kind,
    body: &Value,
    wake: impl Fn(),
) -> Result<(StatusCode, String), Refused> {
    let Tools { store, space, caller, now } = tools;
    let view = read(store, space).await?;
    let wish = parse(kind, body, &view, now)?;
    if wish.scheduled_at.is_none() {
        let asked = candidates(&wish, &view)?;
        let answers = caller.ask_all(&asked, ASK_WITHIN).await;
        let able =
            |answer: &PeerAnswer| matches!(answer, PeerAnswer::Answered(s) if s.limitation().is_none());
        if !answers.values().any(able) {
            let text = format!("{} is not possible: no good candidates have been found", wish.kind.word());
            return Err(Refused::new(StatusCode::PRECONDITION_FAILED, text));
        }
    }
    let Wish { leader, candidate: member, scheduled_at, .. } = wish.clone();
    let record = FailoverRecord { leader, member, scheduled_at };
    let written = store.txn(Txn::put(space.path(&Key::Failover), record.to_json(), None)).await;
    let written = written.map_err(|e| {
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, format!("failed to write failover key into DCS: {e}"))
    })?;
    wake();
    if wish.scheduled_at.is_some() {
        return Ok((StatusCode::ACCEPTED, format!("{} scheduled", wish.kind.title())));
    }
    let from = view.leader.as_ref().map(|l| l.name.clone());
    let limit = 2 * view.settings().loop_wait.max(Duration::from_secs(10));
    let end = tokio::time::timeout(limit, watch_end(snapshots, &wish, from.as_ref(), written.revision)).await;
    let end = end.unwrap_or_else(|_| {
        let text = format!("{} status unknown", wish.kind.title());
        Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, text))
    });
    end.map(|text| (StatusCode::OK, text))
}

async fn watch_end(
    mut snapshots: watch::Receiver<Arc<ApiSnapshot>>,
    wish: &Wish,
    from: Option<&NodeName>,
    written: Revision,
) -> Result<String, Refused> {
    loop {
        let end = snapshots.borrow_and_update().view().and_then(|view| outcome(view, wish, from, written));
        if let Some(end) = end {
            return end;
        }
        if snapshots.changed().await.is_err() {
            return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping"));
        }
    }
}

/// How the wish ended as of `view`; `None`: it has not.
fn outcome(
    view: &ClusterView,
    wish: &Wish,
    from: Option<&NodeName>,
    written: Revision,
) -> Option<Result<String, Refused>> {
    if view.revision < written {
        return None;
    }
    let leader = view.leader.as_ref().map(|l| &l.name);
    match leader {
        Some(new) if Some(new) != from => {
            // Holding the key is not serving.
            if !view.leader_member().is_some_and(|m| m.record.is_serving_leader()) {
                return None;
            }
            Some(Ok(match &wish.candidate {
                Some(wanted) if wanted != new => {
                    let mut done = wish.kind.done().to_owned();
                    done[..1].make_ascii_uppercase();
                    format!("{done} over to \"{new}\" instead of \"{wanted}\"")
                }
                _ => format!("Successfully {} over to \"{new}\"", wish.kind.done()),
            }))
        }
        Some(_) if view.failover.is_none() => {
            Some(Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, format!("{} failed", wish.kind.title()))))
        }
        _ => None,
    }
}

/// DELETE `/switchover`: withdraws a scheduled one.
pub(super) async fn withdraw<S: Store>(store: &S, space: &Keyspace) -> Result<String, Refused> {
    let view = read(store, space).await?;
    let Some(pending) = view.failover.filter(|f| f.value.scheduled_at.is_some()) else {
        return Err(Refused::new(StatusCode::NOT_FOUND, "no switchover is scheduled"));
    };
    let key = space.path(&Key::Failover);
    let unless_changed = Compare::ModRevisionIs(key.clone(), pending.mod_revision);
    let clear = Write::Put(key, FailoverRecord::default().to_json(), None);
    if store.txn(Txn { when: vec![unless_changed], then: vec![clear] }).await?.succeeded {
        Ok("scheduled switchover deleted".to_owned())
    } else {
        Err(Refused::new(StatusCode::CONFLICT, "the switchover was changed by somebody else"))
    }
}

#[cfg(test)]
#[path = "switchover_tests.rs"]
mod tests;
