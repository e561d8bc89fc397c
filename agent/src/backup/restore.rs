//! A backup becomes a data directory, each file held against the manifest on its way.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::BackupError;
use super::manifest::Manifest;
use super::read::{self, Destination, Facts};

/// Without it no server starts: it gets its name when everything else is there.
const CONTROL: &str = "global/pg_control";
const CONTROL_UNTIL_THEN: &str = "global/pg_control.restoring";

/// Which tablespaces there are, and where they were: a backup in tar format has no links to them.
const MAP: &str = "tablespace_map";

/// Where tablespaces go that were elsewhere: from the old directory to the new one.
pub type Mapping = BTreeMap<PathBuf, PathBuf>;

/// Unpacks the backup in `dir` into `data_dir`, which is empty or not there. What fails leaves it so.
pub fn restore(
    dir: &Path,
    data_dir: &Path,
    mapping: &Mapping,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<Facts, BackupError> {
    let manifest = Manifest::load(dir)?;
    let mut target = DataDir::new(data_dir, mapping);
    empty(data_dir).map_err(BackupError::io(data_dir))?;
    let done = read::read(dir, &manifest, &mut target, go_on)
        .and_then(|facts| target.complete().map(|()| facts).map_err(BackupError::io(data_dir)));
    if done.is_err() {
        for made in target.tablespaces.values().map(PathBuf::as_path).chain([data_dir]) {
            let _ = clear(made);
        }
    }
    done
}

struct DataDir<'a> {
    root: &'a Path,
    mapping: &'a Mapping,
    /// By OID.
    tablespaces: BTreeMap<String, PathBuf>,
    /// Whether they have their links.
    is_linked: bool,
}

impl Destination for DataDir<'_> {
    fn directory(&mut self, path: &Path) -> io::Result<()> {
        self.prepare_for(path)?;
        make(&self.root.join(path))
    }

    fn link(&mut self, path: &Path, _: &Path) -> io::Result<()> {
        Err(io::Error::other(format!(
            "{} is a link, which a backup in tar format does not have",
            path.display()
        )))
    }

    fn file(&mut self, path: &Path) -> io::Result<Option<Box<dyn Write>>> {
        self.prepare_for(path)?;
        let path = if path == Path::new(CONTROL) { Path::new(CONTROL_UNTIL_THEN) } else { path };
        let path = self.root.join(path);
        if let Some(parent) = path.parent() {
            make(parent)?;
        }
        let file = File::options().create_new(true).write(true).mode(0o600).open(path)?;
        Ok(Some(Box::new(BufWriter::with_capacity(1 << 17, file))))
    }
}

impl<'a> DataDir<'a> {
    fn new(root: &'a Path, mapping: &'a Mapping) -> DataDir<'a> {
        DataDir { root, mapping, tablespaces: BTreeMap::new(), is_linked: false }
    }

    /// The links, before the first file that goes through one. Their list comes before all of them.
    fn prepare_for(&mut self, path: &Path) -> io::Result<()> {
        let is_within = path.starts_with("pg_tblspc") && path.components().count() > 1;
        if is_within && !std::mem::replace(&mut self.is_linked, true) && self.root.join(MAP).exists() {
            for (oid, old) in read_map(&fs::read(self.root.join(MAP))?) {
                self.tablespace(&oid, &old)?;
            }
        }
        Ok(())
    }

    fn tablespace(&mut self, oid: &str, old: &Path) -> io::Result<()> {
        let new = self.mapping.get(old).map_or(old, PathBuf::as_path);
        empty(new).map_err(|error| {
            let (old, new) = (old.display(), new.display());
            let text = format!(
                "the tablespace's directory {new}: {error}; --tablespace-mapping {old}=DIR names another"
            );
            io::Error::new(error.kind(), text)
        })?;
        self.tablespaces.insert(oid.to_owned(), new.to_owned());
        make(&self.root.join("pg_tblspc"))?;
        symlink(new, self.root.join("pg_tblspc").join(oid))
    }

    /// Everything on the disk, then the file that makes it a database.
    fn complete(&self) -> io::Result<()> {
        if !self.tablespaces.is_empty() {
            // The server makes the links anew from it.
            fs::write(self.root.join(MAP), written_map(&self.tablespaces))?;
        }
        for dir in self.tablespaces.values().map(PathBuf::as_path).chain([self.root]) {
            rustix::fs::syncfs(File::open(dir)?)?;
        }
        fs::rename(self.root.join(CONTROL_UNTIL_THEN), self.root.join(CONTROL))?;
        File::open(self.root.join("global"))?.sync_all()
    }
}

