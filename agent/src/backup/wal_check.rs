//! Whether the WAL of a backup can be read from its beginning to its end, as `pg_verifybackup` asks: by `pg_waldump`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::BackupError;
use super::manifest::Manifest;
use super::read::Destination;

/// Lays WAL down in a directory and lets everything else pass.
#[derive(Debug)]
pub struct WalOnly {
    /// Where; it need not be there.
    pub dir: PathBuf,
}

impl Destination for WalOnly {
    fn directory(&mut self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn link(&mut self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn file(&mut self, path: &Path) -> io::Result<Option<Box<dyn Write>>> {
        // What lies deeper says only what was archived.
        let Some(name) = path.strip_prefix("pg_wal").ok().filter(|name| name.components().count() == 1)
        else {
            return Ok(None);
        };
        fs::create_dir_all(&self.dir)?;
        Ok(Some(Box::new(BufWriter::new(File::create(self.dir.join(name))?))))
    }
}

/// Reads what `manifest` says is needed from `dir`; `pg_waldump` is the program.
pub fn check(pg_waldump: &Path, dir: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    for range in &manifest.wal {
        let mut command = Command::new(pg_waldump);
        command.arg("--quiet").arg("--path").arg(dir).arg(format!("--timeline={}", range.timeline.0));
        command.arg(format!("--start={}", range.start)).arg(format!("--end={}", range.end));
        let output = command.stdin(Stdio::null()).output().map_err(BackupError::io(pg_waldump))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            return Err(BackupError::damaged(format!("its WAL cannot be read: {said}")));
        }
    }
    Ok(())
}
