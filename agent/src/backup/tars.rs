//! The tar files of a backup: which there are, where their content belongs, and how they are packed.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::BackupError;

/// One tar file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tar {
    /// Where it is.
    pub path: PathBuf,
    /// What its entries are relative to, in the data directory.
    pub below: PathBuf,
    packing: Packing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    Lz4,
    Zstd,
}

/// Those of the backup in `dir`: the data directory's, the tablespaces', that of the WAL.
pub fn of(dir: &Path) -> Result<Vec<Tar>, BackupError> {
    let entries = fs::read_dir(dir).map_err(BackupError::io(dir))?;
    let paths = entries.collect::<Result<Vec<_>, _>>().map_err(BackupError::io(dir))?;
    let mut tars: Vec<Tar> = paths.iter().filter_map(|entry| tar(&entry.path())).collect();
    tars.sort_by(|a, b| a.below.cmp(&b.below));
    match tars.first() {
        Some(base) if base.below.as_os_str().is_empty() => Ok(tars),
        _ => Err(BackupError::damaged("there is no base.tar in it")),
    }
}

fn tar(path: &Path) -> Option<Tar> {
    let (stem, ending) = path.file_name()?.to_str()?.split_once('.')?;
    let packing = match ending {
        "tar" => Packing::None,
        "tar.gz" => Packing::Gzip,
        "tar.lz4" => Packing::Lz4,
        "tar.zst" => Packing::Zstd,
        _ => return None,
    };
    let below = match stem {
        "base" => PathBuf::new(),
        "pg_wal" => PathBuf::from("pg_wal"),
        oid if oid.parse::<u32>().is_ok() => Path::new("pg_tblspc").join(oid),
        _ => return None,
    };
    Some(Tar { path: path.to_owned(), below, packing })
}

impl Tar {
    /// Its content, unpacked. The bytes read from the disk are added to `count`.
    pub fn open(&self, count: Arc<AtomicU64>) -> io::Result<Box<dyn Read>> {
        let file = BufReader::with_capacity(1 << 18, Counted { file: File::open(&self.path)?, count });
        Ok(match self.packing {
            Packing::None => Box::new(file),
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
            Packing::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(file)),
            Packing::Zstd => {
                let decoder = ruzstd::decoding::StreamingDecoder::new(file);
                Box::new(decoder.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?)
            }
        })
    }
}

struct Counted {
    file: File,
    count: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_in_them_and_other_files_are_nobodys() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(of(dir.path()).expect_err("empty").to_string().contains("no base.tar"));
        for name in ["base.tar.gz", "pg_wal.tar", "16400.tar.zst", "backup_manifest", "x.tar", "base.tar.xz"]
        {
            fs::write(dir.path().join(name), "").expect("writes");
        }
        let found: Vec<_> =
            of(dir.path()).expect("lists").into_iter().map(|t| (t.below, t.packing)).collect();
        let expected = [("", Packing::Gzip), ("pg_tblspc/16400", Packing::Zstd), ("pg_wal", Packing::None)];
        assert_eq!(found, expected.map(|(below, packing)| (PathBuf::from(below), packing)));
    }
}
