//! A directory of backups: one run at a time works on it, what a dead run left is removed, and whatever has the name of
//! a backup is whole.
//!
//! While a backup is made or removed it lies in a *holder*, a directory of another name with a mark of ours in it. Both
//! ways lead over one rename, so there is no moment at which half a backup has a backup's name.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use rustix::io::{FdFlags, fcntl_setfd};

use super::BackupError;
use super::record::{self, Record};

/// Whoever holds its lock works on the directory.
const LOCK: &str = ".pgvanectl.lock";

/// A file in every holder: what is in there was made here and may be removed.
const MARK: &str = "made-by-pgvanectl";

/// The two kinds of holders, by the ends of their names.
const UNFINISHED: &str = ".unfinished";
const REMOVED: &str = ".removed";

/// How a backup's name ends: when it was begun, in UTC.
const TIME: &str = "%Y%m%dT%H%M%SZ";

/// Time between two looks at a lock that is taken.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A backup that is there.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Where.
    pub dir: PathBuf,
    /// What it is.
    pub record: Record,
    /// What is wrong with it at first sight.
    pub wrong: Option<String>,
}

/// The backups in `dir`, oldest first. What has no record that can be read is none.
pub fn list(dir: &Path) -> Result<Vec<Stored>, BackupError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(BackupError::io(dir))? {
        let path = entry.map_err(BackupError::io(dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if !is_name(&name) || !path.is_dir() {
            continue;
        }
        if let Ok(record) = Record::load(&path)
            && record.name == name
        {
            let wrong = record.missing(&path);
            found.push(Stored { dir: path, record, wrong });
        }
    }
    found.sort_by_key(|stored| stored.record.finished);
    Ok(found)
}

/// The backup that is meant by `path`: the one there, or the newest one in that directory, of `scope` where it is named,
/// whose copy had ended by `before`.
pub fn find(path: &Path, scope: Option<&str>, before: Option<Timestamp>) -> Result<Stored, BackupError> {
    if path.join(record::FILE).exists() {
        let record = Record::load(path)?;
        let wrong = record.missing(path);
        return Ok(Stored { dir: path.to_owned(), record, wrong });
    }
    let shown = path.display();
    let mut found = list(path)?;
    found.retain(|stored| {
        let record = &stored.record;
        scope.is_none_or(|scope| record.scope == scope) && before.is_none_or(|at| record.finished <= at)
    });
    if let Some(other) = found.iter().find(|other| other.record.scope != found[0].record.scope) {
        let (one, other) = (&found[0].record.scope, &other.record.scope);
        let text = format!("{shown} has backups of {one} and of {other}; say whose is meant with --of");
        return Err(BackupError::Other(text));
    }
    let newest = found.into_iter().rfind(|stored| stored.wrong.is_none());
    newest.ok_or_else(|| {
        let of = scope.map(|scope| format!(" of {scope}")).unwrap_or_default();
        let by = before.map(|at| format!(" that had ended by {at}")).unwrap_or_default();
        BackupError::Other(format!("there is no whole backup{of}{by} in {shown}"))
    })
}

/// The right to work on a directory of backups, for as long as it lives.
#[derive(Debug)]
pub struct Shelf {
    dir: PathBuf,
    /// Programs that are started inherit it: what they write to is not touched while one outlives us.
    _lock: File,
    /// What dead runs had left, which was removed.
    pub leftovers: Vec<String>,
}

impl Shelf {
    /// Waits at most `patience` for whoever works there, then removes what dead runs left.
    pub fn open(dir: &Path, patience: Duration) -> Result<Shelf, BackupError> {
        if !dir.is_dir() {
            // What is to be a mount would become a directory on the disk below it.
            let text = format!("{} is no directory; make it (or mount it) first", dir.display());
            return Err(BackupError::Other(text));
        }
        let path = dir.join(LOCK);
        let lock = File::options().create(true).truncate(false).write(true).read(true).open(&path);
        let mut lock = lock.map_err(BackupError::io(&path))?;
        let began = Instant::now();
        while let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(BackupError::Io(path.display().to_string(), error.into()));
            }
            if began.elapsed() >= patience {
                let who = fs::read_to_string(&path).unwrap_or_default();
                let (dir, who) = (dir.display(), who.trim());
                let text = format!("another run ({who}), or a program it started, works on {dir}");
                return Err(BackupError::Busy(text));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let who = format!("process {} since {:.0}\n", std::process::id(), Timestamp::now());
        let noted = lock.set_len(0).and_then(|()| lock.write_all(who.as_bytes()));
        noted.map_err(BackupError::io(&path))?;
        let inherited = fcntl_setfd(&lock, FdFlags::empty()).map_err(io::Error::from);
        inherited.map_err(BackupError::io(&path))?;
        let mut shelf = Shelf { dir: dir.to_owned(), _lock: lock, leftovers: vec![] };
        shelf.leftovers = shelf.sweep()?;
        Ok(shelf)
    }

    fn sweep(&self) -> Result<Vec<String>, BackupError> {
        let mut swept = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(BackupError::io(&self.dir))? {
            let path = entry.map_err(BackupError::io(&self.dir))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if is_holder(name) && path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                // Not before: a holder that is dropped removes itself.
                if is_ours(&path) {
                    swept.push(name.to_owned());
                    Holder { path: path.clone() }.remove().map_err(BackupError::io(&path))?;
                }
            }
        }
        Ok(swept)
    }

    /// A name for a backup of `scope` that is begun now, which no other has.
    pub fn name(&self, scope: &str, begun: Timestamp) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' };
        let scope: String = scope.chars().map(plain).collect();
        let at = |second: i64| {
            let at = begun.checked_add(jiff::SignedDuration::from_secs(second)).unwrap_or(begun);
            format!("{scope}-{}", at.strftime(TIME))
        };
        let free = |name: &String| self.dir.join(name).symlink_metadata().is_err();
        (0..60).map(at).find(free).unwrap_or_else(|| at(0))
    }

    /// A place for a backup that is made now. Dropping it removes what is in it.
    pub fn begin(&self, name: &str) -> Result<Holder, BackupError> {
        Holder::make(&self.dir, name, UNFINISHED)
    }

    /// Writes `record` to what is in `holder`, and gives it its name.
    pub fn finish(&self, holder: Holder, record: &Record) -> Result<PathBuf, BackupError> {
        let inside = holder.inside();
        let file = inside.join(record::FILE);
        let written = File::create(&file).and_then(|mut to| {
            to.write_all(record.text().as_bytes())?;
            to.sync_all()
        });
        written.map_err(BackupError::io(&file))?;
        sync_dir(&inside)?;
        let target = self.dir.join(&record.name);
        fs::rename(&inside, &target).map_err(BackupError::io(&target))?;
        sync_dir(&self.dir)?;
        drop(holder);
        Ok(target)
    }

    /// Removes the backup of this name: at once for everybody who lists, then from the disk.
    pub fn remove(&self, name: &str) -> Result<(), BackupError> {
        let path = self.dir.join(name);
        let holder = Holder::make(&self.dir, name, REMOVED)?;
        fs::rename(&path, holder.inside()).map_err(BackupError::io(&path))?;
        sync_dir(&self.dir)?;
        let shown = holder.path.clone();
        holder.remove().map_err(BackupError::io(&shown))
    }
}

