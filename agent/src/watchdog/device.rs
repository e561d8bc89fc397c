//! The device: a kernel watchdog (kernel documentation, `watchdog/watchdog-api`), or a named pipe that stands for
//! one. One of the few places of this package with `unsafe`.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;

/// Closing after this byte disarms it ("magic close").
const MAGIC_CLOSE: &[u8] = b"V";

/// Any other byte tells it that all is well.
const ALIVE: &[u8] = b"1";

/// A watchdog that is open, and therefore armed.
#[derive(Debug)]
pub(super) struct Device {
    file: File,
    is_pipe: bool,
}

impl Device {
    /// Opens the device, which arms it with whatever time it had.
    pub(super) fn open(path: &Path, is_pipe: bool) -> io::Result<Device> {
        // A pipe that nobody reads must not hold us up, neither now nor when it is full.
        let flags = if is_pipe { OFlags::NONBLOCK } else { OFlags::empty() };
        let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
        let file = File::options().write(true).custom_flags(flags).open(path)?;
        Ok(Device { file, is_pipe })
    }

    /// Sets its time in whole seconds; the time it took, which may be another.
    pub(super) fn set_timeout(&mut self, timeout: Duration) -> io::Result<Duration> {
        let seconds = timeout.as_secs();
        if self.is_pipe {
            self.file.write_all(format!("Ctimeout={seconds}\n").as_bytes())?;
            return Ok(timeout);
        }
        let seconds = i32::try_from(seconds).map_err(io::Error::other)?;
        let taken = ioctl::set_timeout(&self.file, seconds)?;
        Ok(Duration::from_secs(u64::try_from(taken).unwrap_or(0)))
    }

    /// Tells it that all is well.
    pub(super) fn ping(&mut self) -> io::Result<()> {
        self.file.write_all(ALIVE)
    }

    /// Disarms it.
    pub(super) fn close(mut self) -> io::Result<()> {
        self.file.write_all(MAGIC_CLOSE)
    }
}

mod ioctl {
    use std::fs::File;
    use std::io;

    use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

    /// `WDIOC_SETTIMEOUT` (linux/watchdog.h): takes seconds and answers those in force.
    const SET_TIMEOUT: Opcode = opcode::read_write::<i32>(b'W', 6);

    pub(super) fn set_timeout(device: &File, seconds: i32) -> io::Result<i32> {
        let mut value = seconds;
        // SAFETY: the request reads and writes one `int`, which `value` is and which lives past the call. A file
        // that is no watchdog refuses the request (ENOTTY), for its number belongs to watchdogs alone.
        #[expect(unsafe_code, reason = "no crate in use knows this request")]
        unsafe {
            ioctl(device, Updater::<SET_TIMEOUT, i32>::new(&mut value))?;
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_watchdog_is_refused() {
        let error = Device::open(Path::new("/nowhere/watchdog"), false).expect_err("there is none");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let mut null = Device::open(Path::new("/dev/null"), false).expect("opens");
        let error = null.set_timeout(Duration::from_secs(5)).expect_err("takes no time");
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NOTTY.raw_os_error()));
    }
}
