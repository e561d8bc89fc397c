//! The dynamic configuration as it was last read, also across restarts of the agent.
//!
//! Kept in the data directory under Patroni's name (contract section 4), for both kinds of agent and for two
//! uses: until the store has answered it says whether the cluster is paused, and a leader that finds the key
//! deleted writes it again as it was (trap 14).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tracing::warn;

use crate::postgres::settings::replace;

/// The file's name.
const FILE: &str = "patroni.dynamic.json";

/// The document, and whether the file says the same.
#[derive(Debug)]
pub struct KnownConfig {
    file: PathBuf,
    known: Mutex<Known>,
    /// One write at a time.
    writing: Mutex<()>,
}

#[derive(Debug)]
struct Known {
    document: Option<Value>,
    is_saved: bool,
}

impl KnownConfig {
    /// What an earlier agent left, ours or Patroni. A file that cannot be read is none.
    pub fn load(data_dir: &Path) -> KnownConfig {
        let file = data_dir.join(FILE);
        let read = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let document =
            read.filter(|document: &Value| document.as_object().is_some_and(|map| !map.is_empty()));
        KnownConfig { file, known: Mutex::new(Known { document, is_saved: false }), writing: Mutex::new(()) }
    }

    /// The document, where one was ever read.
    pub fn document(&self) -> Option<Value> {
        self.lock().document.clone()
    }

    /// Takes in what the store says. `settled`: there is a data directory and nobody works on it; while somebody
    /// does, the file may become another's.
    pub fn note(self: &Arc<Self>, document: &Value, settled: bool) {
        {
            let mut known = self.lock();
            if known.document.as_ref() != Some(document) {
                *known = Known { document: Some(document.clone()), is_saved: false };
            }
            if known.is_saved == settled {
                return;
            }
            known.is_saved = settled;
        }
        if settled {
            let this = Arc::clone(self);
            tokio::task::spawn_blocking(move || this.save());
        }
    }

    /// Writes the newest document, which may be newer than when this was asked for.
    fn save(&self) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(document) = self.document() else { return };
        if let Err(error) = replace(&self.file, document.to_string(), 0o600) {
            warn!(%error, "the dynamic configuration was not kept on disk");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn what_was_read_last_is_known_to_the_next_agent() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join(FILE);
        let read = || KnownConfig::load(dir.path()).document();
        assert_eq!(read(), None, "there is none");
        for garbage in ["", "{", "[]", "{}", "null"] {
            fs::write(&file, garbage).expect("writes");
            assert_eq!(read(), None, "{garbage:?}");
        }
        fs::write(&file, r#"{"pause": true, "ttl": 30}"#).expect("writes");
        let known = Arc::new(KnownConfig::load(dir.path()));
        assert_eq!(known.document(), Some(json!({"pause": true, "ttl": 30})));

        let newer = json!({"ttl": 30});
        known.note(&newer, false);
        assert_eq!(read(), Some(json!({"pause": true, "ttl": 30})), "a clone may be under way");
        known.note(&newer, true);
        // As the blocking task does, whichever is first.
        known.save();
        assert_eq!(read(), Some(newer.clone()));

        // A clone brought its source's.
        known.note(&newer, false);
        fs::write(&file, r#"{"pause": true}"#).expect("writes");
        known.note(&newer, true);
        known.save();
        assert_eq!(read(), Some(newer));
    }
}
