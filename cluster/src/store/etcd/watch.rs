//! A watch that notices when it has died.

use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions, WatchStream as EtcdStream};
use tokio::time::{Instant, sleep_until};

use super::connection::{Connections, Retry, classify, stream_ended};
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
    heard_at: Instant,
    ask_at: Instant,
}

/// Opens a watch on `prefix` from `from` on.
pub(super) async fn open(
    connections: &Connections,
    prefix: &str,
    from: Revision,
) -> Result<EtcdWatch, StoreError> {
    let options = WatchOptions::new().with_prefix().with_start_revision(from.0).with_progress_notify();
    connections
        .call(Retry::Always, |mut client: Client| {
            let options = options.clone();
            async move {
                let mut stream = client.watch(prefix, Some(options)).await?;
                let mut created = stream.message().await?.ok_or_else(stream_ended)?;
                if created.canceled() {
                    return Err(etcd_client::Error::WatchError(created.cancel_reason().to_owned()));
                }
                let now = Instant::now();
                Ok((created.take_header(), EtcdWatch { stream, heard_at: now, ask_at: now + ASK_EVERY }))
            }
        })
        .await
}

impl WatchStream for EtcdWatch {
    async fn next(&mut self) -> Result<WatchMessage, StoreError> {
        loop {
            let lost_at = self.heard_at + LOST_AFTER;
            tokio::select! {
                message = self.stream.message() => {
                    let message = message.map_err(|e| classify(&e))?;
                    let message = message.ok_or_else(|| StoreError::Unavailable("the watch ended".to_owned()))?;
                    self.heard_at = Instant::now();
                    if message.compact_revision() > 0 {
                        return Err(StoreError::Compacted(Revision(message.compact_revision())));
                    }
                    if message.canceled() {
                        return Err(StoreError::Unavailable(format!("the watch was cancelled: {}", message.cancel_reason())));
                    }
                    if message.created() {
                        continue;
                    }
                    let events: Vec<KeyEvent> = message.events().iter().filter_map(key_event).collect();
                    if events.is_empty() {
                        let revision = message.header().map_or(0, etcd_client::ResponseHeader::revision);
                        return Ok(WatchMessage::Progress(Revision(revision)));
                    }
                    return Ok(WatchMessage::Events(events));
                }
                () = sleep_until(self.ask_at.min(lost_at)) => {
                    if Instant::now() >= lost_at {
                        return Err(StoreError::Unavailable(format!("the watch was silent for {LOST_AFTER:?}")));
                    }
                    self.ask_at = Instant::now() + ASK_EVERY;
                    self.stream.request_progress().await.map_err(|e| classify(&e))?;
                }
            }
        }
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