/// Where a backup lies while it is none.
#[derive(Debug)]
pub struct Holder {
    path: PathBuf,
}

impl Holder {
    fn make(dir: &Path, name: &str, kind: &str) -> Result<Holder, BackupError> {
        let path = dir.join(format!(".{name}{kind}"));
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(BackupError::io(&path))?;
        let holder = Holder { path };
        File::create(holder.path.join(MARK)).map_err(BackupError::io(&holder.path))?;
        Ok(holder)
    }

    /// The backup's own directory in it; whoever fills it makes it.
    pub fn inside(&self) -> PathBuf {
        self.path.join("backup")
    }

    /// Room for anything that is not to be kept.
    pub fn scratch(&self) -> PathBuf {
        self.path.join("scratch")
    }

    /// The mark goes last, and nothing that was not put there here.
    fn remove(&self) -> io::Result<()> {
        for path in [self.inside(), self.scratch()] {
            gone(fs::remove_dir_all(path))?;
        }
        gone(fs::remove_file(self.path.join(MARK)))?;
        gone(fs::remove_dir(&self.path))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next run.
        let _ = self.remove();
    }
}

/// Marked, or not even that: a run that died between the two.
fn is_ours(holder: &Path) -> bool {
    let is_empty = || fs::read_dir(holder).is_ok_and(|mut entries| entries.next().is_none());
    holder.join(MARK).exists() || is_empty()
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> Result<(), BackupError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(BackupError::io(dir))
}

fn is_name(name: &str) -> bool {
    let begun = name.rsplit_once('-').map_or("", |(_, begun)| begun);
    !name.starts_with('.') && jiff::civil::DateTime::strptime(TIME, begun).is_ok()
}

