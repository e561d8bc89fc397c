//! A watch that notices when it has died.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream as EtcdStream};
use tokio::time::{Instant, sleep_until};

use super::connection::{Connection, Connections, Retry};
use super::errors::{classify, stream_ended};
use super::key_value;
use crate::ids::Revision;
use crate::store::{KeyEvent, StoreError, WatchMessage, WatchStream};

/// A quiet stream is asked for progress this often: silence alone proves nothing.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A stream that stays silent this long in spite of that is lost.
const LOST_AFTER: Duration = Duration::from_millis(3500);

/// Changes under one prefix.
pub struct EtcdWatch {
    stream: EtcdStream,
    connections: Arc<Connections>,
    generation: u64,
    heard_at: Instant,
    ask_at: Instant,
}

/// Opens a watch on `prefix` from `from` on.
pub(super) async fn open(
    connections: &Arc<Connections>,
    prefix: &str,
    from: Revision,
) -> Result<EtcdWatch, StoreError> {
    let options = WatchOptions::new().with_prefix().with_start_revision(from.0).with_progress_notify();
    let open = |connection: Connection, _: Option<()>| {
        let options = options.clone();
        async move {
            let (mut client, generation) = (connection.client, connection.generation);
            let mut stream = client.watch(prefix, Some(options)).await?;
            let mut created = stream.message().await?.ok_or_else(stream_ended)?;
            // A cancelled one is told below as well; only a refusal is worth another connection.
            if created.canceled() && created.compact_revision() == 0 {
                return Err(etcd_client::Error::WatchError(created.cancel_reason().to_owned()));
            }
            Ok((created.take_header(), (stream, generation, created.compact_revision())))
        }
    };
    let (stream, generation, compacted) = connections.call(Retry::Always, None, open).await?.value;
    if compacted > 0 {
        return Err(StoreError::Compacted(Revision(compacted)));
    }
    let now = Instant::now();
    Ok(EtcdWatch {
        stream,
        connections: Arc::clone(connections),
        generation,
        heard_at: now,
        ask_at: now + ASK_EVERY,
    })
}

impl EtcdWatch {
    /// What a response tells; `None` for the confirmation of the watch itself.
    fn read(&self, response: &WatchResponse) -> Result<Option<WatchMessage>, StoreError> {
        self.connections.terms.check(response.header())?;
        if response.compact_revision() > 0 {
            return Err(StoreError::Compacted(Revision(response.compact_revision())));
        }
        if response.canceled() {
            let reason = response.cancel_reason();
            return Err(StoreError::Unavailable(format!("the watch was cancelled: {reason}")));
        }
        if response.created() {
            return Ok(None);
        }
        let events: Vec<KeyEvent> = response.events().iter().filter_map(key_event).collect();
        if !events.is_empty() {
            return Ok(Some(WatchMessage::Events(events)));
        }
        let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok(Some(WatchMessage::Progress(Revision(revision))))
    }

    async fn hear(&mut self) -> Result<WatchMessage, StoreError> {
        loop {
            let lost_at = self.heard_at + LOST_AFTER;
            tokio::select! {
                message = self.stream.message() => {
                    let message = message.map_err(|e| classify("the watch", &e))?;
                    let message = message.ok_or_else(|| StoreError::Unavailable("the watch ended".to_owned()))?;
                    self.heard_at = Instant::now();
                    self.ask_at = self.heard_at + ASK_EVERY;
                    if let Some(message) = self.read(&message)? {
                        return Ok(message);
                    }
                }
                () = sleep_until(self.ask_at.min(lost_at)) => {
                    if Instant::now() >= lost_at {
                        return Err(StoreError::Unavailable(format!("the watch was silent for {LOST_AFTER:?}")));
                    }
                    self.ask_at = Instant::now() + ASK_EVERY;
                    self.stream.request_progress().await.map_err(|e| classify("the watch", &e))?;
                }
            }
        }
    }
}

impl WatchStream for EtcdWatch {
    async fn next(&mut self) -> Result<WatchMessage, StoreError> {
        let heard = self.hear().await;
        if heard.as_ref().is_err_and(|e| !matches!(e, StoreError::Compacted(_))) {
            self.connections.failed(self.generation);
        }
        heard
    }
}

fn key_event(event: &etcd_client::Event) -> Option<KeyEvent> {
    let kv = event.kv()?;
    Some(match event.event_type() {
        EventType::Put => KeyEvent::Put(key_value(kv)),
        EventType::Delete => {
            KeyEvent::Delete { key: kv.key().to_vec(), revision: Revision(kv.mod_revision()) }
        }
    })
}
