//! One way through all files of a backup: each is held against the manifest on its way to nowhere (a check), or into a
//! data directory (a restore).
//!
//! What is wrong is what `pg_verifybackup` calls wrong, which in PostgreSQL 13 to 17 cannot read packed tar files: a file
//! that is missing, that the manifest does not know, or whose size or content differs.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::BackupError;
use super::manifest::{self, Manifest};
use super::{tars, wal_archive};

/// How many things that are wrong are named.
const NAMED: usize = 10;

/// Where the files go.
pub trait Destination {
    /// A directory.
    fn directory(&mut self, path: &Path) -> io::Result<()>;
    /// A symbolic link; `to` is where it led in the original.
    fn link(&mut self, path: &Path, to: &Path) -> io::Result<()>;
    /// A file; `None`: its content is only looked at.
    fn file(&mut self, path: &Path) -> io::Result<Option<Box<dyn Write>>>;
}

/// What was found on the way.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Facts {
    /// Of the cluster, from pg_control.
    pub system_identifier: String,
    /// PostgreSQL's major version, as PG_VERSION has it.
    pub version: String,
    /// Bytes of all files, unpacked.
    pub bytes: u64,
    /// The oldest WAL file that is in it.
    pub first_wal: String,
}

/// Reads the whole backup in `dir`. `go_on` is told how many packed bytes were read so far, and ends it with `false`.
pub fn read(
    dir: &Path,
    manifest: &Manifest,
    destination: &mut dyn Destination,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<Facts, BackupError> {
    let mut reading = Reading {
        manifest,
        seen: BTreeSet::new(),
        wrong: vec![],
        facts: Facts::default(),
        count: Arc::default(),
        go_on,
        buffer: vec![0; 1 << 17],
    };
    for tar in tars::of(dir)? {
        reading.tar(&tar, destination)?;
    }
    for path in manifest.files.keys().filter(|path| !reading.seen.contains(*path)) {
        reading.wrong.push(format!("{} is missing", path.display()));
    }
    if reading.wrong.is_empty() {
        return Ok(reading.facts);
    }
    let more = reading.wrong.len().saturating_sub(NAMED);
    reading.wrong.truncate(NAMED);
    if more > 0 {
        reading.wrong.push(format!("and {more} more"));
    }
    Err(BackupError::Damaged(reading.wrong))
}

struct Reading<'a> {
    manifest: &'a Manifest,
    seen: BTreeSet<PathBuf>,
    wrong: Vec<String>,
    facts: Facts,
    count: Arc<AtomicU64>,
    go_on: &'a mut dyn FnMut(u64) -> bool,
    buffer: Vec<u8>,
}

impl Reading<'_> {
    fn tar(&mut self, tar: &tars::Tar, destination: &mut dyn Destination) -> Result<(), BackupError> {
        let shown = tar.path.display().to_string();
        let broken = |e: io::Error| BackupError::damaged(format!("{shown}: {e}"));
        let stream = tar.open(Arc::clone(&self.count)).map_err(broken)?;
        let mut archive = tar::Archive::new(stream);
        for entry in archive.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            let inner = entry.path().map_err(broken)?.into_owned();
            let path = below(&tar.below, &inner).ok_or_else(|| {
                BackupError::damaged(format!("{shown}: {} leads out of the data directory", inner.display()))
            })?;
            let kind = entry.header().entry_type();
            if kind.is_dir() {
                destination.directory(&path).map_err(BackupError::io(&path))?;
            } else if kind.is_symlink() {
                let to = entry.link_name().map_err(broken)?.unwrap_or_default().into_owned();
                destination.link(&path, &to).map_err(BackupError::io(&path))?;
            } else if kind.is_file() {
                self.file(&path, &mut entry, &broken, destination)?;
            } else {
                self.wrong.push(format!("{} is neither file, directory nor link", path.display()));
            }
        }
        // Its end holds the checksum of what packed it.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(broken)?;
        Ok(())
    }

    fn file(
        &mut self,
        path: &Path,
        content: &mut dyn Read,
        broken: &dyn Fn(io::Error) -> BackupError,
        destination: &mut dyn Destination,
    ) -> Result<(), BackupError> {
        let mut out = destination.file(path).map_err(BackupError::io(path))?;
        let (mut size, mut sum, mut start) = (0_u64, 0_u32, Vec::new());
        loop {
            let read = content.read(&mut self.buffer).map_err(broken)?;
            if read == 0 {
                break;
            }
            if !(self.go_on)(self.count.load(Ordering::Relaxed)) {
                return Err(BackupError::Interrupted);
            }
            let bytes = &self.buffer[..read];
            if start.len() < 16 {
                start.extend_from_slice(&bytes[..read.min(16)]);
            }
            size += read as u64;
            sum = crc32c::crc32c_append(sum, bytes);
            if let Some(out) = &mut out {
                out.write_all(bytes).map_err(BackupError::io(path))?;
            }
        }
        if let Some(mut out) = out {
            out.flush().map_err(BackupError::io(path))?;
        }
        self.facts.bytes += size;
        self.note(path, &start);
        match self.manifest.files.get(path) {
            Some(expected) if expected.size != size => {
                self.wrong.push(format!("{} has {size} bytes, not {}", path.display(), expected.size));
            }
            Some(expected) if expected.checksum != sum => {
                self.wrong.push(format!("the content of {} has changed", path.display()));
            }
            Some(_) => {}
            None if is_unlisted(path) => {}
            None => self.wrong.push(format!("the manifest does not know {}", path.display())),
        }
        self.seen.insert(path.to_owned());
        Ok(())
    }

    fn note(&mut self, path: &Path, start: &[u8]) {
        if path == Path::new("global/pg_control") {
            // Its first field (ControlFileData).
            let id = start.first_chunk::<8>().map(|bytes| u64::from_ne_bytes(*bytes));
            self.facts.system_identifier = id.map(|id| id.to_string()).unwrap_or_default();
        } else if path == Path::new("PG_VERSION") {
            String::from_utf8_lossy(start).trim().clone_into(&mut self.facts.version);
        } else if let Some(segment) = wal_archive::segment(path) {
            let first = &mut self.facts.first_wal;
            // The number within a timeline comes after that of the timeline.
            if first.is_empty() || segment[8..] < first[8..] {
                segment.clone_into(first);
            }
        }
    }
}

