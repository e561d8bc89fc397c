//! Threads in a network namespace: what they connect comes from there.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread::JoinHandle;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `work` on a thread of its own inside the namespace that the file names. Threads that it starts are there too.
pub(crate) fn inside<T: Send + 'static>(
    namespace: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<io::Result<T>>> {
    let file = File::open(namespace)?;
    std::thread::Builder::new().name("in-namespace".to_owned()).spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(work())
    })
}
