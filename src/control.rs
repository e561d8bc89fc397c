//! What changes a running proxy as a whole, and who is told how it went.

use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use tokio::sync::{mpsc, oneshot};

use crate::config::Config;

/// Who waits for the outcome: a sentence, good news or bad.
pub type Answer = oneshot::Sender<Result<String, String>>;

/// What is asked of a running proxy.
#[derive(Debug)]
pub enum Request {
    /// Read the settings again and change to them, wholly or not at all.
    Reload(Option<Answer>),
    /// Start the program again, from its file as it is now, to take over.
    Upgrade(Option<Answer>),
    /// Hand the ports over to who is at the other end.
    HandOver(UnixStream),
}

/// The program that an upgrade starts.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its file.
    pub file: PathBuf,
    /// Its arguments, which make it take over.
    pub arguments: Vec<OsString>,
}

/// How a running proxy is asked for something.
pub struct Control {
    /// To ask; handed on to the admin side.
    pub ask: mpsc::Sender<Request>,
    /// What is asked.
    pub asked: mpsc::Receiver<Request>,
    /// Reads the settings, or says why they cannot be read.
    pub settings: Box<dyn FnMut() -> Result<Config, String> + Send>,
    /// What an upgrade starts; `None`: it cannot be upgraded.
    pub program: Option<Program>,
}

impl Control {
    /// One whose settings `settings` reads.
    pub fn new(settings: impl FnMut() -> Result<Config, String> + Send + 'static) -> Control {
        let (ask, asked) = mpsc::channel(16);
        Control { ask, asked, settings: Box::new(settings), program: None }
    }
}

/// Tells who waits, if anybody does.
pub(crate) fn tell(answer: Option<Answer>, outcome: Result<String, String>) {
    if let Some(answer) = answer {
        // Who does not wait any more need not be told.
        let _ = answer.send(outcome);
    }
}
