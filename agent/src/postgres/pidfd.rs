//! Waiting for a process to end, as an event. The one place of this package with `unsafe`.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits until the process behind `pidfd` has ended: the descriptor is readable from then on (pidfd_open(2)).
pub(super) async fn ended(pidfd: &OwnedFd) -> io::Result<()> {
    let own = pidfd.try_clone()?;
    // SAFETY: registering needs the descriptor to stay open while it is registered. `OwnedFd` closes its
    // descriptor only when dropped, never hands it out for closing, and `AsyncFd` owns it until it has
    // deregistered.
    #[expect(unsafe_code, reason = "tokio has no safe registration of a plain descriptor")]
    let registered = unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) };
    let fd = registered.map_err(io::Error::from)?;
    let _ready = fd.readable().await?;
    Ok(())
}
