//! An archive of WAL in a directory: what `archive_command` puts there is on the disk before the server hears of it,
//! and never takes the place of something else.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::BackupError;

/// What became of a file that was to be archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archived {
    /// It is there now.
    Stored,
    /// It had been there, with the same content: the server was not told, or another primary was faster.
    AlreadyThere,
}

/// Puts the file at `source` into `archive` under its own name. A file of that name with other content stays, and is an
/// error: it is another cluster's, or of another history.
pub fn store(source: &Path, archive: &Path) -> Result<Archived, BackupError> {
    let name = source.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| BackupError::Other(format!("{} names no file", source.display())))?;
    let target = archive.join(name);
    let fresh = archive.join(format!(".{name}.{}.new", std::process::id()));
    // Of whatever became of it, only one name stays.
    let stored = copy(source, &fresh).and_then(|()| {
        // A link fails where somebody was faster; a rename would replace.
        match fs::hard_link(&fresh, &target) {
            Ok(()) => Ok(Archived::Stored),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if is_same(source, &target)? {
                    // Whoever put it there may have died before it was on the disk.
                    File::open(&target)?.sync_all()?;
                    return Ok(Archived::AlreadyThere);
                }
                let text = "it is there already, with other content; is the archive another cluster's too?";
                Err(io::Error::new(error.kind(), text))
            }
            Err(error) => Err(error),
        }
    });
    let removed = fs::remove_file(&fresh);
    let stored = stored.map_err(BackupError::io(&target))?;
    removed.map_err(BackupError::io(&fresh))?;
    File::open(archive).and_then(|dir| dir.sync_all()).map_err(BackupError::io(archive))?;
    Ok(stored)
}

/// Copies the file `name` of `archive` to `target`; `false`: there is none of that name. That is no error: a server asks
/// until there is no more. An archive that is not there, or cannot be read, is one.
pub fn fetch(archive: &Path, name: &str, target: &Path) -> Result<bool, BackupError> {
    if !archive.is_dir() {
        let text = format!("{} is no directory; is it mounted?", archive.display());
        return Err(BackupError::Other(text));
    }
    let source = archive.join(name);
    let mut from = match File::open(&source) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(BackupError::Io(source.display().to_string(), error)),
    };
    let mut fresh = target.as_os_str().to_owned();
    fresh.push(".fetched");
    let fresh = PathBuf::from(fresh);
    let copied = File::create(&fresh).and_then(|mut to| io::copy(&mut from, &mut to));
    copied.and_then(|_| fs::rename(&fresh, target)).map_err(BackupError::io(&source))?;
    Ok(true)
}

/// Removes the WAL that comes before the file `first`, on whatever timeline; answers how many files that were. What
/// describes timelines stays.
pub fn prune(archive: &Path, first: &str) -> Result<usize, BackupError> {
    let Some(first) = segment(Path::new(first)) else {
        return Err(BackupError::Other(format!("{first:?} is no WAL file's name")));
    };
    let mut removed = 0;
    for entry in fs::read_dir(archive).map_err(BackupError::io(archive))? {
        let path = entry.map_err(BackupError::io(archive))?.path();
        if segment(&path).is_some_and(|segment| segment[8..] < first[8..]) {
            fs::remove_file(&path).map_err(BackupError::io(&path))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// The WAL file that a path names, or that a `.partial` or `.backup` file belongs to: timeline and number in 24
/// hexadecimal digits.
pub fn segment(path: &Path) -> Option<&str> {
    let (segment, ending) = path.file_name()?.to_str()?.split_at_checked(24)?;
    let is_wal = ending.is_empty() || ending == ".partial" || ending.ends_with(".backup");
    let is_digit = |c: char| c.is_ascii_digit() || ('A'..='F').contains(&c);
    (is_wal && segment.chars().all(is_digit)).then_some(segment)
}

fn copy(source: &Path, target: &Path) -> io::Result<()> {
    let mut from = File::open(source)?;
    let mut to = File::create(target)?;
    io::copy(&mut from, &mut to)?;
    to.sync_all()
}

fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let read = one.read(&mut a)?;
        if read == 0 {
            return Ok(true);
        }
        other.read_exact(&mut b[..read])?;
        if a[..read] != b[..read] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "000000010000000000000002";

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("lists")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_stored_stays_and_comes_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let (archive, source) = (dir.path().join("archive"), dir.path().join(NAME));
        fs::write(&source, vec![7; 200_000]).expect("writes");
        let gone = store(&source, &archive).expect_err("no archive").to_string();
        assert!(gone.contains(NAME) && gone.contains("No such file"), "{gone}");
        assert!(
            fetch(&archive, NAME, &dir.path().join("x"))
                .expect_err("no archive")
                .to_string()
                .contains("mounted")
        );
        fs::create_dir(&archive).expect("creates");
        assert!(!fetch(&archive, NAME, &dir.path().join("x")).expect("none yet"));
        assert_eq!(store(&source, &archive).expect("stores"), Archived::Stored);
        assert_eq!(store(&source, &archive).expect("is there"), Archived::AlreadyThere);
        for other in [vec![7; 199_999], vec![8; 200_000]] {
            fs::write(&source, other).expect("writes");
            let why = store(&source, &archive).expect_err("other content").to_string();
            assert!(why.contains("with other content"), "{why}");
        }
        assert_eq!(names(&archive), [NAME], "nothing is left beside it");
        assert!(fetch(&archive, NAME, &dir.path().join("x")).expect("fetches"));
        assert!(fs::read(dir.path().join("x")).expect("reads") == vec![7; 200_000]);
    }

    #[test]
    fn what_no_backup_needs_goes_and_what_tells_of_timelines_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let all = [
            "000000010000000000000001",
            "000000010000000000000002.00000028.backup",
            "000000010000000000000003",
            "000000020000000000000002.partial",
            "000000020000000000000004",
            "00000002.history",
            "notes",
        ];
        for name in all {
            fs::write(dir.path().join(name), "").expect("writes");
        }
        assert_eq!(prune(dir.path(), "000000010000000000000003").expect("prunes"), 3);
        assert_eq!(names(dir.path()), [all[2], "00000002.history", all[4], "notes"]);
        assert!(prune(dir.path(), "").is_err());
    }
}
