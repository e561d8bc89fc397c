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
    let mut target = DataDir { root: data_dir, mapping, tablespaces: BTreeMap::new() };
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
}

impl Destination for DataDir<'_> {
    fn directory(&mut self, path: &Path) -> io::Result<()> {
        make(&self.root.join(path))
    }

    fn link(&mut self, path: &Path, to: &Path) -> io::Result<()> {
        let oid = path.strip_prefix("pg_tblspc").ok().and_then(Path::to_str);
        let Some(oid) = oid else {
            return Err(io::Error::other("a link that is no tablespace's"));
        };
        let new = self.mapping.get(to).map_or(to, PathBuf::as_path);
        empty(new).map_err(|error| {
            let (old, new) = (to.display(), new.display());
            io::Error::new(
                error.kind(),
                format!(
                    "the tablespace's directory {new}: {error}; --tablespace-mapping {old}=DIR names another"
                ),
            )
        })?;
        self.tablespaces.insert(oid.to_owned(), new.to_owned());
        symlink(new, self.root.join(path))
    }

    fn file(&mut self, path: &Path) -> io::Result<Option<Box<dyn Write>>> {
        let path = if path == Path::new(CONTROL) { Path::new(CONTROL_UNTIL_THEN) } else { path };
        let path = self.root.join(path);
        if let Some(parent) = path.parent() {
            make(parent)?;
        }
        let file = File::options().create_new(true).write(true).mode(0o600).open(path)?;
        Ok(Some(Box::new(BufWriter::with_capacity(1 << 17, file))))
    }
}

impl DataDir<'_> {
    /// Everything on the disk, then the file that makes it a database.
    fn complete(&self) -> io::Result<()> {
        let map = self.root.join("tablespace_map");
        if map.exists() {
            fs::write(&map, written_map(&self.tablespaces))?;
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
    use super::super::read::tests::{backup, content};
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
        files[1].1[5] = 9;
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
        make(&data.join("pg_tblspc")).expect("makes");
        let mapping = Mapping::from([(PathBuf::from("/old"), new.clone())]);
        let mut target = DataDir { root: &data, mapping: &mapping, tablespaces: BTreeMap::new() };
        target.link(Path::new("pg_tblspc/16400"), Path::new("/old")).expect("links");
        assert_eq!(fs::read_link(data.join("pg_tblspc/16400")).expect("a link"), new);
        let map = String::from_utf8(written_map(&target.tablespaces)).expect("text");
        assert_eq!(map, format!("16400 {}/a\\\\b\n", root.path().display()));
        fs::write(new.join("x"), "").expect("writes");
        let why = target.link(Path::new("pg_tblspc/16401"), Path::new("/old")).expect_err("taken");
        assert!(why.to_string().contains("--tablespace-mapping /old=DIR"), "{why}");
        assert!(target.link(Path::new("base/1"), Path::new("/")).is_err());
    }
}
