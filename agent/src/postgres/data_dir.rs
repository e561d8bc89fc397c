//! The data directory as a whole: removed, set aside, marked as unusable; with the directories outside of it that
//! belong to it, WAL and tablespaces.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Instance, PostgresError, rewind};

/// Says that what is in the data directory is no database, until [`unmark`]: a rewind, a copy or a restore works on
/// it. Durable, for a machine that fails in the middle must not start what it finds.
pub fn mark(instance: &Instance) -> Result<(), PostgresError> {
    let marker = rewind::marker(instance);
    let made = fs::File::create(&marker).and_then(|file| file.sync_all()).and_then(|()| {
        fs::File::open(marker.parent().unwrap_or(Path::new("/"))).and_then(|dir| dir.sync_all())
    });
    made.map_err(PostgresError::io(marker.display().to_string()))
}

/// Says that the data directory holds a database again.
pub fn unmark(instance: &Instance) -> Result<(), PostgresError> {
    let marker = rewind::marker(instance);
    match fs::remove_file(&marker) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PostgresError::Io { what: marker.display().to_string(), error })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether it is marked.
pub fn is_marked(instance: &Instance) -> bool {
    rewind::marker(instance).exists()
}

/// Whether there is nothing in `dir`.
pub fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

/// Removes `dir` with all that belongs to it. A mount point or a link stays, and is emptied.
pub fn remove(dir: &Path) -> Result<(), PostgresError> {
    let removed = || -> io::Result<()> {
        if !dir.exists() {
            return Ok(());
        }
        if let Some(outside) = wal_outside(dir) {
            clear(&outside, |_| true)?;
        }
        for outside in tablespaces(dir) {
            // Each server version has a directory of its own there; what else lies there is not ours.
            clear(&outside, |name| name.starts_with("PG_"))?;
        }
        if is_fixed(dir) { clear(dir, |_| true) } else { fs::remove_dir_all(dir) }
    };
    removed().map_err(PostgresError::io(format!("{} cannot be removed", dir.display())))
}

/// Moves what a bootstrap that failed left behind to `DIR.failed`, for people to look at. `false`: it stays where it
/// is, for it cannot be moved.
pub fn set_aside(instance: &Instance) -> Result<bool, PostgresError> {
    let dir = &instance.data_dir;
    if is_empty(dir) {
        return Ok(true);
    }
    let failed = with_suffix(dir, "failed");
    remove(&failed)?;
    if let Some(outside) = wal_outside(dir) {
        let aside = with_suffix(&outside, "failed");
        let moved = fs::remove_dir_all(&aside).or_else(not_found).and_then(|()| fs::rename(&outside, &aside));
        let linked = moved.and_then(|()| {
            let link = dir.join("pg_wal");
            fs::remove_file(&link).and_then(|()| std::os::unix::fs::symlink(&aside, &link))
        });
        if let Err(error) = linked {
            tracing::warn!(%error, dir = %outside.display(), "the WAL of what failed stays where it is");
        }
    }
    if let Err(error) = fs::rename(dir, &failed) {
        tracing::warn!(%error, dir = %dir.display(), "what failed stays where it is");
        return Ok(false);
    }
    Ok(true)
}

/// Whether a whole copy can be made beside `dir` before it takes its place, and there is room for it.
pub fn has_room_beside(dir: &Path) -> bool {
    let outside = wal_outside(dir).is_some() || !tablespaces(dir).is_empty();
    if outside || is_fixed(dir) {
        return false;
    }
    let free = rustix::fs::statvfs(dir).map(|s| s.f_bavail.saturating_mul(s.f_frsize));
    let used = size(dir);
    free.is_ok_and(|free| used.is_ok_and(|used| free > used.saturating_add(used / 10)))
}

/// `PATH.SUFFIX`.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Where the WAL of `dir` is, if not in it.
fn wal_outside(dir: &Path) -> Option<PathBuf> {
    let link = dir.join("pg_wal");
    link.is_symlink().then(|| fs::canonicalize(link).ok()).flatten()
}

