//! A node's own time of day, by libfaketime: the clock that jumps when somebody sets it. `CLOCK_BOOTTIME`, which
//! decisions are made by, is no such clock and is left alone.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::process::Pid;

/// In the playground's directory: the processes that were started with a clock of their own.
const STARTED: &str = "clocks";

/// A clock that can be set.
#[derive(Clone, Debug)]
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// A clock that shows the true time, told in `file`.
    pub(super) fn create(library: &Path, file: PathBuf) -> io::Result<Clock> {
        let clock = Clock { library: library.to_owned(), file };
        clock.set(0)?;
        Ok(clock)
    }

    /// Sets it this many seconds fast, or slow where negative; programs see it within a second.
    pub fn set(&self, fast_s: i64) -> io::Result<()> {
        // In one step: who reads meanwhile reads the old or the new.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{fast_s:+}\n"))?;
        fs::rename(new, &self.file)
    }

    /// What a program that shall live by this clock needs.
    pub(super) fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.clone().into()),
            ("FAKETIME_CACHE_DURATION", "1".into()),
            // Timers are not to notice; with both names, since they changed.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }
}

/// Notes that `pid` was started with a clock of its own: the library leaves files that bear its number.
pub(super) fn note(dir: &Path, pid: Pid) -> io::Result<()> {
    let mut file = File::options().create(true).append(true).open(dir.join(STARTED))?;
    writeln!(file, "{}", pid.as_raw_nonzero())
}

/// Removes what the library left of all that were noted.
pub(super) fn forget(dir: &Path) {
    let started = fs::read_to_string(dir.join(STARTED)).unwrap_or_default();
    for pid in started.lines().filter_map(|line| line.parse::<u32>().ok()) {
        for name in [format!("faketime_shm_{pid}"), format!("sem.faketime_sem_{pid}")] {
            // It may have removed them itself.
            let _ = fs::remove_file(Path::new("/dev/shm").join(name));
        }
    }
}