/// As the server reads it when it starts from a backup: OID, a blank, the directory with ends of lines escaped.
fn written_map(tablespaces: &BTreeMap<String, PathBuf>) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;

    let mut text = Vec::new();
    for (oid, dir) in tablespaces {
        text.extend_from_slice(format!("{oid} ").as_bytes());
        for byte in dir.as_os_str().as_bytes() {
            if matches!(byte, b'\n' | b'\r' | b'\\') {
                text.push(b'\\');
            }
            text.push(*byte);
        }
        text.push(b'\n');
    }
    text
}

fn read_map(text: &[u8]) -> Vec<(String, PathBuf)> {
    use std::os::unix::ffi::OsStringExt;

    let (mut lines, mut line, mut bytes) = (Vec::new(), Vec::new(), text.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => line.extend(bytes.next()),
            b'\n' => lines.push(std::mem::take(&mut line)),
            other => line.push(*other),
        }
    }
    let pair = |line: Vec<u8>| {
        let at = line.iter().position(|byte| *byte == b' ')?;
        let oid = String::from_utf8(line[..at].to_vec()).ok()?;
        Some((oid, PathBuf::from(std::ffi::OsString::from_vec(line[at + 1..].to_vec()))))
    };
    lines.into_iter().filter_map(pair).collect()
}

fn make(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).recursive(true).create(dir)
}

/// Makes the directory; one that is there must be empty, and becomes its owner's alone.
fn empty(dir: &Path) -> io::Result<()> {
    make(dir)?;
    if fs::read_dir(dir)?.next().is_some() {
        return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, "it is not empty"));
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

fn clear(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::read::tests::{backup, content, packed};
    use super::*;

    #[test]
    fn files_come_back_as_they_were() {
        let backup = backup(&content(), &content());
        let root = tempfile::tempdir().expect("a directory");
        let data = root.path().join("deep/data");
        let facts = restore(backup.path(), &data, &Mapping::new(), &mut |_| true).expect("restores");
        assert_eq!(facts.system_identifier, "42");
        for (name, expected) in content() {
            let path = data.join(name);
            assert!(fs::read(&path).expect("is there") == expected, "{name}");
            assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
        }
        assert!(
            data.join("pg_wal/000000030000000000000005").exists() && !data.join(CONTROL_UNTIL_THEN).exists()
        );
        assert_eq!(fs::metadata(&data).expect("is there").permissions().mode() & 0o777, 0o700);
        let why = restore(backup.path(), &data, &Mapping::new(), &mut |_| true).expect_err("not empty");
        assert!(why.to_string().ends_with("it is not empty") && data.join("PG_VERSION").exists(), "{why}");
    }

    #[test]
    fn a_damaged_backup_leaves_nothing() {
        let mut files = content();
        files[1].1[5] ^= 1;
        let backup = backup(&files, &content());
        let data = tempfile::tempdir().expect("a directory");
        let why = restore(backup.path(), data.path(), &Mapping::new(), &mut |_| true).expect_err("damaged");
        assert!(why.to_string().contains("base/1/2"), "{why}");
        assert_eq!(fs::read_dir(data.path()).expect("lists").count(), 0);
    }

    #[test]
    fn a_tablespace_goes_where_it_is_told() {
        let root = tempfile::tempdir().expect("a directory");
        let (data, new) = (root.path().join("data"), root.path().join("a\\b"));
        let inside = ("pg_tblspc/16400/PG_15/5/1", b"inside".to_vec());
        let map = ("tablespace_map", b"16400 /old\\\\er\n".to_vec());
        let files = [vec![map.clone()], content()].concat();
        let backup = backup(&files, &[files.clone(), vec![inside]].concat());
        packed(&backup.path().join("16400.tar.gz"), &[("PG_15/5/1", b"inside".to_vec())]);
        let mapping = Mapping::from([(PathBuf::from("/old\\er"), new.clone())]);
        restore(backup.path(), &data, &mapping, &mut |_| true).expect("restores");
        assert_eq!(fs::read_link(data.join("pg_tblspc/16400")).expect("a link"), new);
        assert_eq!(fs::read(new.join("PG_15/5/1")).expect("reads"), b"inside");
        let map = fs::read_to_string(data.join(MAP)).expect("reads");
        assert_eq!(map, format!("16400 {}/a\\\\b\n", root.path().display()));
        assert_eq!(read_map(map.as_bytes()), [("16400".to_owned(), new.clone())]);

        let other = root.path().join("other");
        let why = restore(backup.path(), &other, &mapping, &mut |_| true).expect_err("taken").to_string();
        assert!(why.contains("--tablespace-mapping /old\\er=DIR"), "{why}");
        assert!(new.join("PG_15/5/1").exists(), "what was there is left alone");
        assert_eq!(fs::read_dir(other).expect("lists").count(), 0);
    }
}