/// `inner` below `outer`, where it leads nowhere else.
fn below(outer: &Path, inner: &Path) -> Option<PathBuf> {
    let mut path = outer.to_owned();
    for component in inner.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

/// What a manifest never lists: WAL, which is checked as such, and itself.
fn is_unlisted(path: &Path) -> bool {
    path.starts_with("pg_wal") || path == Path::new(manifest::FILE)
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs::{self, File};

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::super::manifest::tests::{line, written};
    use super::*;

    /// Writes nothing.
    struct Nowhere;

    impl Destination for Nowhere {
        fn directory(&mut self, _: &Path) -> io::Result<()> {
            Ok(())
        }

        fn link(&mut self, _: &Path, _: &Path) -> io::Result<()> {
            Ok(())
        }

        fn file(&mut self, _: &Path) -> io::Result<Option<Box<dyn Write>>> {
            Ok(None)
        }
    }

    /// Files by their names.
    type Content = Vec<(&'static str, Vec<u8>)>;

    /// What a small backup holds.
    pub(in super::super) fn content() -> Content {
        let control = [42_u64.to_ne_bytes().to_vec(), vec![7; 8184]].concat();
        // No two places alike: a damaged packing could say the same of those.
        let table = (0..300_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        vec![("PG_VERSION", b"15\n".to_vec()), ("base/1/2", table), ("global/pg_control", control)]
    }

    pub(in super::super) fn packed(path: &Path, files: &[(&str, Vec<u8>)]) {
        let encoder = GzEncoder::new(File::create(path).expect("creates"), Compression::fast());
        let mut builder = tar::Builder::new(encoder);
        for (name, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            builder.append_data(&mut header, name, content.as_slice()).expect("appends");
        }
        builder.into_inner().and_then(GzEncoder::finish).expect("writes");
    }

    /// A backup of these files, with one segment of WAL; the manifest knows of `listed`.
    pub(in super::super) fn backup(
        files: &[(&str, Vec<u8>)],
        listed: &[(&str, Vec<u8>)],
    ) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        packed(&dir.path().join("base.tar.gz"), files);
        packed(&dir.path().join("pg_wal.tar.gz"), &[("000000030000000000000005", vec![5; 1000])]);
        let lines: Vec<_> = listed.iter().map(|(name, content)| line(name, content)).collect();
        fs::write(dir.path().join(manifest::FILE), written(&lines)).expect("writes");
        dir
    }

    fn checked(dir: &Path) -> Result<Facts, String> {
        let manifest = Manifest::load(dir).expect("a manifest");
        read(dir, &manifest, &mut Nowhere, &mut |_| true).map_err(|e| e.to_string())
    }

    #[test]
    fn a_whole_backup_tells_what_it_is_of() {
        let dir = backup(&content(), &content());
        let facts = checked(dir.path()).expect("whole");
        assert_eq!((facts.system_identifier.as_str(), facts.version.as_str()), ("42", "15"));
        assert_eq!(facts.bytes, 300_000 + 3 + 8192 + 1000);
        assert_eq!(facts.first_wal, "000000030000000000000005");
        let manifest = Manifest::load(dir.path()).expect("a manifest");
        let ended = read(dir.path(), &manifest, &mut Nowhere, &mut |_| false);
        assert!(matches!(ended, Err(BackupError::Interrupted)));
    }

    #[test]
    fn whatever_differs_from_the_manifest_is_named() {
        let with = |change: fn(&mut Content)| {
            let mut files = content();
            change(&mut files);
            checked(backup(&files, &content()).path()).expect_err("damaged")
        };
        assert!(with(|f| f[1].1[7] ^= 2).ends_with("the content of base/1/2 has changed"));
        assert!(with(|f| f[1].1.truncate(9)).ends_with("base/1/2 has 9 bytes, not 300000"));
        assert!(with(|f| drop(f.remove(0))).ends_with("PG_VERSION is missing"));
        assert!(with(|f| f.push(("stray", vec![]))).ends_with("the manifest does not know stray"));
    }

    #[test]
    fn a_file_that_was_cut_or_changed_on_the_disk_is_damaged() {
        let dir = backup(&content(), &content());
        let file = dir.path().join("base.tar.gz");
        let bytes = fs::read(&file).expect("reads");
        fs::write(&file, &bytes[..bytes.len() - 4]).expect("writes");
        assert!(checked(dir.path()).expect_err("cut").starts_with("the backup is damaged: "));
        let mut changed = bytes.clone();
        changed[bytes.len() / 2] ^= 0x10;
        fs::write(&file, changed).expect("writes");
        assert!(checked(dir.path()).is_err());
        fs::remove_file(file).expect("removes");
        assert!(checked(dir.path()).expect_err("gone").contains("no base.tar"));
    }

    #[test]
    fn no_name_leads_out() {
        assert_eq!(below(Path::new("a"), Path::new("./b/c")), Some(PathBuf::from("a/b/c")));
        for bad in ["../b", "b/../../c", "/etc/passwd"] {
            assert_eq!(below(Path::new("a"), Path::new(bad)), None, "{bad}");
        }
    }
}
