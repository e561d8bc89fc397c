//! A log file that turns when it has grown: `NAME` becomes `NAME.1`, that one `NAME.2`, and the oldest goes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogFile;

/// A log file in use.
pub(super) struct Rotating {
    file: LogFile,
    open: Mutex<Open>,
}

struct Open {
    file: File,
    size: u64,
}

impl Rotating {
    /// Opens the file, to write at its end.
    pub(super) fn open(file: LogFile) -> io::Result<Rotating> {
        let open = Mutex::new(open(&file)?);
        Ok(Rotating { file, open })
    }

    /// Writes a whole line; the file is turned first where the line would make it too large.
    fn line(&self, line: &[u8]) -> io::Result<()> {
        let mut at = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        let turns = self.file.size > 0 && self.file.keep > 0;
        if turns && at.size > 0 && at.size.saturating_add(length) > self.file.size {
            turn(&self.file.path, self.file.keep)?;
            *at = open(&self.file)?;
        }
        at.file.write_all(line)?;
        at.size = at.size.saturating_add(length);
        Ok(())
    }
}

fn open(file: &LogFile) -> io::Result<Open> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    if let Some(mode) = file.mode {
        options.mode(mode);
    }
    let opened = options.open(&file.path)?;
    if let Some(mode) = file.mode {
        // Whatever the umask took, and whatever it had before.
        opened.set_permissions(Permissions::from_mode(mode))?;
    }
    let size = opened.metadata()?.len();
    Ok(Open { file: opened, size })
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn turn(path: &Path, keep: u32) -> io::Result<()> {
    for number in (1..keep).rev() {
        match fs::rename(numbered(path, number), numbered(path, number + 1)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => {}
        }
    }
    fs::rename(path, numbered(path, 1))
}

impl<'a> MakeWriter<'a> for Rotating {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter(self)
    }
}

/// Writes what it is given at once, as a line of its own.
pub(super) struct LineWriter<'a>(&'a Rotating);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !line.is_empty() {
            self.0.line(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_has_grown_is_turned_and_the_oldest_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("patroni.log");
        let file = LogFile { path: path.clone(), keep: 2, size: 10, mode: Some(0o640) };
        let log = Rotating::open(file.clone()).expect("opens");
        for line in ["one\n", "two\n", "three\n", "four\n", "five\n", "a line that is too long\n", "six\n"] {
            log.make_writer().write_all(line.as_bytes()).expect("writes");
        }
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        assert_eq!(read(&path), "six\n");
        assert_eq!(read(&numbered(&path, 1)), "a line that is too long\n");
        assert_eq!(read(&numbered(&path, 2)), "four\nfive\n");
        assert!(!numbered(&path, 3).exists());
        let mode = fs::metadata(&path).expect("looks").permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        drop(log);
        // Who comes later goes on where it ended, and one that keeps nothing grows.
        let log = Rotating::open(LogFile { keep: 0, ..file }).expect("opens");
        log.make_writer().write_all(b"seven, eight, nine\n").expect("writes");
        assert_eq!(read(&path), "six\nseven, eight, nine\n");
    }
}
