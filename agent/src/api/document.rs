//! PATCH and PUT of the dynamic configuration: read, change, check, compare-and-swap.

use hyper::StatusCode;
use pgvane_cluster::keyspace::{Key, Keyspace};
use pgvane_cluster::settings::{ClusterSettings, merge_patch};
use pgvane_cluster::store::{Compare, Store, Txn, Write};
use pgvane_cluster::{fold, view::ClusterView};
use serde_json::Value;

use super::answer::Refused;
use crate::timing::{Timing, TimingOverrides};

/// How the document is to change.
pub(super) enum Change {
    /// Merge this; `null` removes.
    Patch(Value),
    /// Replace by this.
    Put(Value),
}

/// Changes the document and returns it as it is then. Written only if it changed, and only if nobody else
/// wrote in between.
pub(super) async fn change<S: Store>(
    store: &S,
    space: &Keyspace,
    overrides: &TimingOverrides,
    change: Change,
) -> Result<Value, Refused> {
    let view = read(store, space).await?;
    let (before, unless_changed) = match &view.config {
        Some(config) => {
            (config.value.json.clone(), Compare::ModRevisionIs(space.path(&Key::Config), config.mod_revision))
        }
        None => (Value::Null, Compare::Absent(space.path(&Key::Config))),
    };
    let after = match change {
        Change::Patch(_) if before.is_null() => {
            return Err(Refused::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "there is no configuration to change yet",
            ));
        }
        Change::Patch(patch) => {
            let mut after = before.clone();
            merge_patch(&mut after, &patch);
            after
        }
        Change::Put(document) => document,
    };
    if after == before {
        return Ok(after);
    }
    check(&before, &after, overrides).map_err(|why| Refused::new(StatusCode::BAD_REQUEST, why))?;
    let bytes = after.to_string().into_bytes();
    let write = Write::Put(space.path(&Key::Config), bytes, None);
    let outcome = store.txn(Txn { when: vec![unless_changed], then: vec![write] }).await?;
    if outcome.succeeded {
        Ok(after)
    } else {
        Err(Refused::new(
            StatusCode::CONFLICT,
            "the configuration was changed by somebody else; read it again",
        ))
    }
}

/// The cluster as the store has it now.
pub(super) async fn read<S: Store>(store: &S, space: &Keyspace) -> Result<ClusterView, Refused> {
    let snapshot = store.snapshot(space.prefix()).await?;
    Ok(fold::from_snapshot(space, &snapshot, None))
}

/// Refuses values that would be passed over and were not there before, and a lease time that leaves no room.
pub fn check(before: &Value, after: &Value, overrides: &TimingOverrides) -> Result<(), String> {
    if !after.is_object() {
        return Err("the configuration must be a JSON object".to_owned());
    }
    let (_, known) = ClusterSettings::from_json(before);
    let (settings, warnings) = ClusterSettings::from_json(after);
    if let Some(w) = warnings.iter().find(|w| !known.contains(w)) {
        // What is used instead matters to whom finds such a value, not to whom is kept from writing it.
        let message = w.message.rsplit_once("; ").map_or(w.message.as_str(), |(what, _)| what);
        return Err(format!("{}: {message}", w.key));
    }
    Timing::derive(settings.ttl, overrides).map(drop).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use pgvane_cluster::store::model::ModelStore;
    use serde_json::json;

    use super::*;

    fn space() -> Keyspace {
        Keyspace::new("service", "t")
    }

    async fn with_config(document: Value) -> ModelStore {
        let store = ModelStore::new();
        let put = Txn::put(space().path(&Key::Config), document.to_string().into_bytes(), None);
        store.txn(put).await.expect("puts");
        store
    }

    async fn apply(store: &ModelStore, wish: Change) -> Result<Value, Refused> {
        change(store, &space(), &TimingOverrides::default(), wish).await
    }

    #[tokio::test]
    async fn a_patch_merges_and_an_equal_one_writes_nothing() {
        let store = with_config(json!({"ttl": 30, "pause": true})).await;
        let after = apply(&store, Change::Patch(json!({"pause": null, "ttl": 20}))).await.expect("applies");
        assert_eq!(after, json!({"ttl": 20}));
        let revision = store.snapshot("/").await.expect("reads").revision;
        apply(&store, Change::Patch(json!({"ttl": 20}))).await.expect("applies");
        assert_eq!(store.snapshot("/").await.expect("reads").revision, revision);
    }

    #[tokio::test]
    async fn what_cannot_work_is_refused_before_it_is_written() {
        let store = with_config(json!({"ttl": 30})).await;
        for (patch, expected) in [
            (json!({"ttl": "soon"}), "ttl: \"soon\""),
            (json!({"ttl": 1}), "ttl: 1s is below etcd's own floor of 2s"),
            (json!([]), "object"),
        ] {
            let Refused(status, why) = apply(&store, Change::Put(patch)).await.expect_err("refused");
            assert_eq!(status, StatusCode::BAD_REQUEST);
            assert!(why.contains(expected), "{why}");
        }
        let tight =
            TimingOverrides { stop_budget: Some(std::time::Duration::from_secs(9)), ..Default::default() };
        let refused = change(&store, &space(), &tight, Change::Patch(json!({"ttl": 10}))).await;
        assert!(refused.expect_err("refused").1.starts_with("ttl 10s is too short"));
    }

    #[tokio::test]
    async fn without_a_document_only_put_works() {
        let store = ModelStore::new();
        let Refused(status, _) = apply(&store, Change::Patch(json!({"ttl": 30}))).await.expect_err("refused");
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(apply(&store, Change::Put(json!({"ttl": 30}))).await, Ok(json!({"ttl": 30})));
    }
}