fn is_holder(name: &str) -> bool {
    let Some(name) = name.strip_prefix('.') else { return false };
    [UNFINISHED, REMOVED].iter().any(|kind| name.strip_suffix(kind).is_some_and(is_name))
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn shelf(dir: &Path) -> Shelf {
        Shelf::open(dir, NOW).expect("nobody else is there")
    }

    /// Puts a backup of this name there.
    fn put(shelf: &Shelf, name: &str, finished: &str) {
        let holder = shelf.begin(name).expect("begins");
        fs::create_dir(holder.inside()).expect("creates");
        fs::write(holder.inside().join("base.tar.gz"), "abc").expect("writes");
        shelf.finish(holder, &record(name, finished)).expect("finishes");
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut all: Vec<_> = fs::read_dir(dir)
            .expect("lists")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn what_is_begun_counts_when_it_is_finished_and_not_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let shelf = shelf(dir.path());
        let at = "2026-01-02T03:04:05Z".parse().expect("a time");
        let name = shelf.name("a/b", at);
        assert_eq!(name, "a_b-20260102T030405Z");
        let holder = shelf.begin(&name).expect("begins");
        fs::create_dir(holder.inside()).expect("creates");
        fs::write(holder.inside().join(record::FILE), record(&name, "2026-01-02T03:04:05Z").text())
            .expect("writes");
        assert!(list(dir.path()).expect("lists").is_empty());
        drop(holder);
        assert_eq!(names(dir.path()), [LOCK]);
        put(&shelf, &name, "2026-01-02T03:05:00Z");
        assert_eq!(names(dir.path()), [LOCK, &name], "nothing else is left");
        let listed = list(dir.path()).expect("lists");
        assert!(listed.len() == 1 && listed[0].wrong.is_none());
        assert_eq!(shelf.name("a/b", at), "a_b-20260102T030406Z", "no name twice");
        shelf.remove(&name).expect("removes");
        assert_eq!(names(dir.path()), [LOCK]);
    }

    #[test]
    fn one_works_there_and_its_leftovers_are_removed_but_nobody_elses() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = shelf(dir.path());
        let Err(BackupError::Busy(why)) = Shelf::open(dir.path(), NOW) else { panic!("two at once") };
        assert!(why.contains(&format!("process {} since", std::process::id())), "{why}");
        // As a run leaves it that is killed.
        std::mem::forget(first.begin("demo-20260101T000000Z").expect("begins"));
        std::mem::forget(Holder::make(dir.path(), "demo-20260101T000001Z", REMOVED).expect("makes"));
        let strangers = [".demo-20260101T000002Z.unfinished", ".other.unfinished", "demo-20260101T000003Z"];
        for stranger in strangers {
            fs::create_dir(dir.path().join(stranger)).expect("creates");
            fs::write(dir.path().join(stranger).join("mine"), "").expect("writes");
        }
        drop(first);
        let mut swept = shelf(dir.path()).leftovers;
        swept.sort();
        assert_eq!(swept, [".demo-20260101T000000Z.unfinished", ".demo-20260101T000001Z.removed"]);
        assert!(strangers.iter().all(|stranger| dir.path().join(stranger).join("mine").exists()));
        assert!(list(dir.path()).expect("lists").is_empty());
        let missing = Shelf::open(&dir.path().join("nowhere"), NOW).expect_err("no directory");
        assert!(missing.to_string().contains("mount it"), "{missing}");
    }

    #[test]
    fn the_newest_whole_backup_before_a_time_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let shelf = shelf(dir.path());
        for day in 1..=3 {
            put(&shelf, &format!("demo-2026010{day}T000000Z"), &format!("2026-01-0{day}T00:10:00Z"));
        }
        let found = |before: Option<&str>, scope| {
            let before = before.map(|at| at.parse().expect("a time"));
            let found = find(dir.path(), scope, before);
            found.map(|stored| stored.record.name).map_err(|e| e.to_string())
        };
        assert_eq!(found(None, None).as_deref(), Ok("demo-20260103T000000Z"));
        assert_eq!(found(Some("2026-01-03T00:09:00Z"), None).as_deref(), Ok("demo-20260102T000000Z"));
        let none = found(Some("2025-01-01T00:00:00Z"), Some("demo")).expect_err("none");
        assert!(none.starts_with("there is no whole backup of demo that had ended by 2025-01-01T"), "{none}");
        fs::remove_file(dir.path().join("demo-20260103T000000Z/base.tar.gz")).expect("removes");
        assert_eq!(found(None, None).as_deref(), Ok("demo-20260102T000000Z"));
        let one = find(&dir.path().join("demo-20260101T000000Z"), None, None).expect("is there");
        assert_eq!(one.record.name, "demo-20260101T000000Z");
    }
}