/// Where the tablespaces of `dir` are, those outside of it.
fn tablespaces(dir: &Path) -> Vec<PathBuf> {
    let links = fs::read_dir(dir.join("pg_tblspc")).into_iter().flatten().flatten();
    links.filter(|e| e.path().is_symlink()).filter_map(|e| fs::canonicalize(e.path()).ok()).collect()
}

/// Whether `dir` cannot be replaced by another: a link, or another file system than its parent's.
fn is_fixed(dir: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
    dir.is_symlink() || device(dir) != device(dir.parent().unwrap_or(Path::new("/")))
}

fn clear(dir: &Path, ours: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        // The file system's own directory at the top of a mount.
        if name == "lost+found" || !ours(&name.to_string_lossy()) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn not_found(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Bytes on disk.
fn size(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        bytes += if kind.is_dir() { size(&entry.path())? } else { entry.metadata()?.blocks() * 512 };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::settings::tests::instance;

    /// A data directory whose WAL and one tablespace lie outside.
    fn spread(root: &Path) -> Instance {
        let i = instance(root);
        for dir in ["data/pg_tblspc", "wal/archive_status", "space/PG_15_202209061/5", "space/mine"] {
            fs::create_dir_all(root.join(dir)).expect("creates");
        }
        fs::write(root.join("wal/000000010000000000000001"), "x").expect("writes");
        std::os::unix::fs::symlink(root.join("wal"), i.data_dir.join("pg_wal")).expect("links");
        std::os::unix::fs::symlink(root.join("space"), i.data_dir.join("pg_tblspc/16384")).expect("links");
        i
    }

    #[test]
    fn what_lies_outside_goes_with_the_data_and_what_is_not_ours_stays() {
        let root = tempfile::tempdir().expect("a directory");
        let i = spread(root.path());
        assert!(!has_room_beside(&i.data_dir), "a copy would want the same places");
        remove(&i.data_dir).expect("removes");
        assert!(!i.data_dir.exists() && is_empty(&root.path().join("wal")));
        assert!(
            root.path().join("space/mine").exists() && !root.path().join("space/PG_15_202209061").exists()
        );
        remove(&i.data_dir).expect("nothing to remove");
    }

    #[test]
    fn a_link_to_the_data_is_emptied() {
        let root = tempfile::tempdir().expect("a directory");
        let i = instance(root.path());
        fs::create_dir_all(root.path().join("disk/base")).expect("creates");
        std::os::unix::fs::symlink(root.path().join("disk"), &i.data_dir).expect("links");
        remove(&i.data_dir).expect("empties");
        assert!(i.data_dir.is_symlink() && is_empty(&root.path().join("disk")));
    }

    #[test]
    fn a_failed_bootstrap_is_kept_for_people_to_look_at() {
        let root = tempfile::tempdir().expect("a directory");
        for _ in 0..2 {
            let i = spread(root.path());
            assert!(set_aside(&i).expect("moves"));
            assert!(!i.data_dir.exists() && !root.path().join("wal").exists());
            let wal = root.path().join("data.failed/pg_wal/000000010000000000000001");
            assert_eq!(fs::read_to_string(wal).expect("reads"), "x");
            fs::remove_dir_all(root.path().join("space")).expect("removes");
        }
    }

    #[test]
    fn room_is_asked_of_the_file_system() {
        let root = tempfile::tempdir().expect("a directory");
        let i = instance(root.path());
        fs::create_dir(&i.data_dir).expect("creates");
        fs::write(i.data_dir.join("a"), vec![1; 8192]).expect("writes");
        assert!(size(&i.data_dir).expect("counts") >= 8192);
        assert!(has_room_beside(&i.data_dir));
        mark(&i).expect("marks");
        assert!(is_marked(&i));
        unmark(&i).expect("unmarks");
        unmark(&i).expect("is not marked");
        assert!(!is_marked(&i));
    }
}
