//! A node's own disk: a file system in a file, which can be stalled and filled without harm to the machine's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::network::tools::run;

/// How large it is; the file takes only what is used.
const SIZE: u64 = 1536 << 20;

/// Name of the file that takes all room that is left.
const FILLER: &str = "filler";

/// A mounted file system.
#[derive(Clone, Debug)]
pub struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// Makes one in the file `image` and mounts it at `dir`.
    pub(super) fn create(image: &Path, dir: &Path) -> Result<Disk, String> {
        let made = File::create(image).and_then(|file| file.set_len(SIZE));
        made.map_err(|e| format!("{}: {e}", image.display()))?;
        // No room that only root may take: PostgreSQL must find it full when it is.
        let options = ["-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"];
        run("mkfs.ext4", options.map(Path::new).into_iter().chain([image]))?;
        run("mount", [Path::new("-o"), Path::new("loop"), image, dir])?;
        Ok(Disk { dir: dir.to_owned() })
    }

    /// Whatever is written waits from now on, and who writes cannot even be killed, as with a disk that does not answer.
    pub fn stall(&self) -> Result<(), String> {
        run("fsfreeze", [Path::new("-f"), &self.dir])
    }

    /// Ends [`Disk::stall`].
    pub fn go_on(&self) -> Result<(), String> {
        run("fsfreeze", [Path::new("-u"), &self.dir])
    }

    /// Undoes whatever was done to it.
    pub(super) fn heal(&self) {
        // Refused where there is nothing to undo.
        let _ = self.go_on();
        let _ = fs::remove_file(self.dir.join(FILLER));
    }

    /// Takes all room there is.
    pub fn fill(&self) -> Result<(), String> {
        let path = self.dir.join(FILLER);
        let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let file = File::create(&path).map_err(|e| failed(&e))?;
        let (mut at, mut step) = (0, SIZE);
        while step >= 4096 {
            match fallocate(&file, FallocateFlags::empty(), at, step) {
                Ok(()) => at += step,
                Err(Errno::NOSPC) => step /= 2,
                Err(e) => return Err(failed(&e)),
            }
        }
        Ok(())
    }

    /// Gives the room back.
    pub fn free(&self) -> Result<(), String> {
        let path = self.dir.join(FILLER);
        fs::remove_file(&path).map_err(|e| format!("{}: {e}", path.display()))
    }
}

/// What is mounted below `dir`, innermost first.
fn mounted_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<_> = table.lines().filter_map(|line| mount_point(line, dir)).collect();
    points.reverse();
    points
}

fn mount_point(line: &str, dir: &Path) -> Option<PathBuf> {
    let path = PathBuf::from(line.split(' ').nth(4)?);
    (path.starts_with(dir) && path != dir).then_some(path)
}

/// Lets every stalled file system below `dir` go on: its processes could not end otherwise.
pub(super) fn go_on_below(dir: &Path) {
    for point in mounted_below(dir) {
        // Refused where it is not stalled.
        let _ = run("fsfreeze", [Path::new("-u"), &point]);
    }
}

/// Unmounts everything below `dir`; its processes must have ended.
pub(super) fn unmount_below(dir: &Path) {
    for point in mounted_below(dir) {
        if run("umount", [&point]).is_err()
            && let Err(why) = run("umount", [Path::new("-l"), &point])
        {
            eprintln!("{why}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_is_unmounted() {
        let line = |at: &str| format!("95 28 7:0 / {at} rw,relatime - ext4 /dev/loop0 rw");
        let dir = Path::new("/tmp/pgvane-a");
        assert_eq!(mount_point(&line("/tmp/pgvane-a/pg1"), dir), Some("/tmp/pgvane-a/pg1".into()));
        assert_eq!(mount_point(&line("/tmp/pgvane-ab/pg1"), dir), None);
        assert_eq!(mount_point(&line("/tmp/pgvane-a"), dir), None);
        assert_eq!(mount_point("", dir), None);
    }
}
