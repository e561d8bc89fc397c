//! Cancel requests: to every server they may belong to.

use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::Opening;
use super::reach::reach;
use crate::close::CloseReason;
use crate::refusal::Refusal;
use crate::route;

impl Opening<'_> {
    /// Passes a cancel request to every server it may belong to and waits until they have closed, as libpq
    /// waits for us.
    pub(super) async fn cancel(&self, packet: &[u8]) -> Refusal {
        let targets = route::all_for_cancel(self.port.settings.rules, &self.topology.current());
        let limit = self.port.settings.connect_timeout;
        let each = targets.iter().map(async |target| {
            let mut server = reach(self.ticket, self.client, target).await.ok()?;
            server.send(packet).await.ok()?;
            let closed = async { while server.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {} };
            timeout(limit, closed).await.ok()
        });
        let delivered = futures_util::future::join_all(each).await.iter().any(Option::is_some);
        Refusal::silent(if delivered { CloseReason::CancelForwarded } else { CloseReason::CancelUnrouted })
    }
}
